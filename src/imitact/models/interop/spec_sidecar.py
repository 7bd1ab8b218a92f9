"""Sidecar `imitact.json`: the Spec of an exported policy, beside the other program's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from imitact.core.types import Spec
from imitact.models.interop.json_fields import MAX_JSON_BYTES, write_json
from imitact.models.interop.partial_spec import PartialSpec
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.json_file import check_format, naming_file, read_json_object

SIDECAR = "imitact.json"

_FORMAT = 1


def read_sidecar(folder: Path) -> PartialSpec:
    """Return the Spec in a folder's sidecar; all parts are unknown if there is none."""
    path = folder / SIDECAR
    if not path.is_file():
        return PartialSpec()
    values = read_json_object(path, limit=MAX_JSON_BYTES)
    with naming_file(path):
        check_format(values, _FORMAT)
    with naming_file(f"{path}: spec"):
        return PartialSpec.from_spec(msgspec.convert(values.get("spec"), Spec))


def write_sidecar(folder: Path, spec: Spec) -> None:
    write_json(folder / SIDECAR, {"format": _FORMAT, "spec": spec.to_json()})


@contextmanager
def export_folder(out: Path, spec: Spec) -> Iterator[Path]:
    """Give a folder to fill; it appears as `out`, sidecar included, when all of it is written.

    An `out` that exists and is not an empty folder is refused.
    """
    out = out.absolute()
    check_output_folder(out)
    with atomic_folder(out, "export") as folder:
        yield folder
        write_sidecar(folder, spec)
