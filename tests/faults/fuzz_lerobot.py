"""LeRobot fuzzing: Hypothesis alters datasets that LeRobot wrote, v3.0 and v2.1.

    python -m tests.faults.fuzz_lerobot [--cases 20000] [--workers 2] [--seed 0] [--out FILE.json]

The datasets are those of LeRobot 0.3.3, 0.4.4 and 0.6.1 in tests/fixtures/lerobot. A case takes one
file of one dataset and applies one to three changes: the changes of bytes and JSON of
fuzz_readers.py; JSON lines of v2.1 dropped, repeated or reordered; columns of a table dropped,
renamed, exchanged or retyped; rows missing, repeated or rotated; unusual values; images with
altered bytes. These datasets have no checksums, so every change reaches the reader.

Then the whole dataset is read, and in one case of eight searched for what a repair can save
(`imitact check --fix`). It must be read, or refused with one of imitact's errors, within the time
and memory of fuzz_readers.py. Anything else is a defect, which is printed with the smallest case
that Hypothesis finds. Exit code 0 if there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tests.faults.fuzz_readers import (
    BATCH,
    BYTE_CHANGE,
    CASE_S,
    JSON_CHANGE,
    MEMORY_BYTES,
    PLACE,
    VALUE,
    CaseCounts,
    TooSlowError,
    Worker,
    change_bytes,
    change_json,
    collected,
    conclude,
    limit_memory,
    read_whole,
    run_case,
    summed,
)

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "lerobot"
DATASETS = ("v21", "v30", "converted", "depth", "h264")
REPAIR_EVERY = 8

KINDS = (
    pa.string(), pa.binary(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(),
    pa.timestamp("ns"), pa.decimal128(38, 2), pa.list_(pa.float32()), pa.list_(pa.string()),
    pa.large_list(pa.float64()), pa.list_(pa.list_(pa.int64())), pa.null(),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
)  # fmt: skip

TABLE_CHANGE = st.one_of(
    st.tuples(st.just("drop"), PLACE),
    st.tuples(st.just("rename"), PLACE, st.text(max_size=8)),
    st.tuples(st.just("exchange"), PLACE, PLACE),
    st.tuples(st.just("twice"), PLACE),
    st.tuples(st.just("cast"), PLACE, st.integers(0, len(KINDS) - 1)),
    st.tuples(st.just("rows"), PLACE, st.integers(0, 4)),
    st.tuples(st.just("repeat"), PLACE),
    st.tuples(st.just("turn"), PLACE),
    st.tuples(st.just("value"), PLACE, PLACE, VALUE),
    st.tuples(st.just("value"), PLACE, PLACE, VALUE),
    st.tuples(st.just("inner"), PLACE, PLACE, VALUE),
    st.tuples(st.just("picture"), PLACE, BYTE_CHANGE),
    st.tuples(st.just("picture"), PLACE, BYTE_CHANGE),
    st.tuples(st.just("groups"), PLACE),
)

LINE_CHANGE = st.one_of(
    st.tuples(st.just("drop"), PLACE),
    st.tuples(st.just("repeat"), PLACE),
    st.tuples(st.just("turn"), PLACE),
    st.tuples(st.just("join"), PLACE),
    st.tuples(st.just("json"), PLACE, st.lists(JSON_CHANGE, min_size=1, max_size=2)),
    st.tuples(st.just("json"), PLACE, st.lists(JSON_CHANGE, min_size=1, max_size=2)),
)


@dataclass(frozen=True)
class Case:
    """One file and its changes.

    Attributes:
        file: path of the file.
        how: "bytes", "json", "lines" or "table".
        changes: the changes.
    """

    file: str
    how: str
    changes: tuple[tuple[Any, ...], ...]


def cases(files: list[str]) -> st.SearchStrategy[Case]:
    """Return cases of every change, each on the files that it applies to."""

    def of(how: str, change: Any, suffix: str = "") -> st.SearchStrategy[Case]:
        fit = [name for name in files if name.endswith(suffix)]
        some = st.lists(change, min_size=1, max_size=3).map(tuple)
        return st.builds(Case, st.sampled_from(fit), st.just(how), some)

    return st.one_of(
        of("table", TABLE_CHANGE, ".parquet"),
        of("table", TABLE_CHANGE, ".parquet"),
        of("json", JSON_CHANGE, "info.json"),
        of("lines", LINE_CHANGE, "s.jsonl"),
        of("bytes", BYTE_CHANGE),
    )


def change_lines(data: bytes, changes: tuple[tuple[Any, ...], ...]) -> bytes:
    """Apply changes to a file of JSON lines."""
    lines = data.splitlines()
    for kind, place, *more in changes:
        if not lines:
            break
        at = place % len(lines)
        match kind:
            case "drop":
                del lines[at]
            case "repeat":
                lines.insert(at, lines[at])
            case "turn":
                lines = lines[at:] + lines[:at]
            case "join":
                lines[at : at + 2] = [b"".join(lines[at : at + 2])]
            case _:
                with contextlib.suppress(ValueError, RecursionError):
                    lines[at] = change_json(json.loads(lines[at]), more[0], lambda value: value)
    return b"\n".join(lines) + b"\n"


def change_table(data: bytes, changes: tuple[tuple[Any, ...], ...]) -> bytes:
    """Apply changes to a Parquet file; those that a table cannot hold are skipped."""
    table = pq.read_table(pa.BufferReader(data))
    groups = None
    for change in changes:
        with contextlib.suppress(
            pa.ArrowException, LookupError, ValueError, TypeError, ArithmeticError
        ):
            if change[0] == "groups":
                groups = 1 + change[1] % 3
            else:
                table = changed(table, change)
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink, row_group_size=groups)
    except pa.ArrowException:  # no Parquet file can hold this table
        return data
    return sink.getvalue().to_pybytes()


def changed(table: pa.Table, change: tuple[Any, ...]) -> pa.Table:
    """Return a table with one change."""
    kind, place, *more = change
    if not table.num_columns:
        return table
    at = place % table.num_columns
    name, count = table.column_names[at], table.num_rows
    match kind:
        case "drop":
            return table.remove_column(at)
        case "rename":
            names = [more[0] if i == at else n for i, n in enumerate(table.column_names)]
            return table.rename_columns(names)
        case "exchange":
            other = more[0] % table.num_columns
            columns = list(table.columns)
            columns[at], columns[other] = columns[other], columns[at]
            return pa.table(columns, names=table.column_names)
        case "twice":
            return table.append_column(name, table.column(at))
        case "cast":
            wanted = KINDS[more[0]]
            try:
                column = table.column(at).cast(wanted)
            except pa.ArrowException:
                column = pa.nulls(count, wanted)
            return table.set_column(at, name, column)
        case "rows":
            return table.slice(place % (count + 1), more[0])
        case "repeat":
            return pa.concat_tables([table, table.slice(place % (count + 1), 1)])
        case "turn":
            first = place % (count + 1)
            return pa.concat_tables([table.slice(first), table.slice(0, first)])
    row = more[0] % count if count and kind != "picture" else 0
    cells = table.column(at).to_pylist()
    held = table.schema.field(at).type
    match kind:
        case "value":
            cells[row] = more[1]
            try:
                column = pa.array(cells, held)
            except pa.ArrowException:
                column = pa.array(cells)
            return table.set_column(at, name, column)
        case "inner" if isinstance(cells[row], list) and cells[row]:
            cells[row] = [*cells[row][:-1], more[1]]
            return table.set_column(at, name, pa.array(cells, held))
        case "picture":
            pictured = [
                n for n in table.column_names if pa.types.is_struct(table.schema.field(n).type)
            ]
            if not pictured or not count:
                return table
            name = pictured[0]
            at, row = table.column_names.index(name), place % count
            cells = table[name].to_pylist()
            bytes_ = change_bytes(cells[row]["bytes"] or b"", more[0])
            cells[row] = {**cells[row], "bytes": bytes_}
            return table.set_column(at, name, pa.array(cells, table.schema.field(name).type))
    return table


class Material:
    """Datasets in a folder; each case alters a file, reads the dataset and restores the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {
            path.relative_to(folder).as_posix(): path
            for name in DATASETS
            for path in sorted((folder / name).rglob("*"))
            if path.is_file()
        }
        self.bytes = {name: path.read_bytes() for name, path in self.files.items()}

    def altered(self, case: Case) -> bytes:
        """Return the altered contents."""
        data = self.bytes[case.file]
        match case.how:
            case "table":
                return change_table(data, case.changes)
            case "lines":
                return change_lines(data, case.changes)
            case "json":
                return change_json(json.loads(data), list(case.changes), lambda value: value)
        for change in case.changes:
            data = change_bytes(data, change)
        return data

    def reader(self, case: Case, repair: bool) -> Callable[[], None]:
        """Write the altered file; return a function that reads the dataset and restores it."""
        self.files[case.file].write_bytes(self.altered(case))
        root = self.folder / case.file.split("/")[0]

        def read() -> None:
            try:
                (search_repairable if repair else read_all)(root)
            finally:
                self.files[case.file].write_bytes(self.bytes[case.file])

        return read


