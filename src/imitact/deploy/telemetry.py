"""Telemetry off: imports the runtimes so that none of them sends usage data.

All three collect usage data unless that is disabled before the import: openvino and nncf through
the package openvino_telemetry (Google Analytics; openvino writes an identifier of the user to
~/intel when it is imported), onnxruntime since 1.29 by itself (Microsoft's collector; an identifier
in ~/.cache/Microsoft; its docs/Privacy.md). What a laboratory runs on its robots stays private.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any

from imitact.core.errors import missing_package

_SENDER = "openvino_telemetry"


def _import(package: str, extra: str) -> Any:
    """Import a package without openvino_telemetry, which is optional, and onnxruntime's sender.

    The environment variable stays set, for processes that are started later. The error for a
    missing package names the `extra` of imitact that installs it.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    before = sys.modules.get(_SENDER)
    sys.modules[_SENDER] = None  # type: ignore[assignment]  # for Python: not installed
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), extra) from error
    finally:
        if before is None:
            del sys.modules[_SENDER]
        else:
            sys.modules[_SENDER] = before


import_openvino = partial(_import, "openvino", "runtime")
import_onnxruntime = partial(_import, "onnxruntime", "runtime")
import_nncf = partial(_import, "nncf", "export")
