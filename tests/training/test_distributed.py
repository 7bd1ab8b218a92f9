"""Distributed training: several ranks compute what one does, rank 0 writes, no rank hangs.

The fixture `pair` starts two processes that run all scenarios, each in its own process group, and
write their results to a folder. torchrun itself is tested end to end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from imitact.cli import main
from imitact.core.camera_view import View
from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.config import ActConfig
from imitact.models.fine_tuning import Parent
from imitact.models.policy import TorchPolicy
from imitact.training import checkpoint
from imitact.training import device as devices
from imitact.training.config import TrainConfig
from imitact.training.distributed import SINGLE_PROCESS, RankLost, Ranks, join_ranks
from imitact.training.frame_cache import DecodedFrames
from imitact.training.loop import Interrupted, train
from imitact.training.optimizer_step import Updater
from imitact.training.sampler import Sampler, dataset_statistics
from imitact.training.sync_batchnorm import RankSyncBatchNorm
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import FIXTURES, ROOT

# Episodes are short compared to the chunk, so that shares have different padding.
DATASET = FakeDataset((7, 4, 9, 6))
H264_DATASET = FIXTURES / "lerobot" / "h264"

MODEL = ActConfig(
    chunk_size=4,
    input_height=32,
    input_width=32,
    backbone_width=16,
    backbone_stages=2,
    backbone_norm="group",
    hidden_dim=32,
    num_heads=2,
    dim_feedforward=16,
    encoder_layers=1,
    vae_encoder_layers=1,
    latent_dim=4,
    random_shift=2,
    random_crop=0.2,
    color_jitter=0.2,
    state_noise=0.1,
    dropout=0.0,
)

CONFIG = TrainConfig(
    steps=20,
    batch_size=6,
    lr=1e-3,
    lr_backbone=1e-3,
    warmup_steps=3,
    grad_clip_norm=1.0,
    ema_decay=0.9,
    seed=5,
    val_episodes=1,
    val_every=10,
    checkpoint_every=8,
    log_every=1,
    precision="fp32",
    device="cpu",
    num_threads=1,
    num_workers=1,
)

# An odd batch has shares of different size; without the CVAE there is no noise on z.
SCENARIOS: dict[str, tuple[ActConfig, TrainConfig]] = {
    "group": (MODEL, CONFIG),
    "batch": (
        dataclasses.replace(MODEL, backbone_norm="batch", use_vae=False),
        dataclasses.replace(CONFIG, batch_size=5, checkpoint_every=0),
    ),
    "frozen": (
        dataclasses.replace(
            MODEL, backbone_norm="frozen", pretrained_backbone="none", l1_ticks="all"
        ),
        dataclasses.replace(
            CONFIG, batch_size=3, ema_decay=0.0, val_episodes=0, val_every=0, checkpoint_every=0
        ),
    ),
}

DROPOUT = (
    dataclasses.replace(MODEL, backbone_norm="batch", dropout=0.2),
    dataclasses.replace(CONFIG, steps=13),
)


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def untimed(out: Path) -> list[dict[str, Any]]:
    timed = ("samples_per_s", "data_wait", "crc32")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(out)]


def everything(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:08d}" / "trainer.safetensors")


def first_update(name: str, ranks: Ranks, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return the gradients of the first step."""
    model, config = SCENARIOS[name]
    config = dataclasses.replace(config, grad_clip_norm=0.0)
    here = devices.choose_device("fp32", device, 1, ranks)
    policy = TorchPolicy.create(
        DATASET.spec, dataset_statistics(DATASET, range(4)), model, seed=0, fingerprint="fake"
    )
    updater = Updater(policy, config, here)
    here.seed(3)
    updater.update(0, draw(config.batch_size, ranks).batch(0))
    trained = updater.policy.net.named_parameters()
    return {n: p.grad.cpu().contiguous() for n, p in trained if p.grad is not None}


def draw(batch_size: int, ranks: Ranks = SINGLE_PROCESS) -> Sampler:
    views = {"top": View(32, 32)}
    return Sampler(
        DATASET,
        lambda: DecodedFrames(DATASET, views, limit_bytes=256 << 20, threads=1),
        chunk=4,
        batch_size=batch_size,
        seed=5,
        ranks=ranks.count,
        rank=ranks.rank,
    )


