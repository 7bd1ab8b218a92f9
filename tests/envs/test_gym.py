"""Gymnasium adapter: any registered environment works as an Env."""

from __future__ import annotations

import json
import re
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import gym_dot  # registers its environments
import numpy as np
import pytest

from imitact.cli import main
from imitact.core import validate
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, DamagedFile, ImitactError, SpecMismatch
from imitact.core.rollout import rollout
from imitact.core.types import Camera
from imitact.datasets.open import open_dataset
from imitact.envs import gym, registry
from imitact.envs.gym import GymConfig, GymEnv
from imitact.evaluation import report
from imitact.parallel import worker_pool

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


def test_an_episode_ends_where_the_environment_ends_it() -> None:
    env = dot()
    ticks = list(rollout(gym_dot.Expert(env.spec), env, seed=5, chunking=Replay(1)))
    assert [tick.terminated for tick in ticks] == [False] * (len(ticks) - 1) + [True]
    assert ticks[-1].success
    assert len(ticks) < 50
    final = env.step(ticks[-1].action)
    assert final.terminated
    assert env._gym.unwrapped.steps == len(ticks), "it is not stepped after its end"
    assert env.reset(5).privileged.env.steps == 0
    assert not env.step(ticks[0].action).terminated


def test_a_time_limit_of_the_environment_ends_the_episode_without_success() -> None:
    env = dot(step_cap=500)
    still = ReplayOf(env.spec)
    ticks = list(rollout(still, env, seed=5, chunking=Replay(1)))
    assert len(ticks) == 60, "max_episode_steps"
    assert not any(tick.terminated or tick.success for tick in ticks)


class ReplayOf:
    """Commands the corner without the mark, for ever."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def reset(self, seed: int) -> None: ...

    def chunk(self, observation: Any) -> Any:
        return np.zeros((1, 2))


def test_a_frame_does_not_change_with_later_steps() -> None:
    env = dot()
    before = env.reset(0)
    kept = before.frames["pixels"].copy()
    env.step(np.array([1.0, 1.0]))
    assert np.array_equal(before.frames["pixels"], kept)


def test_states_of_the_environment_follow_those_of_the_robot() -> None:
    env = dot("blind", cameras=(), environment=("mark",))
    assert env.spec.state_names == ("agent_pos_0", "agent_pos_1", "mark_0", "mark_1")
    assert env.spec.environment_names == ("mark_0", "mark_1")
    observation = env.reset(3)
    assert np.array_equal(observation.state[2:], observation.privileged.info["mark"])
    alone = dot("blind", cameras=(), state=(), environment=("mark",))
    assert alone.spec.environment_size == alone.spec.state_size == 2
    with pytest.raises(SpecMismatch, match=r'no state "goal".*here --gym.environment is wrong'):
        dot("blind", cameras=(), environment=("goal",))


def test_settings_of_a_recording_name_environment_states_only_where_there_are_any() -> None:
    """An unfinished recording of an earlier version continues."""
    assert "environment" not in GymConfig().to_json()
    given = GymConfig(environment=("mark",))
    assert GymConfig.from_json(given.to_json()) == given.completed()


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
    "no module": (
        {"module": "gym_of_nobody"},
        "no Python module gym_of_nobody, neither installed .*--gym.module FILE.py",
    ),
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recording of three demonstrations and a training on it, by commands as a new user's."""
    root = tmp_path_factory.mktemp("gym")
    data, run = root / "data", root / "run"
    (root / "my_expert.py").write_text("from gym_dot import Expert as MyExpert\n")
    record = ["record", *ENV, "--gym.state-names", "x", "y", "--gym.action-names", "x", "y"]
    record += ["--gym.units", "m", "m", "m", "m", "--expert", f"{root / 'my_expert.py'}:MyExpert"]
    assert main.run([*record, "--episodes", "3", "--workers", "1", "--out", str(data)]) == 0
    assert main.run(["check", str(data)]) == 0
    train = ["train", str(data), "--out", str(run), "--preset", "quick", "--train.steps", "2"]
    train += [*SMALL, "--train.val-episodes", "0", "--train.num-threads", "1"]
    assert main.run([*train, "--train.checkpoint-every", "1"]) == 0, "check finds nothing"
    return data, run


def test_no_tick_after_the_end_of_an_episode_is_recorded(trained: tuple[Path, Path]) -> None:
    dataset = open_dataset(trained[0])
    assert len(dataset.lengths) == 3
    for index, length in enumerate(dataset.lengths):
        state = dataset.episode(index).state
        assert length < 50, "an episode ends with its success"
        assert (np.abs(np.diff(state, axis=0)).max(axis=1) > 1e-4).all()


