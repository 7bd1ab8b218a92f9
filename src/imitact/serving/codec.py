"""Codec: messages with arrays as MessagePack, in the encoding of openpi's client and server.

An array is a map with the keys b"__ndarray__", b"data", b"dtype" and b"shape", a NumPy scalar one
with b"__npgeneric__" and its plain value (openpi-client 0.1.2, msgpack_numpy.py). Types come from a
table, so that no text of a message reaches NumPy, and the size of an array is that of its data.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput

MAX_AXES = 5

TYPES = {
    dtype.str: dtype
    for dtype in map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
} | {dtype.str: dtype for dtype in map(np.dtype, ("f2", "f4", "f8"))}
"""Accepted types of arrays, by NumPy's text of them, little-endian."""

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


def pack(message: Any) -> bytes:
    """Return a message of plain values and NumPy arrays as bytes.

    Raises:
        BadInput: an array has a type that is not in `TYPES`.
    """
    return _ENCODER.encode(message)


def unpack(data: bytes) -> Any:
    """Return the message that bytes hold; its arrays are views of them and cannot be written.

    Raises:
        BadInput: they are no such message.
    """
    try:
        return _with_arrays(_DECODER.decode(data))
    except RecursionError as error:
        raise BadInput("the message is nested too deeply") from error
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise BadInput(f"the message is no MessagePack: {error}") from error


def _encoded(value: Any) -> Any:
    """Return what stands for an array or a NumPy scalar in a message."""
    if not isinstance(value, np.ndarray | np.generic):
        raise BadInput(f"a {type(value).__name__} cannot be sent; send numbers, texts and arrays")
    text = value.dtype.newbyteorder("<").str
    if text not in TYPES:
        raise BadInput(f"an array of {value.dtype} cannot be sent; send {', '.join(TYPES)}")
    if isinstance(value, np.generic):
        return {_SCALAR: True, b"data": value.item(), b"dtype": text}
    array = np.ascontiguousarray(value, TYPES[text])
    data = array.reshape(-1).view(np.uint8).data if array.size else b""
    return {_ARRAY: True, b"data": data, b"dtype": text, b"shape": value.shape}


def _with_arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value or _SCALAR in value:
        return _array(value)
    return {key: _with_arrays(item) for key, item in value.items()}


def _array(value: dict[Any, Any]) -> NDArray[Any] | np.generic:
    data, text, shape = value.get(b"data"), value.get(b"dtype"), value.get(b"shape", ())
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str) or text not in TYPES:
        raise BadInput(f"an array's type is not accepted; accepted are {', '.join(TYPES)}")
    dtype = TYPES[text]
    if _SCALAR in value:
        return _scalar(data, dtype)
    is_shape = isinstance(shape, list | tuple) and len(shape) <= MAX_AXES
    if not is_shape or not all(type(size) is int and size >= 0 for size in shape):
        raise BadInput(f"an array's shape is not accepted; expected up to {MAX_AXES} sizes")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        raise BadInput(
            f"an array of {text} and shape {tuple(shape)} has {_length(data)} bytes, expected "
            f"{math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(value: Any, dtype: np.dtype[Any]) -> np.generic:
    if type(value) not in (bool, int, float):
        raise BadInput(f"a number of {dtype.str} is {type(value).__name__}, expected a number")
    try:
        return dtype.type(value)
    except (OverflowError, ValueError) as error:
        raise BadInput(f"{value} is no number of {dtype.str}") from error


def _length(data: Any) -> int:
    return len(data) if isinstance(data, bytes) else 0


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encoded)
_DECODER = msgspec.msgpack.Decoder()
