"""Control check: what the columns of a robot's recording say about times, holds and the filter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.parking import first_command
from imitact.control.sources import EpisodeSource
from imitact.core.clock import VirtualClock
from imitact.core.hold import Hold
from imitact.datasets.open import open_dataset
from imitact.envs.aloha import AlohaEnv
from imitact.quality.dataset_check import inspect_numbers, open_damaged
from imitact.recording.session import RecordingSession
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.simulated import SimulatedRobot
from tests.support import tick_stream
from tests.support.control import PassThrough
from tests.support.tick_stream import LOSSLESS, frames_of, record_of

KINDS = (
    "ticks-skipped", "robot-held", "recording-fault", "command-late", "state-old", "frame-old",
    "clock-backwards", "actions-changed", "sent-differs",
)  # fmt: skip


def recorded(folder, *episodes, ticks=60):
    """Record made-up episodes: each maps ticks to what they have instead."""
    with RecordingSession(folder, tick_stream.SPEC, "wave", video=LOSSLESS) as session:
        for number, changed in enumerate(episodes):
            session.begin()
            first = 1000 * number
            for tick in range(first, first + ticks):
                changes = changed(tick - first, record_of(tick))
                if changes is not None:
                    session.add(record_of(tick, **changes), frames_of)
            last = record_of(first + ticks)
            session.learn(record_of(first + ticks, **(changed(ticks, last) or {})))
            session.keep()
    dataset = open_dataset(folder)
    return [f for f in inspect_numbers(dataset) if f.kind in KINDS]


def plain(tick, record):
    return {}


def test_a_good_recording_of_the_simulated_robot_has_no_findings(tmp_path):
    clock = VirtualClock()
    env = AlohaEnv("cube", ())
    robot = SimulatedRobot(env, clock)
    with RecordingSession(tmp_path / "data", env.spec, "hand the cube over") as session:
        for seed in range(2):
            robot.reset(seed)
            session.begin()
            source = EpisodeSource(expert_trajectory("cube", seed))
            loop = ControlLoop(
                robot, source, PassThrough(), clock, env.spec.rate_hz,
                lambda record: session.add(record, lambda camera, number: robot.frame(camera)),
            )  # fmt: skip
            assert loop.run(first_command(robot)).ended == "source"
            assert robot.outcome.success
            assert session.keep().marked == ()
    dataset, found = open_damaged(tmp_path / "data")
    assert [f.line for f in [*found, *inspect_numbers(dataset)]] == []


def test_a_good_made_up_recording_has_no_findings_of_control(tmp_path):
    assert recorded(tmp_path / "data", plain, plain) == []


def test_old_states_late_commands_and_old_frames_of_most_episodes_are_one_finding_each(tmp_path):
    def slow(tick, record):
        begin_s, end_s = record.state_s
        return {"state_s": (begin_s - 0.05, end_s), "sent_s": record.sent_s + 0.04}

    found = recorded(tmp_path / "data", slow, slow, plain)
    late, old = found
    assert (old.kind, old.episode, old.unit) == ("state-old", None, "s")
    assert old.value == pytest.approx(0.056, abs=1e-3)
    assert "56 ms (p50) to 56 ms (p99) old, expected at most 40 ms" in old.what
    assert (late.kind, late.episode) == ("command-late", None)


def test_an_old_frame_is_found_in_its_episode_and_camera(tmp_path):
    def frozen(tick, record):
        top, wrist = record.frame_sequences
        return {"frame_sequences": [top, min(wrist, record_of(1010).frame_sequences[1])]}

    found = recorded(tmp_path / "data", plain, frozen, plain, ticks=40)
    assert [(f.kind, f.episode, f.part) for f in found] == [("frame-old", 1, "wrist")]


def test_skipped_ticks_holds_and_faults_are_found_with_their_reasons(tmp_path):
    def skipping(tick, record):
        if tick in (20, 21, 40):
            return None
        return {"skipped": {22: 2, 41: 1}.get(tick, 0)}

    def held(tick, record):
        if tick in (30, 31):
            return {"hold": Hold.PICTURE_OLD, "held": 1, "asked": np.full(3, np.nan), "stage": 11}
        return {"held": 1, "stage": 8} if tick == 32 else {}

    def losing(tick, record):
        return None if tick == 9 else {}

    found = recorded(tmp_path / "data", skipping, held, losing)
    about = {(f.kind, f.episode): f for f in found}
    assert about.keys() == {
        ("ticks-skipped", 0), ("robot-held", 1), ("recording-fault", 2), ("ticks-skipped", 2),
    }  # fmt: skip
    assert about["ticks-skipped", 0].ticks == (20, 39)
    assert "held at 3 ticks (picture old 2, safety filter 1)" in about["robot-held", 1].what
    assert "between the control loop and the recorder" in about["recording-fault", 2].what


def test_what_the_filter_changed_and_what_something_else_changed_are_told_apart(tmp_path):
    def cut(tick, record):
        asked = record.asked + (0.3 if tick % 5 == 0 else 0.0)
        return {"asked": asked, "stage": 4 if tick % 5 == 0 else 0}

    def clipped(tick, record):
        return {"asked": record.asked + (np.array([0, 0.04, 0]) if tick == 30 else 0.0)}

    found = recorded(tmp_path / "data", cut, clipped, plain)
    assert [(f.kind, f.episode, f.part) for f in found] == [
        ("actions-changed", 0, ""), ("sent-differs", 1, "elbow"),
    ]  # fmt: skip
    assert "20% of the ticks" in found[0].what
    assert found[1].ticks == (30, 31)


def test_a_clock_that_goes_back_is_found(tmp_path):
    def back(tick, record):
        begin_s, end_s = record.state_s
        return {"state_s": (begin_s - 0.03, end_s) if tick == 30 else (begin_s, end_s)}

    (found,) = recorded(tmp_path / "data", back, plain)
    assert (found.kind, found.part, found.ticks) == ("clock-backwards", "clock.state_s", (30, 31))


def test_left_and_right_arm_swapped_are_found(tmp_path):
    clock = VirtualClock()
    env = AlohaEnv("cube", ())
    robot = SimulatedRobot(env, clock)
    swap = partial(np.roll, shift=7)
    with RecordingSession(tmp_path / "data", env.spec, "hand the cube over") as session:
        robot.reset(0)
        session.begin()

        def take(record):
            record.state = swap(record.state)
            session.add(record, lambda camera, number: robot.frame(camera))

        loop = ControlLoop(
            robot, EpisodeSource(expert_trajectory("cube", 0)), PassThrough(), clock,
            env.spec.rate_hz, take,
        )  # fmt: skip
        loop.run(first_command(robot))
        session.keep()
    found = [f for f in inspect_numbers(open_dataset(tmp_path / "data")) if f.severity == "error"]
    assert {f.kind for f in found} == {"joints-swapped"}
    assert "left_arm_waist, right_arm_waist follow" in found[0].what
    assert "left and right" in found[0].remedy
