"""Access: a token's file is its owner's alone, and a request without it is refused."""

from __future__ import annotations

import os
import stat
from http import HTTPStatus
from pathlib import Path

import pytest

from imitact.core.errors import BadInput
from imitact.serving import access
from imitact.serving.access import (
    Access,
    client_token,
    is_loopback,
    read_or_create_token,
    read_token,
)

TOKEN = "0123456789abcdef"
ANY = Access(TOKEN)
OWN = Access(TOKEN, frozenset({"127.0.0.1"}))


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "config" / "imitact" / "token"
    token = read_or_create_token(path)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create_token(path) == read_token(path) == token


def test_a_file_that_others_may_read_is_refused(tmp_path: Path):
    path = tmp_path / "token"
    read_or_create_token(path)
    path.chmod(0o640)
    with pytest.raises(BadInput, match=r"read by others than its owner; `chmod 600"):
        read_token(path)


@pytest.mark.parametrize(
    "text", ["", "short", "with a space in it 123", "x" * 600, "\x1b[2Jabcdefghijklmnop"]
)
def test_a_file_without_a_token_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadInput, match="holds no token"):
        read_token(path)


def test_a_pipe_and_a_missing_file_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="the token cannot be read"):
        read_token(tmp_path / "none")
    with pytest.raises(BadInput):
        read_token(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is not a regular file"):
        read_token(tmp_path / "pipe")


def test_a_client_takes_the_token_of_its_environment_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(access.TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(access.TOKEN_FILE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = read_or_create_token(access.default_token_file())
    assert client_token() == own
    other = read_or_create_token(tmp_path / "other")
    monkeypatch.setenv(access.TOKEN_FILE_VARIABLE, str(tmp_path / "other"))
    assert client_token() == other
    monkeypatch.setenv(access.TOKEN_VARIABLE, TOKEN)
    assert client_token() == TOKEN


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ([f"Bearer {TOKEN}"], None),
        ([f"Api-Key {TOKEN}"], None),
        ([f"bearer  {TOKEN}"], None),
        ([], HTTPStatus.UNAUTHORIZED),
        ([""], HTTPStatus.UNAUTHORIZED),
        ([TOKEN], HTTPStatus.UNAUTHORIZED),
        ([f"Basic {TOKEN}"], HTTPStatus.UNAUTHORIZED),
        ([f"Bearer {TOKEN[:-1]}"], HTTPStatus.UNAUTHORIZED),
        (["Bearer "], HTTPStatus.UNAUTHORIZED),
        (["Bearer é"], HTTPStatus.UNAUTHORIZED),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], HTTPStatus.UNAUTHORIZED),
    ],
)
def test_only_the_token_opens(given: list[str], status: HTTPStatus | None):
    assert ANY.refusal(["any"], [], given) == status


def test_a_page_of_a_browser_is_refused_even_with_the_token():
    good = [f"Bearer {TOKEN}"]
    assert ANY.refusal(["any"], ["https://example.org"], good) == HTTPStatus.FORBIDDEN
    assert ANY.refusal(["any"], ["null"], good) == HTTPStatus.FORBIDDEN
    assert not ANY.may_see_health(["any"], ["https://example.org"])


@pytest.mark.parametrize(
    "host", [[], ["example.org:8000"], ["127.0.0.1.example.org"], ["127.0.0.1:8000"] * 2]
)
def test_another_host_is_refused_on_loopback(host: list[str]):
    assert OWN.refusal(host, [], [f"Bearer {TOKEN}"]) == HTTPStatus.FORBIDDEN
    assert not OWN.may_see_health(host, [])
    assert OWN.refusal(["127.0.0.1:8000"], [], [f"Bearer {TOKEN}"]) is None
    assert OWN.refusal(["127.0.0.1:9000"], [], [f"Bearer {TOKEN}"]) is None  # through a tunnel


def test_what_is_of_this_machine_alone():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.2", "example.org", ""]))


def test_the_token_is_compared_in_constant_time():
    assert "compare_digest" in Access.refusal.__code__.co_names
