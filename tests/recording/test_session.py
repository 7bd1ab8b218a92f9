"""Recording session: what was sent, what was asked and when, row for row; never half an episode."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.parking import first_command
from imitact.control.safety_filter import SafetyBounds, SafetyFilter, Stage
from imitact.control.sources import EpisodeSource
from imitact.core import tick_columns as columns
from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput, DiskFull
from imitact.core.hold import Hold
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Camera
from imitact.datasets.lerobot.layout import IMITACT
from imitact.datasets.open import open_dataset
from imitact.recording.recorder import record
from imitact.recording.session import RecordingSession, TooShort
from imitact.robots.simulated import SimulatedRobot
from tests.support import tick_stream
from tests.support.control import PassThrough
from tests.support.tick_stream import LOSSLESS, TASK, frame_number, frames_of, record_of, sent_at
from tests.support.tiny_arm import SPEC, Reacher, TinyArm

stream_session = partial(RecordingSession, spec=tick_stream.SPEC, task=TASK, video=LOSSLESS)


class LateClock(VirtualClock):
    """A virtual clock on which waiting for some ticks takes longer: {tick: s}."""

    def __init__(self, late_s: dict[int, float]) -> None:
        super().__init__()
        self.late_s = late_s

    def wait_until(self, due_s: float) -> None:
        super().wait_until(due_s)
        super().wait_until(self.now_s() + self.late_s.pop(round(due_s * SPEC.rate_hz), 0.0))


def record_episode(session, source, ticks=12, safety=None, clock=None):
    """Record an episode of the simulated robot."""
    clock = clock or VirtualClock()
    robot = SimulatedRobot(TinyArm(), clock, seed=3)
    session.begin()
    outcome = ControlLoop(
        robot,
        source,
        safety or PassThrough(),
        clock,
        SPEC.rate_hz,
        lambda record: session.add(record, lambda camera, number: robot.frame(camera)),
    ).run(first_command(robot), ticks)
    assert not outcome.faults
    return session.keep()


def read(path, index=0):
    dataset = open_dataset(path)
    episode = dataset.episode(index)
    return episode, episode.extra_values([*dataset.extra_columns])


def targets(ticks=12):
    return np.linspace(0.0, 0.5, ticks)[:, None] * np.ones(5)


def stream(session, ticks, **changes):
    """Give a session ticks of the made-up robot; `changes` maps ticks to what they have instead."""
    session.begin()
    for tick in ticks:
        session.add(record_of(tick, **changes.get(f"at_{tick}", {})), frames_of)


def test_an_episode_of_the_simulated_robot_has_what_was_sent_with_its_times(tmp_path):
    with RecordingSession(tmp_path / "data", SPEC, TASK) as session:
        about = record_episode(session, EpisodeSource(targets()))
        assert session.episodes == 1
    assert about.to_json() == {"ticks": 12}
    dataset = open_dataset(tmp_path / "data")
    assert dataset.spec == SPEC
    assert dataset.episode(0).task == TASK
    episode, values = read(tmp_path / "data")
    np.testing.assert_array_equal(episode.action, targets().astype(np.float32))
    np.testing.assert_array_equal(values[columns.ASKED], episode.action)
    due_s = np.arange(12) / SPEC.rate_hz
    np.testing.assert_allclose(values[columns.DUE], due_s, atol=1e-5)
    np.testing.assert_allclose(values[columns.SENT], due_s, atol=1e-5)
    for name in (columns.captured("eye"), columns.captured("wrist")):
        np.testing.assert_allclose(values[name], due_s, atol=1e-5)


def test_asked_and_sent_differ_where_the_safety_filter_acted_and_nowhere_else(tmp_path):
    rng = np.random.default_rng(0)
    asked = np.cumsum(rng.normal(0, 0.01, (45, 5)), axis=0)
    asked[20:24] += 0.8  # jumps that the filter spreads over the ticks after
    size = np.ones(5)
    limits = JointLimits(
        SPEC.action_names, SPEC.action_units, -2 * size, 2 * size, size, 20 * size, 400 * size
    )
    safety = SafetyFilter(limits, SPEC.rate_hz, spec=SPEC, bounds=SafetyBounds())
    with RecordingSession(tmp_path / "data", SPEC, TASK) as session:
        record_episode(session, EpisodeSource(asked), 45, safety)
    episode, values = read(tmp_path / "data")
    acted = values[columns.STAGE] != Stage.PASSED
    differ = (values[columns.ASKED] != episode.action).any(axis=1)
    assert 3 < acted.sum() < 30
    np.testing.assert_array_equal(acted, differ)


def test_every_clock_column_is_monotone_however_late_ticks_are(tmp_path):
    late_s = {8: 0.03, 12: 0.25, 13: 0.08, 20: 0.41}
    with RecordingSession(tmp_path / "data", SPEC, TASK) as session:
        about = record_episode(session, EpisodeSource(targets(40)), 30, clock=LateClock(late_s))
    _, values = read(tmp_path / "data")
    skipped = values[columns.SKIPPED]
    assert about.skipped == skipped.sum() > 0
    assert about.ticks + about.skipped == 30
    for name, rows in values.items():
        if name.startswith("clock."):
            known = rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]
            assert len(known) == len(rows), name
            assert (np.diff(known, axis=0) >= 0).all(), name
    steps = np.round(np.diff(values[columns.DUE]) * SPEC.rate_hz)
    np.testing.assert_array_equal(steps, skipped[1:] + 1)


def test_an_episode_is_marked_above_one_percent_of_skipped_ticks(tmp_path):
    with stream_session(tmp_path / "data") as session:
        marked = {}
        for skipped in (1, 2):
            first = 200 * skipped
            ticks = [
                t for t in range(first, first + 100) if t - first not in range(50, 50 + skipped)
            ]
            stream(session, ticks, **{f"at_{first + 50 + skipped}": {"skipped": skipped}})
            about = session.keep()
            assert about.skipped == skipped
            marked[skipped] = about.marked
    assert marked == {1: (), 2: ("2 ticks skipped (2.0%)",)}


def test_ticks_that_no_record_came_of_are_a_fault_of_the_recorder(tmp_path):
    with stream_session(tmp_path / "data") as session:
        stream(session, [*range(5), *range(8, 12)], at_8={"skipped": 1})
        about = session.keep()
    assert about.skipped == 3
    assert "2 ticks before row 5 were lost between" in about.faults[0]
    assert len(about.marked) == 2


def test_an_episode_with_a_hold_is_kept_whole_and_marked(tmp_path):
    hold = {"hold": Hold.STATE_OLD, "held": 1, "asked": np.full(3, np.nan), "stage": 11}
    with stream_session(tmp_path / "data", stages={11: "not asked"}) as session:
        stream(session, range(10), at_4=hold, at_5=hold)
        about = session.keep()
    assert (about.ticks, about.held, about.holds, about.stages) == (
        10, 2, {"state_old": 2}, {"not asked": 2},
    )  # fmt: skip
    assert about.marked == ("held at 2 ticks (state_old 2)",)
    facts = json.loads((tmp_path / "data" / IMITACT).read_text())
    assert facts["episodes"][0]["marked"] == list(about.marked)
    assert open_dataset(tmp_path / "data").episode(0).origin["marked"] == list(about.marked)
    _, values = read(tmp_path / "data")
    assert values[columns.HELD].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert np.isnan(values[columns.ASKED][4:6]).all()


def test_an_episode_begins_at_the_first_command_and_ends_with_the_last_one_that_a_person_led(
    tmp_path,
):
    free = {"hold": Hold.NOT_ENGAGED, "held": 1, "asked": np.full(3, np.nan)}
    changes = {f"at_{tick}": free for tick in (0, 1, 6, 10, 11, 12)}
    with stream_session(tmp_path / "data") as session:
        stream(session, range(13), **changes)
        about = session.keep()
        stream(session, range(20, 26))
        session.keep()
    assert (about.ticks, about.waited, about.cut, about.held) == (8, 2, 3, 1)
    dataset = open_dataset(tmp_path / "data")
    assert dataset.lengths == (8, 6)
    for episode, ticks in ((dataset.episode(0), range(2, 10)), (dataset.episode(1), range(20, 26))):
        shown = [int(frame[0, 0, 0]) for frame in episode.frames("wrist")]
        assert shown == [frame_number(tick) for tick in ticks]
    stats = json.loads((tmp_path / "data" / "meta/stats.json").read_text())
    assert stats["observation.images.top"]["count"] == [14]


def test_a_tick_without_a_new_state_keeps_its_row_with_the_age_of_the_state(tmp_path):
    nan = {"state": np.full(3, np.nan), "state_s": (np.nan, np.nan)}
    with stream_session(tmp_path / "data") as session:
        stream(session, range(8), at_0=nan, at_5=nan)
        about = session.keep()
    assert (about.ticks, about.waited) == (7, 1)
    episode, values = read(tmp_path / "data")
    np.testing.assert_array_equal(episode.state[4], episode.state[3])
    age_s = values[columns.DUE] - values[columns.STATE_READ][:, 0]
    np.testing.assert_allclose(age_s[3:6], [0.006, 0.026, 0.006], atol=1e-5)


def test_a_row_whose_frame_is_gone_shows_an_older_one_with_the_time_of_that(tmp_path):
    def some(camera, number):
        if (camera, number) == ("top", 4):
            return None
        if (camera, number) == ("wrist", 3):
            return replace(frames_of(camera, 5), sequence=5)  # another frame
        return frames_of(camera, number)

    with stream_session(tmp_path / "data") as session:
        session.begin()
        for tick in range(12):
            session.add(record_of(tick), some)
        about = session.keep()
    assert about.lost_frames == {"top": 2, "wrist": 2}
    assert len(about.marked) == 2
    episode, values = read(tmp_path / "data")
    shown = [int(frame[0, 0, 0]) for frame in episode.frames("top")]
    assert shown == [1, 1, 2, 2, 3, 3, 3, 3, 5, 5, 6, 6]
    captured_s = values[columns.captured("top")]
    np.testing.assert_allclose(np.diff(captured_s)[[3, 5, 7]], [0.04, 0.0, 0.08], atol=1e-5)


def test_a_command_is_recorded_as_the_driver_sent_it(tmp_path):
    with stream_session(tmp_path / "data") as session:
        stream(session, range(10), at_5={"sent_tick": 2, "sent_s": 99.0})
        session.learn(record_of(10))
        about = session.keep()
    episode, values = read(tmp_path / "data")
    wanted = [sent_at(tick) if tick != 4 else record_of(4).action for tick in range(10)]
    np.testing.assert_array_equal(episode.action, np.array(wanted, np.float32))
    # What no record says is not made up.
    assert np.flatnonzero(np.isnan(values[columns.SENT])).tolist() == [4]
    assert about.unsent == 1


def test_a_dropped_episode_leaves_nothing(tmp_path):
    with stream_session(tmp_path / "data") as session:
        stream(session, range(10))
        session.drop()
        stream(session, range(10))
        session.redo()
        for tick in range(20, 26):
            session.add(record_of(tick), frames_of)
        session.keep()
        stream(session, range(3))
    assert open_dataset(tmp_path / "data").lengths == (6,)
    assert not (tmp_path / "data" / ".staging").exists()
    with stream_session(tmp_path / "once") as session:
        stream(session, range(20, 26))
        session.keep()

    def tree(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert tree(tmp_path / "data") == tree(tmp_path / "once")


def test_a_recording_goes_on_where_it_was_left_and_refuses_what_differs_by_name(tmp_path):
    out = tmp_path / "data"
    for count in (1, 2):
        with stream_session(out) as session:
            assert session.episodes == count - 1
            stream(session, range(10 * count, 10 * count + 6))
            session.keep()
    assert open_dataset(out).lengths == (6, 6)
    other = replace(tick_stream.SPEC, action_units=("rad", "deg", "1"), rate_hz=30.0)
    with pytest.raises(BadInput, match=r"rate_hz was 50.0, is now 30.0; units.action was"):
        RecordingSession(out, other, TASK, video=LOSSLESS)
    with pytest.raises(BadInput, match="task was"):
        RecordingSession(out, tick_stream.SPEC, "another", video=LOSSLESS)
    with pytest.raises(BadInput, match="another recording is writing"), stream_session(out):
        stream_session(out)
    with pytest.raises(BadInput, match="holds episodes of a robot"):
        record(out, make_env=TinyArm, make_expert=Reacher, episodes=1, task=TASK, seeds=[0])
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.pdf").write_bytes(b"x")
    with pytest.raises(BadInput, match="not a recording of imitact"):
        stream_session(tmp_path / "papers")
    clash = replace(tick_stream.SPEC, cameras=(Camera("sent", 16, 16),))
    with pytest.raises(BadInput, match="no camera may be named sent"):
        RecordingSession(tmp_path / "new", clash, TASK)


def test_demonstrations_of_an_expert_are_not_continued_by_a_robot(tmp_path):
    record(
        tmp_path / "data", make_env=TinyArm, make_expert=Reacher, episodes=1, task=TASK, seeds=[0]
    )
    with pytest.raises(BadInput, match="was not recorded on a robot"):
        RecordingSession(tmp_path / "data", SPEC, TASK)


def test_an_episode_of_one_tick_is_not_kept(tmp_path):
    with stream_session(tmp_path / "data") as session:
        session.begin()
        with pytest.raises(TooShort, match="has 0 ticks, expected at least 2"):
            session.keep()
        with pytest.raises(BadInput, match="before an episode was begun"):
            session.add(record_of(0), frames_of)
        with pytest.raises(BadInput, match="no episode to mark"):
            session.mark("odd")


def test_a_full_disk_costs_the_episode_and_no_other(tmp_path, monkeypatch):
    out = tmp_path / "data"
    with stream_session(out) as session:
        stream(session, range(6))
        session.keep()
        stream(session, range(10, 16))
        full = OSError(28, "No space left on device")

        def write(*args):
            raise full

        with monkeypatch.context() as patch:
            patch.setattr("imitact.storage.atomic.write_bytes", write)
            with pytest.raises(DiskFull, match="no room left"):
                session.keep()
        assert session.episodes == 1
        stream(session, range(20, 26))
        session.keep()
    dataset = open_dataset(out)
    assert dataset.lengths == (6, 6)
    shown = [int(frame[0, 0, 0]) for frame in dataset.episode(1).frames("top")]
    assert shown == [frame_number(tick) for tick in range(20, 26)]
