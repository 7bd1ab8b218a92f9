"""Write tests/fixtures/version_0: small files of every kind, by the first version of imitact.

This program runs the OLD code (commit 4552421) and imports modules by their old names. The test
tests/test_old_versions.py opens all of it with the current code and continues from it. Run it again
only to add a kind of file:

    git clone https://github.com/OWNER/imitact OLD && git -C OLD checkout 4552421
    cd OLD
    OMP_NUM_THREADS=1 PYTHONPATH=OLD/src:OLD/tests python /path/to/make_old_version_fixtures.py OUT

OLD is an absolute path. OUT must not exist; it becomes version_0. Python needs the packages of
constraints.txt (extras: gym, formats, export, trackers, sim). It takes about a minute on two cores.
Nothing depends on where OLD and OUT are. Written again, the files differ in measured times, in the
name of a tracker's run, and where another processor rounds differently.

It uses modules of the old tests: gym_dot (a Gymnasium environment), worlds (an environment with
stages), foreign (ALOHA HDF5 and robomimic files).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import traceback
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import foreign
import gym_dot
import h5py
import numpy as np
import safetensors.torch
import torch
import worlds
from imitact.chunking import Execution
from imitact.contract import Camera, ImitactError, Observation, Spec
from imitact.data import conversion, lerobot_writer
from imitact.data import record as recording
from imitact.data.capture import folder_of
from imitact.data.episodes import Subset, open_source
from imitact.data.read_config import ReadConfig
from imitact.evaluate import sweep, trials
from imitact.model.act import ActConfig
from imitact.model.policy import ABOUT, TorchPolicy, read_policy_json, write_policy_json
from imitact.model.scaling import Scaling
from imitact.sim.gym import GymConfig
from imitact.stats import Stats
from imitact.train.update import Updater
from imitact.verbs import demo, evaluate
from imitact.verbs import record as record_verb
from imitact.verbs.phases import Phases
from imitact.verbs.policies import identity, loader
from imitact.verbs.worlds import world

import imitact
from imitact import cli

COMMIT = "4552421"

# -- the commands, as a user of the old version typed them; the test types those of today ----------

ENV = "gym:gym_dot/Dot-v0"
GYM = (
    "--gym.units", "rad", "rad", "rad", "rad", "--gym.state-names", "x", "y",
    "--gym.action-names", "x", "y",
)  # fmt: skip
RECORD = (
    "record", "--env", ENV, "--expert", "gym_dot:Expert", "--task", "go to the mark", "--hold", "3",
    "--episodes", "3", "--workers", "1", *GYM,
)  # fmt: skip
# All that could differ after a resumption draws at random here: dropout, the posterior's noise,
# shifts, crops, colours, noise on the state; batch norm and the averaged weights have a memory.
MODEL = (
    "--model.chunk", "6", "--model.input-height", "16", "--model.input-width", "24",
    "--model.crop", "pixels=4:44,0:64", "--model.width", "8", "--model.stages", "1",
    "--model.norm", "batch", "--model.dim", "8", "--model.heads", "2", "--model.ffn", "16",
    "--model.encoder-layers", "1", "--model.cvae", "--model.cvae-layers", "1",
    "--model.latent", "4", "--model.kl-weight", "5", "--model.shift", "1", "--model.shift-told",
    "--model.random-crop", "0.1", "--model.color-jitter", "0.1", "--model.state-noise", "0.1",
    "--model.dropout", "0.2",
)  # fmt: skip
TRAIN = (
    "train", *MODEL, "--train.steps", "16", "--train.batch-size", "4", "--train.lr", "2e-3",
    "--train.lr-backbone", "1e-3", "--train.beta1", "0.85", "--train.beta2", "0.99",
    "--train.weight-decay", "0.02", "--train.warmup-steps", "3",
    "--train.final-lr-fraction", "0.1", "--train.clip-norm", "5", "--train.ema-decay", "0.9",
    "--train.seed", "5", "--train.held-out", "1", "--train.validate-every", "6",
    "--train.checkpoint-every", "4", "--train.log-every", "2", "--train.precision", "fp32",
    "--train.device", "cpu", "--train.threads", "1", "--train.workers", "1",
)  # fmt: skip
PLAIN = (  # trained for long enough to reach the mark now and then
    "train", *MODEL, "--model.no-cvae", "--model.shift", "1", "--model.no-shift-told",
    "--model.random-crop", "0", "--model.color-jitter", "0", "--model.dropout", "0",
    "--model.input-height", "20", "--model.input-width", "32",
    "--train.steps", "600", "--train.batch-size", "8", "--train.lr", "3e-3",
    "--train.lr-backbone", "3e-3", "--train.warmup-steps", "20",
    "--train.final-lr-fraction", "0.05", "--train.ema-decay", "0.95", "--train.held-out", "0",
    "--train.validate-every", "0", "--train.checkpoint-every", "0", "--train.precision", "fp32",
    "--train.device", "cpu", "--train.threads", "1", "--train.workers", "1",
)  # fmt: skip
EVALUATE = (
    "evaluate", "--env", ENV, *GYM, "--episodes", "6", "--chunking", "replay:3",
    "--workers", "1",
)  # fmt: skip
TUNE = (
    "tune", "--env", ENV, *GYM, "--replay", "2", "6", "--m", "0.1", "--every", "2",
    "--delays", "0", "--delay", "1", "--first-round", "1", "--finalists", "2", "--selection", "2",
    "--confirmation", "1", "--workers", "1",
)  # fmt: skip
EXPORT = (
    "export", "--observations", "2", "--calls", "2", "--torch-calls", "2", "--threads", "1",
)  # fmt: skip
CONVERT = (
    "convert", "--to", "lerobot", "--video.codec", "lossless", "--read.rate-hz", "25",
    "--read.action-offset", "1", "--read.files", "episode_*",
)  # fmt: skip
CHECK = ("check", "--limits.ticks.shortest-ticks", "14")
DEMO = (
    "demo", "--model.chunk", "4", "--model.crop", "", "--model.input-height", "12",
    "--model.input-width", "16", "--model.width", "8", "--model.stages", "1", "--model.norm",
    "batch", "--model.dim", "8", "--model.heads", "2", "--model.ffn", "8",
    "--model.encoder-layers", "1", "--model.shift", "1", "--train.steps", "2",
    "--train.batch-size", "2", "--train.held-out", "0", "--train.warmup-steps", "0",
    "--train.precision", "fp32", "--train.threads", "1", "--train.workers", "1",
    "--train.trackers", "--demonstrations", "1", "--height", "24", "--width", "32",
    "--episodes", "2", "--chunking", "replay:4", "--compared-episodes", "1",
    "--registered-episodes", "0", "--videos", "0", "--film-failures", "0", "--workers", "1",
    "--setup-s", "3.5",
)  # fmt: skip

STAGES_SEEDS = (3, 4, 10, 11, 12)  # the expert misses the mark at 3
STAGES_EPISODES = 3


README = """\
# What the first version wrote

