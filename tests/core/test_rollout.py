"""Laws of running a policy on an environment, and of the contract's checks."""

from itertools import pairwise

import numpy as np
import pytest

from imitact.core.chunking import Ensemble, Replay
from imitact.core.errors import BadInput, ImitactError, NotFinite, SpecMismatch
from imitact.core.rollout import rollout
from imitact.core.types import Camera, LazyFrames, Observation, Spec, StepResult
from imitact.core.validate import (check_chunk, check_env, check_observation, check_policy, check_dataset)

SPEC = Spec(("x",), ("x",), ("rad",), ("rad",), (Camera("eye", 2, 3),), 50.0)


class Line:
    """A joint that goes where it is told; success beyond 0.5; counts the frames it renders."""

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
    """Each chunk rises by 0.1 a tick from the state it saw."""

    spec = SPEC

    def __init__(self, looks=False, k=5):
        self.looks = looks
        self.k = k

    def reset(self, seed):
        pass

    def chunk(self, observation):
        if self.looks:
            observation.frames["eye"]
        return observation.state[0] + 0.1 * np.arange(1, self.k + 1)[:, None]


def run(policy=None, env=None, **options):
    options = {"seed": 3, "chunking": Replay(5)} | options
    return list(rollout(policy or Climber(), env or Line(), **options))


def test_an_episode_is_fixed_by_its_seed():
    first, second, other = run(), run(), run(seed=4)
    assert [t.action.tolist() for t in first] == [t.action.tolist() for t in second]
    assert first[0].observation.state != other[0].observation.state


def test_a_tick_pairs_the_observation_with_the_action_that_answers_it():
    ticks = run()
    assert [t.index for t in ticks] == list(range(20))
    for before, after in pairwise(ticks):
        assert after.observation.state[0] == before.action[0]


def test_nothing_is_rendered_that_nobody_asked_for():
    env = Line()
    run(env=env)
    assert env.rendered == 0


def test_a_policy_that_looks_costs_one_frame_a_query():
    env = Line()
    run(Climber(looks=True), env)
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


def test_a_frame_of_a_past_tick_is_refused_not_taken_from_the_present():
    tick = run()[0]
    with pytest.raises(ImitactError, match="moved on"):
        tick.observation.frames["eye"]


def test_success_ends_the_episode_only_where_asked():
    assert len(run()) == 20
    short = run(stop_on_success=True)
    assert short[-1].success
    assert not any(t.success for t in short[:-1])


def test_the_step_cap_is_kept():
    assert len(run(step_cap=7)) == 7
    with pytest.raises(BadInput, match="at least 1"):
        run(step_cap=0)


def test_the_policy_is_asked_as_the_chunking_says():
    assert [t.index for t in run(chunking=Replay(4)) if t.chunk is not None] == [0, 4, 8, 12, 16]
    assert all(t.chunk is not None for t in run(chunking=Ensemble(0.01)))


class Tortoise(Line):
    """Remembers what it was told, and sags a little below it."""

    def reset(self, seed):
        self.told = []
        return super().reset(seed)

    def step(self, action):
        self.told.append(float(action[0]))
        return super().step(action - 0.01)


def test_a_robot_that_waits_for_its_first_answer_stays_where_it_is():
    env = Tortoise()
    start = float(env.reset(3).state[0])
    ticks = run(env=env, chunking=Replay(4, delay_ticks=2))
    assert env.told[:2] == [start, start]
    assert env.told[2] == pytest.approx(start + 0.1)  # row 0 of the answer to tick 0
    assert [t.index for t in ticks if t.chunk is not None][:2] == [0, 5]


def test_a_robot_with_nothing_left_to_execute_stays_where_it_was_sent():
    env = Tortoise()
    run(Climber(k=3), env, chunking=Replay(3, delay_ticks=3))
    assert env.told[5:9] == [env.told[5]] * 4
    assert env.told[9] == pytest.approx(env.told[5] - 0.01 + 0.1)


def test_a_late_answer_costs_one_frame_of_the_tick_that_asked():
    env = Line()
    ticks = run(Climber(looks=True, k=12), env, chunking=Ensemble(0.0, 5, delay_ticks=2))
    assert env.rendered == sum(t.chunk is not None for t in ticks) == 4


