"""Signals: Ctrl-C, SIGTERM and SIGHUP, acted on where work can stop without loss.

Signals reach the main thread only. In any other thread nothing here changes how they are handled.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started in the block, even while they start.

    They inherit the blocked signal; one that comes meanwhile is delivered to this process
    afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It unblocks signals when it starts, which would undo this; so it is started before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in this process, whose parent acts on it and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


ENDING = {
    number: words
    for name, words in (("SIGTERM", "stopped by SIGTERM"), ("SIGHUP", "the terminal was closed"))
    if (number := getattr(signal, name, None)) is not None  # Windows has no SIGHUP
}
"""Signals, besides Ctrl-C, by which a command is asked to end, in words."""


@contextmanager
def end_signals_as_interrupts() -> Iterator[None]:
    """Turn `ENDING` signals into KeyboardInterrupt with their words: what is open is closed."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(ENDING[signal.Signals(number)])

    with handled(tuple(ENDING), interrupt):
        yield


class StopFlag:
    """A context manager that defers Ctrl-C, or the signals given, until the work asks for it.

    A second Ctrl-C raises KeyboardInterrupt at once.

    Attributes:
        received: the name of the first signal that came, such as "SIGTERM"; empty before.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.received = ""
        self._handling = handled(signals or (signal.SIGINT,), self._note)

    def __enter__(self) -> StopFlag:
        self._handling.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.__exit__(None, None, None)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.received:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name


@contextmanager
def handled(signals: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    """Give signals to a handler within the block, in the main thread.

    A SIGHUP that is ignored stays so: `nohup` asks for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, handler)
        for number in signals
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
