"""The demo: five phases that continue after an interruption, and the numbers of its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from imitact.api.record import even_starts
from imitact.cli import demo, evaluate
from imitact.cli import record as record_verb
from imitact.core.errors import BadInput
from imitact.core.types import FloatArray, Observation, StepResult
from imitact.envs import gym_aloha_reference, registry
from imitact.envs.registry import TASK_TEXTS, WORKSPACES
from imitact.evaluation import report
from imitact.training import loop
from imitact.training.config import PRESETS
from tests.support import dot_env as worlds
from tests.support.command_line import answer, is_refused, tiny


@pytest.fixture(autouse=True)
def _dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the dot environment in place of the ALOHA scene and the registered environment."""
    monkeypatch.setattr(registry, "env_factory", lambda *given: worlds.make_dot)
    monkeypatch.setattr(registry, "expert_factory", lambda *_, **__: worlds.make_dot_expert)
    monkeypatch.setattr(registry, "env_for_policy", lambda *_, **__: (worlds.make_dot, {}))
    monkeypatch.setattr(gym_aloha_reference, "RegisteredAloha", make_registered)


def make_registered(task: str) -> worlds.DotEnv:
    assert task == "cube"
    return worlds.DotEnv()


class Altered(worlds.DotEnv):
    """An environment with other episodes and rewards."""

    def reset(self, seed: int) -> Observation:
        return super().reset(seed + 1)

    def step(self, action: FloatArray) -> StepResult:
        return dataclasses.replace(super().step(action), reward=0.5)


def make_altered(task: str) -> worlds.DotEnv:
    return Altered()


def argv(out: Path, *changes: str) -> list[str | Path]:
    """Return the command line of a tiny demo, with options changed or added."""
    few = (
        "--model.crop", "", "--demonstrations", "2", "--episodes", "3", "--compared-episodes",
        "2", "--registered-episodes", "2", "--videos", "1", "--workers", "1", "--chunking",
        "replay:4", "--setup-s", "3.5",
    )  # fmt: skip
    return ["demo", "--out", out, *tiny(*few, *changes)]


def test_the_demo_reaches_a_success_rate_and_continues_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "demo"

    # Interrupted while training: the demonstrations are kept.
    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stop)
        code, _, err = answer(capsys, *argv(out))
    assert code == 130
    assert "the same command continues" in err.splitlines()[-1]
    before = json.loads((out / "phases.json").read_text())
    assert before["done"] == ["record"]

    # Continued: nothing is recorded again.
    with monkeypatch.context() as patch:
        patch.setattr(record_verb, "make", stop)
        code, told, _ = answer(capsys, *argv(out))
    assert code == 0
    assert "of 3 (95 % interval" in told
    assert "cap 30 ticks, seeds 1000 to 1002, replay:4" in told
    assert "gave the same rewards, tick for tick (seeds 1000 to 1001)" in told
    for path in ("evaluation/videos/seed-1000.mp4", "demo.json", "training/policy"):
        assert f"{out / path}" in told
        assert (out / path).exists()

    rows = report.read(out / "evaluation").rows
    filmed = {1000, *[row.seed for row in rows if not row.success][:2]}
    films = {path.name for path in (out / "evaluation" / "videos").iterdir()}
    assert films == {f"seed-{seed}.mp4" for seed in filmed}

    numbers = json.loads((out / "demo.json").read_text())
    assert numbers["episodes"] == 3
    assert numbers["seeds"] == [1000, 1001, 1002]
    assert numbers["step_cap"] == 30
    assert numbers["chunking"] == "replay:4"
    assert len(numbers["interval"]) == 2
    assert numbers["interval"][0] <= numbers["successes"] / 3 <= numbers["interval"][1]
    wall_s = numbers["wall_s"]
    assert wall_s["setup"] == 3.5
    assert list(wall_s) == [
        "setup", "record", "train", "evaluate", "compare", "registered", "total",
    ]  # fmt: skip
    assert wall_s["total"] == pytest.approx(sum(wall_s.values()) - wall_s["total"], abs=0.11)
    assert wall_s["record"] == pytest.approx(before["wall_s"]["record"], abs=0.06)
    assert numbers["train_pflop"] > 0
    assert {"imitact", "python", "torch", "mujoco", "gym-aloha"} <= numbers["versions"].keys()
    assert numbers["processor"].endswith("cores")
    assert numbers["demonstrations"]["saved"] == 2
    assert numbers["demonstrations"]["deviations"]["pace"] > 0
    assert numbers["compared"]["chunking"] == "replay:8"  # the whole chunk
    assert numbers["compared"]["seeds"] == [1000, 1001]
    tried = [*numbers["demonstrations"]["seeds"], *numbers["demonstrations"]["failed_seeds"]]
    assert {*tried} == {*even_starts("cube", range(1000))[: len(tried)]}
    assert numbers["registered"]["same_rewards"] is True

    # Run again: no phase is repeated, and the output is the same.
    with monkeypatch.context() as patch:
        patch.setattr(record_verb, "make", stop)
        patch.setattr(loop, "train", stop)
        patch.setattr(evaluate, "count", stop)
        code, again, _ = answer(capsys, *argv(out))
    assert (code, again) == (0, told)
    assert json.loads((out / "demo.json").read_text()) == numbers

    # Other settings are another demo, which needs another folder.
    line = is_refused(capsys, *argv(out, "--train.lr", "0.5"))
    assert f"train.lr was {PRESETS['quick'][1].lr}, is now 0.5" in line

    # Another training seed on the same demonstrations; a registered environment that differs.
    monkeypatch.setattr(gym_aloha_reference, "RegisteredAloha", make_altered)
    other = argv(tmp_path / "other", "--data", str(out / "data"), "--train.seed", "1",
                 "--compared-episodes", "0")  # fmt: skip
    code, told, err = answer(capsys, *other)
    assert code == 2
    assert "gave other rewards (seeds 1000 to 1001)" in told
    assert "the registered environment gave other rewards than ours" in err.splitlines()[-1]
    numbers = json.loads((tmp_path / "other" / "demo.json").read_text())
    assert numbers["registered"]["same_rewards"] is False
    assert numbers["training"]["seed"] == 1
    assert not (tmp_path / "other" / "data").exists()


