"""Keys: none is lost, sequences are keys, and the terminal is restored whatever happens."""

from __future__ import annotations

import contextlib
import io
import os
import termios
from collections.abc import Iterator

import pytest

from imitact.cli import keys as keys_file
from imitact.cli.keys import FIRST_REPEAT_S, REPEAT_S, HeldKey, Keys, split_keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """The far end of a pseudo-terminal, and its near end as a stream."""
    far, near = os.openpty()
    with os.fdopen(near, "r") as stream:
        yield far, stream
    os.close(far)


def read_all(keys: Keys, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(10_000):
        found += keys.read()
        if len(found) >= count:
            return found
    raise AssertionError(found)


def test_keys_are_read_in_order_and_none_is_lost(terminal: tuple[int, io.TextIOWrapper]):
    far, stream = terminal
    os.write(far, b"k")  # typed before
    with Keys(stream) as keys:
        assert keys.is_terminal
        os.write(far, b"d \x1b[Am")
        assert read_all(keys, 5) == ["k", "d", "space", "up", "m"]
        assert keys.read() == []


def test_the_terminal_is_as_before_after_an_error(terminal: tuple[int, io.TextIOWrapper]):
    _, stream = terminal
    before = termios.tcgetattr(stream.fileno())
    with contextlib.suppress(ZeroDivisionError), Keys(stream):
        assert not termios.tcgetattr(stream.fileno())[3] & termios.ICANON
        raise ZeroDivisionError
    assert termios.tcgetattr(stream.fileno()) == before


def test_ctrl_c_stays_a_signal(terminal: tuple[int, io.TextIOWrapper]):
    _, stream = terminal
    with Keys(stream):
        assert termios.tcgetattr(stream.fileno())[3] & termios.ISIG


def test_without_a_terminal_there_are_no_keys():
    with Keys(io.StringIO("k")) as keys:
        assert not keys.is_terminal
        assert keys.read() == []


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"ab", ["a", "b"], b""),
        (b"\x1b[C\x1bOD", ["right", "left"], b""),
        (b"a\x1b[15~b", ["a", "b"], b""),  # F5 is no key of ours
        ("ö€".encode(), ["ö", "€"], b""),
        (b"a\x1b", ["a"], b"\x1b"),
        (b"\xe2\x82", [], b"\xe2\x82"),
        (b"\x00\x01\xff", [], b""),
    ],
)
def test_bytes_become_keys(data: bytes, keys: list[str], rest: bytes):
    assert split_keys(data, is_complete=False) == (keys, rest)


def test_an_escape_that_nothing_follows_is_a_key():
    assert split_keys(b"\x1b", is_complete=True) == (["escape"], b"")


def test_a_sequence_that_is_cut_anywhere_is_the_same_key():
    whole = b"a\x1b[Ab"
    for cut in range(len(whole) + 1):
        first, rest = split_keys(whole[:cut], is_complete=False)
        then, left = split_keys(rest + whole[cut:], is_complete=False)
        assert (first + then, left) == (["a", "up", "b"], b"")


def test_a_held_key_counts_until_its_repeats_end():
    now_s = 0.0
    held = HeldKey(lambda: now_s)
    assert not held.is_held
    held.press()
    now_s = FIRST_REPEAT_S - 0.01
    assert held.is_held
    held.press()
    now_s += REPEAT_S - 0.01
    assert held.is_held
    now_s += 0.02
    assert not held.is_held


def test_a_held_key_can_be_let_go_at_once():
    held = HeldKey(lambda: 1.0)
    held.press()
    held.release()
    assert not held.is_held


def test_the_file_says_how_long_a_repeat_may_take():
    assert keys_file.FIRST_REPEAT_S > 0.66  # the slowest keyboards
