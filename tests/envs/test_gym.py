"""Gymnasium adapter: any registered environment works as an Env."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import gym_dot  # registers its environments
import numpy as np
import pytest

from imitact.cli import main
from imitact.core import validate
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, ImitactError, SpecMismatch
from imitact.core.rollout import rollout
from imitact.core.types import Camera
from imitact.datasets.open import open_dataset
from imitact.envs import gym
from imitact.envs.gym import GymConfig, GymEnv

DOT = "gym_dot/Dot-v0"
ENV = ["--env", f"gym:{DOT}"]
SMALL = [
    "--model.chunk-size", "10", "--model.input-height", "0", "--model.input-width", "0",
    "--model.backbone-width", "8", "--model.backbone-stages", "2", "--model.hidden-dim", "16",
    "--model.num-heads", "2", "--model.dim-feedforward", "16", "--model.encoder-layers", "1",
    "--model.random-shift", "0",
]  # fmt: skip


def dot(obs_type: str = "pixels_agent_pos", **settings: Any) -> GymEnv:
    make = json.dumps({"obs_type": obs_type})
    return GymEnv(DOT, GymConfig(make=make, **settings))


@pytest.mark.parametrize(
    ("obs_type", "settings", "cameras"),
    [
        ("pixels_agent_pos", {}, [Camera("pixels", 48, 64)]),
        ("cameras", {}, [Camera("top", 48, 64), Camera("side", 48, 32)]),
        (
            "nested",
            {"state": ("robot/x", "robot/y"), "cameras": ("top=images/front",)},
            [Camera("top", 48, 64)],
        ),
        ("nested", {"state": ("vector",), "cameras": ("images",)}, [Camera("front", 48, 64)]),
    ],
)
def test_state_and_frames_are_found_at_any_key(
    obs_type: str, settings: dict[str, Any], cameras: list[Camera]
) -> None:
    env = dot(obs_type, **settings)
    assert list(env.spec.cameras) == cameras
    assert (env.spec.state_size, env.spec.action_size, env.spec.rate_hz) == (2, 2, 20.0)
    assert env.step_cap == 60
    validate.check_env(env)
    first = env.reset(3)
    assert first.state.tolist() == pytest.approx(first.privileged.env.dot.tolist())


def test_an_ended_environment_repeats_its_last_result() -> None:
    env = dot()
    expert = gym_dot.Expert(env.spec)
    ticks = list(rollout(expert, env, seed=5, chunking=Replay(1)))
    done = [tick.success for tick in ticks].index(True)
    assert 0 < done < 50
    assert all(tick.success for tick in ticks[done:])
    assert env.reset(5).privileged.env.steps == 0
    list(rollout(expert, env, seed=5, chunking=Replay(1)))
    assert env._gym.unwrapped.steps == done + 1, "no step after the end"


def test_a_frame_does_not_change_with_later_steps() -> None:
    env = dot()
    before = env.reset(0)
    kept = before.frames["pixels"].copy()
    env.step(np.array([1.0, 1.0]))
    assert np.array_equal(before.frames["pixels"], kept)


def test_success_comes_from_info_or_from_the_reward() -> None:
    env = dot(success_reward=-0.3)
    ticks = list(rollout(gym_dot.Expert(env.spec), env, seed=5, chunking=Replay(1)))
    assert [t.success for t in ticks] == [t.reward >= -0.3 for t in ticks]
    assert any(t.success and not t.observation.privileged.info.get("is_success") for t in ticks)
    without = GymEnv(DOT, GymConfig(make='{"tells": false}'))
    without.reset(0)
    with pytest.raises(SpecMismatch, match=r"no is_success, only mark\. .*--gym\.success-reward"):
        without.step(np.zeros(2))


def test_actions_are_clipped_to_the_action_space() -> None:
    env = dot()
    env.reset(0)
    beyond = env.step(np.array([7.0, -3.0])).observation.state
    env.reset(0)
    assert np.array_equal(env.step(np.array([1.0, 0.0])).observation.state, beyond)


@pytest.mark.parametrize("remake", [False, True])
def test_with_remake_an_episode_does_not_depend_on_previous_ones(
    remake: bool,
) -> None:
    env = GymEnv(DOT, GymConfig(make='{"leaves": true}', remake=remake))
    firsts, envs = [], []
    for seed in (5, 5, 6, 5):
        firsts.append(env.reset(seed))  # a kept observation does not keep its environment alive
        envs.append(weakref.ref(firsts[-1].privileged.env))
        env.step(np.array([1.0, 1.0]))
    starts = [first.state.tolist() for first in firsts]
    assert (starts[0] == starts[1] == starts[3]) is remake
    assert starts[2] != starts[0]
    assert [made() is None for made in envs] == [remake, remake, remake, False]


def test_remaking_an_environment_that_an_expert_still_holds_is_refused() -> None:
    env = dot(remake=True)
    held = env.reset(0).privileged.env
    with pytest.raises(ImitactError, match=r"must not keep observation\.privileged\.env"):
        env.reset(1)
    assert held is not None


def test_a_closed_environment_is_destroyed_and_cannot_be_used() -> None:
    env = dot()
    kept = env.reset(0)
    unwrapped = weakref.ref(kept.privileged.env)
    env.close()
    assert unwrapped() is None
    env.close()
    for use in (lambda: kept.privileged.env, lambda: env.reset(0), lambda: env.step(kept.state)):
        with pytest.raises(ImitactError, match=r"closed|reset"):
            use()


def test_a_module_that_fails_to_import_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gym_of_glass.py").write_text("None.glGetError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInput, match=r"gym_of_glass cannot be imported: AttributeError: .*glGet"):
        GymEnv("gym_of_glass/Any-v0")


REFUSED = {
    "no such state": (
        {"make": '{"obs_type": "state"}'},
        r'no state "agent_pos"\. It observes one array, float64 of shape \(2,\).*obs_type',
    ),
    "another key": ({"state": ("joints",)}, r'no state "joints"\. It observes pixels uint8'),
    "not a frame": (
        {"cameras": ("agent_pos",)},
        r"agent_pos is float32 of shape \(2,\), expected uint8",
    ),
    "a missing name": ({"action_names": ("x",)}, "--gym.action-names has 1 entries, .* needs 2"),
    "not JSON": ({"make": "obs_type"}, "not JSON"),
    "not an object": ({"make": "[]"}, "expected a JSON object"),
    "an unknown argument": ({"make": '{"colour": 1}'}, "cannot be made with --gym.make"),
    "no display": (
        {"make": '{"breaks": "no display"}'},
        "cannot be made with --gym.make .*RuntimeError: no display",
    ),
    "no module": ({"module": "gym_of_nobody"}, "pip install gym-of-nobody"),
    "half a camera": ({"cameras": ("top=",)}, "expected KEY or NAME=KEY"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_do_not_fit_are_refused_with_the_choices(case: str) -> None:
    settings, message = REFUSED[case]
    with pytest.raises(BadInput, match=message):
        GymEnv(DOT, GymConfig(**settings))


def test_an_unregistered_name_or_an_endless_environment_is_refused() -> None:
    with pytest.raises(BadInput, match="gymnasium has no environment gym_dot/Other-v0"):
        GymEnv("gym_dot/Other-v0")
    with pytest.raises(BadInput, match=r"no max_episode_steps.*--gym\.step-cap"):
        GymEnv("gym_dot/Endless-v0")
    endless = GymConfig(step_cap=7)
    assert GymEnv("gym_dot/Endless-v0", endless).step_cap == 7
    with pytest.raises(ImitactError, match="reset"):
        dot().step(np.zeros(2))


def test_record_train_and_evaluate_work_with_a_gymnasium_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a new user would: three commands, and a file with an expert."""
    data, run, out = (str(tmp_path / name) for name in ("data", "run", "out"))
    (tmp_path / "my_expert.py").write_text("from gym_dot import Expert as MyExpert\n")
    expert = f"{tmp_path / 'my_expert.py'}:MyExpert"
    env = [*ENV, "--gym.state-names", "x", "y", "--gym.action-names", "x", "y"]
    record = ["record", *env, "--expert", expert, "--episodes", "3", "--out", data]
    assert main.run([*record, "--workers", "1", "--task", "bring the dot to the mark"]) == 0
    dataset = open_dataset(data)
    assert len(dataset.lengths) == 3
    assert max(dataset.lengths) < 60, "an episode ends when its success has held"
    for index, length in enumerate(dataset.lengths):
        state = dataset.episode(index).state
        assert np.array_equal(state[-9:], state[[-9]].repeat(9, axis=0)), length
    train = ["train", data, "--out", run, "--preset", "quick", "--train.steps", "2"]
    assert main.run([*train, *SMALL, "--train.val-episodes", "0", "--train.num-threads", "1"]) == 0
    evaluate = ["evaluate", f"{run}/policy", "--out", out, "--episodes", "2"]
    assert main.run([*evaluate, *env, "--workers", "1"]) == 0
    assert "of 2" in capsys.readouterr().out
    assert main.run([*evaluate[:2], "--out", out + "2", *ENV]) == 2
    assert "does not fit the policy: state names are" in (message := capsys.readouterr().err)
    assert "expected x, y" in message


def test_an_unusable_expert_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("class Nothing:\n    def __init__(self, spec): ...\n")
    for expert, message in (
        ("", "has no scripted expert"),
        ("somewhere", "expected FILE.py:NAME"),
        (f"{tmp_path}/none.py:Expert", "there is no file"),
        (f"{broken}:Expert", 'for the expert "Expert"; expected Nothing'),
        (f"{broken}:Nothing", "needs spec, reset(seed) and chunk(observation)"),
    ):
        argv = ["record", *ENV, "--expert", expert, "--out", str(tmp_path / "out")]
        assert main.run(argv) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_importing_the_adapter_does_not_import_gymnasium() -> None:
    assert "gymnasium" in sys.modules  # imported by gym_dot
    source = Path(gym.__file__).read_text()
    assert "\nimport gymnasium" not in source
