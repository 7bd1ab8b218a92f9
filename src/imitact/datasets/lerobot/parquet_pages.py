"""Parquet page headers: what pages decode to is judged before pyarrow decodes them.

A footer may promise less than its pages hold, and a page of a hundred bytes may hold a billion
equal values. pyarrow decodes a page as its header says, so the headers are what limits memory.
Format: apache/parquet-format, src/main/thrift/parquet.thrift, in Thrift's compact protocol.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

MAX_VALUES = 40_000_000
"""Values that are decoded at once, in larger files a value for every four bytes; decoding takes up
to 20 bytes for each. A row group of pyarrow's default size has 14 million of 14 joints."""

_MAX_BYTES = 128 << 20
"""Decompressed bytes that are decoded at once from a small file."""

_MAX_FACTOR = 32
"""How many times as large as their file they may be, up to `_MAX_UNPACKED_BYTES`."""

_MAX_UNPACKED_BYTES = 256 << 20

_MAX_PAGES = 200_000
_MAX_HEADER_BYTES = 1 << 20
_MAX_DEPTH = 8
_HEADERS = {5: 2, 7: 2, 8: 4}
"""Fields of a PageHeader whose field 1 is a number of values, and which of theirs is the encoding:
data, dictionary, data of version 2."""

_UNBOUNDED = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
"""Encodings that have a number of values of their own, which pyarrow believes."""


class PageTooLarge(ValueError):
    """Pages decode to more than a file of their size can be meant to hold."""


def max_unpacked_bytes(stored: int) -> int:
    """Return how many bytes the data of a file of `stored` bytes may take, without compression."""
    return max(_MAX_BYTES, min(_MAX_FACTOR * stored, _MAX_UNPACKED_BYTES), 4 * stored)


class PageGuard(io.RawIOBase):
    """A Parquet file whose column chunks are checked while pyarrow reads them.

    Without a read buffer, pyarrow reads each column chunk at once. With one (`in_blocks`), it reads
    a chunk in blocks; then only one chunk may be read between two calls of `begin`.
    """

    def __init__(self, file: BinaryIO, size: int, *, in_blocks: bool) -> None:
        super().__init__()
        self._file, self._size, self._in_blocks = file, size, in_blocks
        self._watching = False
        self._rest, self._skip = b"", 0
        self._pages = self._values = self._unpacked = 0

    def begin(self) -> None:
        """Check all that is read from now on; the next byte is the first of a column chunk."""
        self._watching = True
        self._rest, self._skip = b"", 0
        self.forget()

    def forget(self) -> None:
        """Apply the limits to what is read from now on alone."""
        self._pages = self._values = self._unpacked = 0

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._size - self._file.tell())  # a footer may promise any size of a chunk
        data = self._file.read(min(size, rest) if size >= 0 else rest)
        if self._watching:
            if not self._in_blocks:
                self._rest, self._skip = b"", 0
            self._check(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def _check(self, data: bytes) -> None:
        """Follow the pages in the next bytes of a column chunk."""
        at = self._skip
        if self._rest:
            data, at = self._rest + data, 0
        while at < len(data):
            try:
                header, start = _struct(data, at, 0)
            except IndexError:  # it goes on in the next block
                if len(data) - at >= _MAX_HEADER_BYTES:
                    raise PageTooLarge("a page has a header of more than a megabyte") from None
                self._rest, self._skip = data[at:], 0
                return
            self._judge(header)
            at = start + header[3]
        self._rest, self._skip = b"", at - len(data)

    def _judge(self, header: dict[int, Any]) -> None:
        unpacked, stored = header.get(2), header.get(3)
        if type(unpacked) is not int or type(stored) is not int or min(unpacked, stored) < 0:
            raise PageTooLarge("a page has no size")
        for number, encoding in _HEADERS.items():
            about = header.get(number)
            if isinstance(about, dict) and type(about.get(1)) is int:
                self._values += max(0, about[1])
                if about.get(encoding) in _UNBOUNDED:
                    raise PageTooLarge(
                        f"its texts are encoded as {_UNBOUNDED[about[encoding]]}, which imitact "
                        "does not read; write the file again with pyarrow's default"
                    )
        self._pages += 1
        self._unpacked += unpacked
        if self._pages > _MAX_PAGES:
            raise PageTooLarge(f"it has more than {_MAX_PAGES:,} pages, expected fewer at once")
        values = max(MAX_VALUES, self._size // 4)
        if self._values > values:
            raise PageTooLarge(
                f"its pages hold {self._values:,} values or more, expected at most {values:,} at "
                "once"
            )
        if self._unpacked > (most := max_unpacked_bytes(self._size)):
            raise PageTooLarge(
                f"its pages unpack to {self._unpacked:,} bytes or more, expected at most {most:,} "
                "at once"
            )


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the integers and structs of a struct by field number, and where it ends.

    IndexError where the data end before.
    """
    if depth > _MAX_DEPTH:
        raise PageTooLarge("a page header is nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(head & 15, data, at, depth)
    return fields, at + 1


def _value(kind: int, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return None, at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at, depth + 1)
    # parquet.thrift has no list, set or map in a page header.
    raise PageTooLarge(f"a page header has a field of type {kind}")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise PageTooLarge("a page header has a number of more than 64 bits")
