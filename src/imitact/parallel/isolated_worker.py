"""Isolated worker: reads HDF5 files and compressed chunks for `isolated_process`.

It runs as a script until its standard input ends. A message is the length of its JSON (4 bytes,
little-endian), the JSON, and as many bytes as "size" in the JSON says. It imports nothing of
imitact, so that it starts in a moment.
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
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

MAX_OBJECTS = 250_000
"""Groups and arrays of one file: ten thousand demonstrations of 25 in a robomimic file."""

MAX_ATTRIBUTE_CHARACTERS = 16 << 20
"""All attributes of one group."""

MAX_DEPTH = 8
_MAX_OPEN = 8
"""Files that are kept open."""

CODECS = ("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd")
"""The accepted codecs of numcodecs; others in its registry can run code (pickle)."""

Answer = tuple[dict[str, Any], bytes | memoryview]

_Link = tuple[bytes, int, int]
"""Name, type, and address of the object."""

_files: OrderedDict[str, Any] = OrderedDict()


def start(request: dict[str, Any], data: bytes) -> Answer:
    """Limit the memory that this process may allocate beyond what it has now."""
    # Suppressed: there is no such limit here, or a lower one is set.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limit = taken + int(request["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return {}, b""


def tree(request: dict[str, Any], data: bytes) -> Answer:
    """List every array of a file. Only hard links are followed; others lead to other files."""
    _close(request["file"])  # read it again: it may have changed since
    arrays: list[dict[str, Any]] = []
    others: list[str] = []
    for path, array in _objects(_opened(request["file"]), ""):
        if array is None:
            others.append(path)
        else:
            arrays.append({"path": path, **array})
    return {"arrays": arrays, "others": others}, b""


def has_array(request: dict[str, Any], data: bytes) -> Answer:
    """Whether an array lies within a group of the group `path`; stops at the first."""
    _close(request["file"])
    root = _opened(request["file"])
    name = request["path"]
    if name.strip("/") not in root or not hasattr(root[name], "keys"):
        return {"found": False}, b""
    found = (path for path, array in _objects(root[name], name) if array is not None)
    return {"found": any(path.count("/") > name.count("/") + 1 for path in found)}, b""


def _objects(top: Any, top_path: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the path of every object but the groups, with the description of an array.

    An object that several links lead to is read once, so that the time is in proportion to the
    bytes of the file: a few links can make many paths. h5py's own objects are avoided, which cost
    three times as much as HDF5's.
    """
    import h5py

    h5l, h5o = h5py.h5l, h5py.h5o  # pyright: ignore[reportAttributeAccessIssue]
    groups: dict[int, list[_Link]] = {-1: _links(top.id, MAX_OBJECTS)}
    others: dict[int, dict[str, Any] | None] = {}
    # Paths wait, not open groups: HDF5 slows down with the number of open objects.
    waiting = [("", 0, -1)]
    listed = paths = 0
    while waiting:
        where, depth, group_address = waiting.pop()
        group = None
        for name, kind, address in groups[group_address]:
            paths += 1
            if max(paths, listed) > MAX_OBJECTS:
                raise ValueError(f"more than {MAX_OBJECTS} groups and arrays")
            text = _decoded(name)
            path = f"{where}/{text if text is not None else repr(name)}"
            if text is None or kind != h5l.TYPE_HARD:
                yield top_path + path, None
                continue
            if address not in groups and address not in others:
                group = group or (h5o.open(top.id, where[1:].encode()) if where else top.id)
                item = h5o.open(group, name)
                if isinstance(item, h5py.h5g.GroupID):
                    groups[address] = _links(item, MAX_OBJECTS)
                    listed += len(groups[address])
                else:
                    is_array = isinstance(item, h5py.h5d.DatasetID)
                    others[address] = _description(item) if is_array else None
            if address in others:
                yield top_path + path, others[address]
                continue
            if depth >= MAX_DEPTH:
                raise ValueError(f"groups within groups, more than {MAX_DEPTH}: {path}")
            waiting.append((path, depth + 1, address))


def _links(group: Any, most: int) -> list[_Link]:
    """Return the links of an open group; stops after one more than `most`."""
    links: list[_Link] = []

    def visit(name: bytes, link: Any) -> bool | None:
        links.append((name, link.type, link.u))
        return True if len(links) > most else None  # a value ends the iteration

    group.links.iterate(visit, info=True)
    return links


