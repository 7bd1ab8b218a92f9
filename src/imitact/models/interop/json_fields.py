"""JSON fields of other programs' files: each read with the type that is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import DamagedFile
from imitact.storage.json_file import read_json_object

MAX_JSON_BYTES = 16 << 20


class JsonFields:
    """The values of a JSON object; a value of another type is a `DamagedFile` that names it."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    @classmethod
    def from_file(cls, path: Path) -> JsonFields:
        """Read the JSON object in a file."""
        return cls(read_json_object(path, limit=MAX_JSON_BYTES), path)

    def error(self, name: str, why: str) -> DamagedFile:
        """Return an error about a field, with its value."""
        value = self._values.get(name, "missing")
        shown = value if isinstance(value, str) else json.dumps(value)
        return DamagedFile(f"{self.path}: {self._prefix}{name} is {shown[:100]}; {why}")

    def raw(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        return self._typed(name, default, str, "a text")

    def whole(self, name: str, default: int | None = None) -> int:
        return self._typed(name, default, int, "a whole number")

    def number(self, name: str, default: float | None = None) -> float:
        value = self._typed(name, default, int | float, "a number")
        try:
            return float(value)
        except OverflowError as error:  # a whole number of more than 308 digits
            raise DamagedFile(
                f"{self.path}: {name} is a whole number of {int(value).bit_length()} bits; a "
                "number below 1e308 is expected"
            ) from error

    def truth(self, name: str, default: bool) -> bool:
        return self._typed(name, default, bool, "true or false")

    def object(self, name: str) -> Mapping[str, Any]:
        return self._typed(name, None, dict, "an object")

    def _typed(self, name: str, default: Any, kind: Any, what: str) -> Any:
        value = self._values.get(name, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(name, f"{what} is expected")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Return a list of texts; None if it is missing, null or empty."""
        values = self._values.get(name)
        if values is None or values == []:
            return None
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise self.error(name, "a list of names is expected")
        return tuple(values)

    def objects(self, name: str) -> list[JsonFields]:
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.error(name, "a list of objects is expected")
        return [
            JsonFields(v, self.path, f"{self._prefix}{name}[{i}].") for i, v in enumerate(value)
        ]

    def within(self, name: str) -> JsonFields:
        """Return the fields of the object in a field."""
        return JsonFields(self.object(name), self.path, f"{self._prefix}{name}.")

    def names(self) -> list[str]:
        return list(self._values)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object into a folder that is still being built."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
