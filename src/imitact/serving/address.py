"""Addresses: where a policy's server is, as ws://HOST:PORT or wss://HOST:PORT."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from imitact.core.errors import BadInput

_ADDRESS = re.compile(r"(wss?):/{1,2}([^/?#@\s]+)/?")


def as_address(path: Path | str) -> str | None:
    """Return the address that a path stands for; None where it is a file's.

    A Path keeps one of the two slashes.
    """
    found = _ADDRESS.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found else None


def checked_address(address: Path | str) -> str:
    """Return an address; refuse what is none."""
    found = as_address(address)
    try:
        url = urlsplit(found or "")
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if found is None or not host:
        raise BadInput(f"{address} is no address; give ws://HOST:PORT or wss://HOST:PORT")
    return found
