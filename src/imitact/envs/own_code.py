"""Own code: import of the Python file or module that a user names on the command line.

A file is imported as `python FILE.py` would, with its folder on the path; a module of the current
folder as `python -m MODULE` would. Worker processes do the same, and refuse a file that has changed
since.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from imitact.core.errors import BadInput, unknown_name
from imitact.storage.checksum import file_sha256


def is_file_name(where: str) -> bool:
    """Return whether FILE.py is named, and not a module."""
    return where.endswith(".py")


def sha256_of(where: str) -> str:
    """Return the SHA-256 of the file that is named; empty for a module, and where there is none."""
    path = Path(where)
    return file_sha256(path) if is_file_name(where) and path.is_file() else ""


def import_named(where: str, what: str, sha256: str = "", form: str = "FILE.py:NAME") -> ModuleType:
    """Import FILE.py or MODULE.

    Args:
        where: the file or the module.
        what: what it is imported for, in words for the errors: "environment reach.py:Reach".
        sha256: refuse a file of another checksum; empty takes any.
        form: how a file is given instead of a module, for the error.

    Raises:
        BadInput: there is no such file or module, or it cannot be imported.
    """
    found = sha256_of(where)
    if sha256 and found != sha256:
        raise BadInput(
            f"{what}: {where} has changed since this command began; give the same command again"
        )
    try:
        if found:
            return _file_module(Path(where).resolve(), found)
        if is_file_name(where):
            raise BadInput(f"{what}: there is no file {where}")
        _let_current_folder_be_found(where.partition(".")[0])
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name == where or where.startswith(f"{error.name}."):
            raise BadInput(
                f"{what}: there is no Python module {where}, neither installed nor in the current "
                f"folder; install the package that has it, or give its file: {form}"
            ) from error
        raise BadInput(f"{what}: {where} needs {error.name}, which is not installed") from error
    except BadInput:
        raise
    except Exception as error:  # a user's code: a missing display, a wrong version, a mistake
        raise BadInput(f"{what}: {where} cannot be imported: {summary(error)}") from error


def member(given: str, what: str, sha256: str = "") -> Any:
    """Return the callable that FILE.py:NAME or MODULE:NAME names; `sha256` is of the file.

    `what` says in a word what it makes, for the errors: "environment".
    """
    where, colon, name = given.rpartition(":")
    if not colon or not where or not name:
        raise BadInput(f'{what} is "{given}"; expected FILE.py:NAME or MODULE:NAME')
    module = import_named(where, f"{what} {given}", sha256)
    found: Any = getattr(module, name, None)
    if not callable(found):
        kinds = (type, FunctionType)
        members = [n for n, value in vars(module).items() if isinstance(value, kinds)]
        raise unknown_name(f"class or function in {where} for the {what}", name, members)
    return found


def summary(error: BaseException) -> str:
    """Return an error of a user's code in one line, with the line of that code."""
    place, step = "", error.__traceback__
    while step is not None:
        place = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return f"{type(error).__name__}: {error} ({place})"


_loaded: dict[Path, str] = {}
"""The checksum of each file that was imported, as of then."""


def _file_module(path: Path, sha256: str) -> ModuleType:
    """Import a file; the same contents only once, so that nothing is registered twice."""
    _add_to_path(path.parent)
    before = sys.modules.get(path.stem)
    is_same_file = before is not None and getattr(before, "__file__", None) == str(path)
    if before is not None and is_same_file and _loaded.get(path, sha256) == sha256:
        return before
    name = path.stem if before is None or is_same_file else f"{path.stem}_{sha256[:8]}"
    if name in sys.modules and _loaded.get(path) == sha256:
        return sys.modules[name]
    plan = importlib.util.spec_from_file_location(name, path)
    assert plan is not None
    assert plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    # Dataclasses, and entry points such as "myarm:Pick", look for it there.
    sys.modules[name] = module
    try:
        plan.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[path] = sha256
    return module


def _let_current_folder_be_found(module: str) -> None:
    folder = Path.cwd()
    if (folder / f"{module}.py").is_file() or (folder / module).is_dir():
        _add_to_path(folder)


def _add_to_path(folder: Path) -> None:
    """Put a folder first on the path, if it is not on it; worker processes inherit the path."""
    if str(folder) not in sys.path and ("" not in sys.path or folder != Path.cwd()):
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
