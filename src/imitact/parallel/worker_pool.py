"""Worker pool: processes that each run jobs, one at a time.

All workers start together and stop together, whatever happens in this process; if it is killed,
they notice at their next tick and end. A job is anything that can be hashed and pickled, such as a
seed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn, Protocol

from imitact.core.errors import ImitactError
from imitact.parallel.signals import ignore_interrupts, interrupts_blocked

SINGLE_THREADED_RENDERING = {"LP_NUM_THREADS": "0"}
"""Makes Mesa's software OpenGL render in the calling thread and start none of its own. With one
worker per core that costs nothing and gives the same pixels (docs/performance.md). With Mesa's own
threads, a worker on an overloaded machine crashed: one wrote to memory that was already freed."""

_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0


class Worker(Protocol):
    """What runs the jobs in a worker process."""

    @property
    def facts(self) -> Any:
        """What the pool needs to know of it, sent once before the first job."""
        ...

    def work(
        self, job: Any, check_stop: Callable[[], object], report_ticks: Callable[[int], object], /
    ) -> Any:
        """Run one job and return its result, which is pickled; large results belong in files.

        `check_stop` is to be called often; it raises when the pool has stopped. `report_ticks`
        reports the ticks done of this job.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class WorkerReady:
    """A worker has started; `facts` are its own."""

    facts: Any


@dataclass(frozen=True)
class JobDone:
    """A worker has finished a job; `result` is what its `work` returned."""

    job: Any
    result: Any = None


@dataclass(frozen=True)
class _WorkerFailed:
    """What ended a worker: the error if it is an ImitactError, and the traceback in any case."""

    error: ImitactError | None
    trace: str


class _PoolStoppedError(Exception):
    """Raised in a worker: the pool is gone, or has stopped."""


class _WorkerTracebackError(Exception):
    """The traceback of an error in a worker; shown as the cause of the error raised here."""


@dataclass
class _WorkerProcess:
    """One worker process, as the pool sees it."""

    process: SpawnProcess
    pipe: Connection
    is_ready: bool = False
    job: Any = None
    ticks: int = 0

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.job is None

    @property
    def place(self) -> str:
        """Where its work stands, in words for an error."""
        return "while starting" if self.job is None else f"in seed {self.job}"


class WorkerPool:
    """A context manager of `size` processes, each with the Worker that `make_worker` returns.

    `make_worker`, which must be picklable, is called in the process, after the variables of
    `environment` are set there and before libraries load. A worker that fails or dies ends the
    pool: the error is raised by `events` or `submit`.
    """

    def __init__(
        self,
        size: int,
        make_worker: Callable[[], Worker],
        environment: Mapping[str, str] = SINGLE_THREADED_RENDERING,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.size = size
        self._workers: list[_WorkerProcess] = []
        self._finished_ticks = 0
        self.jobs_done = 0
        try:
            with interrupts_blocked(), inherited_environment(environment):
                for _ in range(size):
                    ours, theirs = context.Pipe()
                    arguments = theirs, make_worker
                    process = context.Process(target=_worker_main, args=arguments, daemon=True)
                    process.start()
                    theirs.close()
                    self._workers.append(_WorkerProcess(process, ours))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    @property
    def has_idle_worker(self) -> bool:
        """Whether a worker waits for a job."""
        return any(worker.is_idle for worker in self._workers)

    @property
    def in_flight(self) -> dict[Any, int]:
        """The submitted jobs that are not finished, and the ticks done of each."""
        return {w.job: w.ticks for w in self._workers if w.job is not None}

    @property
    def ticks_done(self) -> int:
        """Ticks of all jobs so far, as reported by the workers."""
        return self._finished_ticks + sum(self.in_flight.values())

    def submit(self, job: Any) -> None:
        """Give a job to an idle worker; there must be one."""
        worker = next(w for w in self._workers if w.is_idle)
        worker.job, worker.ticks = job, 0
        try:
            worker.pipe.send(job)
        except OSError:
            self._raise_died(worker)

    def events(self) -> Iterator[WorkerReady | JobDone]:
        """Yield what the workers report within half a second, if anything.

        Raises:
            ImitactError: a worker raised one, or its process died.
            RuntimeError: a worker raised anything else; its traceback is the cause.
        """
        workers = {w.pipe: w for w in self._workers}
        for pipe in wait(list(workers), timeout=_POLL_S):
            assert isinstance(pipe, Connection)
            worker = workers[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                self._raise_died(worker)
            match message:
                case int():  # ticks done of its job
                    worker.ticks = message
                case WorkerReady():
                    worker.is_ready = True
                    yield message
                case JobDone():
                    self._finished_ticks += worker.ticks
                    self.jobs_done += 1
                    worker.job = None
                    yield message
                case _WorkerFailed(error, trace):
                    if error is not None:
                        where = f"{worker.place}: " if worker.is_ready else ""
                        raise type(error)(f"{where}{error}")
                    raise RuntimeError(
                        f"a worker failed {worker.place}; its traceback is above"
                    ) from _WorkerTracebackError(f"\n{trace}")

    def _raise_died(self, worker: _WorkerProcess) -> NoReturn:
        worker.process.join(_STOP_TIMEOUT_S)
        raise ImitactError(
            f"a worker died {worker.place} with exit code {worker.process.exitcode} (Linux ends "
            "processes with -9 when memory runs out: try fewer workers). Finished work is kept; "
            "the same command continues it"
        )

    def _stop(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # the worker notices at its next tick
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline_s - time.monotonic()))
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.kill()
            worker.process.join()
            worker.process.close()
        self._workers.clear()


def _worker_main(pipe: Connection, make_worker: Callable[[], Worker]) -> None:
    """Run jobs in a worker process until the pool stops."""
    ignore_interrupts()

    def check_stop() -> None:
        if pipe.poll():  # nothing is sent during a job, so the other end is closed
            raise _PoolStoppedError

    try:
        worker = make_worker()
        try:
            pipe.send(WorkerReady(worker.facts))
            while True:
                job = pipe.recv()
                result = worker.work(job, check_stop, pipe.send)
                pipe.send(JobDone(job, result))
        finally:
            worker.close()
    except (EOFError, BrokenPipeError, ConnectionResetError, _PoolStoppedError):
        pass
    except Exception as error:
        expected = error if isinstance(error, ImitactError) else None
        if isinstance(error, OSError):  # such as a folder without write permission: not a defect
            where = f": {error.filename}" if error.filename else ""
            expected = ImitactError(f"{error.strerror or error}{where}")
        with contextlib.suppress(OSError):  # the pool may be gone
            pipe.send(_WorkerFailed(expected, traceback.format_exc()))


@contextmanager
def inherited_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in the block."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
