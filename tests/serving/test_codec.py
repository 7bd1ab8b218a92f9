"""Codec: arrays come back bit for bit, and bytes that are no message are refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imitact.core.errors import BadInput
from imitact.serving import codec

PLAIN = st.sampled_from(sorted(codec.TYPES))


@given(PLAIN.flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, min_side=0, max_dims=5))))
def test_an_array_comes_back_bit_for_bit(array: np.ndarray[Any, Any]):
    found = codec.unpack(codec.pack({"a": [array]}))["a"][0]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_an_array_in_any_order_and_a_number_of_numpy_come_back():
    array = np.arange(24, dtype=">f8").reshape(2, 3, 4).transpose(2, 0, 1)
    found = codec.unpack(codec.pack([array, np.float32(1.5), np.int64(-3)]))
    np.testing.assert_array_equal(found[0], array)
    assert found[1:] == [1.5, -3]
    assert codec.unpack(scalar()) == 3


def test_what_cannot_be_sent_is_named():
    for value in (np.array([object()]), np.array(["a"]), np.zeros(1, complex), {1, 2}.__iter__()):
        with pytest.raises(BadInput, match="cannot be sent"):
            codec.pack({"a": value})


def raw(**changes: Any) -> bytes:
    """Return the bytes of an array of two floats with parts that are changed."""
    parts = {"data": b"\0" * 8, "dtype": "<f4", "shape": [2], **changes}
    return msgspec.msgpack.encode(
        {b"__ndarray__": True, **{name.encode(): value for name, value in parts.items()}}
    )


def scalar(**changes: Any) -> bytes:
    """Return the bytes of a NumPy scalar with parts that are changed."""
    parts = {"data": 3, "dtype": "<i8", **changes}
    return msgspec.msgpack.encode(
        {b"__npgeneric__": True, **{name.encode(): value for name, value in parts.items()}}
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        raw()[:-1],
        raw() + b"\0",
        raw(dtype="|O"),
        raw(dtype="V8"),
        raw(dtype="<M8[s]"),
        raw(dtype=">f4"),
        raw(dtype="f4, f4"),
        raw(dtype=3),
        raw(shape=[3]),
        raw(shape=[-2]),
        raw(shape=[1 << 62, 1 << 62]),
        raw(shape=[2.0]),
        raw(shape=[True, 2]),
        raw(shape=[1] * 6),
        raw(shape="2"),
        raw(data="12345678"),
        raw(data=b""),
        scalar(data=b"1234"),
        scalar(data=1 << 63),
        scalar(data=None),
        scalar(dtype="|O"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes):
    with pytest.raises(BadInput):
        codec.unpack(data)


@settings(max_examples=500)
@given(st.binary(max_size=200))
@example(raw())
def test_any_bytes_are_a_message_or_refused(data: bytes):
    with contextlib.suppress(BadInput):
        codec.unpack(data)


def test_what_was_read_cannot_be_written():
    found = codec.unpack(raw())
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
