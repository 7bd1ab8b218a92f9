"""Tests of examples/: each expert is short, keeps the contract, and succeeds in a stand-in env."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.core import validate
from imitact.core.types import Observation, Spec
from tests.support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES = 40


def load_example(name: str) -> Any:
    """Import examples/NAME.py."""
    path = next(p for p in EXAMPLES if p.stem == name)
    plan = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert plan is not None
    assert plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    return module


def spec(state: int, action: int) -> Spec:
    """Return a Spec of that many states and actions, without cameras."""
    states, actions = ([f"{n}{i}" for i in range(k)] for n, k in (("s", state), ("a", action)))
    ones = tuple("1" for _ in range(max(state, action)))
    return Spec(tuple(states), tuple(actions), ones[:state], ones[:action], (), 25.0)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_expert_has_at_most_forty_lines_and_does_not_import_imitact(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert "imitact" not in text


class Table:
    """A stand-in for XarmLift with the dimensions of gym-xarm 0.1.1.

    The hand moves by at most 5 mm per tick, the fingers take 40 ticks to close, and the cube moves
    with the hand once they have closed around it.
    """

    TOP = 0.575  # m: upper end of the arm's reach

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.eef = np.array([-0.36, -0.02, -0.04]) + rng.uniform(-0.05, 0.05, 3)
        east, north = rng.uniform(-0.05, 0.05, 2)
        self.obj = np.array([-0.15 + east, -0.1 + north, -0.06])
        self.finger, self.holds = 0.0, False

    def observed(self) -> Observation:
        state = np.append(self.eef, self.finger)
        return Observation(state, {}, SimpleNamespace(env=self))

    def step(self, action: np.ndarray) -> None:
        assert np.all(np.abs(action) <= 1), "gym-xarm refuses an action out of its bounds"
        moved = 0.005 * action[:3]
        if self.eef[2] > self.TOP:
            moved[2] = min(moved[2], 0.0)
        beside = np.linalg.norm((self.obj - self.eef)[:2])
        above = self.eef[2] > self.obj[2] + 0.03
        assert above or not 0.015 < beside < 0.05, "the fingers push the cube away"
        within = np.all(np.abs(self.obj - self.eef) < [0.02, 0.02, 0.025])
        before, self.finger = self.finger, np.clip(self.finger + 0.02 * action[3], 0.0, 0.8)
        self.holds = self.finger > 0.15 and (self.holds or bool(before <= 0.15 and within))
        self.eef = self.eef + moved
        self.obj = self.obj + moved if self.holds else np.array([*self.obj[:2], -0.06])


def test_the_expert_of_gym_xarm_lifts_the_cube_to_the_height_of_success() -> None:
    lift = load_example("xarm").Lift(spec(4, 4))
    validate.check_policy(lift, Table(0).observed())
    for seed in range(20):
        table = Table(seed)
        lift.reset(seed)
        for _ in range(290):
            table.step(lift.chunk(table.observed())[0])
        assert table.obj[2] > 0.5662 + 0.005, seed  # gym_xarm/tasks/lift.py, get_reward


class Sheet:
    """A stand-in for PushT with a disc for the T.

    The agent moves half of the way to its command each tick, and pushes the disc ahead of it.
    """

    RADIUS = 70.0  # px

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.agent, self.block = rng.uniform(100, 400, 2), rng.uniform(200, 350, 2)
        self.goal = np.array([256.0, 256.0])

    def observed(self) -> Observation:
        at = {"block_pose": self.block, "goal_pose": self.goal}
        info = {name: np.append(p - [0.0, 45.0], 0.0) for name, p in at.items()}
        return Observation(self.agent.copy(), {}, SimpleNamespace(info=info))

    def step(self, action: np.ndarray) -> None:
        assert np.all((action >= 0) & (action <= 512)), "out of the sheet"
        self.agent = self.agent + 0.5 * (action - self.agent)
        away = self.block - self.agent
        if (near := np.linalg.norm(away)) < self.RADIUS:
            self.block = self.agent + away / near * self.RADIUS


def test_the_expert_of_gym_pusht_pushes_the_block_to_its_goal() -> None:
    push = load_example("pusht").Push(spec(2, 2))
    validate.check_policy(push, Sheet(0).observed())
    for seed in range(20):
        sheet = Sheet(seed)
        push.reset(seed)
        for _ in range(300):
            sheet.step(push.chunk(sheet.observed())[0])
        assert np.linalg.norm(sheet.block - sheet.goal) < 10, seed
