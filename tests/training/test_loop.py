"""Training loop: the same weights with and without interruption; checkpoints survive errors."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from imitact.core.camera_view import View
from imitact.core.errors import BadInput, DamagedFile, NotFinite
from imitact.datasets.subset import split_validation
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.storage.lock import exclusive_writer
from imitact.training import checkpoint
from imitact.training import device as devices
from imitact.training.config import PRESETS, TRAIN_JSON_KEYS, TrainConfig
from imitact.training.flops import count_flops
from imitact.training.frame_cache import DecodedFrames
from imitact.training.loop import Interrupted, train
from imitact.training.optimizer_step import Updater, lr_scale
from imitact.training.sampler import Sampler, dataset_statistics, episode_limits
from tests.support.fake_dataset import FakeDataset, FakeEpisode
from tests.support.paths import ROOT

DATASET = FakeDataset(
    (7, 4, 9, 6)
)  # 26 ticks; with one validation episode an epoch is 5 to 7 steps

# With everything that could differ after resuming: dropout, noise on z, batch norm.
TINY = ActConfig(
    chunk_size=4,
    input_height=32,
    input_width=32,
    backbone_width=8,
    backbone_stages=2,
    backbone_norm="batch",
    hidden_dim=8,
    num_heads=2,
    dim_feedforward=16,
    encoder_layers=1,
    vae_encoder_layers=1,
    latent_dim=4,
    random_shift=1,
    state_noise=0.1,
    dropout=0.2,
)

CONFIG = TrainConfig(
    steps=13,
    batch_size=3,
    lr=1e-2,
    lr_backbone=1e-3,
    warmup_steps=3,
    final_lr_fraction=0.1,
    grad_clip_norm=1.0,
    ema_decay=0.9,
    seed=5,
    val_episodes=1,
    val_every=4,
    checkpoint_every=8,
    log_every=1,
    precision="fp32",
    num_workers=1,
)


def config(**changes: Any) -> TrainConfig:
    return dataclasses.replace(CONFIG, **changes)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "policy" / "model.safetensors")


def everything(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:08d}" / "trainer.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def untimed(out: Path) -> list[dict[str, Any]]:
    timed = ("samples_per_s", "data_wait", "crc32")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(out)]


# -- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_in_two_parts_equals_training_without_interruption(
    tmp_path: Path, precision: Any
) -> None:
    once, halves = tmp_path / "once", tmp_path / "halves"
    settings = config(precision=precision)
    train(DATASET, once, TINY, settings)
    # As if killed after the checkpoint of step 8, in the middle of an epoch.
    shutil.copytree(once, halves)
    shutil.rmtree(halves / "checkpoints" / "step-00000013")
    shutil.rmtree(halves / "policy")
    train(DATASET, halves, TINY, settings, resume=True)
    assert equal(weights(once), weights(halves))
    assert equal(everything(once, 13), everything(halves, 13))
    assert untimed(once) == untimed(halves)
    # The comparison can fail: step 8 differs from step 13.
    assert not equal(everything(once, 8), everything(once, 13))


def test_training_stopped_by_a_signal_writes_a_checkpoint_and_resumes_to_the_same_weights(
    tmp_path: Path,
) -> None:
    once, stopped = tmp_path / "once", tmp_path / "stopped"
    train(DATASET, once, TINY, CONFIG)

    def stop(line: str) -> None:
        if line.startswith("step "):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"SIGTERM after step 1 of 13, .*step-00000001") as error:
        train(DATASET, stopped, TINY, CONFIG, on_line=stop)
    assert isinstance(error.value, KeyboardInterrupt)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not (stopped / "policy").exists()
    assert (stopped / "checkpoints" / "step-00000001" / "policy" / "policy.json").is_file()
    train(DATASET, stopped, TINY, CONFIG, resume=True)
    assert equal(weights(once), weights(stopped))
    assert untimed(once) == untimed(stopped)


def test_a_signal_during_the_last_step_stops_the_training(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"

    def stop(line: str) -> None:
        if line.startswith("step 1/"):
            signal.raise_signal(signal.SIGTERM)

    one = config(steps=1)
    with pytest.raises(Interrupted, match="after the last of 1 step"):
        train(DATASET, stopped, TINY, one, on_line=stop)
    assert not (stopped / "policy").exists()
    train(DATASET, stopped, TINY, one, resume=True)
    train(DATASET, tmp_path / "whole", TINY, one)
    assert equal(weights(stopped), weights(tmp_path / "whole"))


def test_two_trainings_never_write_to_the_same_folder(tmp_path: Path) -> None:
    with (
        exclusive_writer(tmp_path, "training"),
        pytest.raises(BadInput, match="another training is writing"),
    ):
        train(DATASET, tmp_path, TINY, CONFIG)
    train(DATASET, tmp_path, TINY, config(steps=1))


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    once, killed = tmp_path / "once", tmp_path / "killed"
    settings = config(steps=60, checkpoint_every=0, val_every=0)
    program = (
        "import sys, pathlib; from tests.training import test_loop as t;"
        "s = t.config(steps=60, checkpoint_every=1, val_every=0);"
        "t.train(t.DATASET, pathlib.Path(sys.argv[1]), t.TINY, s)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(killed), str(ROOT)])
    try:
        deadline = time.monotonic() + 120
        while not any(
            p.name >= "step-00000003" for p in checkpoint.list_checkpoints(killed / "checkpoints")
        ):
            assert child.poll() is None, "the child ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    assert not (killed / "policy").exists()
    train(DATASET, killed, TINY, settings, resume=True)
    train(DATASET, once, TINY, settings)
    assert equal(weights(once), weights(killed))
    assert untimed(once) == untimed(killed)


def test_resuming_skips_a_damaged_newest_checkpoint(tmp_path: Path) -> None:
    once = tmp_path / "once"
    settings = config(val_every=0)
    train(DATASET, once, TINY, settings)
    want = weights(once)
    (once / "checkpoints" / "step-00000013" / "trainer.safetensors").write_bytes(b"torn")
    messages: list[str] = []
    train(DATASET, once, TINY, settings, resume=True, on_line=messages.append)
    assert any("skipped" in line for line in messages)
    assert any("resuming from" in line and "step-00000008" in line for line in messages)
    assert equal(want, weights(once))


def test_resuming_a_finished_training_changes_nothing(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, CONFIG)
    before, metrics = weights(tmp_path), untimed(tmp_path)
    (tmp_path / "training.json").unlink()
    train(DATASET, tmp_path, TINY, CONFIG, resume=True)
    assert equal(before, weights(tmp_path))
    cost = json.loads((tmp_path / "training.json").read_text())
    assert cost["samples"] == 39
    assert cost["peak_rss_bytes"] > 0
    assert metrics == untimed(tmp_path)


def test_resuming_without_a_checkpoint_starts_a_new_training(tmp_path: Path) -> None:
    train(DATASET, tmp_path / "a", TINY, CONFIG)
    train(DATASET, tmp_path / "b", TINY, CONFIG, resume=True)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_only_the_same_training_can_be_resumed(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, CONFIG)
    with pytest.raises(BadInput, match="already contains a training"):
        train(DATASET, tmp_path, TINY, CONFIG)
    with pytest.raises(BadInput, match=r"--train\.lr was 0\.01, is now 0\.5"):
        train(DATASET, tmp_path, TINY, config(lr=0.5), resume=True)
    with pytest.raises(BadInput, match=r"--model\.chunk-size was 4, is now 3"):
        train(DATASET, tmp_path, dataclasses.replace(TINY, chunk_size=3), CONFIG, resume=True)
    other = dataclasses.replace(DATASET, fingerprint="other")
    with pytest.raises(BadInput, match="the dataset is another one"):
        train(other, tmp_path, TINY, CONFIG, resume=True)
    # Settings that change no weight may change; those that change the rounding are reported.
    messages: list[str] = []
    settings = config(val_every=5, log_every=7, cache_dir=str(tmp_path / "c"))
    train(DATASET, tmp_path, TINY, settings, resume=True, on_line=messages.append)
    assert not any("rounding" in line for line in messages)
    settings = config(precision="bf16")
    train(DATASET, tmp_path, TINY, settings, resume=True, on_line=messages.append)
    assert any('rounding: precision was "fp32", is now "bf16"' in line for line in messages)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    updater = an_updater()
    tensors = updater.tensors()
    del tensors["net.head.bias"]
    with pytest.raises(DamagedFile, match=r"1 tensors differ, first head\.bias"):
        an_updater().restore(tensors)


# -- stopping --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_the_samples_and_the_last_checkpoint_intact(
    tmp_path: Path,
) -> None:
    # The learning rate is so large that the weights overflow after a few steps.
    settings = config(
        lr=1000.0, warmup_steps=0, grad_clip_norm=0.0, checkpoint_every=1, ema_decay=0.0
    )
    with pytest.raises(NotFinite) as error:
        train(DATASET, tmp_path, TINY, settings)
    text = str(error.value)
    step = int(text.removeprefix("step ").split(":")[0])
    assert step > 1
    assert f"the checkpoint of step {step - 1} is intact" in text
    chosen, _ = split_validation(DATASET, 1)
    samples = draw(chosen.indices)
    for earlier in range(max(1, step - 2), step + 1):
        batch = samples.batch(earlier - 1)
        pairs = zip(batch.episode.tolist(), batch.tick.tolist(), strict=True)
        assert f"step {earlier}: {', '.join(f'{e}:{t}' for e, t in pairs)}" in text
    found = checkpoint.load_newest(tmp_path / "checkpoints", lambda line: None)
    assert found is not None
    assert found[1].step == step - 1
    net = [t for n, t in found[1].tensors.items() if n.startswith("net.")]
    assert all(bool(t.isfinite().all()) for t in net)


def test_a_validation_error_that_is_not_finite_is_reported_with_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = TorchPolicy.predict
    monkeypatch.setattr(TorchPolicy, "predict", lambda *given: predict(*given) * math.nan)
    with pytest.raises(
        NotFinite, match=r"step 4: the validation L1 is nan.*step 3: .*step 4: \d+:"
    ):
        train(DATASET, tmp_path, TINY, CONFIG)


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    updater = an_updater()
    batch = draw([0, 1]).batch(0)
    updater.update(0, batch)
    before = {n: t.clone() for n, t in updater.policy.net.named_parameters()}
    broken = dataclasses.replace(batch, action=np.full_like(batch.action, np.inf))
    with pytest.raises(NotFinite, match="gradient norm"):
        updater.update(1, broken)
    assert equal(before, dict(updater.policy.net.named_parameters()))


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture
def _asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a device whose results are not available at once."""
    monkeypatch.setattr(devices.TrainingDevice, "is_synchronous", property(lambda self: False))