# -- two processes ---------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run_scenarios(folder: Path, ports: list[int]) -> None:
    """Run every scenario in this process, each with its own process group."""
    for scenario, port in zip(SCENARIO_RUNS, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        scenario(folder)
        gc.collect()  # a referenced group keeps its connections open
        if torch.distributed.is_initialized():  # ended by an error, as expected
            torch.distributed.destroy_process_group()


def run_training(folder: Path) -> None:
    with join_ranks() as ranks:
        for name, (model, config) in SCENARIOS.items():
            gradients = first_update(name, ranks)
            train(DATASET, folder / name, model, config, ranks=ranks)
            if ranks.is_first:
                save_file(gradients, folder / name / "gradients.safetensors")


def run_resumption(folder: Path) -> None:
    model, config = DROPOUT
    once, halves = folder / "once", folder / "halves"
    with join_ranks() as ranks:
        train(DATASET, once, model, config, ranks=ranks)
        with ranks.all_succeed():
            if ranks.is_first:  # as if killed after the checkpoint of step 8
                shutil.copytree(once, halves)
                shutil.rmtree(halves / "checkpoints" / "step-00000013")
                shutil.rmtree(halves / "policy")
        train(DATASET, halves, model, config, resume=True, ranks=ranks)


def run_fine_tuning(folder: Path) -> None:
    """Fine-tune a policy, and resume that where the parent is gone."""
    model, config = SCENARIOS["group"]
    config = dataclasses.replace(config, steps=10)
    once, halves = folder / "tuned", folder / "tuned-halves"
    policy = TorchPolicy.load(folder / "group" / "policy")
    parent = Parent(policy, "group", policy.identity, "data")
    with join_ranks() as ranks:
        train(DATASET, once, model, config, ranks=ranks, parent=parent)
        with ranks.all_succeed():
            if ranks.is_first:
                shutil.copytree(once, halves)
                shutil.rmtree(halves / "checkpoints" / "step-00000010")
        train(DATASET, halves, model, config, resume=True, ranks=ranks)


def run_collectives(folder: Path) -> None:
    with join_ranks() as ranks:
        other = Ranks(rank=1 - ranks.rank)
        assert (ranks.count, ranks.local_rank, ranks.is_first) == (
            2,
            ranks.rank,
            not other.is_first,
        )
        assert ranks.any(ranks.rank == 1)
        assert not ranks.any(False)
        assert ranks.all_reduce(torch.tensor([1.0, ranks.rank])).tolist() == [2.0, 1.0]
        assert ranks.all_gather(torch.tensor([ranks.rank])).tolist() == [[0], [1]]
        assert ranks.broadcast({"a": [ranks.rank, "ä"]}) == {"a": [0, "ä"]}
        assert ranks.broadcast(None if ranks.is_first else 1) is None
        mine = {"x": torch.full((2, 3), float(ranks.rank)), "n": torch.tensor(ranks.rank)}
        theirs = ranks.broadcast_tensors(mine)
        assert theirs["n"].item() == 0
        assert torch.equal(theirs["x"], torch.zeros(2, 3))
        seen = folder / "built"
        assert ranks.local_first(lambda: (seen.exists(), seen.write_text("x"))[0]) is (
            ranks.rank == 1
        )


def run_other_data(folder: Path) -> None:
    """Rank 1 has another dataset: it alone detects and reports it."""
    source = dataclasses.replace(DATASET, fingerprint=f"fake {os.environ['RANK']}")
    record_end(folder, "other", lambda: train(source, folder / "other", MODEL, CONFIG))


def run_not_finite(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, lr=1000.0, warmup_steps=0, grad_clip_norm=0.0)
    record_end(folder, "bad", lambda: train(DATASET, folder / "bad", MODEL, config))


def run_signal_to_one(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=100_000, val_every=0, ema_decay=0.0)

    def send_signal() -> None:
        numbers = folder / "signal" / "metrics.jsonl"
        while not (numbers.exists() and numbers.stat().st_size):  # until training has begun
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ["RANK"] == "1":
        threading.Thread(target=send_signal, daemon=True).start()
    record_end(folder, "signal", lambda: train(DATASET, folder / "signal", MODEL, config))


def run_timeout(folder: Path) -> None:
    def wait() -> None:
        with join_ranks(timeout=timedelta(seconds=2)) as ranks:
            ranks.any(True)
            if not ranks.is_first:
                time.sleep(4)
            ranks.any(True)

    record_end(folder, "silent", wait)


def record_end(folder: Path, name: str, work: Callable[[], object]) -> None:
    """Write to a file how `work` ended on this rank."""
    try:
        work()
        report = "nothing"
    except SystemExit as error:
        report = f"SystemExit {error.code}"
    except (ImitactError, KeyboardInterrupt) as error:
        report = f"{type(error).__name__} {error}"
    (folder / f"{name}-{os.environ['RANK']}").write_text(report)


# The last one ends the process, as a rank does that reports an error of all ranks.
SCENARIO_RUNS = (
    run_training,
    run_resumption,
    run_fine_tuning,
    run_collectives,
    run_other_data,
    run_signal_to_one,
    run_timeout,
    run_not_finite,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    ports = free_ports(len(SCENARIO_RUNS))
    program = (
        "import sys, pathlib; from tests.training import test_distributed as t;"
        "t.run_scenarios(pathlib.Path(sys.argv[2]), [int(p) for p in sys.argv[3:]])"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(folder)]
    processes = [
        subprocess.Popen(
            [*command, *map(str, ports)],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the same scenarios with one process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    folder = tmp_path_factory.mktemp("single")
    for name, (model, config) in SCENARIOS.items():
        train(DATASET, folder / name, model, config, ranks=SINGLE_PROCESS)
        save_file(first_update(name, SINGLE_PROCESS), folder / name / "gradients.safetensors")
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    return folder


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_compute_the_gradients_of_one(pair: Path, single: Path, name: str) -> None:
    two, one = (load_file(f / name / "gradients.safetensors") for f in (pair, single))
    assert two.keys() == one.keys()
    size = torch.cat([g.flatten() for g in one.values()]).norm()
    difference = torch.cat([(two[n] - one[n]).flatten() for n in one]).norm()
    assert size > 0
    assert difference / size < 1e-6
    # Small tensors too, except the bias of the keys, whose gradient is noise.
    for tensor, want in one.items():
        if not tensor.endswith("in_proj_bias"):
            assert (two[tensor] - want).norm() <= 2e-6 * want.norm() + 1e-9 * size, tensor


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_learn_what_one_rank_learns(pair: Path, single: Path, name: str) -> None:
    two, one = untimed(pair / name), untimed(single / name)
    assert len(one) >= 20
    for ours, want in zip(two, one, strict=True):
        assert ours.keys() == want.keys()
        for key in ("loss", "l1", "kl", "grad_norm", "held_out_l1_rad"):
            if key in want:
                assert ours[key] == pytest.approx(want[key], rel=1e-5, abs=1e-12), ours["step"]
    report = [json.loads((f / name / "training.json").read_text()) for f in (pair, single)]
    assert [t["ranks"] for t in report] == [2, 1]
    assert report[0]["samples"] == report[1]["samples"] == 20 * SCENARIOS[name][1].batch_size
    assert report[0]["train_pflop"] == pytest.approx(report[1]["train_pflop"], rel=1e-9)


def test_different_settings_give_different_losses(single: Path) -> None:
    """The tolerance is small enough: first losses of different scenarios differ by more."""
    losses = [lines(single / name)[0]["loss"] for name in SCENARIOS]
    assert len({round(loss, 3) for loss in losses}) == len(losses)


def test_two_ranks_resumed_end_with_the_same_weights_bit_for_bit(pair: Path) -> None:
    once, halves = pair / "once", pair / "halves"
    want, have = everything(once, 13), everything(halves, 13)
    assert want.keys() == have.keys()
    assert all(torch.equal(want[name], have[name]) for name in want)
    assert untimed(once) == untimed(halves)
    half = everything(once, 8)
    assert not all(torch.equal(want[name], half[name]) for name in want)


def test_two_ranks_fine_tune_and_resume_without_the_parent(pair: Path) -> None:
    tuned, halves = (everything(pair / name, 10) for name in ("tuned", "tuned-halves"))
    assert tuned.keys() == halves.keys()
    assert all(torch.equal(tuned[name], halves[name]) for name in tuned)
    policy = TorchPolicy.load(pair / "tuned" / "policy")
    assert policy.parent == TorchPolicy.load(pair / "group" / "policy").identity


def test_ranks_draw_different_dropout_masks() -> None:
    masks = []
    for rank in (0, 1):
        here = devices.choose_device("fp32", "cpu", 0, Ranks(rank=rank, count=2, local_rank=rank))
        here.seed(4)
        for step in (0, 1):
            here.seed_dropout(step)
            masks.append(torch.rand(8))
    assert len({tuple(mask.tolist()) for mask in masks}) == 4


def test_a_checkpoint_resumes_with_another_number_of_ranks(pair: Path, tmp_path: Path) -> None:
    """Two ranks start a training, a single process continues it."""
    model, config = SCENARIOS["group"]
    out = tmp_path / "out"
    shutil.copytree(pair / "group", out)
    shutil.rmtree(out / "checkpoints" / "step-00000020")
    output: list[str] = []
    train(DATASET, out, model, config, resume=True, on_line=output.append, ranks=SINGLE_PROCESS)
    assert any("ranks was 2, is now 1" in line for line in output)
    have, want = ([n["loss"] for n in lines(f) if "loss" in n] for f in (out, pair / "group"))
    assert have[:8] == want[:8]
    assert have[8:] == pytest.approx(want[8:], rel=1e-5)


def test_an_error_of_all_ranks_is_raised_once_and_an_error_of_one_rank_by_that_rank(
    pair: Path,
) -> None:
    assert (pair / "other-0").read_text() == "SystemExit 2"
    assert (
        "rank 1 does not train what rank 0 trains: the dataset is another one"
        in (pair / "other-1").read_text()
    )
    report = (pair / "bad-0").read_text()
    assert report.startswith(NotFinite.__name__)
    assert "Samples of the last steps" in report
    # Samples of the whole batch, not of rank 0's share.
    assert report.partition("tick: ")[2].split(";")[0].count(",") == 5
    assert (pair / "bad-1").read_text() == "SystemExit 2"


def test_a_signal_to_one_rank_stops_all_ranks_after_the_same_step(
    pair: Path,
) -> None:
    report = (pair / "signal-0").read_text()
    assert report.startswith(
        f"{Interrupted.__name__} stopped by a signal to another rank after step"
    )
    assert (pair / "signal-1").read_text() == "SystemExit 130"
    found = checkpoint.load_newest(pair / "signal" / "checkpoints", lambda line: None)
    assert found is not None
    assert f"after step {found[1].step} of 100000" in report
    assert str(found[0]) in report


def test_a_rank_that_does_not_respond_is_reported_as_lost(pair: Path) -> None:
    report = (pair / "silent-0").read_text()
    assert report.startswith(RankLost.__name__)
    assert "does not respond (Timed out" in report
    assert "(Connection closed by peer" in (pair / "silent-1").read_text()


# -- one process -----------------------------------------------------------------------------------


def test_without_torchrun_no_process_group_is_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    with join_ranks() as ranks:
        assert ranks == SINGLE_PROCESS
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_ranks() as ranks:
        assert ranks == SINGLE_PROCESS
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(BadInput, match="LOCAL_RANK, MASTER_PORT are not set"), join_ranks():
        pass


def test_only_the_torchrun_that_started_a_training_continues_it_without_resume(
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(CONFIG, steps=2, val_episodes=0, val_every=0)
    train(DATASET, tmp_path, MODEL, config, ranks=Ranks(launch_id="a"))
    with pytest.raises(BadInput, match="already contains a training; resume it"):
        train(DATASET, tmp_path, MODEL, config, ranks=Ranks(launch_id="a"))
    with pytest.raises(BadInput, match="this torchrun did not start"):
        train(DATASET, tmp_path, MODEL, config, ranks=Ranks(launch_id="b", restarts=1))
    again = Ranks(launch_id="a", restarts=1)
    assert train(DATASET, tmp_path, MODEL, config, ranks=again) == tmp_path / "policy"


@pytest.mark.parametrize("batch_size", [5, 6])
def test_the_shares_of_all_ranks_form_the_batch(batch_size: int) -> None:
    whole = draw(batch_size)
    shares = [draw(batch_size, Ranks(rank=rank, count=3)) for rank in range(3)]
    for index in (0, 4, 9):  # one of them spans two epochs
        want = whole.batch(index)
        parts = [samples.batch(index) for samples in shares]
        for field in ("state", "action", "is_pad", "episode", "tick"):
            joint = np.concatenate([getattr(part, field) for part in parts])
            assert np.array_equal(joint, getattr(want, field))
        assert {len(part.tick) for part in parts} <= {batch_size // 3, batch_size // 3 + 1}
        for part in parts:
            assert part.whole is not None
            assert part.whole.valid == (~want.is_pad).sum()
            assert np.array_equal(part.whole.tick, want.tick)
            first = part.whole.first
            assert np.array_equal(want.tick[first : first + len(part.tick)], part.tick)
    assert whole.batch(0).whole is None
    seen = [tuple(b.tick.tolist()) for samples in shares for b in samples.evenly_spaced(20)]
    assert sorted(seen) == sorted(tuple(b.tick.tolist()) for b in whole.evenly_spaced(20))


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(BadInput, match="rank is 1 of 3, batch_size 2"):
        draw(2, Ranks(rank=1, count=3))


def test_shards_draw_and_count_as_the_whole_batch_does() -> None:
    def numbers(count: int, generator: torch.Generator | None) -> torch.Tensor:
        return torch.rand(2, count, 3, generator=generator)

    torch.manual_seed(1)
    want = WHOLE.drawn(numbers, 5, axis=1)
    parts = [
        BatchShard(first, 5, 7, torch.Generator().manual_seed(1)).drawn(numbers, count, axis=1)
        for first, count in ((0, 2), (2, 3))
    ]
    assert torch.equal(torch.cat(parts, dim=1), want)
    values = torch.arange(10.0).view(5, 2)
    mean = BatchShard(0, 5, 7).mean(values[:2]) + BatchShard(2, 5, 7).mean(values[2:])
    assert mean == pytest.approx(WHOLE.mean(values))
    is_pad = torch.tensor([[False, True]])
    assert (WHOLE.valid_ticks(is_pad), BatchShard(0, 5, 7).valid_ticks(is_pad)) == (1, 7)


@pytest.mark.parametrize(("mean", "dtype"), [(0.0, torch.float32), (30.0, torch.float32),
                                             (1.0, torch.bfloat16)])  # fmt: skip
def test_synchronized_batch_norm_equals_batch_norm(mean: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 5, 6, generator=generator) * 2 + mean
    x = x.to(dtype, memory_format=torch.channels_last)
    seen = torch.randn(4, 8, 5, 6, generator=generator).to(dtype)
    plain = nn.BatchNorm2d(8)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(8, generator=generator) + 0.5)
    ours = RankSyncBatchNorm(nn.BatchNorm2d(8), SINGLE_PROCESS)
    ours.load_state_dict(plain.state_dict())
    assert ours.state_dict().keys() == plain.state_dict().keys()
    found = []
    for norm in (plain, ours):
        given = x.clone().requires_grad_()
        answer = norm(given)
        (answer * seen).sum().backward()
        found.append([answer, given.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
        assert answer.dtype == dtype
        norm.eval()
        found[-1].append(norm(x))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    for want, have in zip(*found, strict=True):
        torch.testing.assert_close(have, want, **close)


def test_each_rank_uses_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    plain = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: plain())
    second = Ranks(rank=3, count=4, local_rank=1)
    for device in ("auto", "cuda"):
        here = devices.choose_device("fp32", device, 0, second)
        assert here.device == used[-1] == torch.device("cuda:1")
        assert here.generators.keys() == {"cpu", "cuda"}
    with pytest.raises(BadInput, match="names one GPU for 4 ranks"):
        devices.choose_device("fp32", "cuda:1", 0, second)
    third = Ranks(rank=2, count=3, local_rank=2)
    with pytest.raises(BadInput, match="process 3 of its machine, which has 2 CUDA GPUs"):
        devices.choose_device("fp32", "cuda", 0, third)


# -- torchrun --------------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds the processes of torchrun by /proc"
)

TRAIN = [
    *("train", str(H264_DATASET), "--model.chunk-size", "4", "--model.input-height", "16"),
    *("--model.input-width", "16", "--model.backbone-width", "8", "--model.backbone-stages", "2"),
    *(
        "--model.backbone-norm",
        "batch",
        "--model.hidden-dim",
        "16",
        "--model.num-heads",
        "2",
        "--model.dim-feedforward",
        "16",
    ),
    *("--model.encoder-layers", "1", "--model.random-shift", "1", "--train.batch-size", "4"),
    *("--train.steps", "300", "--train.checkpoint-every", "10", "--train.log-every", "1"),
    *("--train.val-episodes", "1", "--train.val-every", "0", "--train.num-workers", "1"),
    *("--train.warmup-steps", "0", "--train.precision", "fp32"),
]


@contextlib.contextmanager
def torchrun(out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `torchrun ... -m imitact train` with its output in out.log."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *options, "-m", "imitact", *TRAIN, "--out", str(out)]
    with out.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it ends its workers
                process.wait(timeout=200)


def worker(process: subprocess.Popen[str], rank: int) -> int:
    """Return the id of the process that currently has that rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def wait_for(process: subprocess.Popen[str], out: Path, steps: int) -> None:
    """Wait for a checkpoint of that step or a later one."""
    deadline = time.monotonic() + 60
    while not any(
        p.name >= f"step-{steps:08d}" for p in checkpoint.list_checkpoints(out / "checkpoints")
    ):
        assert process.poll() is None, out.with_suffix(".log").read_text()
        assert time.monotonic() < deadline, out.with_suffix(".log").read_text()
        time.sleep(0.01)


@needs_proc
def test_after_a_killed_rank_torchrun_continues_from_the_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with torchrun(out, "--max-restarts", "1") as process:
        wait_for(process, out, 20)
        os.kill(worker(process, 0), signal.SIGKILL)  # it writes the files and holds the lock
        assert process.wait(timeout=200) == 0, out.with_suffix(".log").read_text()
    output = out.with_suffix(".log").read_text()
    lost = [line for line in output.splitlines() if "another rank has ended" in line]
    assert len(lost) == 1, output
    assert lost[0].startswith("imitact train: step ")
    assert "rank 1 of 2 stopped" in lost[0]
    assert "is intact" in lost[0]
    assert output.count("resuming from") == 1
    assert output.count("policy:  ") == 1
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 301))
    TorchPolicy.load(out / "policy")


@needs_proc
def test_a_stopped_torchrun_leaves_one_checkpoint_that_another_number_of_ranks_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with torchrun(out, "--max-restarts", "2") as process:
        wait_for(process, out, 20)
        process.terminate()
        assert process.wait(timeout=200) != 0
    output = out.with_suffix(".log").read_text()
    stopped = [line for line in output.splitlines() if line.startswith("imitact train:")]
    assert len(stopped) == 1, output
    step = int(stopped[0].partition("after step ")[2].split()[0])
    assert "stopped by SIGTERM" in stopped[0]
    assert "to continue, give the same command with --resume" in stopped[0]
    assert checkpoint.list_checkpoints(out / "checkpoints")[0].name == f"step-{step:08d}"
    assert not (out / "policy").exists()
    assert main.run([*TRAIN, "--out", str(out), "--resume", "--train.num-threads", "1"]) == 0
    assert "ranks was 2, is now 1" in capsys.readouterr().err
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 301))
