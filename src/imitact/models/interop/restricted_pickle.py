"""Restricted pickle: dicts of NumPy arrays, read without importing or calling what a file names.

`pickle.Unpickler` calls any function that a file names. Here a name becomes a `_Call`, which only
keeps the arguments that it is called with, and arrays are built from those afterwards. A first pass
over the instructions bounds what the unpickler itself may allocate.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.words import counted
from imitact.storage.lfs_pointer import refuse_pointer_bytes

MAX_BYTES = 64 << 20
"""Limit of a file. Statistics are a few kilobytes, an example episode at most megabytes."""

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
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # protocols below 3 write bytes as text
    "__builtin__.bytes",
}
"""Names in pickles of arrays, as NumPy 1 writes them; none of them is ever imported."""

_DTYPE = re.compile(r"[<>|=]?(?:[fiu][248]|[iub]1)")
"""Element types: floats, integers and booleans."""


class _Refused(Exception):
    """The file asks for more than arrays."""


@dataclass(eq=False)
class _Call:
    """A function or type that the file names, or a call of it, with the state that is set later."""

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    result: Any = None

    def __call__(self, *args: Any) -> _Call:
        if self.args is not None:
            raise _Refused("it calls what a call made")
        return _Call(self.name, args)

    def __setstate__(self, state: Any) -> None:
        if self.args is None:
            raise _Refused("it sets the state of a name")
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full.replace("numpy._core.", "numpy.core.") not in _NAMES:
            raise _Refused(f'it names "{full[:100]}", which is not one of NumPy\'s array types')
        return _Call(name)


def loads(data: bytes, path: Path) -> dict[str, Any]:
    """Return the dict in a pickle: text to array, number, text, list or dict of these.

    Memory and time are bounded by the size of the data. Arrays are of floats, integers or booleans.
    Anything else is refused with `path` and what was found.
    """
    refuse_pointer_bytes(data, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escape sequences in the file's strings
            _check_instructions(data)
            found = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(found, dict):
            raise _Refused(f"it holds {type(found).__name__}, expected a dict of arrays")
        return _Builder(2 * len(data)).value(found)
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
        tuples += code.name.startswith("TUPLE")
        if count > _MAX_INSTRUCTIONS:
            raise _Refused(f"it has more than {_MAX_INSTRUCTIONS} instructions")
        if code.name not in _INSTRUCTIONS:
            raise _Refused(f"it uses the instruction {code.name}")
        if code.name.endswith("PUT") and (argument or 0) > _MAX_INSTRUCTIONS:
            raise _Refused(f"it stores a value under the number {argument}")  # sizes the memo table
        if tuples > _MAX_TUPLES:
            raise _Refused(f"it has more than {_MAX_TUPLES} tuples")


class _Builder:
    """Builds the values of an unpickled dict; `bytes_left` bounds the bytes that it copies."""

    def __init__(self, bytes_left: int) -> None:
        self._bytes_left = bytes_left
        self._parts = 0

    def value(self, value: Any, depth: int = 0) -> Any:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise _Refused(f"values are more than {_MAX_DEPTH} deep or {_MAX_PARTS} parts")
        match value:
            case _Call():
                if value.result is None:
                    value.result = self._result(value)
                return value.result
            case dict():
                return {_text(key): self.value(part, depth + 1) for key, part in value.items()}
            case list() | tuple():
                return [self.value(part, depth + 1) for part in value]
            case int() | float() | str() | bytes() | None:
                return value
        raise _Refused(f"a value is {type(value).__name__}")

    def _result(self, call: _Call) -> Any:
        match call.name, call.args, call.state:
            case "_reconstruct", _, (_, shape, dtype, is_fortran, values):
                return self._array(values, dtype, shape, bool(is_fortran))
            case "scalar", (dtype, values), _:
                return self._array(values, dtype, (), False)[()]
            case "_frombuffer", (values, dtype, shape, order), _:
                return self._array(values, dtype, shape, order == "F")
        return self._bytes(call)

    def _bytes(self, value: Any) -> bytes | bytearray:
        """Return the bytes that a value stands for; protocols below 3 write them as text."""
        match value:
            case _Call(name="bytes", args=()):
                value = b""
            case _Call(name="encode", args=(text, "latin1" | "latin-1")):
                value = text
            case _Call(name=name, args=args):
                raise _Refused(f"it makes a {name} of {len(args or ())} unexpected parts")
        if not isinstance(value, str | bytes | bytearray):
            raise _Refused("an array has no bytes")
        self._bytes_left -= len(value)
        if self._bytes_left < 0:
            raise _Refused("its arrays repeat their bytes")
        return value.encode("latin-1") if isinstance(value, str) else value

    def _array(self, values: Any, dtype: Any, shape: Any, is_fortran: bool) -> NDArray[Any]:
        kind = _dtype(dtype)
        if not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
            raise _Refused(f"an array has no shape of at most {_MAX_AXES} axes")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused("an array has a shape that is not of whole numbers")
        array = np.frombuffer(self._bytes(values), kind).astype(kind.newbyteorder("native"))
        if array.size != math.prod(shape):
            raise _Refused(f"an array of shape {shape} has {counted(array.size, 'value')}")
        return array.reshape(shape, order="F" if is_fortran else "C")


def _dtype(call: Any) -> np.dtype[Any]:
    if not isinstance(call, _Call) or call.name != "dtype":
        raise _Refused("an array has no element type")
    text = _text(call.args[0] if call.args else None)
    if not _DTYPE.fullmatch(text):
        raise _Refused(f'an array is of "{text[:100]}"')
    match call.state or (3, "|"):
        case (_, "|" | "=" | "<" | ">" as order, *_):
            return np.dtype(text).newbyteorder(order)
    raise _Refused("an element type has an unknown state")


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
    data = pickle.dumps({n: np.ascontiguousarray(a) for n, a in arrays.items()}, protocol=3)
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