def test_what_was_said_for_the_demonstrations_is_not_asked_again(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(trained[1])
    evaluate = ["evaluate", run, "--episodes", "2", "--workers", "1", "--out"]
    assert main.run([*evaluate, str(tmp_path / "a")]) == 0, capsys.readouterr().err
    assert main.run([*evaluate, str(tmp_path / "b"), *ENV]) == 0, capsys.readouterr().err
    names = [report.read(tmp_path / each).plan.names for each in "ab"]
    assert names[0] == names[1]
    assert names[0]["env"] == ENV[1]
    assert json.loads(names[0]["gym"])["units"] == ["m"] * 4
    # What is given wins.
    assert main.run([*evaluate, str(tmp_path / "c"), "--gym.success", "mark"]) == 0
    assert json.loads(report.read(tmp_path / "c").plan.names["gym"])["success"] == "mark"
    assert main.run([*evaluate, str(tmp_path / "d"), "--gym.state-names", "x", "z"]) == 2
    message = capsys.readouterr().err
    assert "state names are x, z, expected x, y" in message
    assert "--gym.state-names" in message
    assert f"imitact check {ENV[1]}" in message
    assert not (tmp_path / "d").exists()


def test_a_policy_of_data_without_units_takes_those_of_the_environment(tmp_path: Path) -> None:
    own = dot().spec
    unknown = ("unknown", "unknown")
    spec = replace(own, state_names=("shoulder", "elbow"), action_names=("shoulder", "elbow"),
                   state_units=unknown, action_units=unknown)  # fmt: skip
    make, _ = registry.env_for_policy(ENV[1], spec)
    spec.check_same(make().spec, "the environment", "the policy")
    units = GymConfig(units=("rad",) * 4)
    make, _ = registry.env_for_policy(ENV[1], spec, units)
    assert make().spec.action_units == ("rad", "rad")
    spec.check_same(make().spec, "the environment", "the policy")


def test_a_policy_names_no_file_to_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """A policy may come from anywhere; code is only run where the command names it."""
    spec = dot().spec
    for recorded_in, says in (
        ({"env": "evil.py:Env"}, "give --env evil.py:Env"),
        ({"env": "os:abort"}, "give --env os:abort"),
    ):
        with pytest.raises(BadInput, match=says):
            registry.env_name_for("", recorded_in)
    recorded = {"env": ENV[1], "gym": GymConfig(module="evil.py").to_json()}
    with pytest.raises(BadInput, match=r"--gym\.module evil\.py; give it again"):
        registry.env_for_policy(ENV[1], spec, recorded_in=recorded)
    for damaged in ({"success": 3}, {"units": "m"}, {"colour": "red"}):
        with pytest.raises(DamagedFile):
            registry.env_for_policy(ENV[1], spec, recorded_in={"env": ENV[1], "gym": damaged})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gym.make", '{"tells": false}'], r"no is_success, only mark.*--gym\.success"),
        (["--gym.make", '{"fails": "a motor is missing"}'], r"a motor is missing \(.*gym_dot\.py"),
        (["--gym.state-names", "x"], "--gym.state-names has 1 entries"),
        (["--gym.units", "m"], "--gym.units has 1 entries"),
    ],
)
def test_what_is_wrong_is_found_before_workers_start_and_leaves_no_folder(
    options: list[str],
    says: str,
    trained: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_pool(*_: Any, **__: Any) -> Any:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(worker_pool.WorkerPool, "__init__", no_pool)
    (tmp_path / "my_expert.py").write_text("from gym_dot import Expert\n")
    record = ["record", *ENV, "--expert", f"{tmp_path / 'my_expert.py'}:Expert"]
    run = str(trained[1])
    for verb in (record, ["evaluate", run], ["tune", run, "--delays", "0"]):
        assert main.run([*verb, *options, "--out", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert re.search(says, lines[-1]), lines
        assert not (tmp_path / "out").exists()
    assert f"imitact check {ENV[1]}" in lines[-1] or "entries" in lines[-1]


def test_a_slow_tick_is_told_at_once_with_the_remedy(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    registry.try_first_ticks(ENV[1], dot(), on_line=told.append)
    assert told == []
    monkeypatch.setattr(registry, "SLOW_TICK_S", 0.0)
    registry.try_first_ticks(ENV[1], dot(), on_line=told.append)
    assert "model.vis.quality.shadowsize" in told[0]


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