def _decoded(name: bytes) -> str | None:
    """Return a name that is UTF-8."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _is_text(name: str | bytes) -> bool:
    """Whether a name is UTF-8. Of others h5py gives bytes, or surrogates that UTF-8 cannot hold."""
    return isinstance(name, str) and not any("\ud800" <= x <= "\udfff" for x in name)


def attributes(request: dict[str, Any], data: bytes) -> Answer:
    """Return the attributes of a group that are numbers, booleans or text.

    Bytes that are not UTF-8 are replaced.
    """
    item = _opened(request["file"])[request["path"] or "/"]
    found: dict[str, Any] = {}
    length = 0
    for name in filter(_is_text, list(item.attrs)[:1000]):
        value = item.attrs[name]
        if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
            value = value.item()
        if isinstance(value, str):  # h5py's own decoding keeps them as surrogates
            value = value.encode(errors="surrogateescape")
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        length += len(value) if isinstance(value, str) else 0
        if length > MAX_ATTRIBUTE_CHARACTERS:
            raise ValueError(f"attributes of more than {MAX_ATTRIBUTE_CHARACTERS} characters")
        if isinstance(value, bool | int | str) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            found[name] = value
    return {"attributes": found}, b""


def rows(request: dict[str, Any], data: bytes) -> Answer:
    """Return rows start to stop of an array: raw bytes, or those of each row where sizes differ."""
    item = _opened(request["file"])[request["path"]]
    start, stop = int(request["start"]), int(request["stop"])
    kind = _kind(item.dtype)
    if kind in ("bytes", "text"):
        cells = [_cell(value) for value in np.asarray(item[start:stop], dtype=object).ravel()]
        if sum(map(len, cells)) > request["max_bytes"]:
            raise ValueError(f"rows {start} to {stop} have more than {request['max_bytes']} bytes")
        return {"lengths": [len(cell) for cell in cells]}, b"".join(cells)
    if kind != "plain":
        raise ValueError(f"{item.dtype} is not numeric")
    size = (stop - start) * item.dtype.itemsize * math.prod(item.shape[1:])
    if size > request["max_bytes"]:
        raise ValueError(f"rows {start} to {stop} have {size} bytes")
    values = np.ascontiguousarray(item[start:stop])
    # Sent as they lie: a copy would be as large as the answer.
    body = values.reshape(-1).view(np.uint8).data if values.size else b""
    return {"dtype": values.dtype.str, "shape": list(values.shape)}, body


def decode(request: dict[str, Any], data: bytes) -> Answer:
    """Decompress a chunk with the codec of its array."""
    import numcodecs

    codec = dict(request["codec"])
    if codec.get("id") not in CODECS:
        raise ValueError(f"codec {codec.get('id')!r}, expected one of {', '.join(CODECS)}")
    if codec["id"] == "blosc":
        _check_blosc(data, int(request["max_bytes"]))
    found = bytes(memoryview(numcodecs.get_codec(codec).decode(data)))  # pyright: ignore
    if len(found) > request["max_bytes"]:
        raise ValueError(f"{len(found)} bytes, expected {request['max_bytes']}")
    return {}, found


def _check_blosc(data: bytes, size: int) -> None:
    """Refuse a truncated Blosc chunk by its header (c-blosc README_CHUNK_FORMAT.rst).

    numcodecs passes no length to Blosc, which would read beyond the end of the data.
    """
    if len(data) < 16:
        raise ValueError(f"{len(data)} bytes are not a Blosc chunk")
    inside, _, packed = struct.unpack("<III", data[4:16])
    if (inside, packed) != (size, len(data)):
        raise ValueError(
            f"its header says {packed} bytes for {inside} decompressed ones; it has {len(data)}, "
            f"for {size}"
        )


FUNCTIONS: dict[str, Callable[[dict[str, Any], bytes], Answer]] = {
    "start": start, "tree": tree, "has_array": has_array, "attributes": attributes,
    "rows": rows, "decode": decode,
}  # fmt: skip


def _description(item: Any) -> dict[str, Any] | None:
    """Describe an open array; None for one without a shape."""
    import h5py

    h5d, h5s = h5py.h5d, h5py.h5s  # pyright: ignore[reportAttributeAccessIssue]
    space, dtype = item.get_space(), item.dtype
    if space.get_simple_extent_type() == h5s.NULL:
        return None
    shape, stored = space.shape, item.get_storage_size()
    chunks, is_here, is_whole = None, True, stored >= math.prod(shape) * dtype.itemsize
    if item.get_offset() is None:  # else it is one block of this file
        plan = item.get_create_plist()  # as slow as opening the array
        layout = plan.get_layout()
        is_here = layout != h5d.VIRTUAL and plan.get_external_count() == 0
        if layout == h5d.CHUNKED:
            chunks = plan.get_chunk()
            expected = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
            is_whole = item.get_num_chunks() >= expected
    return {
        "shape": shape,
        "dtype": dtype.str,
        "kind": _kind(dtype),
        # Rows of one chunk: reading fewer at a time decompresses it once for each read.
        "chunk_rows": chunks[0] if chunks else 1,
        "here": is_here,
        # An array whose file is truncated reads as zeros.
        "whole": is_whole,
    }


def _kind(dtype: Any) -> str:
    """Return "plain" (numbers, text of one length), "bytes" or "text" (any length), or "other"."""
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
    """Return an open file; the last few are kept open."""
    import h5py

    if path not in _files:
        _files[path] = h5py.File(path, "r", locking=False)
        if len(_files) > _MAX_OPEN:
            _close(next(iter(_files)))
    _files.move_to_end(path)
    return _files[path]


def _close(path: str) -> None:
    """Close a file; errors of a damaged one are ignored."""
    if (file := _files.pop(path, None)) is not None:
        with contextlib.suppress(Exception):
            file.close()


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent acts on Ctrl-C and ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    requests = sys.stdin.buffer
    while True:
        try:
            size = struct.unpack("<I", _read_exactly(requests, 4))[0]
            request = json.loads(_read_exactly(requests, size))
            data = _read_exactly(requests, request["size"])
        except EOFError:
            return
        try:
            answer, body = FUNCTIONS[request["function"]](request, data)
        except ModuleNotFoundError as error:
            answer, body = {"missing": error.name}, b""
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            answer, body = {"error": f"{type(error).__name__}: {text}"}, b""
        head = json.dumps({**answer, "size": len(body)}).encode()
        answers.write(struct.pack("<I", len(head)) + head)
        answers.write(body)
        answers.flush()


if __name__ == "__main__":
    main()
