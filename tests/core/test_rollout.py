"""Rollout: each tick pairs an observation with its action, and holds only frames of that tick."""

from itertools import pairwise

import numpy as np
import pytest

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, ImitactError, SpecMismatch
from imitact.core.rollout import rollout
from imitact.core.temporal_ensemble import Ensemble
from imitact.core.types import Camera, LazyFrames, Observation, Spec, StepResult

SPEC = Spec(("x",), ("x",), ("rad",), ("rad",), (Camera("eye", 2, 3),), 50.0)


class Line:
    """A joint that goes where it is commanded; success beyond 0.5; counts the frames it renders."""

    spec = SPEC
    step_cap = 20
    stages = ("away", "there")

    def __init__(self):
        self.rendered = 0
        self.tick = 0

    def look(self):
        tick = self.tick

        def read(_name):
            self.rendered += 1
            return np.full((2, 3, 3), tick, np.uint8)

        frames = LazyFrames(("eye",), read, lambda: self.tick == tick)
        return Observation(np.array([self.x]), frames)

    def reset(self, seed):
        self.tick = 0
        self.x = np.random.default_rng(seed).uniform(-0.1, 0.1)
        return self.look()

    def step(self, action):
        self.spec.check_action(action)
        self.tick += 1
        self.x = float(action[0])
        there = self.x > 0.5
        return StepResult(self.look(), float(there), there)

    def close(self):
        pass


class Climber:
    """Each chunk rises by 0.1 per tick from the observed state."""

    spec = SPEC

    def __init__(self, reads=False, k=5):
        self.reads = reads
        self.k = k

    def reset(self, seed):
        pass

    def chunk(self, observation):
        if self.reads:
            observation.frames["eye"]
        return observation.state[0] + 0.1 * np.arange(1, self.k + 1)[:, None]


def run(policy=None, env=None, **options):
    options = {"seed": 3, "chunking": Replay(5)} | options
    return list(rollout(policy or Climber(), env or Line(), **options))


def test_the_seed_determines_an_episode():
    first, second, other = run(), run(), run(seed=4)
    assert [t.action.tolist() for t in first] == [t.action.tolist() for t in second]
    assert first[0].observation.state != other[0].observation.state


def test_a_tick_pairs_the_observation_with_the_action_that_answers_it():
    ticks = run()
    assert [t.index for t in ticks] == list(range(20))
    for before, after in pairwise(ticks):
        assert after.observation.state[0] == before.action[0]


def test_a_frame_that_nobody_reads_is_not_rendered():
    env = Line()
    run(env=env)
    assert env.rendered == 0


def test_a_policy_that_reads_frames_costs_one_frame_per_query():
    env = Line()
    run(Climber(reads=True), env)
    assert env.rendered == 4


def test_kept_frames_belong_to_their_tick():
    env = Line()
    frames = [
        tick.observation.frames["eye"][0, 0, 0]
        for tick in rollout(Climber(), env, seed=0, chunking=Replay(5), keep=("eye",))
    ]
    assert frames == list(range(20))
    env = Line()
    for tick in rollout(Climber(), env, seed=0, chunking=Replay(5), keep=("eye",), keep_every=4):
        if tick.index % 4 == 0:
            assert tick.observation.frames["eye"][0, 0, 0] == tick.index
    assert env.rendered == 5


def test_a_frame_read_after_its_tick_is_refused():
    tick = run()[0]
    with pytest.raises(ImitactError, match="moved on"):
        tick.observation.frames["eye"]


def test_success_ends_the_episode_only_with_stop_on_success():
    assert len(run()) == 20
    short = run(stop_on_success=True)
    assert short[-1].success
    assert not any(t.success for t in short[:-1])


def test_the_step_cap_is_kept():
    assert len(run(step_cap=7)) == 7
    with pytest.raises(BadInput, match="at least 1"):
        run(step_cap=0)


def test_the_policy_is_queried_at_the_ticks_of_the_chunking():
    assert [t.index for t in run(chunking=Replay(4)) if t.chunk is not None] == [0, 4, 8, 12, 16]
    assert all(t.chunk is not None for t in run(chunking=Ensemble(0.01)))


class Sagging(Line):
    """Remembers its commands, and sags a little below them."""

    def reset(self, seed):
        self.commands = []
        return super().reset(seed)

    def step(self, action):
        self.commands.append(float(action[0]))
        return super().step(action - 0.01)


def test_a_robot_that_waits_for_its_first_chunk_holds_its_measured_joints():
    env = Sagging()
    start = float(env.reset(3).state[0])
    ticks = run(env=env, chunking=Replay(4, delay_ticks=2))
    assert env.commands[:2] == [start, start]
    assert env.commands[2] == pytest.approx(start + 0.1)  # row 0 of the answer to tick 0
    assert [t.index for t in ticks if t.chunk is not None][:2] == [0, 5]


def test_a_robot_with_nothing_left_to_execute_holds_its_last_command():
    env = Sagging()
    run(Climber(k=3), env, chunking=Replay(3, delay_ticks=3))
    assert env.commands[5:9] == [env.commands[5]] * 4
    assert env.commands[9] == pytest.approx(env.commands[5] - 0.01 + 0.1)


def test_a_late_answer_costs_one_frame_of_the_tick_of_its_query():
    env = Line()
    ticks = run(Climber(reads=True, k=12), env, chunking=Ensemble(0.0, 5, delay_ticks=2))
    assert env.rendered == sum(t.chunk is not None for t in ticks) == 4


def test_a_robot_that_cannot_hold_its_joints_is_refused_a_delay():
    class Blind(Line):
        spec = Spec(("y",), ("x",), ("rad",), ("rad",), (), 50.0)

    class Degrees(Line):
        spec = Spec(("x",), ("x",), ("deg",), ("rad",), (), 50.0)

    for env, says in ((Blind, "is not measured"), (Degrees, 'is measured in "deg"')):
        with pytest.raises(SpecMismatch, match=says):
            run(env=env(), chunking=Replay(4, delay_ticks=1))
        assert len(run(env=env(), chunking=Replay(4))) == 20


def test_a_policy_for_other_joints_is_refused_before_the_first_step():
    class Stranger(Climber):
        spec = Spec(("x",), ("y",), ("rad",), ("rad",), (), 50.0)

    with pytest.raises(SpecMismatch, match="action names are y, expected x"):
        run(Stranger())
