"""Promised sizes: a small file that promises gigabytes is refused before they are read.

Each is opened and checked in a process of its own, whose memory and time are measured.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imitact.datasets.lerobot.layout import INFO
from imitact.datasets.lerobot.reader_v21 import open_lerobot
from tests.support.paths import FIXTURES

ROWS = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
MP4 = "videos/observation.images.top/chunk-000/file-000.mp4"
CHECK = """
import sys, time
from pathlib import Path
from imitact.quality.dataset_check import inspect_frames, inspect_numbers, open_damaged
from imitact.quality.findings import errors

began_s = time.process_time()
dataset, found = open_damaged(Path(sys.argv[1]))
if dataset is not None:
    damaged = {f.episode for f in found}
    found = found + inspect_numbers(dataset, damaged=damaged)
    damaged = {f.episode for f in errors(found)}
    found = found + inspect_frames(dataset, damaged=damaged, workers=1)
status = Path("/proc/self/status").read_text()
# Not ru_maxrss, which begins with the memory of the process that started this one.
print(int(status.split("VmHWM:")[1].split()[0]) // 1024, time.process_time() - began_s)
print(errors(found)[0].line)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "lerobot/v30", tmp_path / "data"))


def edit_info(root: Path, **values: Any) -> None:
    info = json.loads((root / INFO).read_text())
    (root / INFO).write_text(json.dumps({**info, **values}))


def repeated(table: pa.Table, rows: int) -> pa.Table:
    """The first row, many times: columns of one value, which take no space in a file."""
    return table.slice(0, 1).take(pa.array(np.zeros(rows, np.int64)))


def descriptions(root: Path) -> pa.Table:
    table = pq.read_table(root / ROWS)
    return table.select([n for n in table.column_names if not n.startswith("stats/")])


def many_rows(root: Path) -> None:
    pq.write_table(repeated(descriptions(root), 3_000_000), root / ROWS, compression="zstd")


def many_episodes(root: Path) -> None:
    edit_info(root, total_episodes=30_000_000, total_frames=30_000_000)


def more_episodes_than_ticks(root: Path) -> None:
    edit_info(root, total_episodes=1_000_000)


def long_text(root: Path) -> None:
    table = descriptions(root)
    texts = pa.array([["x" * 300_000_000], ["a"], ["b"]], pa.list_(pa.string()))
    table = table.set_column(table.column_names.index("tasks"), "tasks", texts)
    pq.write_table(table, root / ROWS, compression="zstd", use_dictionary=False)


def one_text_in_many_rows(root: Path) -> None:
    table = repeated(descriptions(root), 2000)
    text = pa.DictionaryArray.from_arrays(np.zeros(2000, np.int32), pa.array(["x" * 1_000_000]))
    table = table.set_column(table.column_names.index("tasks"), "tasks", text)
    numbers = pa.array(np.arange(2000))
    table = table.set_column(table.column_names.index("episode_index"), "episode_index", numbers)
    pq.write_table(table, root / ROWS, compression="zstd")
    edit_info(root, total_episodes=2000, total_frames=10_000)


def many_ticks(root: Path) -> None:
    pq.write_table(repeated(pq.read_table(root / DATA), 5_000_000), root / DATA, compression="zstd")


def large_image(root: Path) -> None:
    table = pq.read_table(root / DATA)
    name = "observation.images.wrist"
    cells = table[name].to_pylist()
    cells[0]["bytes"] += bytes(300_000_000)
    column = pa.array(cells, table.schema.field(name).type)
    table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, root / DATA, compression="zstd", use_dictionary=False)


def many_frames(root: Path) -> None:
    data = bytearray((root / MP4).read_bytes())
    for kind in (b"stsz", b"stts"):
        struct.pack_into(">II", data, data.index(kind) + 8, 1, 50_000_000)
    (root / MP4).write_bytes(data)


@pytest.mark.parametrize(
    ("hurt", "words"),
    [
        (many_rows, "promises 3,000,000 rows"),
        (many_episodes, "counts 30,000,000 episodes"),
        (more_episodes_than_ticks, "15 ticks in 1,000,000 episodes"),
        (long_text, "unpack to 300,"),
        (one_text_in_many_rows, "bytes of text"),
        (many_ticks, "promises 5,000,000 ticks"),
        (large_image, "unpack to 300,"),
        (many_frames, "50,000,000 frames"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of memory")
def test_a_file_that_promises_gigabytes_takes_less_than_one(
    root: Path, hurt: Callable[[Path], None], words: str
) -> None:
    hurt(root)
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert size < 3_000_000
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    numbers, line = done.stdout.splitlines()[:2]
    memory_mib, cpu_s = map(float, numbers.split())
    assert words in line
    assert memory_mib < 1024
    assert cpu_s < 5


def test_ten_thousand_episodes_with_a_task_each_are_no_promise_too_many(root: Path) -> None:
    """Good data: all texts differ, all rows are needed."""
    count = 10_000
    table = repeated(descriptions(root), count)
    for name, values in (
        ("episode_index", pa.array(np.arange(count))),
        ("tasks", pa.array([[f"put the cube into box {n}"] for n in range(count)])),
        ("length", pa.array(np.ones(count, np.int64))),
    ):
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, root / ROWS)
    edit_info(root, total_episodes=count, total_frames=count)
    found: list[str] = []
    dataset = open_lerobot(root, lambda error, episodes: found.append(str(error)))
    assert dataset.lengths == (1,) * count
    assert dataset.episode(9999).tasks == ("put the cube into box 9999",)
    assert not any("promises" in line or "bytes of text" in line for line in found)