def read_all(root: Path) -> None:
    """Read everything of a dataset that training reads."""
    from imitact.datasets.lerobot.reader_v21 import open_lerobot

    read_whole(open_lerobot(root))


def search_repairable(root: Path) -> None:
    """Open a damaged dataset, and plan its repair."""
    from imitact.datasets.lerobot.repair import plan_repair
    from imitact.quality.dataset_check import open_damaged

    open_damaged(root)
    plan_repair(root).lines()


def work(folder: Path, first: int, count: int, number: int, many: int) -> None:
    """Run that many cases; print a line of JSON for each batch and each defect."""
    material = Material(folder)
    counts = CaseCounts()

    def alarm(number: int, frame: object) -> None:
        raise TooSlowError(f"still running after {CASE_S} s")

    signal.signal(signal.SIGPROF, alarm)
    for name in DATASETS:  # import all code
        read_all(folder / name)
    search_repairable(folder / "v30")
    limit_memory()
    beat = (folder / "beat").open("r+b")
    note = mmap.mmap(beat.fileno(), 4096)
    any_case = cases(sorted(material.files))
    batch = number
    while counts.cases < count:

        @seed(first + batch)
        @settings(
            max_examples=min(BATCH, count - counts.cases), database=None, deadline=None,
            verbosity=Verbosity.quiet, phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck), print_blob=False, report_multiple_bugs=False,
        )  # fmt: skip
        @given(any_case, st.integers(0, REPAIR_EVERY - 1))
        def files(case: Case, turn: int) -> None:
            text = repr((case, turn)).encode()[:4000]
            note[: len(text) + 1] = text + b"\0"
            os.utime(beat.fileno())
            name = f"{case.file.split('/')[0]} {case.how}"
            run_case(material.reader(case, turn == 0), counts, name)

        try:
            files()
        except Exception as error:
            defect = {
                "defect": f"{type(error).__name__}: {error}"[:2000],
                "case": bytes(note[:]).split(b"\0")[0].decode(errors="replace"),
                "trace": traceback.format_exception(error)[-12:],
            }
            print(json.dumps(defect), flush=True)
        batch += many
        line = {"read": counts.read, "refused": counts.refused, "of": counts.of}
        print(json.dumps({**line, "slowest_s": counts.slowest_s}), flush=True)


