"""Cameras: each posts its frames from a process of its own, and what is wrong with it is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from imitact.core.errors import RobotError
from imitact.core.types import Camera
from imitact.parallel.mailbox import Mailbox
from imitact.robots.cameras import CameraHealth, CameraPlan, Cameras, CapturedFrame
from imitact.robots.timed_frames import frame_mailbox, newest_frame
from tests.support.fake_camera import FAULTS, HEIGHT, WIDTH, FakeCamera
from tests.support.hosts import PATIENCE_S, wait_for

PLAN = CameraPlan(Camera("top", HEIGHT, WIDTH), 30.0, FakeCamera)  # type: ignore[arg-type]


def fail(faults: Mailbox, fault: str) -> None:
    faults.post(np.array([float(FAULTS.index(fault))]))


@contextmanager
def cameras(*names: str, hung_s: float = 60.0) -> Iterator[tuple[Cameras, Mailbox, list[str]]]:
    """Cameras that share their faults."""
    faults, lines = Mailbox.create((1,)), []
    plans = {
        name: CameraPlan(
            Camera(name, HEIGHT, WIDTH),
            30.0,
            partial(FakeCamera, faults),
            dead_s=0.3,
            frozen_s=0.3,
            hung_s=hung_s,
            slow_share=0.001,
            reopen_s=0.02,
        )
        for name in names
    }
    made = Cameras(plans, lines.append)
    try:
        yield made, faults, lines
    finally:
        made.close()


def test_frames_of_all_cameras_come_with_their_capture_times():
    with cameras("top", "wrist") as (made, _faults, _lines):
        made.start(PATIENCE_S)
        for name in ("top", "wrist"):
            first = made.frame(name)
            assert first is not None
            assert first.frame.shape == (HEIGHT, WIDTH, 3)
            wait_for(lambda n=name, f=first: made.frame(n).sequence > f.sequence + 2)  # type: ignore[union-attr]
            later = made.frame(name)
            assert later is not None
            assert later.captured_s > first.captured_s
            assert later.frame[0, 0, 0] == later.sequence % 256


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("frozen", "the same frame since"),
        ("unplugged", "there is no such camera"),
        ("value error", "ValueError('a surprise')"),
        ("arrival times", ""),
    ],
)
def test_what_is_wrong_is_said_and_gone_once_it_is_mended(fault: str, words: str):
    with cameras("top") as (made, faults, lines):
        made.start(PATIENCE_S)
        wait_for(lambda: made.watch() == {})
        fail(faults, fault)
        if words:
            wait_for(lambda: words in made.watch().get("top", ""))
        else:
            wait_for(lambda: made.watch() == {} and "times of their arrival" in str(lines))
        fail(faults, "none")
        wait_for(lambda: made.watch() == {})


def test_a_camera_that_hangs_is_said_to_be_silent_and_started_again():
    with cameras("top", hung_s=0.5) as (made, faults, _lines):
        made.start(PATIENCE_S)
        fail(faults, "hangs")
        wait_for(lambda: "no frame since" in made.fault("top"))
        wait_for(lambda: "camera top gives no frame since" in made.watch().get("top", ""))
        fail(faults, "none")
        wait_for(lambda: made.watch() == {})


def test_a_camera_that_is_not_there_at_the_start_is_named():
    with cameras("top", "wrist") as (made, faults, _lines):
        fail(faults, "unplugged")
        with pytest.raises(RobotError, match=r"camera top.*no such camera.*camera wrist"):
            made.start(PATIENCE_S)


def captured(time_s: float, checksum: int) -> CapturedFrame:
    return CapturedFrame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), time_s, True, checksum)


def test_a_rate_below_the_expected_one_is_a_fault():
    for rate_hz, words in ((30.0, ""), (28.0, ""), (15.0, "15.0 frames/s, expected 30")):
        health = CameraHealth(PLAN)
        faults = [health.fault(captured(n / rate_hz, n)) for n in range(60)]
        assert words in faults[-1]
        assert bool(words) == bool(faults[-1])


def test_equal_frames_are_a_fault_after_a_while_only():
    health = CameraHealth(PLAN)
    faults = [health.fault(captured(n / 30, 5)) for n in range(60)]
    assert not any(faults[:29])
    assert "the same frame since 1.9" in faults[58]
    assert health.fault(captured(2.0, 6)) == ""


def test_a_frame_is_copied_when_it_is_looked_at_and_refused_when_it_was_overwritten():
    box = frame_mailbox(HEIGHT, WIDTH)
    assert newest_frame("top", box) is None
    box.post(np.ones((HEIGHT, WIDTH, 3), np.uint8), 7.0)
    kept, late = newest_frame("top", box), newest_frame("top", box)
    assert kept is not None
    assert late is not None
    assert (kept.captured_s, kept.sequence, kept.frame[0, 0, 0]) == (7.0, 1, 1)
    for number in range(box.slots):
        box.post(np.full((HEIGHT, WIDTH, 3), number, np.uint8), 8.0 + number)
    assert kept.frame[0, 0, 0] == 1
    with pytest.raises(RobotError, match="frame 1 of camera top was overwritten"):
        _ = late.frame
