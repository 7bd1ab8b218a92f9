"""Training metrics: every number once and in order; the time left."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from imitact.core.errors import DiskFull, NotFinite
from imitact.training.metrics import MetricsLog, StepTimer, format_duration, l1_unit


def book(path: Path, resumed: int = 0, every_s: float = 0.0) -> tuple[MetricsLog, list[str]]:
    lines: list[str] = []
    return MetricsLog(path, resumed=resumed, log=lines.append, every_s=every_s), lines


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_numbers_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    numbers = {"loss": 0.1 + 0.2, "per_joint": {"left_waist": 1e-300}, "per_tick": [1.0, 2.5]}
    log, _ = book(path)
    with closing(log):
        log.write(3, numbers)
    stored = json.loads(path.read_text())
    assert stored.pop("crc32") > 0
    assert stored == {"step": 3, **numbers}


def test_resuming_removes_the_steps_that_are_repeated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log, _ = book(path)
    with closing(log):
        for step in (10, 20, 20, 30, 40):
            log.write(step, {"loss": float(step)})
    log, _ = book(path, resumed=30)
    with closing(log):
        log.write(40, {"loss": 0.0})
    assert steps(path) == [10, 20, 20, 30, 40]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 0.0


def test_an_incomplete_line_is_removed_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    log, messages = book(path, resumed=5)
    with closing(log):
        log.write(6, {"loss": 1.0})
    assert steps(path) == [1, 6]
    assert "line 2 is damaged" in messages[0]


@pytest.mark.parametrize("harm", [(b"0.5", b"0.6"), (b"crc32", b"crc33"), (b"}", b")")])
def test_an_altered_line_is_removed_with_a_message(
    tmp_path: Path, harm: tuple[bytes, bytes]
) -> None:
    path = tmp_path / "metrics.jsonl"
    log, _ = book(path)
    with closing(log):
        for step in (1, 2, 3):
            log.write(step, {"loss": 1 / step})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(*harm) + lines[2])
    log, messages = book(path, resumed=3)
    log.close()
    assert steps(path) == [1, 3]
    assert [text for text in messages if "metrics.jsonl, line 2 is damaged" in text] == messages
    assert len(messages) == 1


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    log, _ = book(path)
    with closing(log):
        log.write(1, {"loss": 1.0})
        write = os.write
        calls = []

        def half(handle: int, data: bytes) -> int:
            calls.append(len(data))
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(handle, data[:7])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(DiskFull, match=r"metrics\.jsonl.*then resume"):
                log.write(2, {"loss": 0.5})
        log.write(2, {"loss": 0.5})
    assert steps(path) == [1, 2]


def test_a_new_training_does_not_append_to_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    log, _ = book(path)
    log.close()
    assert path.read_text() == ""


def test_a_number_that_is_not_finite_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log, _ = book(path)
    with closing(log), pytest.raises(NotFinite, match="step 4"):
        log.write(4, {"loss": float("nan")})
    assert path.read_text() == ""


def test_progress_lines_are_limited_in_rate(tmp_path: Path) -> None:
    log, lines = book(tmp_path / "m.jsonl", every_s=1000.0)
    with closing(log):
        for step in range(5):
            log.progress(lambda: f"step {step}")  # noqa: B023
    assert lines == ["step 0"]


def test_the_time_left_includes_validations_and_checkpoints() -> None:
    now = 0.0
    timer = StepTimer(window=100, clock=lambda: now)
    timer.mark(0)
    assert timer.left_s(10) is None
    for step in range(1, 101):
        now += 1.0 if step % 10 else 11.0  # every tenth step is slow
        timer.mark(step)
    assert timer.left_s(50) == pytest.approx(100.0)


def test_the_time_left_ignores_a_slow_start() -> None:
    now = 0.0
    timer = StepTimer(window=20, clock=lambda: now)
    timer.mark(0)
    for step in range(1, 101):
        now += 60.0 if step == 1 else 0.5
        timer.mark(step)
    assert timer.left_s(10) == pytest.approx(5.0)


def test_the_time_left_after_resuming_is_based_on_this_process() -> None:
    now = 1000.0
    timer = StepTimer(window=50, clock=lambda: now)
    timer.mark(3000)
    now += 4.0
    timer.mark(3002)
    assert timer.left_s(5) == pytest.approx(10.0)


def test_durations_are_formatted_in_suitable_units() -> None:
    assert [format_duration(s) for s in (None, 5.4, 89, 90, 3000, 5400, 12000)] == [
        "?",
        "5 s",
        "89 s",
        "2 min",
        "50 min",
        "1 h 30 min",
        "3 h 20 min",
    ]


def test_numbers_for_the_file_alone_do_not_reach_the_trackers(tmp_path: Path) -> None:
    tracked: list[dict[str, object]] = []

    class Tracker:
        def log(self, step: int, numbers: dict[str, object]) -> None:
            tracked.append(dict(numbers))

        def close(self) -> None:
            pass

    path = tmp_path / "metrics.jsonl"
    with closing(
        MetricsLog(path, resumed=0, log=print, trackers=Tracker())  # type: ignore[arg-type]
    ) as log:
        log.write(240, {"loss": 0.5}, steps=800)
    assert json.loads(path.read_text())["steps"] == 800
    assert tracked == [{"loss": 0.5}]


@pytest.mark.parametrize(
    ("units", "unit"),
    [
        (("rad", "1"), "rad"),
        (("deg", "deg"), "deg"),
        (("unknown", "unknown"), ""),
        (("px", "m"), ""),
        (("1",), ""),
        ((), ""),
    ],
)
def test_an_error_is_in_rad_only_where_a_joint_is(units: tuple[str, ...], unit: str) -> None:
    assert l1_unit(units) == unit
