"""The runtimes, imported without their calling home.

All three collect usage data unless told otherwise before they are imported: openvino and nncf
through the package openvino_telemetry (Google Analytics; an identifier of the user in ~/intel as
soon as openvino is imported), onnxruntime since 1.29 through a sender of its own (Microsoft's
collector; an identifier in ~/.cache/Microsoft; its docs/Privacy.md). What a laboratory runs on its
robots is nobody else's business.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imitact.core.errors import BadInput

_SENDER = "openvino_telemetry"


def import_openvino() -> Any:
    """The package openvino."""
    with _quiet():
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise BadInput(_missing(error, "runtime")) from error
    return openvino


def import_onnxruntime() -> Any:
    """The package onnxruntime."""
    with _quiet():
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise BadInput(_missing(error, "runtime")) from error
    return onnxruntime


def import_nncf() -> Any:
    """The package nncf."""
    with _quiet():
        try:
            import nncf
        except ModuleNotFoundError as error:
            raise BadInput(_missing(error, "export")) from error
    return nncf


def _missing(error: ModuleNotFoundError, extra: str) -> str:
    return f"{error.name} is not installed; pip install 'imitact[{extra}]' has it"


@contextmanager
def _quiet() -> Iterator[None]:
    """What is imported in here finds no openvino_telemetry, which all of its users do without, and
    an onnxruntime whose sender is never made. The variable stays, for processes started later."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    before = sys.modules.get(_SENDER)
    sys.modules[_SENDER] = None  # type: ignore[assignment]  # Python's way to say: not installed
    try:
        yield
    finally:
        if before is None:
            del sys.modules[_SENDER]
        else:
            sys.modules[_SENDER] = before
