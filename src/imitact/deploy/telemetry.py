"""Telemetry off: imports the runtimes so that none of them sends usage data.

All three collect usage data unless that is disabled before the import: openvino and nncf through
the package openvino_telemetry (Google Analytics; openvino writes an identifier of the user to
~/intel when it is imported), onnxruntime since 1.29 by itself (Microsoft's collector; an identifier
in ~/.cache/Microsoft; its docs/Privacy.md). What a laboratory runs on its robots stays private.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imitact.core.errors import missing_package

_SENDER = "openvino_telemetry"


def import_openvino() -> Any:
    """Import openvino."""
    with _without_telemetry("runtime"):
        import openvino
    return openvino


def import_onnxruntime() -> Any:
    """Import onnxruntime."""
    with _without_telemetry("runtime"):
        import onnxruntime
    return onnxruntime


def import_nncf() -> Any:
    """Import nncf."""
    with _without_telemetry("export"):
        import nncf
    return nncf


@contextmanager
def _without_telemetry(extra: str) -> Iterator[None]:
    """Hide openvino_telemetry, which is optional to its users, and disable onnxruntime's sender.

    The environment variable stays set, for processes that are started later. The error for a
    missing package names the `extra` of imitact that installs it.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    before = sys.modules.get(_SENDER)
    sys.modules[_SENDER] = None  # type: ignore[assignment]  # for Python: not installed
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), extra) from error
    finally:
        if before is None:
            del sys.modules[_SENDER]
        else:
            sys.modules[_SENDER] = before