def start(folder: Path, args: argparse.Namespace, number: int) -> Worker:
    """Start a worker."""
    command = [
        sys.executable,
        "-m",
        "tests.faults.fuzz_lerobot",
        "--work",
        str(folder),
        "--seed",
        str(args.seed),
    ]
    command += ["--cases", str(-(-args.cases // args.workers)), "--number", str(number)]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--workers", str(args.workers)], stdout=out, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return Worker(folder, process, log)


def run_workers(args: argparse.Namespace) -> dict[str, Any]:
    """Run all cases in worker processes and return the result."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imitact-fuzz-", dir=where) as place:
        workers: list[Worker] = []
        for number in range(args.workers):
            folder = Path(place) / str(number)
            for name in DATASETS:
                shutil.copytree(FIXTURES / name, folder / name)
            (folder / "beat").write_bytes(bytes(4096))
            workers.append(start(folder, args, number))
        parts, defects = collected(workers)
    wall_s = time.monotonic() - began
    return {
        "command": f"python -m tests.faults.fuzz_lerobot --cases {args.cases} --workers "
        f"{args.workers} --seed {args.seed}",
        **summed(parts),
        "defects": defects,
        "case_limit_s": CASE_S,
        "memory_limit_bytes": MEMORY_BYTES,
        "wall_s": round(wall_s, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.seed, args.cases, args.number, args.workers)
        return 0
    return conclude(run_workers(args), args.cases, args.out)


if __name__ == "__main__":
    sys.exit(main())
