"""Material of the fault tests: a small file of every kind that imitact writes, to be damaged."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from imitact.core.errors import DamagedFile
from imitact.core.feature_statistics import Stats
from imitact.datasets.lerobot.checksums import CHECKSUM_FOLDER, DatasetChecksums
from imitact.evaluation import report, runner
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.recording.recorder import record
from imitact.training import checkpoint as checkpoints
from imitact.training.checkpoint import Checkpoint
from imitact.training.metrics import MetricsLog
from tests.support.dot_env import TWO_CAMERAS, DotEnv, DotExpert, dot_spec
from tests.support.tiny_arm import Reacher, TinyArm

TINY = ActConfig(
    chunk_size=3, input_height=24, input_width=32, backbone_width=8, backbone_stages=1,
    backbone_norm="batch", hidden_dim=8, num_heads=2, dim_feedforward=8, encoder_layers=1,
    use_vae=False, latent_dim=2, dropout=0.0,
)  # fmt: skip
TICKS = 8


def dataset(out: Path, episodes: int = 2) -> Path:
    """Record demonstrations of 8 ticks in the dot environment, with two cameras."""
    record(
        out,
        make_env=partial(DotEnv, TWO_CAMERAS, TICKS),
        make_expert=DotExpert,
        episodes=episodes,
        task="go to the mark",
        seeds=range(1000),
        hold_ticks=2,
    )
    return out


def untrained_policy(seed: int = 0) -> TorchPolicy:
    """Return an untrained policy for the dot environment."""
    rows = np.random.default_rng(seed).normal(size=(2, 2))
    stats = Stats(rows[0], np.abs(rows[1]) + 0.1, rows[0] - 1, rows[0] + 1, 60)
    return TorchPolicy.create(
        dot_spec(TWO_CAMERAS), {"state": stats, "action": stats}, TINY, seed=seed, fingerprint="ab"
    )


def policy(out: Path, seed: int = 0) -> Path:
    """Write the folder of a policy."""
    return untrained_policy(seed).save(out)


def checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint of a step."""
    made = untrained_policy(step)
    tensors = {f"net.{n}": value.contiguous() for n, value in made.net.state_dict().items()}
    state = Checkpoint(step, {**tensors, "random.cpu": torch.get_rng_state()}, {"rate": 0.1 * step})
    return checkpoints.save(folder, state, made.save)


def evaluation(out: Path) -> Path:
    """Write episodes.jsonl and evaluation.json of four episodes."""
    report.write(
        runner.evaluate(Reacher, TinyArm, seeds=range(4), execution="replay:3", workers=0, out=out),
        out,
    )
    return out


def foreign_datasets(folder: Path) -> None:
    """Write small datasets in the layouts of other programs."""
    from tests.support import foreign_files as foreign

    foreign.aloha(folder / "aloha/plain", (3, 2), size=(6, 8))
    foreign.aloha(folder / "aloha/jpeg", (3, 2), size=(16, 16), jpeg=True, base=True, effort=True)
    foreign.robomimic(folder / "robomimic/demo.hdf5", (2, 3, 2))
    foreign.replay_buffer(folder / "replay", (3, 2))


def metrics(path: Path) -> Path:
    """Write metrics.jsonl of five steps."""
    with closing(MetricsLog(path, resumed=0, log=lambda line: None)) as log:
        for step in range(1, 6):
            log.write(step, {"loss": 1 / step, "per_joint": {"x": 0.1 * step}})
    return path


def sealed(out: Path) -> Path:
    """Write an exported file; needs onnx."""
    from imitact.core.types import Camera, Spec
    from imitact.deploy import export
    from imitact.deploy.export_config import ExportConfig
    from tests.support.fake_dataset import FakeDataset

    names, units = ("joint_0", "joint_1"), ("rad", "1")
    spec = Spec(names, names, units, units, (Camera("top", 24, 32),), 50.0)
    ones = np.ones(2)
    stats = {name: Stats(ones, ones, ones, ones, 60) for name in ("state", "action")}
    made = TorchPolicy.create(spec, stats, TINY, seed=0, fingerprint="fake")
    made.net.eval()
    dataset = FakeDataset(cameras=("top",), height=24, width=32, size=2)
    config = ExportConfig(to="onnx", observations=1, calls=1, torch_calls=1, threads=1)
    export.export(made, dataset, out, config, policy_sha256="ab")
    return out / "policy.onnx"


def damaged_files(root: Path) -> list[str]:
    """Return an error text for each file of a dataset that differs from its checksum."""
    errors = []
    checksums = DatasetChecksums(root)
    for file in sorted((root / CHECKSUM_FOLDER).glob("chunk-*/file-*.json")):
        recorded = checksums.of_episode(file)
        for name in recorded.files if recorded else ():
            try:
                checksums.check(root / name)
            except DamagedFile as error:
                errors.append(str(error))
    return errors
