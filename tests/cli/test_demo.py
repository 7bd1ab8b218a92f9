"""The demo: five phases that go on where they were stopped, and numbers that say all."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imitact.api.record import even_starts
from imitact.cli import demo, evaluate
from imitact.cli import record as record_verb
from imitact.cli.phases import STORE_EVERY_S, Phases
from imitact.core.errors import BadInput, DamagedFile
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
    """The dot's world stands in for the ALOHA scene, and for the registered environment."""
    monkeypatch.setattr(registry, "env_factory", lambda *given: worlds.make_dot)
    monkeypatch.setattr(registry, "expert_factory", lambda *given: worlds.make_dot_expert)
    monkeypatch.setattr(registry, "env_factory_for", lambda env, spec, gym: worlds.make_dot)
    monkeypatch.setattr(gym_aloha_reference, "RegisteredAloha", make_registered)


def make_registered(task: str) -> worlds.DotEnv:
    assert task == "cube"
    return worlds.DotEnv()


class Altered(worlds.DotEnv):
    """A world in which something else happens."""

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


def test_the_demo_goes_from_nothing_to_a_number_and_on_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "demo"

    # Stopped in training: what was recorded is kept.
    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stop)
        code, _, err = answer(capsys, *argv(out))
    assert code == 130
    assert "the same command continues" in err.splitlines()[-1]
    before = json.loads((out / "phases.json").read_text())
    assert before["done"] == ["record"]

    # Gone on with: nothing is recorded again.
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
    assert numbers["compared"]["chunking"] == "replay:50"
    assert numbers["compared"]["seeds"] == [1000, 1001]
    tried = [*numbers["demonstrations"]["seeds"], *numbers["demonstrations"]["failed_seeds"]]
    assert {*tried} == {*even_starts("cube", range(1000))[: len(tried)]}
    assert numbers["registered"]["same_rewards"] is True

    # Once more: nothing is done again, and it says the same.
    with monkeypatch.context() as patch:
        patch.setattr(record_verb, "make", stop)
        patch.setattr(loop, "train", stop)
        patch.setattr(evaluate, "count", stop)
        code, again, _ = answer(capsys, *argv(out))
    assert (code, again) == (0, told)
    assert json.loads((out / "demo.json").read_text()) == numbers

    # With other settings it is another demo, which wants another folder.
    line = is_refused(capsys, *argv(out, "--train.lr", "0.5"))
    assert f"train.lr was {PRESETS['quick'][1].lr}, is now 0.5" in line

    # Another training seed on the same demonstrations, which a false witness contradicts.
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


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_a_phase_adds_up_over_interruptions(tmp_path: Path):
    clock = Clock()
    begin = partial(Phases, tmp_path / "phases.json", {"seed": 1}, clock)
    phases = begin()

    def stopped() -> None:
        with phases.phase("train"):
            clock.now += 10
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not phases.done("train")

    again = begin()
    assert not again.done("train")
    with again.phase("train"):
        clock.now += 5
    assert again.done("train")
    assert begin().wall_s == {"train": 15.0}
    assert begin().done("train")


def test_a_kill_forgets_a_few_seconds_at_most(tmp_path: Path):
    clock = Clock()
    begin = partial(Phases, tmp_path / "phases.json", {}, clock)
    phases = begin()
    with phases.phase("record"):
        for _ in range(100):
            clock.now += 1
            phases.still_running()
            if clock.now % 7 == 0:  # as if it were killed here
                assert clock.now - begin().wall_s.get("record", 0.0) <= STORE_EVERY_S
    assert begin().wall_s == {"record": 100.0}


def test_other_settings_are_another_job(tmp_path: Path):
    phases = Phases(tmp_path / "phases.json", {"train": {"steps": 1, "lr": 2}, "seed": 0})
    with phases.phase("record"):
        pass
    with pytest.raises(BadInput, match=r"train\.steps was 1, is now 9\. Give the same"):
        Phases(tmp_path / "phases.json", {"train": {"steps": 9, "lr": 2}, "seed": 0})


@pytest.mark.parametrize("text", ["{", "[]", '{"done": []}'])
def test_a_damaged_account_is_not_believed(tmp_path: Path, text: str):
    (tmp_path / "phases.json").write_text(text)
    with pytest.raises(DamagedFile, match="Remove it"):
        Phases(tmp_path / "phases.json", {})


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
    monkeypatch.setattr(registry, "env_factory_for", world)
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


def test_demonstrations_of_another_layout_are_trained_on_as_they_are(
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


def test_each_task_has_its_working_area(monkeypatch: pytest.MonkeyPatch):
    assert demo.with_preset(None) == demo.with_preset("quick", "cube")
    for task, window in WORKSPACES.items():
        asked = demo.with_preset(None, task)
        assert (asked.task, asked.model.crop) == (task, window)
        assert demo.with_preset("released", task).model.crop == ""
    with pytest.raises(BadInput, match='task of the demo "knot"; expected cube, insertion'):
        demo.with_preset(None, "knot")
