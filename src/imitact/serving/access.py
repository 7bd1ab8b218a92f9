"""Access: who may ask a policy's server, by token, origin and host; and the token's file."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from imitact.core.errors import BadInput

TOKEN_VARIABLE = "IMITACT_TOKEN"
"""Environment variable with the token itself."""

TOKEN_FILE_VARIABLE = "IMITACT_TOKEN_FILE"
"""Environment variable with the path of a token's file."""

TOKEN_BYTES = 32
_MOST_CHARACTERS = 512
_PORT = re.compile(r":[0-9]{1,5}$")
_SCHEMES = ("bearer", "api-key")
"""Of imitact's client and of openpi's."""


def default_token_file() -> Path:
    """Return where the token of this user is kept, by the XDG base directory specification."""
    home = os.environ.get("XDG_CONFIG_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    return base / "imitact" / "token"


def read_or_create_token(path: Path) -> str:
    """Return the token in a file; where there is no file, write a new token to it.

    Raises:
        BadInput: the file is not a token's, or others than its owner may read it.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return read_token(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        with suppress(FileExistsError):  # of two servers that start, one writes it
            os.link(fresh, path)
    except OSError as error:
        raise BadInput(f"{path}: no token can be written there ({error.strerror})") from error
    finally:
        fresh.unlink(missing_ok=True)
    return read_token(path)


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        BadInput: there is no such file, it holds no token, or others than its owner may read it.
    """
    try:
        # A pipe is not waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise BadInput(f"{path} is not a regular file; a token is kept in one")
            data = file.read(_MOST_CHARACTERS + 1)
    except OSError as error:
        raise BadInput(
            f"{path}: the token cannot be read ({error.strerror}); `imitact serve` writes it, and "
            f"{TOKEN_FILE_VARIABLE} names another file, {TOKEN_VARIABLE} holds the token itself"
        ) from error
    if about.st_mode & 0o077:
        raise BadInput(f"{path} can be read by others than its owner; `chmod 600 {path}` mends it")
    return check_token(data.decode(errors="replace").strip(), str(path))


def check_token(token: str, where: str) -> str:
    """Return a token; refuse what can be none: `where` names its source."""
    is_plain = all("!" <= character <= "~" for character in token)
    if not 16 <= len(token) <= _MOST_CHARACTERS or not is_plain:
        raise BadInput(
            f"{where} holds no token; expected 16 to {_MOST_CHARACTERS} printable characters "
            "without spaces"
        )
    return token


def client_token() -> str:
    """Return the token with which this user asks: of the environment, or of the user's file."""
    if token := os.environ.get(TOKEN_VARIABLE):
        return check_token(token, TOKEN_VARIABLE)
    named = os.environ.get(TOKEN_FILE_VARIABLE)
    return read_token(Path(named) if named else default_token_file())


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        token: required for all requests except the health page.
        hosts: accepted names in the Host header, in lower case and without a port; empty accepts
            any, as on a network address, whose names nobody lists.
    """

    token: str
    hosts: frozenset[str] = frozenset()

    def refusal(
        self, host: Sequence[str], origin: Sequence[str], authorization: Sequence[str]
    ) -> HTTPStatus | None:
        """Return why a request is refused, from its headers' values; None where it may pass.

        A browser sends an Origin with every WebSocket: a page of anybody could otherwise ask a
        server of this machine.
        """
        if origin:
            return HTTPStatus.FORBIDDEN
        if not self._is_own_host(host):
            return HTTPStatus.FORBIDDEN
        if len(authorization) != 1:
            return HTTPStatus.UNAUTHORIZED
        scheme, _, given = authorization[0].partition(" ")
        is_same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        if scheme.lower() not in _SCHEMES or not is_same:
            return HTTPStatus.UNAUTHORIZED
        return None

    def may_see_health(self, host: Sequence[str], origin: Sequence[str]) -> bool:
        """Whether a request may see that the server runs; it needs no token."""
        return self._is_own_host(host) and not origin

    def _is_own_host(self, host: Sequence[str]) -> bool:
        """Whether the Host header names this machine; the port may be that of a tunnel."""
        if not self.hosts:
            return True
        return len(host) == 1 and _PORT.sub("", host[0].lower()) in self.hosts