def test_a_robot_that_cannot_hold_its_joints_may_not_wait():
    class Blind(Line):
        spec = Spec(("y",), ("x",), ("rad",), ("rad",), (), 50.0)

    class Degrees(Line):
        spec = Spec(("x",), ("x",), ("deg",), ("rad",), (), 50.0)

    for world, says in ((Blind, "is not measured"), (Degrees, 'is measured in "deg"')):
        with pytest.raises(SpecMismatch, match=says):
            run(env=world(), chunking=Replay(4, delay_ticks=1))
        assert len(run(env=world(), chunking=Replay(4))) == 20


def test_a_policy_for_other_joints_is_refused_before_the_first_step():
    class Stranger(Climber):
        spec = Spec(("x",), ("y",), ("rad",), ("rad",), (), 50.0)

    with pytest.raises(SpecMismatch, match="action names are y, expected x"):
        run(Stranger())


def test_the_contract_holds_for_a_sound_world_and_policy():
    check_env(Line())
    env = Line()
    check_policy(Climber(), env.reset(0))
    check_observation(SPEC, env.reset(0))


def test_an_environment_that_forgets_its_seed_is_caught():
    class Forgetful(Line):
        def reset(self, seed):
            self.calls = getattr(self, "calls", 0) + 1
            return super().reset(self.calls)

    with pytest.raises(SpecMismatch, match="differ"):
        check_env(Forgetful())


def test_an_environment_that_takes_any_action_is_caught():
    class Careless(Line):
        def step(self, action):
            return super().step(np.zeros(1))

    with pytest.raises(SpecMismatch, match="must refuse"):
        check_env(Careless())


def test_a_reward_that_names_no_stage_is_caught():
    class Generous(Line):
        def step(self, action):
            outcome = super().step(action)
            return StepResult(outcome.observation, 9.0, outcome.success)

    with pytest.raises(SpecMismatch, match="not a stage"):
        check_env(Generous())


def test_a_policy_with_randomness_of_its_own_is_caught():
    class Moody(Climber):
        rng = np.random.default_rng(0)

        def chunk(self, observation):
            return self.rng.normal(size=(3, 1))

    with pytest.raises(SpecMismatch, match="two answers"):
        check_policy(Moody(), Line().reset(0))


def test_a_chunk_is_checked_for_shape_and_for_finite_numbers():
    with pytest.raises(SpecMismatch, match=r"\(K, 1\)"):
        check_chunk(SPEC, np.zeros((3, 2)))
    bad = np.zeros((3, 1))
    bad[2] = np.inf
    with pytest.raises(NotFinite, match="x is inf 2 ticks ahead"):
        check_chunk(SPEC, bad)


def test_an_observation_without_a_camera_is_named():
    with pytest.raises(SpecMismatch, match="camera eye is missing"):
        check_observation(SPEC, Observation(np.zeros(1), {}))
    with pytest.raises(SpecMismatch, match="uint8 of shape"):
        check_observation(SPEC, Observation(np.zeros(1), {"eye": np.zeros((4, 3, 3), np.uint8)}))
    with pytest.raises(NotFinite, match="not finite in x"):
        check_observation(SPEC, Observation(np.array([np.nan]), {}))


class OneEpisode:
    spec = SPEC
    lengths = (4,)
    fingerprint = "f"
    index = 0
    state = np.zeros((4, 1), np.float32)
    action = np.zeros((4, 1), np.float32)

    def episode(self, index):
        return self

    def frames(self, camera, start=0, stop=None):
        for _ in range(start, 4 if stop is None else stop):
            yield np.zeros((2, 3, 3), np.uint8)


def test_a_sound_dataset_passes_and_a_bad_tick_is_named():
    check_dataset(OneEpisode())

    class Broken(OneEpisode):
        action = np.array([[0], [0], [np.nan], [0]], np.float32)

    with pytest.raises(NotFinite, match="tick 2"):
        check_dataset(Broken())

    class Empty(OneEpisode):
        lengths = ()

    with pytest.raises(SpecMismatch, match="no episodes"):
        check_dataset(Empty())


def test_a_spec_refuses_what_cannot_be_meant():
    with pytest.raises(BadInput, match="more than once"):
        Spec(("x", "x"), ("x",), ("rad", "rad"), ("rad",), (), 50.0)
    with pytest.raises(BadInput, match="units"):
        Spec(("x",), ("x",), (), ("rad",), (), 50.0)
    with pytest.raises(BadInput, match="rate_hz"):
        Spec(("x",), ("x",), ("rad",), ("rad",), (), 0.0)
    with pytest.raises(BadInput, match="at least 1 pixel"):
        Camera("eye", 0, 4)
    with pytest.raises(SpecMismatch, match="there are"):
        SPEC.camera("top")