Written by commit 4552421 with `make_old_version_fixtures.py`, read by `test_old_versions.py`. Never
edit these files, and never write them again with newer code: they stand for what users have.

- `recordings/finished`: `imitact record`, 3 episodes of `gym_dot/Dot-v0`;
  `recordings/interrupted`: the same, killed with 1 in the dataset and 1 waiting in `.staging`
- `recordings/stages_interrupted`: `record()` of `worlds.py`: two cameras, stages, a seed that
  failed; killed before the last rename of the second episode, while the third waited in `.staging`.
  `stages.imitact.json` and the digests "stages" in `expected.json` are of the finished one
- `check.json`: `imitact check recordings/finished --json`
- `trainings/interrupted`: `imitact train`, killed after 11 of 16 steps: the checkpoint of step 8,
  the frame cache, a torn line in `metrics.jsonl`, `trackers/run.json`;
  `trainings/finished`: policy and numbers of the same without an interruption
- `policies/plain` (format 1, 600 steps), `tuned` (format 2, the same after `imitact tune`),
  `scaled` and `scaled_and_tuned` (format 3), `every_setting` (no field of `config` at its default),
  `before_augmentation` (without the keys `random_crop` and `color_jitter`)
- `exports/onnx`, `exports/openvino`: `imitact export` of `plain`, and of a tuned policy
- `evaluations/finished`: `imitact evaluate`, 6 seeds; `interrupted`: 3 of them, then an episode
  that failed and a torn line; `of_export`: of `exports/onnx`, with a delay, to the step cap
- `tunings/finished`, `interrupted`: `imitact tune`; stopped after 6 episodes
- `conversions/source`: ALOHA HDF5 with a mobile base and efforts, float64; `finished`: `imitact
  convert` of it; `writing`, `comparing`: killed at that; `back`: as ALOHA HDF5 with JPEG again
- `checkpoints_of_others/lerobot`, `act.tar.xz`: `imitact export-policy` (nearly all weights of
  `act` are 0, so that they pack well); `plugin`: in the form of `lerobot_policy_imitact`
- `demo`: a finished `imitact demo`, in the world of `worlds.py`; in `phases.json` `DATA` stands for
  the one absolute path of all these files