def test_an_asynchronous_update_is_the_same_and_returns_its_numbers_one_update_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = draw([0, 1])
    waiting = an_updater(grad_clip_norm=0.5)
    waiting.device.seed(0)
    numbers = [waiting.update(step, samples.batch(step)) for step in range(4)]
    monkeypatch.setattr(devices.TrainingDevice, "is_synchronous", property(lambda self: False))
    late = an_updater(grad_clip_norm=0.5)
    late.device.seed(0)
    later_numbers = [late.update(step, samples.batch(step)) for step in range(4)]
    assert later_numbers == [{}, *numbers[:3]]
    assert (late.synchronize(), late.synchronize()) == (numbers[3], {})
    for name, tensor in waiting.tensors().items():
        assert torch.equal(late.tensors()[name], tensor), name


@pytest.mark.usefixtures("_asynchronous")
def test_a_gradient_that_is_not_finite_changes_no_weight_in_an_asynchronous_update() -> None:
    updater = an_updater()
    good = draw([0, 1]).batch(0)
    broken = dataclasses.replace(good, action=np.full_like(good.action, np.inf))
    updater.update(0, good)
    before = {n: t.clone() for n, t in updater.policy.net.named_parameters()}
    updater.update(1, broken)
    with pytest.raises(NotFinite, match="gradient norm"):
        updater.update(2, good)
    assert all(torch.equal(before[n], t) for n, t in updater.policy.net.named_parameters())
    updater.optimizer.step()  # nor does any later step
    assert all(torch.equal(before[n], t) for n, t in updater.policy.net.named_parameters())


