"""Marks in training: marked episodes are left out unless told, and interventions can be weighed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.hold import Hold
from imitact.datasets.joined import Joined
from imitact.datasets.marks import intervention_ticks, marked_episodes
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.without_cameras import WithoutCameras
from imitact.recording.session import RecordingSession
from imitact.training.config import TrainConfig
from imitact.training.frame_cache import open_frames
from imitact.training.loop import train
from imitact.training.sampler import Sampler
from tests.support import tick_stream
from tests.support.tick_stream import LOSSLESS, frames_of, record_of
from tests.training.test_loop import TINY, config

TICKS = 12


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Five episodes of 12 ticks: a hold in number 1, a person who takes over in number 3."""
    out = tmp_path_factory.mktemp("marks") / "data"
    with RecordingSession(out, tick_stream.SPEC, "wave", video=LOSSLESS) as session:
        for number in range(5):
            session.begin()
            for tick in range(TICKS):
                changes = {}
                if number == 1 and tick == 5:
                    changes = {"hold": Hold.STATE_OLD, "held": 1, "asked": np.full(3, np.nan)}
                if number == 3:
                    changes = {"engaged": int(4 <= tick < 7)}
                session.add(record_of(100 * number + tick, **changes), frames_of)
            session.keep()
    return out


def sampler(dataset, weight, episodes=None, tmp=None):
    weights = None
    if weight > 1:
        weights = lambda index: 1 + (weight - 1) * intervention_ticks(dataset, index)  # noqa: E731
    frames = partial(
        open_frames, dataset, {}, cache_dir=None, cache_limit_bytes=0, memory_limit_bytes=10**6,
        workers=1, log=print,
    )  # fmt: skip
    return Sampler(
        dataset, frames, chunk=4, batch_size=5, seed=0, episodes=episodes, tick_weights=weights
    )


def test_marks_and_interventions_are_read_by_the_numbers_of_any_view(recorded):
    dataset = open_dataset(recorded)
    assert marked_episodes(dataset) == {1: ("held at 1 tick (state_old 1)",)}
    some = open_dataset(recorded, ReadConfig(episodes="1,3", every=2))
    assert [*marked_episodes(some)] == [0]
    assert np.flatnonzero(intervention_ticks(some, 1)).tolist() == [2, 3]
    joined = Joined([dataset, open_dataset(recorded, ReadConfig(episodes="3,1"))], ["a", "b"])
    assert [*marked_episodes(joined)] == [1, 6]
    for view in (joined, WithoutCameras(joined)):
        assert [i for i in range(7) if intervention_ticks(view, i).any()] == [3, 5]
    # Every tick of the others is led by a person: a demonstration, not an intervention.
    assert not intervention_ticks(dataset, 0).any()


def test_interventions_are_drawn_as_often_as_their_weight_says_and_the_rest_once(recorded):
    dataset = open_dataset(recorded)
    plain, weighed = sampler(dataset, 1), sampler(dataset, 3)
    assert (len(plain), len(weighed)) == (60, 66)
    drawn = Counter()
    for index in range(66 // 5 + 1):
        batch = weighed.at(weighed.rows(index)[: 66 - 5 * index])
        drawn.update(zip(batch.episode.tolist(), batch.tick.tolist(), strict=True))
        for row, (episode, tick) in enumerate(zip(batch.episode, batch.tick, strict=True)):
            state = dataset.episode(int(episode)).state[tick]
            np.testing.assert_array_equal(batch.state[row], state)
    assert {place for place, count in drawn.items() if count == 3} == {(3, 4), (3, 5), (3, 6)}
    assert set(drawn.values()) == {1, 3}
    assert len(drawn) == 60
    assert len(weighed.with_episodes([3])) == TICKS  # validation weighs nothing


def test_marked_episodes_are_left_out_of_training_and_validation_unless_told(recorded, tmp_path):
    dataset, lines = open_dataset(recorded), []
    train(dataset, tmp_path / "without", TINY, config(steps=1), on_line=lines.append)
    (line,) = [line for line in lines if line.startswith("dataset:")]
    assert line == (
        "dataset: 1 of 5 episodes are marked and left out (--train.marked takes them), the first: "
        "episode 1: held at 1 tick (state_old 1)"
    )
    lines.clear()
    train(dataset, tmp_path / "with", TINY, config(steps=1, marked=True), on_line=lines.append)
    assert not any(line.startswith("dataset:") for line in lines)
    ticks = [
        json.loads((tmp_path / name / "training.json").read_text()) for name in ("without", "with")
    ]
    assert ticks[0] != ticks[1]
    only = open_dataset(recorded, ReadConfig(episodes="1"))
    two = open_dataset(recorded, ReadConfig(episodes="0:2"))
    with pytest.raises(BadInput, match="no episode is left: 1 of 1 episode is marked"):
        train(only, tmp_path / "none", TINY, config(steps=1, val_episodes=0))
    with pytest.raises(BadInput, match="every episode that is left is held out"):
        train(two, tmp_path / "none", TINY, config(steps=1, val_choice="0"))


def test_settings_of_marks_are_absent_from_files_at_their_defaults():
    assert not {"marked", "intervention_weight"} & TrainConfig().to_json().keys()
    changed = dataclasses.replace(TrainConfig(), intervention_weight=4, marked=True)
    assert TrainConfig.from_json(changed.to_json()) == changed
    with pytest.raises(BadInput, match=r"--train\.intervention-weight is 0"):
        TrainConfig(intervention_weight=0)
