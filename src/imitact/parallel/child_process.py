"""Child process: a spawned process with a pipe, started with a deadline, watched, and heard.

A class that stands for such a process inherits `ProcessOwner`, which has its life: started,
watched, ended. The child sends lines of progress and answers orders. It learns that its parent has
gone by the end of the pipe or by another parent id, and then ends what it does in its own way.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from imitact.core.errors import ImitactError, RobotError, library_words
from imitact.parallel.signals import interrupts_blocked

KILL_WAIT_S = 10.0
"""Time that the system may take to end a killed process, s."""


def ending_words(what: str, code: int) -> str:
    """Return how a process ended, in words.

    Args:
        what: the process: "the recorder".
        code: its exit code as Python has it, -N where signal N killed it.
    """
    if code == 0:
        return f"{what} has ended"
    if code > 0:
        return f"{what} ended with exit code {code}"
    try:
        return f"{what} was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"{what} was killed by signal {-code}"


class ChildProcess:
    """The parent's side. Its methods belong to one thread of the process that starts the child.

    Attributes:
        what: what the process is, for messages.
        arguments: of its target, at the next start.
    """

    def __init__(
        self,
        what: str,
        target: Callable[..., object],
        arguments: tuple[Any, ...] = (),
        on_line: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Prepare the process.

        Args:
            what: what the process is, for messages: "the host of aloha".
            target: function that it runs, with a `ParentPipe` and the arguments; it sends "ready".
            arguments: of the target.
            on_line: receives its lines.
        """
        self.what, self.arguments = what, arguments
        self._target, self._on_line = target, on_line
        self._process: Any = None
        self._pipe: Connection | None = None
        self._last_line = self._last_words = ""
        self._orders = 0
        self._answers: dict[int, tuple[bool, Any]] = {}
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended (multiprocessing.connection)."""
        if self._process is None:
            raise RobotError(f"{self.what} has not started")
        return self._process.sentinel

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self, timeout_s: float) -> None:
        """Start the process and wait until it is ready; as `begin` and `wait_ready`."""
        self.begin()
        self.wait_ready(timeout_s)

    def begin(self) -> None:
        """Start the process without waiting."""
        if self.is_alive:
            raise RobotError(f"{self.what} runs already")
        self.close()
        self._last_line = self._last_words = ""
        self._is_ready, self._answers = False, {}
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_run,
            args=(self._target, theirs, os.getpid(), self.arguments),
            name=self.what,
            daemon=True,
        )
        with interrupts_blocked():
            self._process.start()
        theirs.close()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the process is ready.

        Raises:
            RobotError: it failed, ended, or was not ready in time and was killed.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._is_ready:
            self._hear(min(0.1, max(0.0, deadline_s - time.monotonic())))
            if death := self.death():
                raise RobotError(death)
            if not self._is_ready and time.monotonic() > deadline_s:
                self.kill()
                raise RobotError(
                    f"{self.what} was not ready within {timeout_s:g} s, and was ended; its last "
                    f"line was: {self._last_line or 'none'}"
                )

    def ask(
        self,
        order: str,
        argument: Any = None,
        *,
        timeout_s: float,
        on_wait: Callable[[], object] = lambda: None,
    ) -> Any:
        """Give an order and return its answer.

        Args:
            order: name of the order.
            argument: of the order.
            timeout_s: time within which the answer must come.
            on_wait: called many times a second until it comes.

        Raises:
            RobotError: the order failed, the process ended, or no answer came in time.
        """
        number = self.order(order, argument)
        deadline_s = time.monotonic() + timeout_s
        while True:
            if (answer := self.answer(number)) is not None:
                succeeded, value = answer
                if not succeeded:
                    raise RobotError(value)
                return value
            if death := self.death():
                raise RobotError(death)
            if time.monotonic() > deadline_s:
                raise RobotError(f"{self.what} did not {order} within {timeout_s:g} s")
            on_wait()
            self._hear(0.02)

    def order(self, order: str, argument: Any = None) -> int:
        """Give an order without waiting; return its number for `answer`."""
        self._orders += 1
        if self._process is None:
            raise RobotError(f"{self.what} has not started")
        try:
            if self._pipe is None:
                raise OSError("the pipe is closed")
            self._pipe.send((self._orders, order, argument))
        except OSError:
            raise RobotError(self.death() or f"{self.what} takes no orders any more") from None
        return self._orders

    def answer(self, number: int) -> tuple[bool, Any] | None:
        """Return whether an order succeeded, and its value or error; None before its answer."""
        self._hear(0.0)
        return self._answers.pop(number, None)

    def death(self) -> str:
        """Return how the process ended, in words; empty while it runs, and before its start.

        Its lines are passed on, and not repeated in the words.
        """
        self._hear(0.0)
        if self._process is None or self._process.is_alive():
            return ""
        self._hear(0.0)  # what it sent before it ended
        code = self._process.exitcode
        if code > 0 and self._last_words:
            return f"{self.what} failed: {self._last_words}"
        return ending_words(self.what, code)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the process; return whether it came."""
        if self._process is None:
            return True
        deadline_s = time.monotonic() + timeout_s
        while self._process.is_alive() and time.monotonic() < deadline_s:
            self._hear(0.05)
        self._process.join(0)
        return not self._process.is_alive()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(KILL_WAIT_S)

    def close(self) -> None:
        """Close the pipe; the child ends in its own way."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def end(self, patience_s: float) -> bool:
        """Close the pipe, and kill a child that has not ended in its own way in time.

        Args:
            patience_s: time that it may take; 0 kills it at once.

        Returns:
            Whether it ended in its own way.
        """
        if patience_s <= 0:
            self.kill()
        self.close()
        if self.join(patience_s):
            return True
        self.kill()
        return False

    def _hear(self, timeout_s: float) -> None:
        """Take what the child has sent; wait for it up to `timeout_s`."""
        if self._pipe is None or self._pipe.closed:
            time.sleep(timeout_s)
            return
        try:
            while self._pipe.poll(timeout_s):
                timeout_s = 0.0
                kind, *values = self._pipe.recv()
                if kind == "ready":
                    self._is_ready = True
                elif kind == "answer":
                    self._answers[values[0]] = (values[1], values[2])
                elif kind == "last words":
                    self._last_words = values[0]
                else:
                    self._last_line = values[0]
                    self._on_line(values[0])
        except (EOFError, OSError):
            # Its end of the pipe closes shortly before it ends.
            if self._process is not None:
                self._process.join(timeout_s)


class ProcessOwner:
    """Base of the classes that stand for a child process; a context manager that ends it.

    The methods belong to one thread of the process that made the object.
    """

    def __init__(self, process: ChildProcess) -> None:
        """Own a process that is not started yet."""
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def what(self) -> str:
        """What the process is, for messages: "the host of aloha"."""
        return self._process.what

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended (multiprocessing.connection)."""
        return self._process.sentinel

    def death(self) -> str:
        """Return how the process ended, in words; empty while it runs. Passes its lines on."""
        return self._process.death()

    def close(self) -> object:
        """End the process."""
        self._process.end(0.0)


