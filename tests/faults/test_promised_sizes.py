"""Promised sizes: a small or repetitive file costs at most 1 GiB of memory and 5 s.

Each hostile file is read in a process of its own, without a limit of memory, so that what is
measured is what a user would see.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from imitact.models.interop import restricted_pickle
from tests.faults import hostile_parquet as hp
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

LIMIT_MIB = 1024
LIMIT_S = 5.0
SIZE = restricted_pickle.MAX_BYTES - (1 << 20)

PROBE = """
import os, re, sys, time
from pathlib import Path
from imitact.core.errors import BadInput
path = Path(sys.argv[2])
{imports}
def peak_mib(pid="self"):
    # ru_maxrss would begin at the size of the process that started this one.
    status = Path(f"/proc/{{pid}}/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) / 1024
def seconds(pid):
    times = Path(f"/proc/{{pid}}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
before = peak_mib()
began = time.process_time()
try:
    {call}
    print("read", end=" ")
except BadInput as error:
    print("refused", end=" ")
    print(error, file=sys.stderr)
took = time.process_time() - began
children = Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()
print(
    sum([peak_mib() - before, *map(peak_mib, children)]),
    took + sum(map(seconds, children)),
)
"""

PARQUET = """from imitact.datasets.lerobot import parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums"""

HDF5 = """from imitact.datasets.formats.hdf5 import Hdf5Reader
reader = Hdf5Reader()
def read_hdf5(path, reader):
    arrays = reader.arrays(path)
    reader.attributes(path)
    return [reader.values(path, array) for array in arrays.values()]"""

READERS = {
    "hdf5": (HDF5, "read_hdf5(path, reader)"),
    "hdf5-list": (HDF5, "reader.has_array(path, '/data'), reader.arrays(path)"),
    "pickle": (
        "from imitact.models.interop.restricted_pickle import loads",
        "loads(path.read_bytes(), path)",
    ),
    "json": (
        "from imitact.storage.json_file import read_json_object",
        "read_json_object(path)",
    ),
    "journal": ("from imitact.storage.journal import Journal", "Journal(path, read_only=True)"),
    "zip": (
        "from imitact.datasets.formats.zarr import ZarrStore",
        "ZarrStore(path).read('data/.zarray', 1 << 20)",
    ),
    "weights": (
        "from imitact.models.safetensors_file import read_safetensors",
        "read_safetensors(path)",
    ),
    "exported": ("from imitact.storage.sealed_file import unseal", "unseal(path)"),
    "checkpoint": (
        "from imitact.models.interop.act_release import _read_tensors",
        "_read_tensors(path)",
    ),
    "jsonl": (
        "from imitact.datasets.lerobot.reader_v21 import _read_lines",
        "[row for _, row in _read_lines(path)]",
    ),
    "table": (PARQUET, "parquet.read_table(path, ['x'], DatasetChecksums(path.parent))"),
    "rows": (PARQUET, "list(parquet.read_rows(path, ['x'], DatasetChecksums(path.parent)))"),
    "cells": (
        PARQUET,
        "[*parquet.read_cells(path, 'x', [0, 1], DatasetChecksums(path.parent))]",
    ),
}
"""What reads each kind of file: imports, and a call."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def arrays_over(stored: bytes, count: int, size: int) -> bytes:
    """A pickle of a dict with many arrays that have the same memoised bytes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01J"
        + struct.pack("<i", size)
        + b"\x85cnumpy\ndtype\n("
        + text("u1")
        + b"K\x00K\x01tR(K\x03"
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89h\x01tb"
    )
    rows = b"".join(text(f"a{number}") + array for number in range(count))
    return b"\x80\x03}(" + text("stored") + stored + b"q\x01" + rows + b"u."


def pickled_bytes(count: int) -> bytes:
    return arrays_over(b"B" + struct.pack("<I", SIZE) + bytes(SIZE), count, SIZE)


def pickled_text(count: int) -> bytes:
    """Bytes as protocols below 3 write them: as text that is encoded, memoised."""
    characters = b"X" + struct.pack("<I", SIZE) + b"a" * SIZE
    encoded = b"c_codecs\nencode\n(" + characters + text("latin1") + b"tR"
    return arrays_over(encoded, count, SIZE)


def wide_text() -> bytes:
    """One character of four bytes makes each of a text's characters take four."""
    sign = "\N{GRINNING FACE}".encode()
    size = SIZE - len(sign)
    data = b"X" + struct.pack("<I", SIZE) + sign + b"a" * size
    return b"\x80\x03}(" + text("a") + data + b"u."


def zip_of(members: int) -> bytes:
    """A zip file with a long list of empty members."""
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0
    )
    listed = (entry + b"a.bin") * members
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(listed), 0, 0)
    return listed + end


