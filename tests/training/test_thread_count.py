"""Thread count: one thread for each core that other processes leave, and only where it is ours."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imitact.core.cpu import OtherProcesses
from imitact.training import device as devices
from imitact.training.distributed import Ranks
from imitact.training.thread_count import LOOK_S, ThreadCount


class Others(OtherProcesses):
    """Other processes that use a given number of cores."""

    def __init__(self) -> None:
        self.used: float | None = 0.0

    def cores(self) -> float | None:
        return self.used


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def a_device(threads: int, ranks: Ranks | None = None) -> devices.TrainingDevice:
    chosen = devices.choose_device("fp32", "cpu", threads)
    return dataclasses.replace(chosen, ranks=ranks or Ranks())


@pytest.mark.parametrize(
    ("used", "threads"), [(0.0, 4), (0.3, 4), (0.67, 3), (1.0, 3), (1.7, 2), (9.0, 1), (None, 4)]
)
def test_each_core_that_others_use_costs_a_thread_and_one_is_left(
    used: float | None, threads: int
) -> None:
    others, clock = Others(), Clock()
    count = ThreadCount(a_device(4), 0, others=others, clock=clock)
    others.used, clock.now_s = used, LOOK_S
    line = count.look()
    assert torch.get_num_threads() == threads
    assert (line is None) is (threads == 4)
    if line:
        assert f"{threads} instead of 4 threads" in line
        assert "--train.num-threads 4" in line


def test_threads_come_back_when_the_cores_are_free_again() -> None:
    others, clock = Others(), Clock()
    count = ThreadCount(a_device(2), 0, others=others, clock=clock)
    for used, threads in ((1.0, 1), (1.9, 1), (0.1, 2), (0.0, 2)):
        clock.now_s += LOOK_S
        others.used = used
        count.look()
        assert torch.get_num_threads() == threads


def test_between_looks_nothing_changes() -> None:
    others, clock = Others(), Clock()
    count = ThreadCount(a_device(2), 0, others=others, clock=clock)
    others.used, clock.now_s = 2.0, LOOK_S - 0.1
    assert count.look() is None
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("num_threads", "ranks"), [(2, 1), (0, 2)])
def test_a_number_that_was_given_and_ranks_keep_their_threads(num_threads: int, ranks: int) -> None:
    others, clock = Others(), Clock()
    device = a_device(2, Ranks(count=ranks))
    count = ThreadCount(device, num_threads, others=others, clock=clock)
    others.used, clock.now_s = 2.0, LOOK_S
    assert count.look() is None
    assert torch.get_num_threads() == 2


def test_a_process_that_computes_is_seen_and_this_one_is_not() -> None:
    program = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", program])
    try:
        time.sleep(0.5)
        others = OtherProcesses()
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            pass
        used = others.cores()
    finally:
        other.kill()
        other.wait()
    if not Path("/proc/stat").exists():
        assert used is None
        return
    assert used is not None
    assert used > 0.3
    assert used < (len(os_cores()) or 1) + 0.2


def os_cores() -> set[int]:
    import os

    return os.sched_getaffinity(0)


def test_without_numbers_of_the_system_nothing_is_known(tmp_path: Path) -> None:
    assert OtherProcesses(tmp_path / "stat").cores() is None
