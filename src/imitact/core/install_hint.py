"""Installation hints: the command that installs a missing package into this installation."""

from __future__ import annotations

import json
from importlib import metadata

from imitact.core.errors import BadInput


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra of imitact.

    imitact is not on PyPI, so `pip install imitact` is named only where pip installed it from an
    index. A clone is installed from its folder, a Git URL from that URL.
    """
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
    """Return the error for a package that is not installed, naming the extra that holds it."""
    return BadInput(f"{name} is not installed; {install_command(extra)} installs it")
