"""States of the environment, from demonstrations without a camera to an exported file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gym_dot
import numpy as np
import pytest

from imitact.cli import main
from imitact.core.chunking import Replay
from imitact.core.feature_statistics import Stats
from imitact.core.rollout import rollout
from imitact.core.types import Dataset, ExtraColumn, Observation
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.video_config import VideoConfig
from imitact.deploy import runtime
from imitact.envs.gym import GymConfig, GymEnv
from imitact.evaluation import report
from imitact.models.config import ActConfig
from imitact.models.interop import lerobot_writer
from imitact.models.policy import TorchPolicy
from imitact.quality.fix import FixPlan, KeptTicks, write_fixed

NAME = "gym_dot/Dot-v0"
BLIND = GymConfig(make='{"obs_type": "blind"}', cameras=(), environment=("mark",))
GYM = ["--env", f"gym:{NAME}", "--gym.make", BLIND.make, "--gym.cameras"]
STORED = "observation.environment_state"
SMALL = [
    "--model.hidden-dim", "16", "--model.num-heads", "2", "--model.dim-feedforward", "16",
    "--model.encoder-layers", "1", "--model.chunk-size", "6", "--train.steps", "2",
    "--train.num-threads", "1", "--train.val-episodes", "0", "--ignore-errors",
]  # fmt: skip


def lerobots(out: Path) -> list[str]:
    """Write demonstrations as LeRobot does, with a feature of its own, and return how to train."""
    env = GymEnv(NAME, BLIND)
    spec = replace(env.spec, state_names=("x", "y"), state_units=("1", "1"), environment_size=0)
    columns = {STORED: ExtraColumn("<f4", 2)}
    staging = out / ".staging"
    staging.mkdir(parents=True)
    writer = LeRobotWriter(
        out, spec, task="go", video=VideoConfig(), staging=staging, extra_columns=columns
    )
    for seed in range(3):
        ticks = list(rollout(gym_dot.Expert(env.spec), env, seed=seed, chunking=Replay(1)))
        state, action = (
            np.stack(rows)
            for rows in zip(*((t.observation.state, t.action) for t in ticks), strict=True)
        )
        facts = {"format": 1, "settings": {}, "episodes": [], "failed": []}
        writer.append(state[:, :2], action, {}, {}, facts, extra_values={STORED: state[:, 2:]})
    return ["--read.environment", STORED]


def feature_stats(dataset: Dataset, name: str) -> Stats:
    rows = np.concatenate([getattr(dataset.episode(n), name) for n in range(3)])
    return Stats(rows.mean(0), rows.std(0), rows.min(0), rows.max(0), len(rows))


def recorded(out: Path) -> list[str]:
    expert = ["--expert", "gym_dot:Expert", "--gym.environment", "mark"]
    record = ["record", *GYM, *expert, "--episodes", "3", "--workers", "1", "--out", str(out)]
    assert main.run(record) == 0
    return []


def test_an_imported_policy_takes_the_names_of_its_environment_states_from_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, policy = tmp_path / "data", tmp_path / "policy"
    read = lerobots(data)
    dataset = open_dataset(data, ReadConfig(environment=(STORED,)))
    numbers = {n: feature_stats(dataset, n) for n in ("state", "action")}
    tiny = ActConfig(
        chunk_size=4, hidden_dim=8, num_heads=2, dim_feedforward=8, encoder_layers=1,
        vae_encoder_layers=1, latent_dim=2,
    )  # fmt: skip
    net = TorchPolicy.create(dataset.spec, numbers, tiny, seed=0, fingerprint="")
    lerobot_writer.write(net, tmp_path / "lerobot")
    (tmp_path / "lerobot" / "imitact.json").unlink()  # LeRobot writes none
    command = ["import-policy", str(tmp_path / "lerobot"), "--out", str(policy)]
    assert main.run([*command, *read]) == 2
    assert "environment) says how a dataset is read, and there is none" in capsys.readouterr().err
    assert main.run([*command, "--data", str(data)]) == 2
    message = capsys.readouterr().err
    assert "0 states of the environment were given, the policy has 2" in message
    assert main.run([*command, "--data", str(data), *read]) == 0
    assert TorchPolicy.load(policy).spec == dataset.spec


def test_a_copy_keeps_which_states_are_the_environments(tmp_path: Path) -> None:
    data = tmp_path / "data"
    read = lerobots(data)
    dataset = open_dataset(data, ReadConfig(environment=(STORED,)))
    assert dataset.spec.environment_size == 2
    for layout in ("lerobot", "aloha-hdf5"):
        convert = ["convert", str(data), *read, "--to", layout, "--out", str(tmp_path / layout)]
        assert main.run(convert) == 0
    kept = tuple(KeptTicks(n, 0, length) for n, length in enumerate(dataset.lengths))
    write_fixed(dataset, FixPlan(kept, {}, dataset.lengths), tmp_path / "fixed")
    for copy in ("lerobot", "aloha-hdf5", "fixed"):
        spec = open_dataset(tmp_path / copy).spec
        assert (spec.state_names, spec.environment_size) == (dataset.spec.state_names, 2), copy


@pytest.mark.parametrize("make", [lerobots, recorded])
def test_a_policy_sees_the_state_of_the_environment_from_training_to_its_file(
    make: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "file"
    read = make(data)
    assert main.run(["train", str(data), "--out", str(run), *read, *SMALL]) == 0
    policy = TorchPolicy.load(run / "policy")
    assert policy.spec.state_size == 4
    assert policy.spec.environment_size == 2
    assert policy.net.environment_proj.in_features == 2

    evaluate = ["evaluate", str(run), "--episodes", "2", "--workers", "1", "--out"]
    given = [] if make is recorded else [*GYM, "--gym.environment", "mark"]
    assert main.run([*evaluate, str(tmp_path / "e"), *given]) == 0, capsys.readouterr().err
    assert len(report.read(tmp_path / "e").rows) == 2
    if make is lerobots:
        capsys.readouterr()
        assert main.run([*evaluate, str(tmp_path / "f"), *GYM]) == 2
        message = capsys.readouterr().err
        assert "2 states, expected 4" in message
        assert "--gym.environment" in message
        every = ["--gym.state", "agent_pos", "mark"]  # the same numbers, all called the robot's
        assert main.run([*evaluate, str(tmp_path / "f"), *GYM, *every]) == 2
        message = capsys.readouterr().err
        assert "states of the environment are none, expected environment_state_0" in message
        assert "--gym.environment" in message
        assert "evaluating" not in message, "no worker has started"
        assert not (tmp_path / "f").exists()

    export = ["export", str(run), "--data", str(data), *read, "--out", str(out), "--to", "onnx"]
    export += ["--observations", "4", "--calls", "2", "--torch-calls", "1", "--episodes", "0"]
    assert main.run(export) == 0, capsys.readouterr().err
    file = runtime.load(out / "policy.onnx")
    assert file.spec == policy.spec
    state = open_dataset(data).episode(0).state[0]
    seen = Observation(np.array([*state[:2], 0.5, 0.7]))
    moved = Observation(np.array([*state[:2], 0.9, 0.2]))
    assert np.allclose(file.chunk(seen), policy.chunk(seen), atol=1e-5)
    assert not np.allclose(policy.chunk(seen), policy.chunk(moved), atol=1e-3)
