"""Restricted pickle: dicts of NumPy arrays, read without importing or calling what a file names.

`pickle.Unpickler` calls any function that a file names. Here every name becomes a `_Name`, calling
one yields a `_Made` that only keeps its arguments, and arrays are built from those afterwards. A
first pass over the instructions bounds what the unpickler itself may allocate.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile

MAX_BYTES = 64 << 20
"""Statistics of a dataset are a few kilobytes, an example episode at most megabytes."""

_MAX_INSTRUCTIONS = 100_000
_MAX_TUPLES = 5_000  # hashing a tuple that is nested 100,000 deep overflows the C stack
_MAX_AXES = 8
_MAX_PARTS = 10_000
_MAX_DEPTH = 8

_INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET",
    "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG",
    "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_DICT",
    "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})  # fmt: skip

_NAMES = {
    f"numpy.{core}.{name}": meaning
    for core in ("core", "_core")
    for name, meaning in (
        ("multiarray._reconstruct", "array"),
        ("multiarray.scalar", "scalar"),
        ("numeric._frombuffer", "buffer"),
    )
} | {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",  # protocols below 3 write bytes as text
    "__builtin__.bytes": "bytes",
}
"""Names in pickles of arrays; none of them is ever imported."""

_DTYPE = re.compile(r"[<>|=]?(?:[fiu][248]|[iub]1)")
"""Element types: floats, integers and booleans."""


class _Refused(Exception):
    """The file asks for more than arrays."""


class _Made:
    """An object that the file makes: the name it calls, the arguments and the state."""

    __slots__ = ("args", "meaning", "state", "value")

    def __init__(self, meaning: str, args: tuple[Any, ...]) -> None:
        self.meaning, self.args, self.state, self.value = meaning, args, None, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """A function or type that the file names."""

    __slots__ = ("meaning",)

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning

    def __call__(self, *args: Any) -> _Made:
        return _Made(self.meaning, args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it sets the state of a name")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _NAMES:
            raise _Refused(f'it names "{full[:100]}", which is not one of NumPy\'s array types')
        return _Name(_NAMES[full])


def loads(data: bytes, path: Path) -> dict[str, Any]:
    """Return the dict in a pickle: text to array, number, text, list or dict of these.

    Memory and time are bounded by the size of the data. Arrays are of floats, integers or booleans.

    Raises:
        DamagedFile: The pickle holds anything else; the message names `path` and what was found.
    """
    if len(data) > MAX_BYTES:
        raise DamagedFile(f"{path} has {len(data):,} bytes; at most {MAX_BYTES:,} are expected")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escape sequences in the file's strings
            _check_instructions(data)
            found = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(found, dict):
            raise _Refused(f"it holds {type(found).__name__}, expected a dict of arrays")
        return _Builder(2 * len(data)).by_name(found, 0)
    except _Refused as error:
        raise DamagedFile(
            f"{path} is a pickle of more than arrays, and nothing in it was run: {error}. If you "
            "trust it, load it where it was written and save its arrays alone"
        ) from error
    except Exception as error:  # the unpickler raises various types on damaged bytes
        reason = f"{type(error).__name__}: {error}"[:300]
        raise DamagedFile(f"{path} cannot be read as a pickle of arrays ({reason})") from error


def _check_instructions(data: bytes) -> None:
    """Refuse instructions that are never needed for arrays, and allocations beyond the data."""
    tuples = 0
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_INSTRUCTIONS:
            raise _Refused(f"it has more than {_MAX_INSTRUCTIONS} instructions")
        if code.name not in _INSTRUCTIONS:
            raise _Refused(f"it uses the instruction {code.name}")
        if (
            code.name.endswith("PUT") and (argument or 0) > _MAX_INSTRUCTIONS
        ):  # sizes the memo table
            raise _Refused(f"it stores a value under the number {argument}")
        tuples += code.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES:
            raise _Refused(f"it has more than {_MAX_TUPLES} tuples")


class _Builder:
    """Builds the values of an unpickled dict; `limit` bounds the bytes that it copies."""

    def __init__(self, limit: int) -> None:
        self._bytes_left = limit
        self._parts = 0

    def by_name(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {_text(key): self.value(part, depth + 1) for key, part in values.items()}

    def value(self, value: Any, depth: int) -> Any:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise _Refused(f"values are more than {_MAX_DEPTH} deep or {_MAX_PARTS} parts")
        if isinstance(value, _Made):
            if value.value is None:
                value.value = self._built(value)
            return value.value
        if isinstance(value, dict):
            return self.by_name(value, depth)
        if isinstance(value, list | tuple):
            return [self.value(part, depth + 1) for part in value]
        if isinstance(value, int | float | str | bytes | None):
            return value
        raise _Refused(f"a value is {type(value).__name__}")

    def _built(self, made: _Made) -> Any:
        args, state = made.args, made.state
        if made.meaning == "array" and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, values = state
            return self._array(values, dtype, shape, bool(is_fortran))
        if made.meaning == "scalar" and len(args) == 2:
            return self._array(args[1], args[0], (), False)[()]
        if made.meaning == "buffer" and len(args) == 4:
            values, dtype, shape, order = args
            return self._array(values, dtype, shape, order == "F")
        return self._bytes(made)

    def _bytes(self, value: Any) -> bytes | bytearray:
        """Return the bytes that a value stands for; protocols below 3 write them as text."""
        if isinstance(value, _Made):
            args = value.args
            if value.meaning == "bytes" and not args:
                return b""
            if value.meaning != "encode" or len(args) != 2 or args[1] not in ("latin1", "latin-1"):
                raise _Refused(f"it makes a {value.meaning} of {len(args)} unexpected parts")
            value = args[0]
        if isinstance(value, str):  # Python 2 wrote bytes as text
            self._take(len(value))
            return value.encode("latin-1")
        if not isinstance(value, bytes | bytearray):
            raise _Refused("an array has no bytes")
        return value

    def _array(self, values: Any, dtype: Any, shape: Any, is_fortran: bool) -> NDArray[Any]:
        kind, data = _dtype(dtype), self._bytes(values)
        self._take(len(data))
        if not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
            raise _Refused(f"an array has no shape of at most {_MAX_AXES} axes")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused("an array has a shape that is not of whole numbers")
        array = np.frombuffer(data, kind) if data else np.empty(0, kind)
        if array.size != math.prod(shape):
            raise _Refused(f"an array of shape {shape} has {array.size} values")
        native = array.astype(kind.newbyteorder("native"))
        return native.reshape(shape, order="F" if is_fortran else "C")

    def _take(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise _Refused("its arrays repeat their bytes")


def _dtype(made: Any) -> np.dtype[Any]:
    text = made.args[0] if isinstance(made, _Made) and made.meaning == "dtype" else None
    text = _text(text)
    if not _DTYPE.fullmatch(text):
        raise _Refused(f'an array is of "{text[:100]}"')
    dtype, state = np.dtype(text), made.state
    if state is None:
        return dtype
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
        raise _Refused("an element type has an unknown state")
    order = {"<": "little", ">": "big"}.get(state[1])
    return dtype.newbyteorder(order) if order else dtype  # type: ignore[arg-type]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _Refused(f"a name is {type(value).__name__}, expected text")
    return value


# -- writing ---------------------------------------------------------------------------------------


def dumps(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a pickle (protocol 3) of a dict of float32 or float64 arrays.

    It names NumPy's functions as NumPy 1 does, which NumPy 2 reads as well: the released ACT needs
    Python 3.8, for which there is no NumPy 2.
    """
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} is {array.dtype}; float32 or float64 are written")
    data = pickle.dumps({n: np.ascontiguousarray(a) for n, a in arrays.items()}, protocol=3)
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