@pytest.mark.usefixtures("_asynchronous")
def test_asynchronous_training_ends_with_the_same_weights_and_errors(
    tmp_path: Path,
) -> None:
    train(DATASET, tmp_path / "late", TINY, CONFIG)
    late = weights(tmp_path / "late")
    with pytest.raises(NotFinite):
        train(
            DATASET, tmp_path / "bad", TINY, config(lr=1000.0, warmup_steps=0, grad_clip_norm=0.0)
        )
    found = checkpoint.load_newest(tmp_path / "bad" / "checkpoints", lambda line: None)
    assert found is None or all(bool(t.isfinite().all()) for t in found[1].tensors.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices.TrainingDevice, "is_synchronous", property(lambda self: True))
        train(DATASET, tmp_path / "waiting", TINY, CONFIG)
    assert equal(late, weights(tmp_path / "waiting"))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA GPU: training on one is untested"
)
def test_a_gpu_learns_what_the_cpu_learns(tmp_path: Path) -> None:
    model = dataclasses.replace(TINY, dropout=0.0, random_shift=0, state_noise=0.0, use_vae=False)
    ends = []
    for device in ("cpu", "cuda"):
        train(DATASET, tmp_path / device, model, config(device=device, lr=1e-3))
        ends.append(weights(tmp_path / device))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name].cpu(), tensor, rtol=1e-2, atol=1e-3)


