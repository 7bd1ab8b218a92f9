"""HDF5 files and compressed chunks, read for another process that a crash here does not reach.

`apart.py` starts this file as a script and asks; it ends when nobody asks any more. A message is a
length (4 bytes, little-endian), so many bytes of JSON, and the bytes whose number that JSON names
as "size". It imports nothing of imitact, so that it starts within a moment.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

MOST_OBJECTS = 500_000
"""Groups and arrays of one file; a robomimic file of ten thousand demonstrations has fewer."""

MOST_DEPTH = 8
_OPEN = 8
"""Files that are kept open."""

CODECS = ("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd")
"""Compressors of numcodecs that are used; others of its registry can run code (pickle)."""

Answer = tuple[dict[str, Any], bytes]

_files: OrderedDict[str, Any] = OrderedDict()


def begin(told: dict[str, Any], data: bytes) -> Answer:
    """Bound what this process may take beyond what it has now."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limit = taken + int(told["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):  # no such limit here, or a lower one is set
        pass
    return {}, b""


def tree(told: dict[str, Any], data: bytes) -> Answer:
    """Every array of a file, groups gone through by hard links alone: others lead elsewhere."""
    import h5py

    _close(told["file"])  # who looks through a file begins anew
    arrays: list[dict[str, Any]] = []
    others: list[str] = []
    waiting = [("", _opened(told["file"]), 0)]
    seen = 0
    while waiting:
        where, group, depth = waiting.pop()
        for name in list(group):
            seen += 1
            if seen > MOST_OBJECTS:
                raise ValueError(f"more than {MOST_OBJECTS} groups and arrays")
            if not _is_text(name):
                others.append(f"{where}/{name!r}")
                continue
            path = f"{where}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                others.append(path)
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                if depth >= MOST_DEPTH:
                    raise ValueError(f"groups within groups, more than {MOST_DEPTH}: {path}")
                waiting.append((path, item, depth + 1))
            elif isinstance(item, h5py.Dataset) and item.shape is not None:
                arrays.append({"path": path, **_about(item)})
            else:
                others.append(path)
    return {"arrays": arrays, "others": others}, b""


def _is_text(name: str | bytes) -> bool:
    """Whether a name is UTF-8: of others h5py gives the bytes, or surrogates, which no file that
    imitact writes can hold."""
    return isinstance(name, str) and not any("\ud800" <= x <= "\udfff" for x in name)


def attributes(told: dict[str, Any], data: bytes) -> Answer:
    """Attributes of one group that are a number, a truth or a text; bytes that are not UTF-8 are
    replaced."""
    item = _opened(told["file"])[told["path"] or "/"]
    found: dict[str, Any] = {}
    for name in filter(_is_text, list(item.attrs)[:1000]):
        value = item.attrs[name]
        if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
            value = value.item()
        if isinstance(value, str):  # h5py's own decoding keeps them as surrogates
            value = value.encode(errors="surrogateescape")
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, bool | int | str) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            found[name] = value
    return {"attributes": found}, b""


def rows(told: dict[str, Any], data: bytes) -> Answer:
    """Rows start to stop of an array: its raw bytes, or those of each row where they differ."""
    item = _opened(told["file"])[told["path"]]
    start, stop = int(told["start"]), int(told["stop"])
    kind = _kind(item.dtype)
    if kind in ("bytes", "text"):
        cells = [_cell(value) for value in np.asarray(item[start:stop], dtype=object).ravel()]
        if sum(map(len, cells)) > told["most_bytes"]:
            raise ValueError("more bytes than were asked for")
        return {"lengths": [len(cell) for cell in cells]}, b"".join(cells)
    if kind != "plain":
        raise ValueError(f"{item.dtype} is no number")
    size = (stop - start) * item.dtype.itemsize * math.prod(item.shape[1:])
    if size > told["most_bytes"]:
        raise ValueError(f"{size} bytes for rows {start} to {stop}")
    values = np.ascontiguousarray(item[start:stop])
    return {"dtype": values.dtype.str, "shape": list(values.shape)}, values.tobytes()


