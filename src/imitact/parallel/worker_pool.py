"""Worker processes that each take a seed, work on it, and take the next.

What stands here as a seed may be anything that can be hashed and sent, such as a seed with what
to do at it.

They are started together and stopped together, whatever happens here; if this process is killed,
they see it at their next tick and end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, NoReturn, Protocol

from imitact.core.errors import ImitactError
from imitact.parallel.signals import interrupts_blocked

SINGLE_THREADED_RENDERING = {"LP_NUM_THREADS": "0"}
"""Mesa's software OpenGL draws in the thread that asks, and starts none of its own. With one worker
a core that costs nothing and gives the same pixels (docs/performance.md); and a worker of a crew on
a crowded machine died of memory that another thread wrote to after it was freed."""

_POLL_S = 0.5
_FAREWELL_S = 10.0


class Worker(Protocol):
    """What runs in a worker process.

    facts: told to the crew once, before the first seed.
    """

    @property
    def facts(self) -> Any: ...

    def work(self, seed: Any, go_on: Callable[[], object], tell: Callable[[int], object]) -> Any:
        """One seed. `go_on` raises when it is time to stop; `tell` reports ticks done.

        What it returns goes to the crew with Done; files are better for what is large.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    facts: Any


@dataclass(frozen=True)
class Done:
    """A worker has finished a seed; what its work returned."""

    seed: Any
    result: Any = None


@dataclass(frozen=True)
class _Ticks:
    """A worker is that far with its seed."""

    count: int


@dataclass(frozen=True)
class _Trouble:
    """What ended a worker: the error if it is one of ours, else only its traceback."""

    error: ImitactError | None
    text: str


class _StopError(Exception):
    """The crew is gone, or wants no more."""


class _WorkerError(Exception):
    """The traceback of an error in a worker; shown as the cause of the error here."""


class _Member:
    """One worker process, as the crew sees it."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.ready = False
        self.seed: Any = None
        self.ticks = 0


class WorkerPool:
    """`size` processes, each with the Worker that `make_worker` gives (picklable, no arguments).

    environment: variables that every worker finds set before its libraries load; this process's
                 own environment stays as it was.

    Its messages say what they do; a worker that fails or dies ends the crew.
    """

    def __init__(
        self,
        size: int,
        make_worker: Callable[[], Worker],
        environment: Mapping[str, str] = SINGLE_THREADED_RENDERING,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: list[_Member] = []
        self._done_ticks = 0
        try:
            with interrupts_blocked(), inherited(environment):
                for _ in range(size):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_run, args=(theirs, make_worker), daemon=True)
                    process.start()
                    theirs.close()
                    self._members.append(_Member(process, ours))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def idle(self) -> bool:
        """Whether a worker waits for a seed."""
        return any(m.ready and m.seed is None for m in self._members)

    @property
    def under_way(self) -> dict[Any, int]:
        """The seeds that are worked on, and the ticks done of each."""
        return {m.seed: m.ticks for m in self._members if m.seed is not None}

    @property
    def ticks(self) -> int:
        """Done so far by all of them; of a finished seed, those it told."""
        return self._done_ticks + sum(self.under_way.values())

    def give(self, seed: Any) -> None:
        """A seed for a worker that is idle."""
        member = next(m for m in self._members if m.ready and m.seed is None)
        member.seed, member.ticks = seed, 0
        try:
            member.pipe.send(seed)
        except OSError:
            self._mourn(member)

    def messages(self) -> Iterator[Ready | Done]:
        """What comes within half a second, if anything; what went wrong in a worker is raised."""
        members = {m.pipe: m for m in self._members}
        for pipe in wait(list(members), timeout=_POLL_S):
            assert isinstance(pipe, Connection)
            member = members[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                self._mourn(member)
            match message:
                case _Ticks(count):
                    member.ticks = count
                case Ready():
                    member.ready = True
                    yield message
                case Done():
                    self._done_ticks += member.ticks
                    member.seed = None
                    yield message
                case _Trouble(error, text):
                    if error is not None:
                        raise type(error)(f"{_at(member)}: {error}" if member.ready else str(error))
                    raise RuntimeError(
                        f"a worker failed {_at(member)}; its traceback is above"
                    ) from _WorkerError(f"\n{text}")

    def _mourn(self, member: _Member) -> NoReturn:
        member.process.join(_FAREWELL_S)
        raise ImitactError(
            f"a worker died {_at(member)} with exit code {member.process.exitcode} (-9 is what "
            "Linux does when memory runs out: try fewer workers). What was finished is kept; the "
            "same command goes on"
        )

    def _stop(self) -> None:
        for member in self._members:
            member.pipe.close()  # seen by the worker at its next tick
        deadline_s = time.monotonic() + _FAREWELL_S
        for member in self._members:
            member.process.join(max(0.0, deadline_s - time.monotonic()))
        for member in self._members:
            if member.process.is_alive():
                member.process.kill()
            member.process.join()
            member.process.close()
        self._members.clear()


def _at(member: _Member) -> str:
    return "while starting" if member.seed is None else f"in seed {member.seed}"


def _run(pipe: Connection, make_worker: Callable[[], Worker]) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the crew's to answer

    def go_on() -> None:
        if pipe.poll():  # nothing is sent while a seed is under way: so the other end is closed
            raise _StopError

    try:
        worker = make_worker()
        try:
            pipe.send(Ready(worker.facts))
            while True:
                seed = pipe.recv()
                result = worker.work(seed, go_on, lambda count: pipe.send(_Ticks(count)))
                pipe.send(Done(seed, result))
        finally:
            worker.close()
    except (EOFError, BrokenPipeError, ConnectionResetError, _StopError):
        pass
    except Exception as error:
        ours = error if isinstance(error, ImitactError) else None
        if isinstance(error, OSError):  # a folder that may not be written to, say: no defect
            where = f": {error.filename}" if error.filename else ""
            ours = ImitactError(f"{error.strerror or error}{where}")
        with contextlib.suppress(OSError):  # nobody may be left to be told
            pipe.send(_Trouble(ours, traceback.format_exc()))


@contextmanager
def inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """Processes started here inherit these variables; this one's own are put back."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