def test_batch_norm_of_a_single_value_per_channel_is_refused(tmp_path: Path) -> None:
    model = dataclasses.replace(TINY, input_height=4, input_width=4)
    with pytest.raises(BadInput, match="more than one value per channel"):
        train(DATASET, tmp_path, model, config(batch_size=1))


def test_data_and_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"--model.chunk-size is 10 ticks, but the longest episode has \d"
    ):
        train(DATASET, tmp_path, dataclasses.replace(TINY, chunk_size=10), CONFIG)
    with pytest.raises(BadInput, match="no episodes"):
        train(FakeDataset(()), tmp_path, TINY, CONFIG)
    with pytest.raises(BadInput, match="4 of 4 episodes"):
        train(DATASET, tmp_path, TINY, config(val_episodes=4))
    with pytest.raises(BadInput, match="episode 1 has 0 ticks"):
        train(FakeDataset((6, 0, 6)), tmp_path, TINY, config(val_episodes=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr_backbone": math.inf},
        {"ema_decay": 1.0},
        {"beta2": 1.5},
        {"final_lr_fraction": 2.0},
        {"seed": -1},
        {"val_episodes": -1},
        {"cache_limit_gb": -1.0},
        {"memory_limit_gb": math.inf},
        {"checkpoint_minutes": math.nan},
        {"log_every": 0},
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_option(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    option = f"--train.{name.replace('_', '-')}"
    with pytest.raises(BadInput, match=f"{option} is .*; it must be"):
        config(**wrong)


# -- results ---------------------------------------------------------------------------------------


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    model = dataclasses.replace(TINY, dropout=0.0, random_shift=0, state_noise=0.0, use_vae=False)
    train(DATASET, tmp_path, model, config(steps=120, batch_size=6, ema_decay=0.0, val_episodes=0))
    loss = [line["loss"] for line in lines(tmp_path)]
    assert np.mean(loss[-20:]) < 0.5 * np.mean(loss[:5])


def test_validation_episodes_enter_neither_the_statistics_nor_the_batches(tmp_path: Path) -> None:
    train(DATASET, tmp_path / "plain", TINY, CONFIG)
    chosen, held = split_validation(DATASET, 1)
    policy = TorchPolicy.load(tmp_path / "plain" / "policy")
    want = dataset_statistics(DATASET, chosen.indices)
    assert np.array_equal(policy.stats["action"].mean, want["action"].mean)
    assert policy.stats["state"].count == sum(chosen.lengths)
    assert policy.limits is not None
    assert policy.limits.to_json() == episode_limits(DATASET, chosen.indices).to_json()
    # The numbers of the validation episode do not affect the weights.
    changed = _Changed(DATASET.lengths, odd=held.indices[0])
    train(changed, tmp_path / "changed", TINY, CONFIG)
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "changed"))
    assert lines(tmp_path / "plain")[-1] != lines(tmp_path / "changed")[-1]


@dataclasses.dataclass(frozen=True)
class _Changed(FakeDataset):
    """A dataset in which one episode has other numbers."""

    odd: int = 0

    def episode(self, index: int) -> FakeEpisode:
        found = super().episode(index)
        return dataclasses.replace(found, index=99) if index == self.odd else found


def test_validation_is_the_mean_error_of_the_saved_policy_at_z_0(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, CONFIG)
    stored = json.loads((tmp_path / "held_out.json").read_text())
    policy = TorchPolicy.load(tmp_path / "policy")
    _, held = split_validation(DATASET, 1)
    (index,) = held.indices
    batch = draw([index], batch_size=DATASET.lengths[index]).batch(0)
    here = devices.choose_device("fp32", "cpu")
    error = np.abs(policy.predict(here.tensors(batch)).numpy() - batch.action)
    valid = ~batch.is_pad
    per_joint = error[valid].mean(axis=0)
    assert list(stored["held_out_l1_per_joint"]) == ["joint_0", "joint_1", "joint_2"]
    assert list(stored["held_out_l1_per_joint"].values()) == pytest.approx(per_joint, rel=1e-4)
    # joint_2 is a gripper without unit.
    assert stored["held_out_l1_rad"] == pytest.approx(per_joint[:2].mean(), rel=1e-4)
    per_tick = [error[valid[:, k], k, :2].mean() for k in range(4)]
    assert stored["held_out_l1_rad_per_tick"] == pytest.approx(per_tick, rel=1e-4)
    assert stored["step"] == 13
    validated = [line["step"] for line in lines(tmp_path) if "held_out_l1_rad" in line]
    assert validated == [4, 8, 12, 13]


def test_metrics_have_every_scalar_of_every_step(tmp_path: Path) -> None:
    train(DATASET, tmp_path / "each", TINY, CONFIG)
    trained = [line for line in lines(tmp_path / "each") if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, 14))
    for line in trained:
        assert line.keys() >= {"l1", "kl", "grad_norm", "lr", "lr_backbone", "samples_per_s"}
        assert line["loss"] == pytest.approx(line["l1"] + TINY.kl_weight * line["kl"], rel=1e-5)
        assert 0 <= line["data_wait"] <= 1
    train(DATASET, tmp_path / "mean", TINY, config(log_every=5))
    means = [line for line in lines(tmp_path / "mean") if "loss" in line]
    assert [line["step"] for line in means] == [5, 10, 13]
    want = np.mean([line["loss"] for line in trained[5:10]])
    assert means[1]["loss"] == pytest.approx(want, rel=1e-12)


