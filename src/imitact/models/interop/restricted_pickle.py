"""Arrays by name out of a pickle, and into one, without running it.

A pickle is a program: Python's own reader calls whatever function it names. This one knows the
instructions that make dicts, lists, numbers, texts and NumPy arrays, and calls nothing. A name in
the file is compared with NumPy's own and never imported; an array is made of its bytes.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile

MAX_BYTES = 64 << 20
"""Statistics of a dataset are a few kilobytes, and an example episode at most megabytes."""

_MAX_INSTRUCTIONS = 100_000
_MAX_AXES = 8
_MAX_ARRAYS = 1_000
_MAX_PARTS = 10_000
_MAX_DEPTH = 8

_KIND = re.compile(r"[<>|=]?(?:[fiu][248]|[iub]1)")
"""Arrays of these types: floats, whole numbers, truth values."""

_NUMPY = {
    f"{module}.{name}": meaning
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, meaning in (("_reconstruct", "array"), ("scalar", "scalar"))
} | {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "numpy.core.numeric._frombuffer": "buffer",
    "numpy._core.numeric._frombuffer": "buffer",
    "_codecs.encode": "encode",
    "__builtin__.bytes": "bytes",
}
"""The names that pickles of arrays contain, and what they stand for here."""


@dataclass(frozen=True)
class _Name:
    """A function or type of NumPy's that the file names; it is never looked up."""

    meaning: str


@dataclass
class _Kind:
    """A dtype under construction."""

    text: str
    order: str = "="


@dataclass
class _Array:
    """An array under construction."""

    value: NDArray[Any] | None = None


class _Mark:
    """Where the parts of the next tuple, list or dict begin."""


class _Refused(Exception):
    """What the file asks for is not done here."""