def make_registered_insertion(task: str) -> worlds.DotEnv:
    assert task == "insertion"
    return worlds.DotEnv()


def test_the_task_is_the_same_in_all_phases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def world(env: str, *given: Any) -> Any:
        asked.append(env)
        return worlds.make_dot

    monkeypatch.setattr(registry, "env_factory", world)
    monkeypatch.setattr(registry, "env_for_policy", lambda env, *_, **__: (world(env), {}))
    monkeypatch.setattr(gym_aloha_reference, "RegisteredAloha", make_registered_insertion)
    code, told, _ = answer(capsys, *argv(tmp_path / "demo", "--task", "insertion"))
    assert code == 0
    assert set(asked) == {"insertion"}
    assert "gym_aloha/AlohaInsertion-v0, made by gymnasium, gave the same rewards" in told
    numbers = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert numbers["task"] == "insertion"
    assert numbers["registered"]["env"] == "gym_aloha/AlohaInsertion-v0"
    recorded = json.loads((tmp_path / "demo" / "data" / "meta" / "imitact.json").read_text())
    assert recorded["settings"]["extra"]["env"] == "insertion"
    assert recorded["settings"]["task"] == TASK_TEXTS["insertion"]

    line = is_refused(capsys, *argv(tmp_path / "demo"))
    assert 'task was "insertion", is now not set' in line


def test_demonstrations_in_another_layout_are_trained_on_without_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from imitact.datasets.convert import convert
    from imitact.datasets.open import open_dataset
    from imitact.recording.recorder import record

    record(
        tmp_path / "a", make_env=worlds.make_dot, make_expert=worlds.make_dot_expert, episodes=2,
        task="go to the mark", seeds=range(1000),
    )  # fmt: skip
    convert(open_dataset(tmp_path / "a"), tmp_path / "b", "aloha-hdf5")
    code, out, err = answer(capsys, *argv(tmp_path / "demo", "--data", str(tmp_path / "b")))
    assert code == 0, err
    assert f"demonstrations: 2 in {tmp_path / 'b'}" in out
    told = json.loads((tmp_path / "demo/demo.json").read_text())["demonstrations"]
    assert told["fingerprint"] == open_dataset(tmp_path / "b").fingerprint
    assert "does not fit the demo's cube scene: rate is 7 Hz, expected 20 Hz" in is_refused(
        capsys, *argv(tmp_path / "c", "--data", str(tmp_path / "b"), "--read.rate-hz", "7")
    )


def test_each_task_has_its_own_workspace(monkeypatch: pytest.MonkeyPatch):
    assert demo.with_preset(None) == demo.with_preset("quick", "cube")
    for task, window in WORKSPACES.items():
        asked = demo.with_preset(None, task)
        assert (asked.task, asked.model.crop) == (task, window)
        assert demo.with_preset("released", task).model.crop == ""
    with pytest.raises(BadInput, match='task of the demo "knot"; expected cube, insertion'):
        demo.with_preset(None, "knot")