class ParentPipe:
    """The child's side of the pipe. Sending never waits, and never raises; any thread may send."""

    def __init__(self, connection: Connection, parent: int) -> None:
        self._connection, self._parent = connection, parent
        self._has_ended = False
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Say that the child is ready."""
        self._send(("ready",))

    def line(self, text: str) -> None:
        """Send a line of progress; it is lost where the parent does not listen."""
        self._send(("line", text))

    def last_words(self, text: str) -> None:
        """Say why the child ends."""
        self._send(("last words", text))

    def answer(self, number: int, succeeded: bool, value: Any) -> None:
        self._send(("answer", number, succeeded, value))

    def next_order(self, timeout_s: float) -> tuple[int, str, Any] | None:
        """Return the next order, waiting up to `timeout_s`; None where there is none."""
        try:
            if not self._has_ended and self._connection.poll(timeout_s):
                return self._connection.recv()
        except (EOFError, OSError):
            self._has_ended = True
        if self._has_ended:
            time.sleep(timeout_s)
        return None

    @property
    def parent_is_gone(self) -> bool:
        # A process that the parent forked may keep its end of the pipe open.
        return self._has_ended or os.getppid() != self._parent

    def _send(self, message: tuple[Any, ...]) -> None:
        if self._has_ended:
            return
        try:
            with self._lock:
                if select.select((), (self._connection,), (), 0)[1]:
                    self._connection.send(message)
        except OSError:
            self._has_ended = True


def _run(
    target: Callable[..., object],
    connection: Connection,
    parent: int,
    arguments: tuple[Any, ...],
) -> None:
    """Run the target with Ctrl-C ignored and stdin at its end; say why it failed."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent acts on them
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a driver that asks for a key gets the end of the file
    os.close(nothing)
    pipe = ParentPipe(connection, parent)
    try:
        target(pipe, *arguments)
    except BaseException as error:
        words = library_words(error)
        named = isinstance(error, ImitactError) or words == type(error).__name__
        pipe.last_words(words if named else f"{type(error).__name__}: {words}")
        os._exit(1)  # threads that hang in a driver must not keep the process
    os._exit(0)