def decode(told: dict[str, Any], data: bytes) -> Answer:
    """A compressed chunk, as the codec that its array names gives it."""
    import numcodecs

    codec = dict(told["codec"])
    if codec.get("id") not in CODECS:
        raise ValueError(f"no compressor {codec.get('id')!r}; there are {CODECS}")
    if codec["id"] == "blosc":
        _check_blosc(data, int(told["most_bytes"]))
    found = bytes(memoryview(numcodecs.get_codec(codec).decode(data)))  # pyright: ignore
    if len(found) > told["most_bytes"]:
        raise ValueError(f"{len(found)} bytes, expected {told['most_bytes']}")
    return {}, found


def _check_blosc(data: bytes, size: int) -> None:
    """numcodecs does not tell Blosc how long its data are: a chunk that is cut short would be read
    beyond its end. Its header does (c-blosc README_CHUNK_FORMAT.rst)."""
    if len(data) < 16:
        raise ValueError(f"{len(data)} bytes are no chunk of Blosc's")
    inside, _, packed = struct.unpack("<III", data[4:16])
    if (inside, packed) != (size, len(data)):
        raise ValueError(
            f"its header promises {packed} bytes that hold {inside}; it has {len(data)}, which "
            f"should hold {size}"
        )


DO: dict[str, Callable[[dict[str, Any], bytes], Answer]] = {
    "begin": begin, "tree": tree, "attributes": attributes, "rows": rows, "decode": decode,
}  # fmt: skip


def _about(item: Any) -> dict[str, Any]:
    expected = chunks = 0
    if item.chunks:
        chunks = item.id.get_num_chunks()
        expected = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
    return {
        "shape": list(item.shape),
        "dtype": item.dtype.str,
        "kind": _kind(item.dtype),
        # Rows that lie in one chunk: reading fewer at a time unpacks it as often.
        "chunk_rows": item.chunks[0] if item.chunks else 1,
        "here": not (item.is_virtual or item.external),
        # An array whose file was not written to its end reads as zeros.
        "whole": chunks >= expected if item.chunks else item.id.get_storage_size() >= item.nbytes,
    }


def _kind(dtype: Any) -> str:
    """plain: numbers or texts of one length; bytes, text: rows of any length; other."""
    import h5py

    inner = h5py.check_vlen_dtype(dtype)
    if inner is not None:
        return "bytes" if inner == np.uint8 else "other"
    if dtype.kind == "O":
        return "text" if h5py.check_string_dtype(dtype) else "other"
    return "plain" if dtype.kind in "biufS" and dtype.fields is None else "other"


def _cell(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    return bytes(value) if isinstance(value, bytes) else np.asarray(value, np.uint8).tobytes()


def _opened(path: str) -> Any:
    """A file, kept open."""
    import h5py

    if path not in _files:
        _files[path] = h5py.File(path, "r", locking=False)
        if len(_files) > _OPEN:
            _close(next(iter(_files)))
    _files.move_to_end(path)
    return _files[path]


def _close(path: str) -> None:
    """Let a file go; what a damaged one says to that is of no account."""
    if (file := _files.pop(path, None)) is not None:
        with contextlib.suppress(Exception):
            file.close()


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, whose end is ours
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    asked = sys.stdin.buffer
    while True:
        try:
            told = json.loads(_exactly(asked, struct.unpack("<I", _exactly(asked, 4))[0]))
            data = _exactly(asked, told["size"])
        except EOFError:
            return
        try:
            head, body = DO[told["do"]](told, data)
        except ModuleNotFoundError as error:
            head, body = {"missing": error.name}, b""
        except Exception as error:
            words = " ".join(str(error).split())[:500]
            memory = isinstance(error, MemoryError)
            head, body = {"error": f"{type(error).__name__}: {words}", "memory": memory}, b""
        text = json.dumps({**head, "size": len(body)}).encode()
        answers.write(struct.pack("<I", len(text)) + text)
        answers.write(body)
        answers.flush()


if __name__ == "__main__":
    main()
