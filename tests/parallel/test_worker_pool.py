"""Worker pool: results reach the caller, every worker ends with the pool, failures are errors."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import BadInput, ImitactError
from imitact.parallel.worker_pool import JobDone, WorkerPool, WorkerReady


class Doubler:
    """Doubles numbers, reporting as many ticks; a text says how to fail."""

    facts = "doubles"

    def work(self, job: Any, check_stop: Any, report_ticks: Any) -> Any:
        if job == "bad input":
            raise BadInput("no such number")
        if job == "defect":
            raise ZeroDivisionError
        if job == "file":
            Path("/no/such/file").read_text()
        if job == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        while job == "endless":
            check_stop()
        report_ticks(job)
        return 2 * job

    def close(self) -> None:
        pass


class Environment(Doubler):
    """Returns the environment variable that is the job."""

    def work(self, job: str, check_stop: Any, report_ticks: Any) -> str | None:
        return os.environ.get(job)


def unable() -> Doubler:
    raise BadInput("no such policy")


def wait_idle(pool: WorkerPool) -> list[Any]:
    seen: list[Any] = []
    while not pool.has_idle_worker:
        seen += pool.events()
    return seen


def run(pool: WorkerPool, job: Any) -> Any:
    """The result of one job."""
    wait_idle(pool)
    pool.submit(job)
    while True:
        for event in pool.events():
            if isinstance(event, JobDone):
                assert event.job == job
                return event.result


def test_each_job_gives_its_result_and_its_ticks_are_counted() -> None:
    with WorkerPool(2, Doubler) as pool:
        assert WorkerReady("doubles") in wait_idle(pool)
        waiting, found = list(range(6)), {}
        while waiting or pool.in_flight:
            while waiting and pool.has_idle_worker:
                pool.submit(waiting.pop())
            found |= {e.job: e.result for e in pool.events() if isinstance(e, JobDone)}
        assert found == {job: 2 * job for job in range(6)}
        assert pool.ticks_done == sum(range(6))


def test_a_pool_ends_its_workers_whatever_happens() -> None:
    pids = []

    def break_off() -> None:
        with WorkerPool(2, Doubler) as pool:
            pids.extend(process.pid for process in multiprocessing.active_children())
            wait_idle(pool)
            pool.submit("endless")
            assert pool.in_flight == {"endless": 0}
            raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        break_off()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("job", "error", "says"),
    [
        ("bad input", BadInput, "^in seed bad input: no such number$"),
        ("file", ImitactError, "^in seed file: No such file or directory: /no/such/file$"),
        ("dies", ImitactError, r"^a worker died in seed dies with exit code -9 .*fewer workers"),
        ("defect", RuntimeError, "^a worker failed in seed defect; its traceback is above$"),
    ],
)
def test_a_failure_in_a_worker_is_raised_here_with_its_job(
    job: str, error: type[Exception], says: str
) -> None:
    with WorkerPool(1, Doubler) as pool, pytest.raises(error, match=says) as caught:
        run(pool, job)
    if job == "defect":
        assert "ZeroDivisionError" in str(caught.value.__cause__)


def test_a_worker_that_cannot_be_made_is_an_error_without_a_job() -> None:
    with WorkerPool(1, unable) as pool, pytest.raises(BadInput, match="no such policy"):
        wait_idle(pool)


def test_workers_render_in_their_own_thread_and_this_process_keeps_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LP_NUM_THREADS", "3")
    with WorkerPool(1, Environment) as pool:
        assert os.environ["LP_NUM_THREADS"] == "3"
        assert run(pool, "LP_NUM_THREADS") == "0"


def test_ctrl_c_reaches_no_worker() -> None:
    with WorkerPool(1, Doubler) as pool:
        (process,) = multiprocessing.active_children()
        os.kill(process.pid or 0, signal.SIGINT)  # while it starts
        wait_idle(pool)
        os.kill(process.pid or 0, signal.SIGINT)
        time.sleep(0.1)
        assert run(pool, 4) == 8
