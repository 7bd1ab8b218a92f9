"""Replay: the actions of an episode tick by tick, for a robot that fits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.parking import first_command
from imitact.control.sources import EpisodeSource
from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput, SpecMismatch
from imitact.datasets.open import open_dataset
from imitact.recording.replay import episode_actions
from imitact.recording.session import RecordingSession
from tests.support.control import ObedientRobot, PassThrough
from tests.support.tick_stream import LOSSLESS, SPEC, frames_of, record_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """An episode of the ticks 0 to 9 without 4 and 5."""
    out = tmp_path_factory.mktemp("replay") / "data"
    with RecordingSession(out, SPEC, "wave", video=LOSSLESS) as session:
        session.begin()
        for tick in (0, 1, 2, 3, 6, 7, 8, 9):
            session.add(record_of(tick, skipped=2 if tick == 6 else 0), frames_of)
        session.keep()
    return open_dataset(out)


def test_a_replay_has_an_action_for_every_tick_also_those_that_were_skipped(dataset):
    actions = episode_actions(dataset, 0, SPEC, "data")
    recorded = dataset.episode(0).action.astype(np.float64)
    np.testing.assert_array_equal(actions, recorded[[0, 1, 2, 3, 3, 3, 4, 5, 6, 7]])


def test_a_replay_commands_what_was_recorded(dataset):
    clock, commands = VirtualClock(), []
    robot = ObedientRobot(clock, replace(SPEC, cameras=()))
    source = EpisodeSource(episode_actions(dataset, 0, SPEC, "data"))
    loop = ControlLoop(
        robot, source, PassThrough(), clock, SPEC.rate_hz, lambda r: commands.append(r.action)
    )
    assert loop.run(first_command(robot)).ended == "source"
    np.testing.assert_array_equal(commands[:10], episode_actions(dataset, 0, SPEC, "data"))


def test_a_robot_that_does_not_fit_is_refused_by_what_differs(dataset):
    slow = replace(SPEC, rate_hz=30.0)
    with pytest.raises(SpecMismatch, match="rate is 30 Hz, expected 50 Hz"):
        episode_actions(dataset, 0, slow, "data")
    degrees = replace(SPEC, action_units=("deg", "deg", "1"))
    with pytest.raises(SpecMismatch, match=r"the robot does not fit data.*deg"):
        episode_actions(dataset, 0, degrees, "data")
    names = ("wrist", "elbow", "gripper")
    with pytest.raises(SpecMismatch, match="wrist"):
        episode_actions(dataset, 0, replace(SPEC, action_names=names), "data")
    with pytest.raises(BadInput, match="episode is 4; data has the episodes 0 to 0"):
        episode_actions(dataset, 4, SPEC, "data")


@pytest.mark.parametrize(
    ("rows", "says"),
    [([[0.0] * 3, [0.0, np.nan, 0.0]], "has no finite action at tick 1"), ([], "is empty")],
)
def test_an_episode_that_no_robot_can_follow_is_refused_by_its_number(rows, says):
    episode = SimpleNamespace(action=np.array(rows, np.float32).reshape(-1, 3))
    hurt: Any = SimpleNamespace(spec=SPEC, lengths=(9,), extra_columns={}, episode=[episode].pop)
    with pytest.raises(BadInput, match=f"episode 0 of data {says}"):
        episode_actions(hurt, 0, SPEC, "data")
