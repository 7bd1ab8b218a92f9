"""Parquet files of a few hundred bytes that decode to gigabytes, written byte by byte.

Format: apache/parquet-format, README.md and src/main/thrift/parquet.thrift; the headers are in
Thrift's compact protocol.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

INT32, INT64, FLOAT, BYTE_ARRAY, FIXED = 1, 2, 4, 6, 7
PLAIN, RLE, DELTA_LENGTH, DELTA_TEXT, DICTIONARY = 0, 3, 6, 7, 8
GZIP = 2

Field = tuple[int, int, bytes]
"""Number, compact type and encoded value of one field of a struct."""


@dataclass(frozen=True)
class Column:
    """One column of one row group.

    Attributes:
        name: name of the column.
        type: physical type, FLOAT.
        pages: its pages, as `page` makes them.
        values: values that the footer promises.
        is_list: whether each row holds a list.
        length: bytes of a value of type FIXED.
        promised: uncompressed bytes that the footer promises.
        codec: GZIP where the pages are compressed.
    """

    name: str
    type: int
    pages: bytes
    values: int
    is_list: bool = False
    length: int = 0
    promised: int = 1000
    codec: int = 0


def parquet(columns: Sequence[Column], rows: int) -> bytes:
    """Return a Parquet file with one row group, whose footer promises `rows` rows."""
    data = bytearray(b"PAR1")
    chunks: list[bytes] = []
    elements = [_struct(_text(4, "schema"), _int(5, len(columns)))]
    for column in columns:
        path = [column.name, "list", "element"] if column.is_list else [column.name]
        size = [_int(2, column.length)] if column.length else []
        leaf = (_int(1, column.type), *size, _int(3, 0))
        if column.is_list:
            elements.append(_struct(_int(3, 0), _text(4, column.name), _int(5, 1), _int(6, 3)))
            elements.append(_struct(_int(3, 2), _text(4, "list"), _int(5, 1)))
            elements.append(_struct(*leaf, _text(4, "element")))
        else:
            elements.append(_struct(*leaf, _text(4, column.name)))
        start = len(data)
        data += column.pages
        about = _struct(
            _int(1, column.type),
            _list(2, 5, [_zigzag(n) for n in (PLAIN, RLE, DICTIONARY)]),
            _list(3, 8, [_varint(len(part)) + part.encode() for part in path]),
            _int(4, column.codec),
            _int(5, column.values, 6),
            _int(6, column.promised, 6),
            _int(7, len(column.pages), 6),
            _int(9, start, 6),
        )
        chunks.append(_struct(_int(2, start, 6), (3, 12, about)))
    group = _struct(_list(1, 12, chunks), _int(2, 1000, 6), _int(3, rows, 6))
    footer = _struct(_int(1, 1), _list(2, 12, elements), _int(3, rows, 6), _list(4, 12, [group]))
    return bytes(data) + footer + struct.pack("<I", len(footer)) + b"PAR1"


def page(body: bytes, values: int, encoding: int = PLAIN, codec: int = 0) -> bytes:
    """Return a data page of version 1."""
    about = _struct(_int(1, values), _int(2, encoding), _int(3, RLE), _int(4, RLE))
    return _page(0, body, (5, 12, about), codec)


def dictionary(body: bytes, values: int, codec: int = 0) -> bytes:
    """Return a dictionary page."""
    return _page(2, body, (7, 12, _struct(_int(1, values), _int(2, PLAIN))), codec)


def one_list(values: int) -> bytes:
    """Return the levels of a row with a list of that many values."""
    repetition = _run(0, 1, 1) + _run(1, values - 1, 1)
    definition = _run(1, values, 1)
    return b"".join(struct.pack("<I", len(part)) + part for part in (repetition, definition))


def same_index(values: int) -> bytes:
    """Return the indices of values that are all the first one of a dictionary."""
    return b"\x01" + _run(0, values, 1)


def equal_deltas(values: int) -> bytes:
    """Return that many equal lengths, encoded as DELTA_BINARY_PACKED in blocks of a million."""
    block = 1 << 20
    head = _varint(block) + _varint(1) + _varint(values) + _zigzag(0)
    return head + b"\0\0" * -(-values // block)


def _run(value: int, count: int, width: int) -> bytes:
    return _varint(count << 1) + value.to_bytes((width + 7) // 8, "little")


def _page(kind: int, body: bytes, about: Field, codec: int) -> bytes:
    stored = body
    if codec == GZIP:
        packer = zlib.compressobj(9, wbits=31)
        stored = packer.compress(body) + packer.flush()
    return _struct(_int(1, kind), _int(2, len(body)), _int(3, len(stored)), about) + stored


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 ^ value >> 63)


def _int(number: int, value: int, kind: int = 5) -> Field:
    return number, kind, _zigzag(value)


def _text(number: int, value: str) -> Field:
    return number, 8, _varint(len(value)) + value.encode()


def _list(number: int, kind: int, items: Sequence[bytes]) -> Field:
    return number, 9, bytes([0xF0 | kind]) + _varint(len(items)) + b"".join(items)


def _struct(*fields: Field) -> bytes:
    found, before = b"", 0
    for number, kind, value in fields:
        found += bytes([(number - before) << 4 | kind]) + value
        before = number
    return found + b"\0"