def compressed_checkpoint() -> bytes:
    """A checkpoint of torch with a storage of 1.25 GiB, which takes a megabyte."""
    plain, found = io.BytesIO(), io.BytesIO()
    torch.save({"model.a": torch.zeros(4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as new:
        for name in source.namelist():
            with new.open(name, "w") as member:
                for _ in range(20 if name.endswith("data/0") else 0):
                    member.write(bytes(64 << 20))
                if not name.endswith("data/0"):
                    member.write(source.read(name))
    return found.getvalue()


def sealed_line(data: bytes) -> bytes:
    return data[:-1] + b',"crc32":%d}\n' % zlib.crc32(data)


def parquet_of_equal(values: int, promised: int, rows: int = 1) -> bytes:
    """A Parquet file of 200 bytes with one row of that many equal numbers."""
    pages = hp.dictionary(struct.pack("<f", 1), 1)
    pages += hp.page(hp.one_list(values) + hp.same_index(values), values, hp.DICTIONARY)
    return hp.parquet([hp.Column("x", hp.FLOAT, pages, promised, is_list=True)], rows)


def parquet_of_dictionary(kind: int, entry: bytes, rows: int, length: int = 0) -> bytes:
    """A Parquet file whose rows are all the first of two long values."""
    pages = hp.dictionary(entry * 2, 2, hp.GZIP)
    pages += hp.page(hp.same_index(rows), rows, hp.DICTIONARY, hp.GZIP)
    column = hp.Column("x", kind, pages, rows, length=length, codec=hp.GZIP)
    return hp.parquet([column], rows)


def long_text(size: int) -> bytes:
    return struct.pack("<I", size) + b"a" * size


def parquet_of_zeros(size: int) -> bytes:
    """A Parquet file with one page that unpacks to `size` bytes, though the footer promises few."""
    return hp.parquet(
        [hp.Column("x", hp.FLOAT, hp.page(bytes(size), size // 4, hp.PLAIN, hp.GZIP), 1,
                   codec=hp.GZIP)], 1)  # fmt: skip


def parquet_of_delta(encoding: int) -> bytes:
    """A Parquet file with 1,000 texts whose page says that it has two billion."""
    body = hp.equal_deltas(2_000_000_000) * 2
    return hp.parquet([hp.Column("x", hp.BYTE_ARRAY, hp.page(body, 1000, encoding), 1000)], 1000)


def parquet_of_pages(count: int) -> bytes:
    """A Parquet file with many empty pages."""
    pages = hp.page(b"", 0) * count + hp.page(bytes(4), 1)
    return hp.parquet([hp.Column("x", hp.FLOAT, pages, 1)], 1)


def parquet_of_columns(count: int) -> bytes:
    """A Parquet file with many columns."""
    page = hp.page(bytes(4), 1)
    return hp.parquet(
        [hp.Column("x" if n == 0 else "", hp.FLOAT, page, 1) for n in range(count)], 1
    )


def hdf5(fill: Callable[[h5py.File], None]) -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        fill(file)
    return data.getvalue()


def never_written(file: h5py.File) -> None:
    file.create_dataset("x", (1 << 40, 1 << 20), "f4", chunks=True)


def zeros(file: h5py.File, shape: tuple[int, int], chunk: tuple[int, int]) -> None:
    """An array of compressed zeros."""
    array = file.create_dataset("x", shape, np.float32, chunks=chunk, compression="gzip")
    for start in range(0, shape[0], 1 << 16):
        array[start : start + (1 << 16)] = 0


def groups(file: h5py.File) -> None:
    for number in range(30_000):
        file.create_group(f"g/{number}")


def links(file: h5py.File) -> None:
    """Many paths to one array and to one group, within a few megabytes."""
    group = file.create_group("leaf")
    group["x"] = np.zeros(3, np.float32)
    for number in range(60_000):
        file[f"array {number}"] = group["x"]
        file[f"group {number}"] = group


def nested_links(file: h5py.File) -> None:
    """A million paths in 16 KB."""
    group = file.create_group("leaf")
    for number in range(10):
        group[f"x{number}"] = np.zeros(3, np.float32)
    for level in range(5):
        parent = file.create_group(f"level {level}")
        for number in range(10):
            parent[f"{number}"] = group
        group = parent


def many_arrays(file: h5py.File) -> None:
    for number in range(50_000):
        file.create_dataset(f"{number}", data=np.float32([1, 2, 3]))


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "100 arrays over one string of bytes": ("pickle", lambda: pickled_bytes(100)),
    "1,000 arrays over one string of bytes": ("pickle", lambda: pickled_bytes(1000)),
    "2 arrays over one string of bytes": ("pickle", lambda: pickled_bytes(2)),
    "100 arrays over one text": ("pickle", lambda: pickled_text(100)),
    "a text of wide characters": ("pickle", wide_text),
    "lists": ("json", lambda: b'{"a":[' + b"[]," * (20 << 20) + b"[]]}"),
    "objects": ("json", lambda: b'{"a":[' + b"{}," * (20 << 20) + b"{}]}"),
    "objects with a key": ("json", lambda: b'{"a":[' + b'{"":1},' * (8 << 20) + b"1]}"),
    "numbers": ("json", lambda: b'{"a":[' + b"1.5," * (15 << 20) + b"1]}"),
    "keys": (
        "json",
        lambda: b"{" + b",".join(b'"%x":1.5' % n for n in range(2 << 20)) + b"}",
    ),
    "a text that a character makes wide": (
        "json",
        lambda: b'{"a":"' + "\N{GRINNING FACE}".encode() + b"a" * (60 << 20) + b'"}',
    ),
    "an escaped character that makes a text wide": (
        "json",
        lambda: b'{"a":"\\ud83d\\ude00' + b"a" * (60 << 20) + b'"}',
    ),
    "brackets": ("json", lambda: b"[" * (60 << 20)),
    "a file of 10 GB": ("json", lambda: b"sparse"),
    "weights of 10 GB": ("weights", lambda: b"sparse"),
    "an exported file of 10 GB": ("exported", lambda: b"sparse"),
    "empty lines": ("jsonl", lambda: b"\n" * (30 << 20)),
    "lines of empty objects": ("jsonl", lambda: b"{}\n" * (20 << 20)),
    "entries of a journal": (
        "journal",
        lambda: (
            sealed_line(b'{"format":2}') + sealed_line(b'{"a":' + b"[[],[]]" + b"}") * (2 << 20)
        ),
    ),
    "an entry of lists": (
        "journal",
        lambda: (
            sealed_line(b'{"format":2}') + sealed_line(b'{"a":[' + b"[]," * (20 << 20) + b"1]}")
        ),
    ),
    "a long list of members": ("zip", lambda: zip_of(3_000_000)),
    "a compressed checkpoint": ("checkpoint", compressed_checkpoint),
    **{
        f"{name}, read as {kind}": (kind, make)
        for kind in ("table", "rows", "cells")
        for name, make in {
            "equal values in a row": lambda: parquet_of_equal(2_000_000_000, 2_000_000_000),
            "more equal values than promised": lambda: parquet_of_equal(2_000_000_000, 1),
            "as many equal values as are read": lambda: parquet_of_equal(39_000_000, 1),
            "a page of zeros": lambda: parquet_of_zeros(200 << 20),
            "a long text of many rows": (
                lambda: parquet_of_dictionary(hp.BYTE_ARRAY, long_text(60 << 20), 100_000)
            ),
            "long values of many rows": (
                lambda: parquet_of_dictionary(hp.FIXED, bytes(1 << 20), 100_000, 1 << 20)
            ),
            "texts after their lengths": lambda: parquet_of_delta(hp.DELTA_LENGTH),
            "texts after what they share": lambda: parquet_of_delta(hp.DELTA_TEXT),
            "many pages": lambda: parquet_of_pages(1_000_000),
        }.items()
    },
    "an array of compressed zeros": (
        "hdf5",
        lambda: hdf5(lambda file: zeros(file, (1 << 22, 15), (1 << 16, 15))),
    ),
    "chunks of one number": ("hdf5", lambda: hdf5(lambda file: zeros(file, (60_000, 1), (1, 1)))),
    "values that were never written": (
        "hdf5",
        lambda: hdf5(never_written),
    ),
    "a long attribute": (
        "hdf5",
        lambda: hdf5(lambda file: file.attrs.update(imitact="a" * (150 << 20))),
    ),
    "many groups": ("hdf5", lambda: hdf5(groups)),
    "many arrays": ("hdf5-list", lambda: hdf5(many_arrays)),
    "many links to one array": ("hdf5-list", lambda: hdf5(links)),
    "many paths by links": ("hdf5-list", lambda: hdf5(nested_links)),
    "many columns": ("table", lambda: parquet_of_columns(30_000)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_costs_at_most_a_gigabyte_and_five_seconds(name: str, tmp_path: Path) -> None:
    kind, make = FILES[name]
    path = tmp_path / "hostile"
    data = make()
    path.write_bytes(data)
    if data == b"sparse":
        with path.open("r+b") as file:
            file.truncate(10 << 30)
    del data
    imports, call = READERS[kind]
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(imports=imports, call=call), kind, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(name, done.stdout)
    _, mib, seconds = done.stdout.split()
    assert float(mib) < LIMIT_MIB
    assert float(seconds) < LIMIT_S
