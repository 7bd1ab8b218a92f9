"""One job over many items in spawned processes, each held to one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from imitact import contract
from imitact.contract import BadInput, ImitactError

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LP_NUM_THREADS": "1",  # Mesa's software OpenGL
}
"""Set in every process before its libraries load.

Processes that each take all cores stand in each other's way; and sums are split by thread, so
one thread everywhere is what makes results the same for any number of processes.
"""

_GRACE_S = 10.0
_NOBODY_LISTENS = (EOFError, BrokenPipeError, ConnectionResetError)


class Job(Protocol):
    """Work that is made ready once a process, then done for one item after another."""

    @property
    def about(self) -> Any:
        """What there is to know once it is ready; sent to the caller."""
        ...

    def __call__(self, item: Any, tell: Callable[[Any], None], /) -> Any:
        """The result of one item; `tell` sends news to the caller meanwhile."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Failure:
    """An error that crossed from a process: the error's type and text, and where it was raised.

    message: what it says; led by its type where that is no error of imitact's.
    base:    name of the nearest error of the contract, so that bad input stays bad input.
    trace:   the traceback, as text.
    """

    message: str
    base: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, ImitactError):
            known = (t.__name__ for t in type(error).__mro__ if vars(contract).get(t.__name__) is t)
            return cls(str(error), next(known), trace)
        return cls(f"{type(error).__name__}: {error}", ImitactError.__name__, trace)

    def error(self, where: str, advice: str = "") -> ImitactError:
        """The error to raise here, "where: message advice", with the traceback as a note."""
        raised = vars(contract)[self.base](f"{where}: {self.message}{advice}")
        if self.trace:
            raised.add_note(self.trace)
        return raised


def spread(
    make_job: Callable[[], Job],
    items: Sequence[Any],
    *,
    workers: int,
    on_ready: Callable[[Any], None] = lambda about: None,
    on_news: Callable[[Any, Any], None] = lambda item, news: None,
) -> Generator[tuple[Any, Any]]:
    """Do all items, in order as processes come free; yields (item, result) as each is finished.

    make_job: makes the job, once in each process; must be picklable (a function of a module, or
              functools.partial of one).
    workers:  processes; 0 does everything here, where nothing needs to be picklable and no
              thread is held back.
    on_ready: gets `about` of each job once it is made.
    on_news:  gets (item, news) for what a job tells.

    An item whose job raises, or whose process dies, yields a Failure as its result; the caller
    decides whether to go on. A job that cannot be made raises. Closing the iterator ends all
    processes; should this process be killed, they end by themselves.
    """
    if workers < 0:
        raise BadInput(f"{workers} workers are not possible; 0 works in this process")
    if workers == 0:
        yield from _here(make_job, items, on_ready, on_news)
    else:
        yield from _apart(make_job, items, min(workers, len(items)), on_ready, on_news)


def _here(
    make_job: Callable[[], Job],
    items: Sequence[Any],
    on_ready: Callable[[Any], None],
    on_news: Callable[[Any, Any], None],
) -> Generator[tuple[Any, Any]]:
    if not items:
        return
    job = make_job()
    try:
        on_ready(job.about)
        for item in items:

            def tell(news: Any, item: Any = item) -> None:
                on_news(item, news)

            try:
                result = job(item, tell)
            except Exception as error:
                result = Failure.of(error)
            yield item, result
    finally:
        job.close()


@dataclass
class _Worker:
    process: BaseProcess
    line: Connection
    ready: bool = False
    busy: bool = False
    item: Any = None


def _apart(
    make_job: Callable[[], Job],
    items: Sequence[Any],
    workers: int,
    on_ready: Callable[[Any], None],
    on_news: Callable[[Any, Any], None],
) -> Generator[tuple[Any, Any]]:
    waiting = deque(items)
    crew: list[_Worker] = []
    try:
        for _ in range(workers):
            crew.append(_start(make_job))
        while waiting or any(w.busy for w in crew):
            spoke = connection.wait([w.line for w in crew])
            for worker in [w for w in crew if w.line in spoke]:
                try:
                    kind, payload = worker.line.recv()
                except (EOFError, ConnectionResetError):
                    crew.remove(worker)
                    if not worker.ready:
                        raise _stillborn(worker) from None
                    if worker.busy:
                        yield worker.item, _killed(worker)
                    if not crew:
                        crew.append(_start(make_job))
                    continue
                if kind == "news":
                    on_news(worker.item, payload)
                    continue
                if kind == "not ready":
                    raise payload.error("a process could not get ready")
                done = worker.item
                worker.busy = False
                if kind == "ready":
                    worker.ready = True
                    on_ready(payload)
                if waiting:
                    worker.item = waiting.popleft()
                    worker.busy = True
                    worker.line.send(worker.item)
                if kind in ("done", "failed"):
                    yield done, payload
    finally:
        _dismiss(crew)


def _start(make_job: Callable[[], Job]) -> _Worker:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    with _environment(ONE_THREAD), _interrupts_ignored():
        process.start()
    theirs.close()  # so that the end of that process ends the line
    try:
        ours.send(make_job)
    except BrokenPipeError:
        pass  # it died at once; the caller sees the line end
    except Exception as error:
        process.terminate()
        process.join(_GRACE_S)
        raise BadInput(
            f"the job cannot be sent to another process ({error}); give functions of a module, "
            "or functools.partial of one, or use workers=0"
        ) from error
    return _Worker(process, ours)


def _serve(line: Connection) -> None:
    """What each process runs, until the line ends."""
    with contextlib.suppress(*_NOBODY_LISTENS), contextlib.ExitStack() as ending:
        try:
            job: Job = line.recv()()
            ending.callback(job.close)
            about = job.about
        except Exception as error:
            line.send(("not ready", Failure.of(error)))
            return
        line.send(("ready", about))
        while True:
            item = line.recv()
            try:
                result = "done", job(item, lambda news: line.send(("news", news)))
            except _NOBODY_LISTENS:
                raise
            except Exception as error:
                result = "failed", Failure.of(error)
            line.send(result)


def _dismiss(crew: list[_Worker]) -> None:
    for worker in crew:
        worker.line.close()
        if worker.busy or not worker.ready:
            worker.process.terminate()
    for worker in crew:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _stillborn(worker: _Worker) -> ImitactError:
    worker.process.join(_GRACE_S)
    return ImitactError(
        f"a process ended before it was ready ({_ending(worker.process)}). If it was started "
        'from a script, the script\'s own work must stand under `if __name__ == "__main__":`'
    )


def _killed(worker: _Worker) -> Failure:
    worker.process.join(_GRACE_S)
    return Failure(
        f"its process ended ({_ending(worker.process)}); where memory is short, use fewer workers",
        ImitactError.__name__,
        "",
    )


def _ending(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """A spawned process inherits these; set for the moment of its start only."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; only this one should answer it.

    A process started while the signal is ignored goes on ignoring it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
