"""Errors: the exceptions that imitact raises on purpose; each message says what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection


class ImitactError(Exception):
    """Base of all errors that imitact raises on purpose."""


class BadInput(ImitactError):
    """Something that the caller gave cannot be used: a path, a name, a size, a setting."""


class SpecMismatch(BadInput):
    """An observation, action, dataset or environment does not fit a Spec."""


class DamagedFile(BadInput):
    """A file is missing, truncated, altered, or not of the format that it should have."""


class NotFinite(ImitactError):
    """A NaN or an infinity where only finite numbers make sense."""


class RobotError(ImitactError):
    """A robot, a servo or a camera did not answer, or answered what was not expected."""


class ConnectionLost(ImitactError):
    """A server cannot be reached for now; the same question may be asked again."""


class DiskFull(BadInput):
    """The disk, or the user's quota of it, is full."""


def library_words(error: BaseException) -> str:
    """Return what another library says, as a part of a sentence: one line without a full stop."""
    return " ".join(str(error).split()).rstrip(". ") or type(error).__name__


def nearest(given: str, choices: Collection[str]) -> str | None:
    """Return the choice that `given` is most probably a misspelling of, or None."""
    import difflib  # 5 ms, needed only where something is misspelt

    lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(given.lower(), lower, n=1)
    return lower[found[0]] if found else None


def unknown_name(what: str, given: str, choices: Collection[str]) -> BadInput:
    """Return the error for a name that is none of `choices`; `what` names their kind: "preset"."""
    meant = nearest(given, choices)
    question = f". Did you mean {meant}?" if meant else ""
    return BadInput(f'there is no {what} "{given}"; expected {", ".join(choices)}{question}')


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra of imitact.

    imitact is not on PyPI, so `pip install imitact` is named only where pip installed it from an
    index. A clone is installed from its folder, a Git URL from that URL.
    """
    from importlib import metadata  # 24 ms, needed only where a package is missing

    try:
        text = metadata.distribution("imitact").read_text("direct_url.json")  # PEP 610
    except metadata.PackageNotFoundError:
        text = "{}"
    if text is None:
        return f"pip install 'imitact[{extra}]'"
    source = json.loads(text)
    if "vcs_info" in source:
        return f"pip install 'imitact[{extra}] @ {source['vcs_info']['vcs']}+{source['url']}'"
    return f"pip install '.[{extra}]'"


def missing_package(name: str, extra: str) -> BadInput:
    """Return the error for a package that is not installed, naming the extra that holds it.

    No pip installs a module of the standard library, such as fcntl on Windows.
    """
    if name in sys.stdlib_module_names:
        return BadInput(
            f"this Python lacks {name} of the standard library; imitact needs it here and runs on "
            "Linux and macOS, with a complete Python (README has a table of systems)"
        )
    return BadInput(f"{name} is not installed; {install_command(extra)} installs it")
