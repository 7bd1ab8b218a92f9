"""Contract checks: a sound policy, environment and dataset pass; each violation is caught."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import NotFinite, SpecMismatch
from imitact.core.types import Observation, StepResult
from imitact.core.validate import (
    check_chunk,
    check_dataset,
    check_env,
    check_policy,
)
from tests.core.test_rollout import SPEC, Climber, Line


def test_a_sound_environment_and_policy_pass():
    check_env(Line())
    env = Line()
    check_policy(Climber(), env.reset(0))
    SPEC.checked(env.reset(0))


def test_an_environment_that_forgets_its_seed_is_caught():
    class Forgetful(Line):
        def reset(self, seed):
            self.calls = getattr(self, "calls", 0) + 1
            return super().reset(self.calls)

    with pytest.raises(SpecMismatch, match="differ"):
        check_env(Forgetful())


def test_an_environment_that_accepts_any_action_is_caught():
    class Careless(Line):
        def step(self, action):
            return super().step(np.zeros(1))

    with pytest.raises(SpecMismatch, match="must refuse"):
        check_env(Careless())


def test_a_reward_that_is_not_a_stage_is_caught():
    class Generous(Line):
        def step(self, action):
            result = super().step(action)
            return StepResult(result.observation, 9.0, result.success)

    with pytest.raises(SpecMismatch, match="not a stage"):
        check_env(Generous())


def test_a_policy_with_its_own_randomness_is_caught():
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
    with pytest.raises(SpecMismatch, match="no frame of camera eye"):
        SPEC.checked(Observation(np.zeros(1), {}))
    with pytest.raises(SpecMismatch, match="uint8 of shape"):
        SPEC.checked(Observation(np.zeros(1), {"eye": np.zeros((4, 3, 3), np.uint8)}))
    with pytest.raises(NotFinite, match="not finite in x"):
        SPEC.checked(Observation(np.array([np.nan]), {}))


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