def loads(data: bytes, path: Path) -> dict[str, Any]:
    """The dict in a pickle: text to array, number, text, list or dict of these.

    Arrays are fresh, of floats, whole numbers or truth values. Everything else is Damaged, naming
    `path` and what was asked for, in memory and time that the size of the file bounds.
    """
    if len(data) > MAX_BYTES:
        raise DamagedFile(
            f"{path} has {len(data):,} bytes; at most {MAX_BYTES:,} are expected there"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts, which are the file's affair
            found = _Machine().run(data)
        if not isinstance(found, dict):
            raise _Refused(f"it holds {type(found).__name__}, expected a dict of arrays")
        return _Finished().by_name(found, 0)
    except _Refused as error:
        raise DamagedFile(
            f"{path} is a pickle of more than arrays, and nothing in it was run: {error}. If you "
            "trust it, load it where it was written and save its arrays alone"
        ) from error
    except (ValueError, IndexError, TypeError, KeyError, OverflowError, ArithmeticError) as error:
        raise DamagedFile(f"{path} cannot be read as a pickle of arrays: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise DamagedFile(f"{path} cannot be read as a pickle of arrays: {error!r}") from error


def _text(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if not isinstance(key, str):
        raise _Refused(f"a name is {type(key).__name__}, expected text")
    return key


class _Finished:
    """Values without what was only under construction; a file may repeat its parts without end."""

    def __init__(self) -> None:
        self._parts = 0

    def by_name(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {_text(key): self.value(part, depth + 1) for key, part in value.items()}

    def value(self, value: Any, depth: int) -> Any:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise _Refused(f"values are more than {_MAX_DEPTH} deep or {_MAX_PARTS} parts")
        if isinstance(value, _Array):
            if value.value is None:
                raise _Refused("an array has no values")
            return value.value
        if isinstance(value, dict):
            return self.by_name(value, depth)
        if isinstance(value, list | tuple):
            return [self.value(part, depth + 1) for part in value]
        if isinstance(value, int | float | str | bytes | np.generic | None):
            return value
        raise _Refused(f"a value is {type(value).__name__}")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._arrays = 0

    def run(self, data: bytes) -> Any:
        argument: Any
        for count, (code, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MAX_INSTRUCTIONS:
                raise _Refused(f"it has more than {_MAX_INSTRUCTIONS} instructions")
            name = code.name
            if name == "STOP":
                return self._pop()
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self._stack.append(argument)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._top()
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name == "GLOBAL":
                self._name(argument.replace(" ", "."))
            elif name in _STEPS:
                _STEPS[name](self)
            elif name not in ("PROTO", "FRAME"):
                raise _Refused(f"it uses the instruction {name}")
        raise _Refused("it does not end")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise _Refused("a mark stands where a value should")
        return value

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _since_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[at], _Mark):
                parts = self._stack[at + 1 :]
                del self._stack[at:]
                return parts
        raise _Refused("a mark is missing")

    def _name(self, name: str) -> None:
        if name not in _NUMPY:
            raise _Refused(f"it names {name[:100]!r}, which is none of NumPy's arrays")
        self._stack.append(_Name(_NUMPY[name]))

    # -- the instructions ------------------------------------------------------------------------

    def stack_global(self) -> None:
        last, first = self._pop(), self._pop()
        self._name(f"{_text(first)}.{_text(last)}")

    def mark(self) -> None:
        self._stack.append(_Mark())

    def empty_dict(self) -> None:
        self._stack.append({})

    def empty_list(self) -> None:
        self._stack.append([])

    def dict_of(self) -> None:
        parts = self._since_mark()
        self._stack.append({})
        self._set(parts)

    def list_of(self) -> None:
        self._stack.append(self._since_mark())

    def tuple_of(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def tuple_1(self) -> None:
        self._stack.append((self._pop(),))

    def tuple_2(self) -> None:
        last, first = self._pop(), self._pop()
        self._stack.append((first, last))

    def tuple_3(self) -> None:
        last, middle, first = self._pop(), self._pop(), self._pop()
        self._stack.append((first, middle, last))

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self) -> None:
        self._set(self._since_mark())

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _set(self, parts: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(parts) % 2:
            raise _Refused("values are put into what is no dict")
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise _Refused(f"a name is {type(key).__name__}, expected text")
            target[key] = value

    def _extend(self, parts: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise _Refused("values are put into what is no list")
        target.extend(parts)

    def reduce(self) -> None:
        """A call in the file: of one of the names above, and done here, not called."""
        given, name = self._pop(), self._pop()
        if not isinstance(name, _Name) or not isinstance(given, tuple):
            raise _Refused("it calls what is no name")
        if name.meaning == "array" and len(given) == 3 and given[0] == _Name("ndarray"):
            self._stack.append(_Array())
        elif name.meaning == "dtype" and given and isinstance(given[0], str | bytes):
            self._stack.append(_Kind(_text(given[0])))
        elif name.meaning == "scalar" and len(given) == 2:
            self._stack.append(self._filled(given[1], given[0], (), False)[()])
        elif name.meaning == "buffer" and len(given) == 4:
            values, kind, shape, order = given
            self._stack.append(_Array(self._filled(values, kind, shape, order == "F")))
        elif name.meaning == "encode" and len(given) == 2 and isinstance(given[0], str):
            if given[1] not in ("latin1", "latin-1"):
                raise _Refused(f"bytes are written as {given[1]!r}")
            self._stack.append(given[0].encode("latin-1"))
        elif name.meaning == "bytes" and not given:  # how protocols below 3 write no bytes at all
            self._stack.append(b"")
        else:
            raise _Refused(f"it makes a {name.meaning} of {len(given)} unknown parts")

    def build(self) -> None:
        """The state of an array or of its dtype."""
        state, target = self._pop(), self._top()
        if not isinstance(state, tuple):
            raise _Refused("a state is no tuple")
        if isinstance(target, _Kind) and len(state) >= 2 and state[1] in ("<", ">", "|", "="):
            target.order = state[1]
        elif isinstance(target, _Array) and len(state) == 5:
            _, shape, kind, is_fortran, values = state
            target.value = self._filled(values, kind, shape, bool(is_fortran))
        else:
            raise _Refused(f"it sets the state of {type(target).__name__}")

    def _filled(self, values: Any, kind: Any, shape: Any, is_fortran: bool) -> NDArray[Any]:
        self._arrays += 1
        if self._arrays > _MAX_ARRAYS:
            raise _Refused(f"it has more than {_MAX_ARRAYS} arrays")
        if isinstance(values, str):  # Python 2 wrote bytes as text
            values = values.encode("latin-1")
        if not isinstance(kind, _Kind) or not _KIND.fullmatch(kind.text):
            raise _Refused(f"an array is of {getattr(kind, 'text', type(kind).__name__)!r}")
        if not isinstance(values, bytes | bytearray) or not isinstance(shape, tuple):
            raise _Refused("an array has no bytes or no shape")
        if len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused(f"an array has shape {shape[:9]}")
        dtype = np.dtype(kind.text)
        if kind.order in "<>":
            dtype = dtype.newbyteorder("little" if kind.order == "<" else "big")
        array = np.frombuffer(values, dtype) if values else np.empty(0, dtype)
        size = 1
        for n in shape:
            size *= n
        if array.size != size:
            raise _Refused(f"an array of shape {shape} has {array.size} values")
        native = array.astype(dtype.newbyteorder("native"))
        return native.reshape(shape, order="F" if is_fortran else "C")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_STEPS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_LIST": _Machine.empty_list,
    "DICT": _Machine.dict_of,
    "LIST": _Machine.list_of,
    "TUPLE": _Machine.tuple_of,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


# -- writing ---------------------------------------------------------------------------------------


def dumps(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A pickle (protocol 3) of a dict of arrays, float32 or float64.

    It names NumPy's functions as NumPy 1 called them, which NumPy 2 still understands: the released
    ACT asks for Python 3.8, where no NumPy 2 exists.
    """
    parts = [b"\x80\x03}("]
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} is {array.dtype}; float32 or float64 are written")
        parts += [_unicode(name), _array(array)]
    return b"".join([*parts, b"u."])


def _array(array: NDArray[Any]) -> bytes:
    values = np.ascontiguousarray(array, array.dtype.newbyteorder("little")).tobytes()
    shape = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in array.shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n" + _unicode(f"f{array.dtype.itemsize}") + b"\x89\x88\x87R"
        b"(K\x03" + _unicode("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + shape + dtype + b"\x89B" + len(values).to_bytes(4, "little") + values + b"tb"
    )


def _unicode(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data