- `robomimic.hdf5`: of another program, for its fingerprint
- `expected.json`, `expected.npz`: versions, identities, fingerprints, digests; what policies
  answered; `copies.json`: files that are equal to another one are kept once
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--killed", choices=[*KILLED])
    args = parser.parse_args()
    if args.killed:
        KILLED[args.killed](args.out)
        sys.exit("the process should have been killed")
    out = args.out.absolute()
    out.mkdir(parents=True)
    expected: dict[str, Any] = {"versions": versions(), "rounding": rounding()}
    chunks: dict[str, np.ndarray] = {}
    work = out / "work"
    recordings(out, expected, chunks)
    trainings(out, work, expected, chunks)
    policies(out, work)
    exports(out, expected, chunks)
    evaluations(out)
    tunings(out, work)
    note_policies(out, expected, chunks)
    conversions(out)
    checkpoints_of_others(out, work, chunks)
    demos(out)
    fingerprints(out, expected)
    shutil.rmtree(work)
    for left in [*out.rglob(".writer"), *out.rglob("*.lock")]:
        left.unlink()  # they hold the number of a process, or nothing
    keep_once(out)
    for folder in sorted((p for p in out.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()  # git keeps no empty folder
    (out / ".gitattributes").write_text("* -text\n")  # nobody converts line ends
    (out / "README.md").write_text(README)
    np.savez_compressed(out / "expected.npz", **chunks)
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def keep_once(out: Path) -> None:
    """Of equal files keep the first; copies.json tells where the others were."""
    first: dict[str, str] = {}
    copies: dict[str, str] = {}
    order = sorted(digests(out).items(), key=lambda pair: ("finished" not in pair[0], pair[0]))
    for name, digest in order:
        if (out / name).stat().st_size >= 2048 and first.setdefault(digest, name) != name:
            copies[name] = first[digest]
            (out / name).unlink()
    (out / "copies.json").write_text(json.dumps(copies, indent=1, sort_keys=True) + "\n")


def command(*argv: Any) -> None:
    """One command line of the old version, which must succeed."""
    if code := cli.run([str(word) for word in argv]):
        raise SystemExit(f"exit code {code}: {argv}")


def killed(name: str, out: Path) -> None:
    """Run one of KILLED in a process of its own, which dies in the middle of its work."""
    argv = [sys.executable, __file__, str(out), "--killed", name]
    code = subprocess.run(argv, check=False).returncode
    if code != 9:
        raise SystemExit(f"{name}: exit code {code}, expected to be killed")


def versions() -> dict[str, Any]:
    packages = (
        "torch", "numpy", "av", "pyarrow", "safetensors", "h5py", "gymnasium", "onnx",
        "onnxruntime", "openvino", "mujoco",
    )  # fmt: skip
    return {
        "imitact": imitact.__version__,
        "commit": COMMIT,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def rounding() -> str:
    """A digest that is the same where torch rounds as it did here; the test has the same lines."""
    draw = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        conv = torch.nn.Conv2d(3, 8, 7, 2, 3).to(memory_format=torch.channels_last)
        norm, linear = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 16)
        parameters = [p for m in (conv, norm, linear) for p in m.parameters()]
        with torch.no_grad():
            for p in parameters:
                p.copy_(torch.randn(p.shape, generator=draw) / 5)
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
        for _ in range(4):
            x = torch.randn(4, 3, 16, 24, generator=draw)
            seen = norm(conv(x.to(memory_format=torch.channels_last))).relu()
            tokens = linear(seen.flatten(2).transpose(1, 2)).view(4, -1, 2, 8).transpose(1, 2)
            found = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            optimizer.zero_grad()
            torch.nn.functional.layer_norm(found, (8,)).abs().mean().add(found.std()).backward()
            optimizer.step()
    finally:
        torch.set_num_threads(threads)
    arrays = [p.detach().contiguous().numpy() for p in parameters]
    rows = np.random.Generator(np.random.PCG64(0)).normal(size=(40, 3))
    arrays += [rows.mean(axis=0), rows.std(axis=0), np.quantile(rows, 0.1, axis=0), rows.T @ rows]
    data = b"".join(array.tobytes() for array in arrays)
    return hashlib.sha256(torch.__version__.encode() + data).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def observation(spec: Spec, seed: int = 0) -> Observation:
    """The test draws the same."""
    draw = np.random.Generator(np.random.PCG64(seed))
    state = draw.uniform(-1, 1, len(spec.state_names))
    frames = {
        c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras
    }
    return Observation(state, frames)


def answer(path: Path) -> np.ndarray:
    """What a policy's folder, or an exported file, answers."""
    policy = loader(path)()
    return policy.chunk(observation(policy.spec))


# -- recordings ------------------------------------------------------------------------------------


def recordings(out: Path, expected: dict[str, Any], chunks: dict[str, np.ndarray]) -> None:
    folder = out / "recordings"
    command(*RECORD, "--out", folder / "finished")
    killed("recording", folder / "interrupted")
    record_stages(folder / "stages")
    expected["stages"] = digests(folder / "stages")
    killed("stages", folder / "stages_interrupted")
    source = open_source(folder / "finished")
    for index in range(len(source.lengths)):
        episode = source.episode(index)
        chunks[f"recordings/{index}/state"] = episode.state
        chunks[f"recordings/{index}/action"] = episode.action
    # With a limit that some episodes do not keep, so that there is something to tell.
    code = cli.run([*CHECK, str(folder / "finished"), "--json", str(out / "check.json")])
    assert code == 3, code
    told = json.loads((out / "check.json").read_text())
    told["path"] = "DATA"
    (out / "check.json").write_text(json.dumps(told, indent=2) + "\n")
    # The dataset of stages is kept as digests alone: each file of metadata takes 45 kB.
    shutil.copy(folder / "stages" / "meta" / "imitact.json", out / "stages.imitact.json")
    shutil.rmtree(folder / "stages")


def record_stages(out: Path, workers: int = 1) -> None:
    """A world with stages, an expert that varies and fails, two cameras."""
    recording.record(
        out,
        make_env=worlds.make_two_camera_dot,
        make_expert=worlds.make_dot_expert,
        episodes=STAGES_EPISODES,
        task="go to the mark",
        seeds=STAGES_SEEDS,
        workers=workers,
        extra={"env": "dot", "spread": 1.0},
    )


def kill_recording(out: Path) -> None:
    """One episode is in the dataset, the next was recorded and not put in place."""
    append = lerobot_writer.LeRobotWriter.append

    def append_or_die(self: Any, *args: Any, **named: Any) -> None:
        if self.episodes == 1:
            die()
        append(self, *args, **named)

    lerobot_writer.LeRobotWriter.append = append_or_die  # type: ignore[method-assign]
    command(*RECORD, "--out", out)


def kill_stages(out: Path) -> None:
    """A seed failed, one episode is in the dataset, all files of the next but info.json are, too,
    and the one after waits in the staging folder."""
    write = lerobot_writer.LeRobotWriter._write
    settle = recording._Recording._settle

    def write_or_die(self: Any, name: str, data: bytes) -> None:
        if name == lerobot_writer.INFO and self.episodes == 2:
            die()
        write(self, name, data)

    def settle_later(self: Any, writer: Any) -> None:
        if folder_of(out / ".staging", STAGES_SEEDS[3]).exists():
            settle(self, writer)

    lerobot_writer.LeRobotWriter._write = write_or_die  # type: ignore[method-assign]
    recording._Recording._settle = settle_later  # type: ignore[method-assign]
    record_stages(out, workers=2)


def die() -> None:
    """As a process that is killed: nothing is cleaned up."""
    os._exit(9)


# -- trainings -------------------------------------------------------------------------------------


def trainings(
    out: Path, work: Path, expected: dict[str, Any], chunks: dict[str, np.ndarray]
) -> None:
    data, folder = out / "recordings" / "finished", out / "trainings"
    command(*TRAIN, "--data", data, "--out", folder / "finished")
    killed("training", folder / "interrupted")
    # That these two end alike is the old version's own law; here it is made sure.
    shutil.copytree(folder / "interrupted", work / "resumed")
    command(*TRAIN, "--data", data, "--out", work / "resumed", "--resume")
    for name in ("model.safetensors", "policy.json"):
        one, other = (f / "policy" / name for f in (folder / "finished", work / "resumed"))
        assert one.read_bytes() == other.read_bytes(), name
    expected["weights"] = weights_digest(folder / "finished" / "policy")
    chunks["trainings/finished"] = answer(folder / "finished" / "policy")
    (last,) = (folder / "interrupted" / "checkpoints").glob("step-*8")
    chunks["trainings/interrupted"] = answer(last / "policy")
    shutil.rmtree(folder / "interrupted" / "checkpoints" / "step-00000004")
    shutil.rmtree(folder / "interrupted" / "trackers" / "tensorboard")
    with (folder / "interrupted" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":12,"lo')  # a line that was torn
    # The result alone; its checkpoints and cache are of the kinds of the interrupted one.
    for name in ("checkpoints", "cache"):
        shutil.rmtree(folder / "finished" / name)


def kill_training(out: Path) -> None:
    """After 11 steps of 16: the last checkpoint is of step 8, metrics.jsonl goes on to step 10."""
    update = Updater.update

    def update_or_die(self: Updater, step: int, batch: Any) -> dict[str, float]:
        if step == 11:
            die()
        return update(self, step, batch)

    Updater.update = update_or_die  # type: ignore[method-assign]
    data = out.parents[1] / "recordings" / "finished"
    command(*TRAIN, "--train.trackers", "tensorboard", "--data", data, "--out", out)


def weights_digest(policy: Path) -> str:
    """Of all weights by name, whatever file they are in; the test has the same lines."""
    hash_ = hashlib.sha256()
    for name, value in sorted(safetensors.torch.load_file(policy / "model.safetensors").items()):
        hash_.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hash_.update(value.contiguous().numpy().tobytes())
    return hash_.hexdigest()


# -- policies --------------------------------------------------------------------------------------

SPEC = Spec(
    state_names=("shoulder", "elbow", "gripper"),
    action_names=("elbow", "gripper"),
    state_units=("rad", "rad", "1"),
    action_units=("rad", "1"),
    cameras=(Camera("top", 24, 32), Camera("left wrist", 30, 24)),
    rate_hz=12.5,
)
EVERY_SETTING = ActConfig(
    chunk=5, input_height=12, input_width=16, crop="top=2:22,4:28; left wrist=0:30,2:24", width=16,
    stages=1, norm="group", pretrained="none", dim=12, heads=3, ffn=10, encoder_layers=2,
    decoder_layers=2, queries="sinusoidal", head="mlp", positions="tokens", actions="delta",
    l1="all", cvae=False, cvae_layers=2, latent=3, kl_weight=5.0, shift=2, shift_told=True,
    random_crop=0.2, color_jitter=0.3, state_noise=0.1, dropout=0.25,
)  # fmt: skip
SMALL = ActConfig(
    chunk=5, input_height=12, input_width=16, width=8, stages=1, norm="batch", dim=8, heads=2,
    ffn=8, encoder_layers=1, cvae_layers=1, latent=2, dropout=0.0,
)  # fmt: skip


def drawn(config: ActConfig, spec: Spec = SPEC, **more: Any) -> TorchPolicy:
    """A policy none of whose weights and statistics is at its first, harmless value."""
    draw = np.random.default_rng(7)
    stats = {}
    for name, size in {
        "state": spec.state_size, "action": spec.action_size, "delta": spec.action_size,
    }.items():  # fmt: skip
        mean, std = draw.normal(size=size), draw.uniform(0.1, 2, size)
        stats[name] = Stats(mean, std, mean - 2 * std, mean + 3 * std, 60)
    if config.actions == "absolute":
        del stats["delta"]
    policy = TorchPolicy.create(spec, stats, config, seed=3, fingerprint="fake")
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, tensor in policy.net.state_dict().items():
        if name.endswith("running_var"):
            tensor = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor = tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        weights[name] = tensor
    return TorchPolicy.of_weights(spec, stats, config, weights, fingerprint="fake", **more)


def policies(out: Path, work: Path) -> None:
    folder = out / "policies"
    command(*PLAIN, "--data", out / "recordings" / "finished", "--out", work / "plain")
    folder.mkdir()
    shutil.copytree(work / "plain" / "policy", folder / "plain")
    usual = {f.name: f.default for f in fields(ActConfig)}
    unlike = [n for n, v in asdict(EVERY_SETTING).items() if v == usual[n]]
    assert not unlike, f"at their defaults: {unlike}"
    drawn(EVERY_SETTING).save(folder / "every_setting")
    scaling = Scaling(
        state_mean=(0.1, -0.2, 0.3),
        state_std=(0.5, 1.5, 1e-3),
        state_shift=(0.0, -1.0, 0.0),
        action_mean=(0.25, -0.5),
        action_std=(2.0, 0.0),
        pixel_mean={"top": (0.4, 0.5, 0.6), "left wrist": (0.0, 0.0, 0.0)},
        pixel_std={"top": (0.2, 0.3, 0.4), "left wrist": (1.0, 0.5, 0.25)},
    )
    drawn(SMALL, scaling=scaling).save(folder / "scaled")
    drawn(SMALL, scaling=scaling, execution=Execution("ensemble:-0.05/2", 3)).save(
        folder / "scaled_and_tuned"
    )
    # As it was saved before there were these two settings.
    drawn(SMALL).save(folder / "before_augmentation")
    about = read_policy_json(folder / "before_augmentation")
    for name in ("random_crop", "color_jitter"):
        del about["config"][name]
    write_policy_json(folder / "before_augmentation" / ABOUT, about)


def note_policies(out: Path, expected: dict[str, Any], chunks: dict[str, np.ndarray]) -> None:
    for path in sorted((out / "policies").iterdir()):
        expected["identities"][f"policies/{path.name}"] = identity(path)
        chunks[f"policies/{path.name}"] = answer(path)


# -- exports ---------------------------------------------------------------------------------------


def exports(out: Path, expected: dict[str, Any], chunks: dict[str, np.ndarray]) -> None:
    data, folder = out / "recordings" / "finished", out / "exports"
    tuned = out / "policies" / "tuned"
    shutil.copytree(out / "policies" / "plain", tuned)
    about = read_policy_json(tuned)
    write_policy_json(
        tuned / ABOUT,
        {**about, "format": 2, "execution": asdict(Execution("ensemble:0.1/2", 1))},
    )
    for kind, policy in (("onnx", "plain"), ("openvino", "tuned")):
        command(
            *EXPORT, out / "policies" / policy, "--data", data, "--out", folder / kind, "--to", kind
        )
        file = folder / kind / f"policy.{kind}"
        expected.setdefault("identities", {})[f"exports/{kind}"] = identity(file)
        chunks[f"exports/{kind}"] = answer(file)
    shutil.rmtree(tuned)  # `tunings` makes it as a user does


# -- evaluations and tunings -----------------------------------------------------------------------


class Fails:
    """A policy that fails at one seed."""

    def __init__(self, path: Path) -> None:
        self.policy = loader(path)()
        self.spec = self.policy.spec
        self.seed = 0

    def reset(self, seed: int) -> None:
        self.seed = seed
        self.policy.reset(seed)

    def chunk(self, given: Observation) -> np.ndarray:
        if self.seed == 1003:
            raise ValueError("the policy has a cramp")
        return self.policy.chunk(given)


def evaluations(out: Path) -> None:
    policy, folder = out / "policies" / "plain", out / "evaluations"
    command(*EVALUATE, "--policy", policy, "--out", folder / "finished")
    # Tracebacks are kept with failures; they name the files of the old checkout.
    root, told = str(Path(imitact.__file__).parents[2]), traceback.format_exception
    traceback.format_exception = lambda error: [  # type: ignore[assignment]
        line.replace(root, "OLD").replace(__file__, "make_old_version_fixtures.py")
        for line in told(error)
    ]
    names = {"state_names": ("x", "y"), "action_names": ("x", "y")}
    try:
        trials.evaluate(
            lambda: Fails(policy),
            world(ENV, (), 0, 0, GymConfig(units=("rad",) * 4, **names)),
            seeds=range(1000, 1006),
            chunking="replay:3",
            workers=0,
            names={"env": ENV, "policy": identity(policy)},
            out=folder / "interrupted",
        )
    except ImitactError as error:
        if "cramp" not in str(error):
            raise
    finally:
        traceback.format_exception = told
    journal = folder / "interrupted" / "episodes.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"episode":{"seed":1003,"success":fal')  # a line that was torn
    # Of a file that was exported, at a delay.
    command(
        *EVALUATE, "--policy", out / "exports" / "onnx" / "policy.onnx", "--episodes", "2",
        "--chunking", "ensemble:0.1/2", "--delay", "1", "--no-stop-on-success", "--step-cap", "12",
        "--out", folder / "of_export",
    )  # fmt: skip


def tunings(out: Path, work: Path) -> None:
    folder = out / "tunings"
    tuned = out / "policies" / "tuned"
    shutil.copytree(out / "policies" / "plain", tuned)
    command(*TUNE, "--policy", tuned, "--out", folder / "finished")
    (folder / "finished" / "tune.svg").unlink()  # a figure, which nothing reads
    finished = sweep.Sweep._finished
    count = 0

    def finished_or_stopped(self: Any, job: Any, row: Any) -> None:
        nonlocal count
        finished(self, job, row)
        count += 1
        if count == 6:
            raise KeyboardInterrupt

    shutil.copytree(out / "policies" / "plain", work / "to_tune")
    sweep.Sweep._finished = finished_or_stopped  # type: ignore[method-assign]
    try:
        argv = [*TUNE, "--policy", str(work / "to_tune"), "--out", str(folder / "interrupted")]
        assert cli.run(argv) == 130
    finally:
        sweep.Sweep._finished = finished  # type: ignore[method-assign]


# -- conversions -----------------------------------------------------------------------------------


def conversions(out: Path) -> None:
    folder = out / "conversions"
    foreign.aloha(
        folder / "source", (3, 2), joints=7, size=(12, 16), dtype="f8", base=True, effort=True
    )
    command(*CONVERT, folder / "source", folder / "finished")
    killed("conversion", folder / "writing")
    killed("comparison", folder / "comparing")
    command(
        "convert", folder / "finished", folder / "back", "--to", "aloha-hdf5",
        "--images", "jpeg", "--least-psnr-db", "20",
    )  # fmt: skip


def kill_conversion(out: Path) -> None:
    """One of two episodes is written."""
    add = conversion._LeRobot.add

    def add_or_die(self: Any, index: int) -> None:
        if index == 1:
            die()
        add(self, index)

    conversion._LeRobot.add = add_or_die  # type: ignore[method-assign]
    command(*CONVERT, out.parent / "source", out)


def kill_comparison(out: Path) -> None:
    """All is written, one of two episodes is compared."""
    compared = conversion._compared

    def compared_or_die(source: Any, copy: Any, index: int, *rest: Any) -> dict[str, Any]:
        if index == 1:
            die()
        return compared(source, copy, index, *rest)

    conversion._compared = compared_or_die
    command(*CONVERT, out.parent / "source", out)


# -- checkpoints of other programs -----------------------------------------------------------------


def checkpoints_of_others(out: Path, work: Path, chunks: dict[str, np.ndarray]) -> None:
    """What `export-policy` writes, and what imitact's policy inside LeRobot does."""
    folder = out / "checkpoints_of_others"
    folder.mkdir()
    blind = Spec(SPEC.state_names, SPEC.action_names, SPEC.state_units, SPEC.action_units, (), 12.5)
    small = {"chunk": 5, "dim": 8, "heads": 2, "ffn": 8, "encoder_layers": 1, "cvae_layers": 1,
             "latent": 2, "queries": "sinusoidal"}  # fmt: skip
    drawn(ActConfig(**small), blind, execution=Execution("replay:3")).save(work / "blind")
    command("export-policy", work / "blind", "--out", folder / "lerobot", "--to", "lerobot")
    chunks["checkpoints_of_others/lerobot"] = answer(work / "blind")

    # The released ACT has a ResNet18: 11 million weights, nearly all of them 0 here, packed.
    seeing = Spec(SPEC.state_names, SPEC.action_names, SPEC.state_units, SPEC.action_units,
                  (Camera("top", 32, 32),), 12.5)  # fmt: skip
    policy = drawn(ActConfig(**{**small, "norm": "batch"}), seeing)
    weights = policy.net.state_dict()
    for name, value in weights.items():
        if value.ndim == 4:
            kept = value[:8, :2, 1:2, 1:2].clone()
            value.zero_()
            value[:8, :2, 1:2, 1:2] = 3 * kept
        elif name.startswith("backbone.") and value.ndim == 1:
            value[8:] = value[7]
    TorchPolicy.of_weights(
        seeing, policy.stats, policy.config, weights, fingerprint="fake"
    ).save(work / "seeing")  # fmt: skip
    command("export-policy", work / "seeing", "--out", work / "act", "--to", "act")
    chunks["checkpoints_of_others/act"] = answer(work / "seeing")
    with tarfile.open(folder / "act.tar.xz", "w:xz") as tar:
        for path in sorted((work / "act").iterdir()):
            tar.add(path, path.name, filter=anonymous)

    # As lerobot_policy_imitact saves it (LeRobot itself is not needed to write these two files).
    drawn(SMALL).save(work / "inside")
    policy = TorchPolicy.load(work / "inside")
    spec, inside = policy.spec, folder / "plugin"
    inside.mkdir()
    images = {
        f"observation.images.{c.name}": {"type": "VISUAL", "shape": [3, c.height, c.width]}
        for c in spec.cameras
    }
    config = {
        "type": "imitact", "n_obs_steps": 1,
        "input_features": {
            **images, "observation.state": {"type": "STATE", "shape": [spec.state_size]}
        },
        "output_features": {"action": {"type": "ACTION", "shape": [spec.action_size]}},
        "device": "cpu", "use_amp": False, "use_peft": False, "push_to_hub": False,
        "repo_id": None, "private": None, "tags": None, "license": None, "pretrained_path": None,
        "pretrained_revision": None, "net": asdict(policy.config), "preset": "",
        "chunking": "ensemble:0.1/2", "state_names": list(spec.state_names),
        "action_names": list(spec.action_names), "rate_hz": spec.rate_hz, "optimizer_lr": 1e-05,
        "optimizer_lr_backbone": 1e-05, "optimizer_weight_decay": 0.0001,
        "normalization_mapping": dict.fromkeys(("VISUAL", "STATE", "ACTION", "ENV"), "IDENTITY"),
    }  # fmt: skip
    (inside / "config.json").write_text(json.dumps(config, indent=4))
    tensors = {f"net.{n}": t.contiguous() for n, t in policy.net.state_dict().items()}
    for what in ("state", "action"):
        stats = policy.stats[what]
        for part in ("mean", "std", "min", "max"):
            tensors[f"statistics.{what}_{part}"] = torch.tensor(getattr(stats, part)).float()
        tensors[f"statistics.{what}_count"] = torch.tensor([float(stats.count)])
    safetensors.torch.save_file(tensors, inside / "model.safetensors")
    for name, path in (("plugin", inside), ("lerobot", folder / "lerobot"), ("act", work / "act")):
        options = ("--heads", "2") if name == "act" else ()
        command("import-policy", path, "--out", work / f"{name}_back", *options)
        back = loader(work / f"{name}_back")()
        got = back.chunk(observation(back.spec))
        wanted = chunks.setdefault(f"checkpoints_of_others/{name}", got)
        assert np.allclose(got, wanted, atol=1e-5), name


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


# -- the demo --------------------------------------------------------------------------------------


def demos(out: Path) -> None:
    """A finished demo. The dot's world stands in for the ALOHA scene, which takes minutes; what is
    on the disk has the same form."""
    folder = out / "demo"
    record_verb.world = lambda *given: worlds.make_dot
    record_verb.expert = lambda *given: worlds.make_dot_expert
    evaluate.world_of = lambda env, spec, gym: worlds.make_dot
    command(*DEMO, "--out", folder)
    for name in ("training/checkpoints", "data-cache"):
        shutil.rmtree(folder / name)
    # The one absolute path of any of these files; the test writes that of its copy there.
    move_demo(folder, "DATA")


def move_demo(folder: Path, data: str) -> None:
    path = folder / demo.PHASES
    told = json.loads(path.read_text())
    told["settings"]["data"] = data
    path.unlink()
    phases = Phases(path, told["settings"])
    phases._wall_s, phases._done = told["wall_s"], told["done"]
    phases._store()


# -- fingerprints ----------------------------------------------------------------------------------

FORMATS = Path(gym_dot.__file__).parent / "fixtures"
"""Datasets of other programs that have long been in the repository, below tests/fixtures."""


def fingerprints(out: Path, expected: dict[str, Any]) -> None:
    foreign.robomimic(out / "large.hdf5", (3, 2))
    with (
        h5py.File(out / "large.hdf5") as large,
        h5py.File(out / "robomimic.hdf5", "w", libver="latest") as small,
    ):
        large.copy("mask", small)
        data = small.create_group("data")
        data.attrs.update(large["data"].attrs)
        for name, demonstration in large["data"].items():
            each = data.create_group(name)
            each.attrs.update(demonstration.attrs)
            for part in ("actions", "obs"):
                large.copy(demonstration[part], each, part)
    (out / "large.hdf5").unlink()
    robomimic = {"state": ("robot0_eef_pos", "robot0_gripper_qpos")}
    zarr = {"state": ("state",), "rate_hz": 10.0}
    cases: dict[str, tuple[Path, dict[str, Any]]] = {
        "version_0/recordings/finished": (out / "recordings" / "finished", {}),
        "version_0/conversions/source": (out / "conversions" / "source", {}),
        "version_0/conversions/finished": (out / "conversions" / "finished", {}),
        "version_0/conversions/back": (out / "conversions" / "back", {}),
        "version_0/demo/data": (out / "demo" / "data", {}),
        "version_0/robomimic.hdf5": (out / "robomimic.hdf5", robomimic),
        "formats/aloha": (FORMATS / "formats" / "aloha", {"colour": "bgr"}),
        **{f"formats/{n}": (FORMATS / "formats" / n, zarr) for n in ("pusht.zarr", "real.zarr")},
        **{
            f"lerobot/{name}": (FORMATS / "lerobot" / name, {})
            for name in ("av1", "converted", "h264", "v21", "v30")
        },
    }
    for name, (path, read) in cases.items():
        source = open_source(path, ReadConfig(**read))
        count = len(source.lengths)
        expected.setdefault("fingerprints", {})[name] = {
            "read": read,
            "fingerprint": source.fingerprint,
            "of_all_but_the_first": Subset(source, range(1, count)).fingerprint,
        }


KILLED = {
    "recording": kill_recording,
    "stages": kill_stages,
    "training": kill_training,
    "conversion": kill_conversion,
    "comparison": kill_comparison,
}

if __name__ == "__main__":
    main()
