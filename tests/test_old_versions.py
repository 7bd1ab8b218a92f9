"""Files of the first version (commit 4552421) open, and its interrupted work continues.

scripts/make_old_version_fixtures.py ran that version to write tests/fixtures/version_0: finished
work, and work that was killed. Formats on disk outlive the names in the code, so these files are
never rewritten to make a test pass.

The recordings name the Gymnasium environment `gym_dot/Dot-v0` and the expert `gym_dot:Expert` of
tests/support, whose drawing and seeds must therefore stay. Bits are compared only where sums round
as they did when the files were written (SAME_ROUNDING); elsewhere values within a tolerance.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from imitact.cli import main
from imitact.core.types import Observation, Spec
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.subset import Subset
from imitact.deploy.load_policy import load_policy, read_stored
from imitact.models.policy import TorchPolicy
from imitact.recording.recorder import record
from tests.support import dot_env
from tests.support.paths import FIXTURES

OLD = FIXTURES / "version_0"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
COPIES: dict[str, str] = json.loads((OLD / "copies.json").read_text())
"""Files that are equal to another one are kept once: where they were, to where the other is."""

with np.load(OLD / "expected.npz") as _file:
    ARRAYS: dict[str, np.ndarray] = dict(_file)

TOLERANCE = 1e-4
"""Of a chunk of fp32 on another processor, in the units of the actions, which are about 1."""

# -- the commands with which the first version was called, in the words of today -------------------

ENV = "gym:gym_dot/Dot-v0"
GYM = (
    "--gym.units", "rad", "rad", "rad", "rad", "--gym.state-names", "x", "y",
    "--gym.action-names", "x", "y",
)  # fmt: skip
RECORD = (
    "record", "--env", ENV, "--expert", "gym_dot:Expert", "--task", "go to the mark", "--hold", "3",
    "--episodes", "3", "--workers", "1", *GYM,
)  # fmt: skip
CHECK = ("check", "--limits.ticks.min-ticks", "14")
TRAIN = (
    "train", "--model.chunk-size", "6", "--model.input-height", "16", "--model.input-width", "24",
    "--model.crop", "pixels=4:44,0:64", "--model.backbone-width", "8", "--model.backbone-stages",
    "1", "--model.backbone-norm", "batch", "--model.hidden-dim", "8", "--model.num-heads", "2",
    "--model.dim-feedforward", "16", "--model.encoder-layers", "1", "--model.use-vae",
    "--model.vae-encoder-layers", "1", "--model.latent-dim", "4", "--model.kl-weight", "5",
    "--model.random-shift", "1", "--model.shift-as-input", "--model.random-crop", "0.1",
    "--model.color-jitter", "0.1", "--model.state-noise", "0.1", "--model.dropout", "0.2",
    "--train.steps", "16", "--train.batch-size", "4", "--train.lr", "2e-3", "--train.lr-backbone",
    "1e-3", "--train.beta1", "0.85", "--train.beta2", "0.99", "--train.weight-decay", "0.02",
    "--train.warmup-steps", "3", "--train.final-lr-fraction", "0.1", "--train.grad-clip-norm",
    "5", "--train.ema-decay", "0.9", "--train.seed", "5", "--train.val-episodes", "1",
    "--train.val-every", "6", "--train.checkpoint-every", "4", "--train.log-every", "2",
    "--train.precision", "fp32", "--train.device", "cpu", "--train.num-threads", "1",
    "--train.num-workers", "1",
)  # fmt: skip
TRACKERS = ("--train.trackers", "tensorboard")
EVALUATE = (
    "evaluate", "--env", ENV, *GYM, "--episodes", "6", "--chunking", "replay:3", "--workers", "1",
)  # fmt: skip
EVALUATE_EXPORT = (
    "evaluate", "--env", ENV, *GYM, "--episodes", "2", "--chunking", "ensemble:0.1/2",
    "--workers", "1", "--delay-ticks", "1", "--no-stop-on-success", "--step-cap", "12",
)  # fmt: skip
TUNE = (
    "tune", "--env", ENV, *GYM, "--replay", "2", "6", "--m", "0.1", "--every", "2", "--delays",
    "0", "--delay-ticks", "1", "--first-round", "1", "--finalists", "2", "--selection", "2",
    "--confirmation", "1", "--workers", "1",
)  # fmt: skip
# What tunings of before did; their grid had no `fade`.
UNJOINED = ("--fade", "0")
EXPORT = (
    "export", "--observations", "2", "--calls", "2", "--torch-calls", "2", "--threads", "1",
)  # fmt: skip
CONVERT = (
    "convert", "--to", "lerobot", "--video.codec", "lossless", "--read.rate-hz", "25",
    "--read.action-offset", "1", "--read.files", "episode_*",
)  # fmt: skip
CONVERT_BACK = (
    "convert", "--to", "aloha-hdf5", "--images", "jpeg", "--min-psnr-db", "20",
)  # fmt: skip
DEMO = (
    "demo", "--model.chunk-size", "4", "--model.crop", "", "--model.input-height", "12",
    "--model.input-width", "16", "--model.backbone-width", "8", "--model.backbone-stages", "1",
    "--model.backbone-norm", "batch", "--model.hidden-dim", "8", "--model.num-heads", "2",
    "--model.dim-feedforward", "8", "--model.encoder-layers", "1", "--model.random-shift", "1",
    "--train.steps", "2", "--train.batch-size", "2", "--train.val-episodes", "0",
    "--train.warmup-steps", "0", "--train.precision", "fp32", "--train.num-threads", "1",
    "--train.num-workers", "1", "--train.trackers", "--demonstrations", "1", "--height", "24",
    "--width", "32", "--episodes", "2", "--chunking", "replay:4", "--compared-episodes", "1",
    "--registered-episodes", "0", "--videos", "0", "--failure-videos", "0", "--workers", "1",
    "--setup-s", "3.5",
)  # fmt: skip

STAGES_SEEDS = (3, 4, 10, 11, 12)


# -- helpers ---------------------------------------------------------------------------------------


def rounding() -> str:
    """A digest that is the same where torch and numpy round as when the files were written; the
    lines are those of make_old_version_fixtures.py."""
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


SAME_ROUNDING = rounding() == EXPECTED["rounding"]
SAME_ENCODERS = SAME_ROUNDING and all(
    importlib.metadata.version(name) == EXPECTED["versions"][name] for name in ("av", "pyarrow")
)
"""Whether new videos and tables have the bytes that they had then: encoders change them."""


def restored(name: str, folder: Path) -> Path:
    """A copy of a fixture in `folder`, with all files that it had."""
    out = folder / name
    shutil.copytree(OLD / name, out)
    for there, kept in COPIES.items():
        if there.startswith(f"{name}/"):
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(OLD / kept, folder / there)
    return out


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line."""
    code = main.run([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def succeeds(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """stderr of a command line, which must end well."""
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    return err


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def form(value: Any, where: str = "") -> set[str]:
    """The paths of all keys in a JSON value: what another version must find by name."""
    if isinstance(value, dict) and value:
        return set().union(*(form(part, f"{where}.{name}") for name, part in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(form(part, f"{where}[]") for part in value))
    return {where}


def assert_alike(
    one: Any, other: Any, free: tuple[str, ...] = (), tolerance: float = 0.0, where: str = ""
) -> None:
    """Equal JSON values, but for numbers within a tolerance and the keys in `free`, whose values
    are free."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for name in one.keys() - set(free):
            assert_alike(one[name], other[name], free, tolerance, f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for at, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, free, tolerance, f"{where}[{at}]")
    elif isinstance(one, float) and isinstance(other, float) and tolerance:
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance), where
    else:
        assert one == other, where
        assert type(one) is type(other), where


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the SHA-256 of its other keys, as JSON files of the first version end."""
    rest = {name: part for name, part in value.items() if name != "sha256"}
    data = msgspec.json.encode(rest, order="sorted")
    return {**rest, "sha256": hashlib.sha256(data).hexdigest()}


def observation(spec: Spec, seed: int = 0) -> Observation:
    """What the first version was asked."""
    draw = np.random.Generator(np.random.PCG64(seed))
    state = draw.uniform(-1, 1, len(spec.state_names))
    frames = {
        c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras
    }
    return Observation(state, frames)


def assert_same_answer(path: Path, name: str, tolerance: float = TOLERANCE) -> None:
    """A policy's folder or an exported file, asked what the first version was asked."""
    policy = load_policy(path)
    chunk = policy.chunk(observation(policy.spec))
    assert chunk.dtype == ARRAYS[name].dtype
    assert np.allclose(chunk, ARRAYS[name], rtol=tolerance, atol=tolerance)


def weights_digest(policy: Path) -> str:
    """Of all weights by name, whatever file they are in."""
    hash_ = hashlib.sha256()
    for name, value in sorted(safetensors.torch.load_file(policy / "model.safetensors").items()):
        hash_.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hash_.update(value.contiguous().numpy().tobytes())
    return hash_.hexdigest()


@pytest.fixture
def recorded_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording goes on only with the gymnasium that it began with, whose version it names."""
    real = importlib.metadata.version
    then = EXPECTED["versions"]["gymnasium"]
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: then if name == "gymnasium" else real(name)
    )


# -- recordings ------------------------------------------------------------------------------------


def test_an_old_dataset_reads_the_recorded_values() -> None:
    source = open_dataset(OLD / "recordings" / "finished")
    spec = source.spec
    assert (spec.state_names, spec.action_names) == (("x", "y"), ("x", "y"))
    assert (spec.state_units, spec.action_units) == (("rad", "rad"), ("rad", "rad"))
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("pixels", 48, 64)]
    assert spec.rate_hz == 20.0
    assert len(source.lengths) == 3
    for index, length in enumerate(source.lengths):
        episode = source.episode(index)
        assert np.array_equal(episode.state, ARRAYS[f"recordings/{index}/state"])
        assert np.array_equal(episode.action, ARRAYS[f"recordings/{index}/action"])
        assert len(list(episode.frames("pixels"))) == length


@pytest.mark.parametrize("name", EXPECTED["fingerprints"])
def test_a_dataset_of_any_layout_keeps_its_fingerprint(name: str, tmp_path: Path) -> None:
    """Policies, checkpoints and frame caches name it; another one would make all of them strange
    to their dataset. It is the same for a dataset of any layout."""
    known = EXPECTED["fingerprints"][name]
    path = (
        OLD / name.removeprefix("version_0/") if name.startswith("version_0") else FIXTURES / name
    )
    read = {k: tuple(v) if isinstance(v, list) else v for k, v in known["read"].items()}
    source = open_dataset(path, ReadConfig(**read))
    assert source.fingerprint == known["fingerprint"]
    chosen = Subset(source, range(1, len(source.lengths)))
    assert chosen.fingerprint == known["of_all_but_the_first"]


def test_check_finds_the_same_and_writes_the_same_json_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    code, _, err = run(capsys, *CHECK, OLD / "recordings" / "finished", "--json", out)
    assert code == 3, err
    told, then = read_json(out), read_json(OLD / "check.json")
    assert form(told) == form(then)
    assert told["summary"] == then["summary"]
    # The words are for people and may change.
    assert_alike(told["findings"], then["findings"], free=("what", "remedy"))


@pytest.mark.usefixtures("recorded_gymnasium")
def test_an_old_interrupted_recording_continues_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One episode was in the dataset, the next was whole and waited to be put there."""
    out = restored("recordings/interrupted", tmp_path)
    waiting = (out / ".staging" / "seed-000001" / "0.mp4").stat().st_ino
    succeeds(capsys, *RECORD, "--out", out)
    whole = restored("recordings/finished", tmp_path)
    assert read_json(out / "meta" / "imitact.json") == read_json(whole / "meta" / "imitact.json")
    video = out / "videos" / "observation.images.pixels" / "chunk-000" / "file-001.mp4"
    assert video.stat().st_ino == waiting, "recorded again"
    assert digests(out).keys() == digests(whole).keys()
    if SAME_ENCODERS:
        assert digests(out) == digests(whole)
    ours, theirs = open_dataset(out), open_dataset(whole)
    assert ours.lengths == theirs.lengths
    for index in range(len(ours.lengths)):
        one, other = ours.episode(index), theirs.episode(index)
        assert np.allclose(one.state, other.state, atol=1e-6)
        assert np.allclose(one.action, other.action, atol=1e-6)


def test_an_old_recording_killed_between_renames_continues_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    """Of the second episode all files but info.json were there; the third waited; a seed had
    failed. The world has stages, the expert varies its pace."""
    out = restored("recordings/stages_interrupted", tmp_path)
    waiting = (out / ".staging" / "seed-000011" / "1.mp4").stat().st_ino
    report = record(
        out,
        make_env=dot_env.make_two_camera_dot,
        make_expert=dot_env.make_dot_expert,
        episodes=3,
        task="go to the mark",
        seeds=STAGES_SEEDS,
        workers=1,
        extra={"env": "dot", "spread": 1.0},
    )
    told = read_json(out / "meta" / "imitact.json")
    then = read_json(OLD / "stages.imitact.json")
    assert form(told) == form(then)
    assert_alike(told, then, tolerance=1e-9)
    video = out / "videos" / "observation.images.wrist" / "chunk-000" / "file-002.mp4"
    assert video.stat().st_ino == waiting, "recorded again"
    assert digests(out).keys() == EXPECTED["stages"].keys()
    if SAME_ENCODERS:
        assert digests(out) == EXPECTED["stages"]
    assert [d.seed for d in report.demonstrations] == [4, 10, 11]
    assert [f.seed for f in report.failures] == [3]


def test_an_old_recording_refuses_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = restored("recordings/interrupted", tmp_path)
    before = digests(out)
    for option, value in (("--hold", "4"), ("--task", "other"), ("--video.crf", "21"),
                          ("--gym.success", "done"), ("--starts", "random")):  # fmt: skip
        argv = list(RECORD)
        if option in argv:
            del argv[argv.index(option) : argv.index(option) + 2]
        code, _, err = run(capsys, *argv, option, value, "--out", out)
        assert code == 2, option
        assert "was begun with" in err
    assert digests(out).items() >= {n: d for n, d in before.items() if ".staging" not in n}.items()


# -- trainings -------------------------------------------------------------------------------------


OLD_CHECKPOINT = OLD / "trainings" / "interrupted" / "checkpoints" / "step-00000008"
FINISHED = OLD / "trainings" / "finished"


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interrupted training, gone on with to its end. It was killed after 11 of 16 steps, with a
    checkpoint of step 8; all that draws at random or has a memory is switched on: dropout, the
    posterior, shifts, crops, colours, noise, batch norm, the averaged weights."""
    out = restored("trainings/interrupted", tmp_path_factory.mktemp("resumed"))
    (frames,) = (out / "cache").glob("frames-*/camera-0.u8")
    frames.with_name("inode").write_text(str(frames.stat().st_ino))
    trackers = TRACKERS if importlib.util.find_spec("tensorboard") else ()
    data = OLD / "recordings" / "finished"
    argv = ["train", str(data), *TRAIN[1:], *trackers, "--out", str(out), "--resume"]
    assert main.run(argv) == 0
    return out


def test_an_old_interrupted_training_resumes_to_the_same_weights(resumed: Path) -> None:
    policy = resumed / "policy"
    if SAME_ROUNDING:
        assert weights_digest(policy) == EXPECTED["weights"]
    # Elsewhere as near as rounding allows: the last 8 steps moved the answer by far more.
    moved = np.abs(ARRAYS["trainings/finished"] - ARRAYS["trainings/interrupted"]).max()
    assert moved > 0.01
    assert_same_answer(policy, "trainings/finished", moved / 20)
    assert_same_answer(OLD_CHECKPOINT / "policy", "trainings/interrupted")
    free = ("imitact", "sha256") if SAME_ROUNDING else ("imitact", "sha256", "weights")
    told, then = (read_json(p / "policy.json") for p in (policy, FINISHED / "policy"))
    assert_alike(told, then, free)


def test_metrics_of_a_resumed_training_continue_from_the_old_checkpoint(
    resumed: Path,
) -> None:
    """Lines of later steps, and one that was torn, are removed; those before stay as they are."""
    tolerance = 0.0 if SAME_ROUNDING else 0.05
    old = (OLD / "trainings" / "interrupted" / "metrics.jsonl").read_bytes().splitlines(True)
    kept = [line for line in old[:-1] if json.loads(line)["step"] <= 8]
    assert (len(old), len(kept)) == (7, 5)
    now = (resumed / "metrics.jsonl").read_bytes()
    assert now.startswith(b"".join(kept))
    told, wanted = read_lines(resumed / "metrics.jsonl"), read_lines(FINISHED / "metrics.jsonl")
    assert [line["step"] for line in told] == [2, 4, 6, 6, 8, 10, 12, 12, 14, 16, 16]
    for line in told[len(kept) :]:  # lines of losses also have the number of steps since 0.1.0
        assert line.pop("steps", 16) == 16
    assert_alike(told, wanted, ("samples_per_s", "data_wait", "crc32"), tolerance)
    held, then = (read_json(folder / "held_out.json") for folder in (resumed, FINISHED))
    assert_alike(held, then, ("sha256",), tolerance)


def test_the_summary_of_a_resumed_training_counts_the_old_steps(resumed: Path) -> None:
    summary, then = (read_json(folder / "training.json") for folder in (resumed, FINISHED))
    assert form(summary) == form(then)
    assert summary["samples"] == 64
    before = read_json(OLD_CHECKPOINT / "trainer.json")["numbers"]["tally"]
    assert summary["wall_s"] > before["wall_s"]
    assert summary["trained_s"] > before["trained_s"]
    assert summary["train_pflop"] == before["flop_a_step"] * 16 / 1e15


def test_a_new_checkpoint_has_the_keys_and_settings_of_the_old_one(resumed: Path) -> None:
    newest = max((resumed / "checkpoints").iterdir())
    assert newest.name == "step-00000016"
    told, then = (read_json(folder / "trainer.json") for folder in (newest, OLD_CHECKPOINT))
    assert form(told) == form(then)
    assert told["numbers"]["settings"] == then["numbers"]["settings"]
    ours, theirs = (
        {name: (value.shape, value.dtype) for name, value in tensors.items()}
        for tensors in (
            safetensors.torch.load_file(folder / "trainer.safetensors")
            for folder in (newest, OLD_CHECKPOINT)
        )
    )
    assert ours == theirs


def test_a_resumed_training_reuses_the_old_frame_cache_and_tracker_run(
    resumed: Path,
) -> None:
    (frames,) = (resumed / "cache").glob("frames-*/camera-0.u8")
    assert str(frames.stat().st_ino) == frames.with_name("inode").read_text(), "decoded again"
    run = (OLD / "trainings" / "interrupted" / "trackers" / "run.json").read_bytes()
    assert (resumed / "trackers" / "run.json").read_bytes() == run


def test_every_setting_in_an_old_checkpoint_is_compared_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that is passed over when a training resumes gives other weights in silence."""
    out = restored("trainings/interrupted", tmp_path)
    (path,) = (out / "checkpoints").glob("*/trainer.json")
    original = path.read_text()
    settings = json.loads(original)["numbers"]["settings"]
    data = OLD / "recordings" / "finished"
    assert (len(settings["model"]), len(settings["train"])) == (28, 13)
    for part in ("model", "train"):
        for name, value in settings[part].items():
            told = json.loads(original)
            told["numbers"]["settings"][part][name] = another(value)
            del told["own_sha256"]
            own = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
            path.write_text(json.dumps({**told, "own_sha256": own}))
            code, _, err = run(capsys, *TRAIN, data, "--out", out, "--resume")
            assert code == 2, f"{part}.{name}"
            # Steps may grow; other numbers of them are refused for what they change.
            refusal = "learning rate" if name == "steps" else "cannot resume"
            assert refusal in err, f"{part}.{name}: {err}"
    assert not (out / "policy").exists()


def another(value: Any) -> Any:
    """Another value of that type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "none" if value != "none" else ""
    return value + 1


# -- policies --------------------------------------------------------------------------------------

POLICIES = (
    "plain", "tuned", "scaled", "scaled_and_tuned", "every_setting", "before_augmentation",
)  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_an_old_policy_predicts_the_recorded_chunk(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Formats 1, 2 and 3; one with every setting at another value than its default; one from before
    two of the settings were there."""
    path = restored(f"policies/{name}", tmp_path)
    assert_same_answer(path, f"policies/{name}")
    succeeds(capsys, "check", path)


@pytest.mark.parametrize("name", POLICIES)
def test_an_old_policy_keeps_its_identity(name: str, tmp_path: Path) -> None:
    """Evaluations, tunings and exports name it, and go on only with the policy that they name."""
    path = restored(f"policies/{name}", tmp_path)
    assert read_stored(path).identity == EXPECTED["identities"][f"policies/{name}"]


@pytest.mark.parametrize("name", POLICIES)
def test_an_old_policy_is_saved_with_the_same_keys_and_values(name: str, tmp_path: Path) -> None:
    path = restored(f"policies/{name}", tmp_path)
    then, now = read_json(path / "policy.json"), tmp_path / "again"
    TorchPolicy.load(path).save(now)
    if name == "before_augmentation":
        then["config"] |= {"random_crop": 0.0, "color_jitter": 0.0}
    told = read_json(now / "policy.json")
    assert form(told) == form(then)
    assert_alike(told, then, free=("imitact", "sha256", "weights"))
    assert weights_digest(now) == weights_digest(path)


# -- exported files --------------------------------------------------------------------------------

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}


def sealed(path: Path) -> dict[str, Any]:
    """What an exported file says of itself."""
    data = path.read_bytes()
    at, size = int(data[-96:-80]), int(data[-80:-64])
    return json.loads(data[at : at + size])


@pytest.mark.parametrize("kind", RUNTIMES)
def test_an_old_exported_file_predicts_the_recorded_chunk(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(RUNTIMES[kind])
    path = OLD / "exports" / kind / f"policy.{kind}"
    assert_same_answer(path, f"exports/{kind}")
    assert read_stored(path).identity == EXPECTED["identities"][f"exports/{kind}"]
    succeeds(capsys, "check", path)


@pytest.mark.parametrize(("kind", "policy"), [("onnx", "plain"), ("openvino", "tuned")])
def test_a_new_export_has_the_keys_and_values_of_the_old_one(
    kind: str, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(RUNTIMES[kind])
    path = restored(f"policies/{policy}", tmp_path)
    data, out, old = OLD / "recordings" / "finished", tmp_path / "exported", OLD / "exports" / kind
    succeeds(capsys, *EXPORT, path, "--data", data, "--out", out, "--to", kind)
    told, then = sealed(out / f"policy.{kind}"), sealed(old / f"policy.{kind}")
    # tuned holds what `imitact tune` chose, the exported one what it was exported with.
    assert form(told) == form(then)
    assert_alike(told, then, free=("imitact", "made_with", "parts", "execution"))
    now, before = read_json(out / "certificate.json"), read_json(old / "certificate.json")
    assert form(now) == form(before)
    for name in ("policy", "dataset", "kind", "precision", "limit_of_std"):
        assert now[name] == before[name]


# -- evaluations and tunings -----------------------------------------------------------------------

TIMES = ("wall_s", "clock_s", "crc32", "sha256")
EXACT = ("format", "interval")
"""Format 2 of evaluation.json and tune.json has exact intervals, format 1 Wilson's."""


def rows(journal: Path) -> list[dict[str, Any]]:
    return [line["episode"] for line in read_lines(journal) if "episode" in line]


def test_a_finished_old_evaluation_runs_no_episode_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = restored("evaluations/finished", tmp_path)
    policy = restored("policies/plain", tmp_path)
    journal, then = (out / "episodes.jsonl").read_bytes(), read_json(out / "evaluation.json")
    (out / "evaluation.json").unlink()
    succeeds(capsys, *EVALUATE, policy, "--out", out)
    assert (out / "episodes.jsonl").read_bytes() == journal
    told = read_json(out / "evaluation.json")
    assert [row["wall_s"] for row in told["rows"]] == [row["wall_s"] for row in then["rows"]]
    assert_alike(told, then, free=(*TIMES, *EXACT))


def test_an_old_interrupted_evaluation_continues_after_its_last_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of six episodes had ended, the fourth failed, and a line was torn."""
    out = restored("evaluations/interrupted", tmp_path)
    policy = restored("policies/plain", tmp_path)
    before = (out / "episodes.jsonl").read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert len(whole) < len(before)
    succeeds(capsys, *EVALUATE, policy, "--out", out)
    assert (out / "episodes.jsonl").read_bytes().startswith(whole)
    assert [row["seed"] for row in rows(out / "episodes.jsonl")] == [*range(1000, 1006)]
    told, then = (
        read_json(folder / "evaluation.json") for folder in (out, OLD / "evaluations" / "finished")
    )
    assert_alike(told, then, (*TIMES, *EXACT), 1e-3)
    # The two can be compared, which computes every figure from the rows again.
    succeeds(capsys, "compare", out, OLD / "evaluations" / "finished")


def test_an_old_evaluation_recognizes_the_old_exported_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out = restored("evaluations/of_export", tmp_path)
    journal, then = (out / "episodes.jsonl").read_bytes(), read_json(out / "evaluation.json")
    policy = OLD / "exports" / "onnx" / "policy.onnx"
    succeeds(capsys, *EVALUATE_EXPORT, policy, "--out", out)
    assert (out / "episodes.jsonl").read_bytes() == journal
    assert_alike(read_json(out / "evaluation.json"), then, free=(*TIMES, *EXACT))


def as_executed(tuning: dict[str, Any]) -> dict[str, Any]:
    """A tuning of the first version, with the replay that was executed: its policy's chunks have 6
    actions, and it reported the default of 50."""
    confirmed = tuning["confirmed"]
    assert {"replay:50"} < {row["chunking"] for row in confirmed}
    for row in confirmed:
        row["chunking"] = row["chunking"].replace("replay:50", "replay:6")
    return tuning


def test_a_finished_old_tuning_chooses_the_same_without_running_an_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = restored("tunings/finished", tmp_path)
    policy = restored("policies/plain", tmp_path)
    journal, then = (out / "tune.jsonl").read_bytes(), as_executed(read_json(out / "tune.json"))
    (out / "tune.json").unlink()
    succeeds(capsys, *TUNE, policy, "--out", out, *UNJOINED)
    assert (out / "tune.jsonl").read_bytes() == journal
    told = read_json(out / "tune.json")
    assert told["grid"].pop("fade") == [0]
    assert form(told) == form(then)
    assert_alike(told, then, free=("wall_s", "imitact", *EXACT))
    # What was chosen is written into the policy as the first version wrote it.
    assert_alike(
        read_json(policy / "policy.json"),
        read_json(OLD / "policies" / "tuned" / "policy.json"),
        free=("imitact", "sha256"),
    )


def test_an_old_interrupted_tuning_continues_after_its_last_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = restored("tunings/interrupted", tmp_path)
    policy = restored("policies/plain", tmp_path)
    before = (out / "tune.jsonl").read_bytes()
    succeeds(capsys, *TUNE, policy, "--out", out, *UNJOINED)
    journal = out / "tune.jsonl"
    assert journal.read_bytes().startswith(before)
    done = [(row["execution"]["chunking"], row["execution"]["delay_ticks"], row["row"]["seed"])
            for row in rows(journal)]  # fmt: skip
    assert len(done) == len({*done}), "an episode ran twice"
    told = read_json(out / "tune.json")
    then = as_executed(read_json(OLD / "tunings" / "finished" / "tune.json"))
    assert told["grid"].pop("fade") == [0]
    assert told["grid"] == then["grid"]
    assert told["race"] == then["race"]
    if SAME_ROUNDING:
        assert_alike(told, then, ("wall_s", "imitact", *EXACT), 1e-6)  # numpy's BLAS rounds, too


# -- conversions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["finished", "writing", "comparing"])
def test_an_old_conversion_continues_to_the_same_bytes(
    when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished; killed after one of two episodes was written, or after one of two was compared."""
    pytest.importorskip("h5py")
    whole = OLD / "conversions" / "finished"
    source = restored("conversions/source", tmp_path)
    out = restored(f"conversions/{when}", tmp_path)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*-000.*")}
    succeeds(capsys, *CONVERT, source, "--out", out)
    assert {p: p.stat().st_mtime_ns for p in times} == times, "written again"
    told, then = read_json(out / "conversion.json"), read_json(whole / "conversion.json")
    assert_alike(told, then)
    assert digests(out).keys() == digests(whole).keys()
    if SAME_ENCODERS or when != "writing":
        assert digests(out) == digests(whole)


def test_an_episode_that_an_old_conversion_compared_is_not_compared_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it found is taken over: here a number that comparing again would not give."""
    pytest.importorskip("h5py")
    source = restored("conversions/source", tmp_path)
    out = restored("conversions/comparing", tmp_path)
    journal = out / ".staging" / "verified.jsonl"
    (row,) = read_lines(journal)
    del row["crc32"]
    row["cameras"]["top"]["worst_frame_db"] = 12.5
    data = msgspec.json.encode(row)
    journal.write_bytes(data[:-1] + b',"crc32":%d}\n' % zlib.crc32(data))
    succeeds(capsys, *CONVERT, source, "--out", out)
    told = read_json(out / "conversion.json")
    assert told["rows"][0] == row
    assert told["frames"]["top"]["worst_frame_db"] == 12.5


def test_a_finished_old_conversion_to_aloha_is_recognized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("h5py")
    source = restored("conversions/finished", tmp_path)
    out = restored("conversions/back", tmp_path)
    before = digests(out)
    succeeds(capsys, *CONVERT_BACK, source, "--out", out)
    assert digests(out) == before


# -- checkpoints of other programs -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["lerobot", "act", "plugin"])
def test_an_old_export_for_another_program_is_imported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LeRobot's ACT, the released ACT, and imitact's own policy inside LeRobot."""
    source = OLD / "checkpoints_of_others" / name
    options: tuple[str, ...] = ()
    if name == "act":
        source, options = tmp_path / "act", ("--num-heads", "2")
        with tarfile.open(OLD / "checkpoints_of_others" / "act.tar.xz") as tar:
            tar.extractall(source, filter="data")
    out = tmp_path / "policy"
    succeeds(capsys, "import-policy", source, "--out", out, *options)
    assert_same_answer(out, f"checkpoints_of_others/{name}")
    spec = load_policy(out).spec
    assert spec.state_names == ("shoulder", "elbow", "gripper")
    assert spec.action_names == ("elbow", "gripper")
    assert spec.rate_hz == 12.5
    if name == "lerobot":
        again = tmp_path / "again"
        succeeds(capsys, "export-policy", out, "--out", again, "--to", "lerobot")
        assert {p.name for p in again.iterdir()} == {p.name for p in source.iterdir()}
        for file in source.glob("*.json"):
            assert read_json(again / file.name) == read_json(file), file.name


# -- the demo --------------------------------------------------------------------------------------


def test_a_finished_old_demo_is_recognized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its phases, the settings that they belong to, and the numbers of each phase. In the fixture
    the dot's world stood in for the ALOHA scene; with nothing left to do no world is run."""
    pytest.importorskip("gym_aloha")
    out = restored("demo", tmp_path)
    phases = read_json(out / "phases.json")
    phases["settings"]["data"] = str(out / "data")  # the only path that a file holds
    (out / "phases.json").write_text(json.dumps(with_checksum(phases)))
    before, numbers = digests(out), read_json(out / "demo.json")
    succeeds(capsys, *DEMO, "--out", out)
    told = read_json(out / "demo.json")
    assert form(told) == form(numbers)
    assert_alike(told, numbers, free=("versions", "processor", *EXACT))
    after = digests(out)
    assert {n: d for n, d in after.items() if n != "demo.json"} == {
        n: d for n, d in before.items() if n != "demo.json"
    }
    code, _, err = run(capsys, *DEMO, "--train.lr", "0.5", "--out", out)
    assert code == 2
    assert "was begun with other settings: train.lr was 0.001, is now 0.5" in err


# -- viewing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "recordings/finished", "trainings/finished", "trainings/interrupted",
        "evaluations/finished", "evaluations/interrupted", "demo",
    ],
)  # fmt: skip
def test_old_results_are_shown_as_a_page(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = restored(name, tmp_path), tmp_path / "page.html"
    before = digests(path)
    succeeds(capsys, "view", path, "--out", page)
    assert page.stat().st_size > 10_000
    assert digests(path) == before
