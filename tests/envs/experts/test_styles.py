"""Styles of the scripted experts: two ways of doing the task, of which each episode has one."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.rollout import rollout
from imitact.envs import registry
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.registry import EXPERTS, make_expert
from imitact.envs.experts.scripted import ScriptedExpert

TASKS = list(EXPERTS)

HELD = {"cube": 0, "insertion": 1}
"""The object that the left hand holds at the end: the cube, the socket."""


def expert_of(task: str, styles: int) -> ScriptedExpert:
    expert = make_expert(task, 1.0, styles)
    assert isinstance(expert, ScriptedExpert)
    return expert


@pytest.mark.parametrize("task", TASKS)
def test_a_second_style_changes_nothing_else_of_what_is_drawn(task: str) -> None:
    one, two = expert_of(task, 1), expert_of(task, 2)
    drawn = []
    for seed in range(200):
        one.reset(seed)
        two.reset(seed)
        assert "style" not in one.variation
        drawn.append(two.variation.pop("style"))
        assert two.variation == one.variation
    assert set(drawn) == {0.0, 1.0}
    assert 80 <= sum(drawn) <= 120


@pytest.mark.parametrize("task", TASKS)
def test_both_styles_succeed_each_on_its_side(task: str) -> None:
    env, expert = AlohaEnv(task, ()), expert_of(task, 2)
    sides: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed in range(6):
        ticks = list(rollout(expert, env, seed=seed))
        assert all(tick.success for tick in ticks[-10:])
        pose = ticks[-1].observation.privileged.pose(HELD[task])
        sides[expert.variation["style"]].append(float(pose[0]))
    assert min(map(len, sides.values())) > 0
    assert max(sides[0.0]) < min(sides[1.0]) - 0.04


def test_another_number_of_styles_is_refused() -> None:
    for styles in (0, 3):
        with pytest.raises(BadInput, match=f"styles is {styles}; expected 1 or 2"):
            make_expert("cube", 1.0, styles)


def test_a_recording_of_one_style_names_no_style_as_before() -> None:
    assert "styles" not in registry.demonstrator_settings("cube", 1.0)
    assert registry.demonstrator_settings("cube", 1.0, styles=2)["styles"] == 2
    made = registry.expert_factory("cube", 1.0, styles=2)()
    assert isinstance(made, ScriptedExpert)
    made.reset(0)
    assert np.isin(made.variation["style"], (0.0, 1.0))