def test_the_summary_has_the_cost_of_the_training(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, CONFIG)
    stored = json.loads((tmp_path / "training.json").read_text())
    assert stored["steps"] == 13
    assert stored["samples"] == 39
    assert stored["precision"] == "fp32"
    assert stored["precision_reason"] == "as asked"
    assert 0 < stored["trained_s"] < stored["wall_s"]
    assert stored["samples_per_s"] == pytest.approx(39 / stored["trained_s"])
    assert stored["peak_rss_bytes"] > 50e6
    assert stored["versions"]["torch"] == torch.__version__
    flop = count_flops(an_updater(), draw([0, 1]).batch(0))
    assert stored["train_pflop"] == pytest.approx(13 * flop / 1e15, rel=0.2)


def test_equal_seeds_give_equal_policies_and_others_do_not(
    tmp_path: Path,
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(DATASET, tmp_path / name, TINY, config(seed=seed, steps=2))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_training_without_a_frame_cache_gives_the_same_weights(tmp_path: Path) -> None:
    train(DATASET, tmp_path / "a", TINY, config(steps=4))
    settings = config(steps=4, cache_limit_gb=0.0, memory_limit_gb=1e-5, num_workers=3)
    train(DATASET, tmp_path / "b", TINY, settings)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not (tmp_path / "b" / "cache").exists()


# -- optimizer step --------------------------------------------------------------------------------


def draw(episodes: Any, batch_size: int = 3, seed: int = 5) -> Sampler:
    views = {"top": View(32, 32)}
    return Sampler(
        DATASET,
        lambda: DecodedFrames(DATASET, views, limit_bytes=256 << 20, threads=1),
        chunk=4,
        batch_size=batch_size,
        seed=seed,
        episodes=episodes,
    )


def an_updater(model: ActConfig = TINY, **changes: Any) -> Updater:
    settings = dataclasses.replace(CONFIG, **changes)
    stats = dataset_statistics(DATASET, [0, 1])
    policy = TorchPolicy.create(DATASET.spec, stats, model, seed=0, fingerprint="fake")
    return Updater(policy, settings, devices.choose_device("fp32", "cpu"))


def test_the_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine() -> None:
    settings = dataclasses.replace(CONFIG, warmup_steps=4, steps=104, final_lr_fraction=0.1)
    assert [lr_scale(settings, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_scale(settings, 4) == 1.0
    assert lr_scale(settings, 54) == pytest.approx(0.55)
    assert lr_scale(settings, 104) == pytest.approx(0.1)
    falling = [lr_scale(settings, s) for s in range(4, 105)]
    assert falling == sorted(falling, reverse=True)
    flat = dataclasses.replace(settings, warmup_steps=0, final_lr_fraction=1.0)
    assert {lr_scale(flat, s) for s in range(104)} == {1.0}


def test_the_backbone_has_its_own_learning_rate() -> None:
    updater = an_updater(lr_backbone=0.0, weight_decay=0.0, warmup_steps=0)
    before = {n: p.clone() for n, p in updater.policy.net.named_parameters()}
    updater.update(0, draw([0, 1]).batch(0))
    moved = {n for n, p in updater.policy.net.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in before if n.startswith("backbone.")}
    assert not any(n.startswith("backbone.") for n in moved)
    assert {"head.weight", "image_proj.weight"} <= moved


def test_an_update_is_adamw_on_the_clipped_gradient_of_the_loss() -> None:
    """Compare with the same update in plain torch, without fusing or averaging."""
    model = dataclasses.replace(TINY, dropout=0.0, random_shift=0, state_noise=0.0, use_vae=False)
    updater = an_updater(model, grad_clip_norm=0.1, warmup_steps=0, final_lr_fraction=1.0)
    plain = TorchPolicy.create(
        DATASET.spec, dataset_statistics(DATASET, [0, 1]), model, seed=0, fingerprint="fake"
    )
    plain.net.train()
    slow = [p for n, p in plain.net.named_parameters() if n.startswith("backbone.")]
    fast = [p for n, p in plain.net.named_parameters() if not n.startswith("backbone.")]
    groups = [{"params": fast, "lr": CONFIG.lr}, {"params": slow, "lr": CONFIG.lr_backbone}]
    adamw = torch.optim.AdamW(
        groups, betas=(CONFIG.beta1, CONFIG.beta2), weight_decay=CONFIG.weight_decay
    )
    here = devices.choose_device("fp32", "cpu")
    for step in range(3):
        batch = draw([0, 1]).batch(step)
        numbers = updater.update(step, batch)
        adamw.zero_grad()
        loss = plain.loss(here.tensors(batch)).total
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.net.parameters(), 0.1)
        adamw.step()
        assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert numbers["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert numbers["grad_norm"] > 0.1, "nothing was clipped, so nothing was tested"
    for name, want in plain.net.named_parameters():
        if name.endswith("in_proj_bias"):
            continue  # the gradient of the keys' bias is noise, which AdamW scales up
        got = dict(updater.policy.net.named_parameters())[name]
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-5), name


def test_the_averaged_policy_averages_weights_and_running_statistics() -> None:
    updater = an_updater(ema_decay=0.5)
    names = ["head.weight", "backbone.bn1.running_mean"]
    want = {n: updater.averaged.net.state_dict()[n].clone() for n in names}
    samples = draw([0, 1])
    for step in range(6):
        updater.update(step, samples.batch(step))
        decay = min(0.5, (1 + step) / (10 + step))
        now = updater.policy.net.state_dict()
        want = {n: decay * want[n] + (1 - decay) * now[n] for n in names}
    have = updater.averaged.net.state_dict()
    for name in names:
        assert torch.allclose(have[name], want[name], rtol=1e-5, atol=1e-7)
        assert not torch.equal(have[name], updater.policy.net.state_dict()[name])


def test_without_averaging_the_trained_policy_itself_is_saved() -> None:
    updater = an_updater(ema_decay=0.0)
    assert updater.averaged is updater.policy
    assert not any(n.startswith("ema.") for n in updater.tensors())


def test_counting_flops_changes_no_weight_buffer_or_random_state() -> None:
    updater = an_updater()
    torch.manual_seed(1)
    before = updater.tensors()
    assert count_flops(updater, draw([0, 1]).batch(0)) > 0
    assert equal(before, updater.tensors())


def test_the_flops_of_attention_are_those_of_its_two_products() -> None:
    """An additional encoder layer over a known number of tokens costs the computed FLOPs."""
    counts = []
    for layers in (1, 2):
        model = dataclasses.replace(TINY, encoder_layers=layers, use_vae=False, dropout=0.0)
        counts.append(count_flops(an_updater(model), draw([0, 1]).batch(0)))
    tokens, dim, ffn, batch = 2 + 4 * 4, 8, 16, 3
    matrices = 2 * tokens * (4 * dim * dim + 2 * dim * ffn)
    attention = 2 * 2 * tokens * tokens * dim
    # Backward: two products per product of a weight matrix; five for the two of attention.
    want = batch * (3 * matrices + 3.5 * attention)
    assert counts[1] - counts[0] == pytest.approx(want, rel=0.01)


# -- settings --------------------------------------------------------------------------------------


def test_settings_keep_the_keys_of_0_1_on_disk() -> None:
    stored = config(val_episodes=3, trackers=("trackio",)).to_json()
    assert (stored["held_out"], stored["validate_every"], stored["clip_norm"]) == (3, 4, 1.0)
    assert not stored.keys() & TRAIN_JSON_KEYS.keys()
    read = json.loads(json.dumps(stored))
    assert TrainConfig.from_json(read) == config(val_episodes=3, trackers=("trackio",))
    assert TrainConfig.from_json({"clip_norm": 2.0}) == TrainConfig(grad_clip_norm=2.0)
    with pytest.raises(BadInput, match="unknown training settings: speed"):
        TrainConfig.from_json({"speed": 1})


def test_presets_have_settings_of_model_and_training() -> None:
    assert set(PRESETS) == {"paper", "released", "quick"}
    for name in ("paper", "released"):
        assert (PRESETS[name][1].batch_size, PRESETS[name][1].lr) == (8, 1e-5)
