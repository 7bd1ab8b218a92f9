"""Tests of the policy: units, refusals and the directory on disk."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from imitact.core.camera_view import resize
from imitact.core.errors import BadInput, DamagedFile, ImitactError, NotFinite, SpecMismatch
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.core.joint_limits import demonstrated_limits
from imitact.core.types import Camera, LazyFrames, Observation, Policy, Spec
from imitact.models import policy_folder
from imitact.models.act import Act, Losses, Prediction
from imitact.models.config import ActConfig
from imitact.models.normalization import STD_FLOOR
from imitact.models.policy import TorchPolicy

TINY = ActConfig(
    chunk_size=5,
    input_height=12,
    input_width=16,
    backbone_width=16,
    backbone_stages=1,
    backbone_norm="batch",
    hidden_dim=8,
    num_heads=2,
    dim_feedforward=12,
    encoder_layers=1,
    vae_encoder_layers=1,
    latent_dim=3,
    dropout=0.0,
)
SPEC = Spec(
    state_names=("shoulder", "elbow", "gripper", "current"),
    action_names=("elbow", "shoulder", "gripper"),
    state_units=("rad", "rad", "1", "A"),
    action_units=("rad", "rad", "1"),
    cameras=(Camera("top", 24, 32), Camera("wrist", 30, 20)),
    rate_hz=50,
)


def stats(size: int, seed: int) -> Stats:
    draw = np.random.default_rng(seed)
    mean, std = draw.normal(size=size), draw.uniform(0.1, 2, size)
    return Stats(mean, std, mean - 3 * std, mean + 3 * std, 1000)


STATS = {"state": stats(4, 1), "action": stats(3, 2), "delta": stats(3, 3)}


def made(config: ActConfig = TINY, spec: Spec = SPEC, seed: int = 0) -> TorchPolicy:
    policy = TorchPolicy.create(spec, STATS, config, seed=seed, fingerprint="abc")
    policy.net.eval()
    return policy


def observed(seed: int = 0, **changes: Any) -> Observation:
    draw = np.random.default_rng(seed)
    frames = {
        c.name: draw.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in SPEC.cameras
    }
    return Observation(**{"state": draw.normal(size=4), "frames": frames, **changes})


def batch_of(size: int = 3, config: ActConfig = TINY) -> dict[str, Any]:
    draw = np.random.default_rng(9)
    is_pad = torch.zeros(size, config.chunk_size, dtype=torch.bool)
    is_pad[-1, 2:] = True
    return {
        "state": torch.from_numpy(draw.normal(size=(size, 4)).astype(np.float32)),
        "action": torch.from_numpy(
            draw.normal(size=(size, config.chunk_size, 3)).astype(np.float32)
        ),
        "is_pad": is_pad,
        "frames": {
            name: torch.from_numpy(draw.integers(0, 256, (size, *view.size, 3), dtype=np.uint8))
            for name, view in config.views(SPEC).items()
        },
    }


class Oracle(nn.Module):
    """The ideal network: it predicts the targets that it saw last."""

    def __init__(self, net: Act) -> None:
        super().__init__()
        self.net = net
        self.targets: Tensor | None = None

    def forward(
        self, state: Tensor, images: Any, action: Tensor | None = None, *_: Any
    ) -> Prediction:
        if action is not None:
            self.targets = action
        assert self.targets is not None
        return Prediction(self.targets, None, None)

    def losses(self, *given: Any) -> Losses:
        return self.net.losses(*given)


# -- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["absolute", "delta"])
def test_an_ideal_network_returns_the_physical_actions_it_was_trained_on(actions: Any) -> None:
    policy = made(replace(TINY, actions=actions))
    policy.net = Oracle(policy.net)  # type: ignore[assignment]
    batch = batch_of()
    losses = policy.loss(batch)
    assert losses.l1.item() == 0
    assert torch.allclose(policy.predict(batch), batch["action"], rtol=1e-5, atol=1e-6)


def test_a_delta_target_is_the_action_minus_the_state_of_that_name() -> None:
    policy = made(replace(TINY, actions="delta"))
    batch = batch_of()
    oracle = Oracle(policy.net)
    policy.net = oracle  # type: ignore[assignment]
    policy.loss(batch)
    assert oracle.targets is not None
    state = batch["state"].numpy()
    measured = {"shoulder": state[:, 0], "elbow": state[:, 1], "gripper": state[:, 2]}
    for i, name in enumerate(SPEC.action_names):
        delta = batch["action"][:, :, i].numpy() - measured[name][:, None]
        expected = (delta - STATS["delta"].mean[i]) / STATS["delta"].std[i]
        assert np.allclose(oracle.targets[:, :, i].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_delta_actions_without_delta_statistics_are_refused() -> None:
    config = replace(TINY, actions="delta")
    known = {n: s for n, s in STATS.items() if n != "delta"}
    with pytest.raises(BadInput, match='no statistics of "delta"'):
        TorchPolicy.create(SPEC, known, config, seed=0, fingerprint="")


def test_delta_actions_are_refused_if_an_action_is_not_measured() -> None:
    spec = replace(SPEC, action_names=("elbow", "wheel", "gripper"))
    with pytest.raises(BadInput, match=r'wheel are not measured.*use actions "absolute"'):
        TorchPolicy.create(spec, STATS, replace(TINY, actions="delta"), seed=0, fingerprint="")
    TorchPolicy.create(spec, STATS, TINY, seed=0, fingerprint="")


def test_a_constant_state_is_divided_by_the_floor() -> None:
    still = Stats(np.ones(4), np.zeros(4), np.ones(4), np.ones(4), 10)
    policy = TorchPolicy.create(SPEC, {**STATS, "state": still}, TINY, seed=0, fingerprint="")
    normalised = policy._state({"state": torch.full((1, 4), 1.001)})
    assert torch.allclose(normalised, torch.full((1, 4), 0.001 / STD_FLOOR), rtol=1e-3)


def test_pixels_are_normalized_with_imagenets_statistics() -> None:
    policy = made()
    batch = batch_of()
    images, moved = policy._images(batch["frames"], 3)
    assert moved is None
    frame = batch["frames"]["top"].numpy()
    expected = (frame / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(images[0].numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_prediction_is_the_same_in_train_and_eval_mode() -> None:
    policy = made(replace(TINY, dropout=0.5))
    batch = batch_of()
    before = policy.predict(batch)
    policy.net.train()
    assert torch.equal(policy.predict(batch), before)
    assert policy.net.training
    assert not before.requires_grad


@pytest.mark.parametrize(
    "change", [{"random_shift": 3}, {"random_crop": 0.3}, {"color_jitter": 0.3}]
)
def test_frames_are_augmented_in_training_only(change: dict[str, float]) -> None:
    policy, still = made(replace(TINY, **change)), made(TINY)
    batch = batch_of()
    noise = torch.zeros(3, TINY.latent_dim)
    for each in (policy, still):
        each.net.eval()
    assert torch.equal(policy.predict(batch), still.predict(batch))
    assert policy.loss(batch, noise=noise).total == still.loss(batch, noise=noise).total
    policy.net.train()
    torch.manual_seed(0)
    assert policy.loss(batch, noise=noise).total != policy.loss(batch, noise=noise).total
    assert torch.equal(policy.predict(batch), policy.predict(batch))


def test_shift_as_input_feeds_the_shift_in_training_and_zero_at_inference() -> None:
    with_input, without = (
        made(replace(TINY, random_shift=3, shift_as_input=yes)) for yes in (True, False)
    )
    weight = with_input.net.shift_proj.weight
    batch = batch_of()
    with torch.no_grad():
        weight.zero_()  # the shift has no effect
    noise = torch.zeros(3, TINY.latent_dim)
    losses = []
    for policy in (with_input, without):
        policy.net.load_state_dict(without.net.state_dict(), strict=False)
        policy.net.train()
        torch.manual_seed(0)
        losses.append(policy.loss(batch, noise=noise).total)
    assert losses[0] == losses[1]
    losses[0].backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0
    still = with_input.predict(batch)
    with torch.no_grad():
        weight.fill_(1.0)
    assert torch.equal(with_input.predict(batch), still)


def test_the_loss_uses_the_given_noise() -> None:
    policy = made()
    batch = batch_of()
    still = policy.loss(batch, noise=torch.zeros(3, 3)).l1
    assert torch.equal(still, policy.loss(batch, noise=torch.zeros(3, 3)).l1)
    assert not torch.equal(still, policy.loss(batch, noise=torch.ones(3, 3)).l1)


def test_a_chunk_is_the_prediction_for_the_resized_frames() -> None:
    policy = made()
    observation = observed()
    batch = {
        "state": torch.tensor(observation.state, dtype=torch.float32)[None],
        "frames": {
            name: torch.from_numpy(resize(observation.frames[name], 12, 16))[None]
            for name in ("top", "wrist")
        },
    }
    chunk = policy.chunk(observation)
    assert chunk.shape == (5, 3)
    assert chunk.dtype == np.float32
    assert np.array_equal(chunk, policy.predict(batch)[0].numpy())


def test_a_crop_applies_to_its_camera_only() -> None:
    policy = made(replace(TINY, crop="top=4:16,8:24"))
    observation = observed()
    top, wrist = observation.frames["top"], observation.frames["wrist"]
    batch = {
        "state": torch.tensor(observation.state, dtype=torch.float32)[None],
        "frames": {
            "top": torch.from_numpy(top[4:16, 8:24].copy())[None],
            "wrist": torch.from_numpy(resize(wrist, 12, 16))[None],
        },
    }
    assert np.array_equal(policy.chunk(observation), policy.predict(batch)[0].numpy())
    outside = top.copy()
    outside[:4], outside[16:], outside[:, :8], outside[:, 24:] = 0, 0, 0, 0
    same = policy.chunk(replace(observation, frames={"top": outside, "wrist": wrist}))
    assert np.array_equal(same, policy.chunk(observation))


def test_frames_at_capture_size_are_not_resized() -> None:
    config = replace(TINY, input_height=0, input_width=0)
    chunk = made(config).chunk(observed())
    assert chunk.shape == (5, 3)


def test_gradient_descent_lowers_the_loss() -> None:
    policy = made(replace(TINY, use_vae=False, hidden_dim=32, dim_feedforward=64), seed=1)
    batch = batch_of()
    policy.net.train()
    curve = []
    for _ in range(40):
        policy.net.zero_grad()
        total = policy.loss(batch).total
        total.backward()
        curve.append(total.item())
        with torch.no_grad():
            for weight in policy.net.parameters():
                weight -= 3e-3 * weight.grad.sign()
    assert curve[-1] < 0.4 * curve[0]


# -- as a Policy -------------------------------------------------------------------------------


def test_it_is_a_policy_and_deterministic() -> None:
    policy = made()
    assert isinstance(policy, Policy)
    policy.reset(1)
    first = policy.chunk(observed())
    policy.reset(2)
    assert np.array_equal(policy.chunk(observed()), first)


def test_only_the_required_cameras_are_rendered() -> None:
    rendered = []
    frames = observed().frames

    def render(name: str) -> Any:
        rendered.append(name)
        return frames[name]

    lazy = LazyFrames(("spare", "wrist", "top"), render)
    chunk = made().chunk(observed(frames=lazy))
    assert rendered == ["top", "wrist"]
    assert np.array_equal(chunk, made().chunk(observed()))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"frames": {"top": np.zeros((24, 32, 3), np.uint8)}},
            SpecMismatch,
            r"no frame of camera wrist; it has frames of top, expected top, wrist",
        ),
        (
            {
                "frames": {
                    "top": np.zeros((12, 16, 3), np.uint8),
                    "wrist": np.zeros((30, 20, 3), np.uint8),
                }
            },
            SpecMismatch,
            r"camera top gave uint8 of shape \(12, 16, 3\), expected uint8 of shape \(24, 32, 3\)",
        ),
        (
            {
                "frames": {
                    "top": np.zeros((24, 32, 3), np.float32),
                    "wrist": np.zeros((30, 20, 3), np.uint8),
                }
            },
            SpecMismatch,
            "camera top gave float32",
        ),
        (
            {"state": np.zeros(3)},
            SpecMismatch,
            r"state has shape \(3,\), expected \(4,\): shoulder",
        ),
        ({"state": np.array([0, np.nan, 0, 0])}, NotFinite, "not finite in elbow"),
        ({"state": np.array([0, 0, 0, np.inf])}, NotFinite, "not finite in current"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        made().chunk(observed(**change))


def test_a_nan_prediction_is_refused() -> None:
    policy = made()
    with torch.no_grad():
        next(policy.net.head.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match="NaN or infinity"):
        policy.chunk(observed())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": torch.zeros(3, 5)}, r"state has shape \(3, 5\), expected \(B, 4\)"),
        ({"action": torch.zeros(3, 4, 3)}, r"action has shape \(3, 4, 3\)"),
        ({"is_pad": torch.zeros(3, 5)}, r"is_pad \(3, 5\) torch.float32; expected"),
        ({"frames": {}}, r'no frames of camera "top"; it has none'),
        (
            {"frames": {"top": torch.zeros(3, 24, 32, 3, dtype=torch.uint8)}},
            r'"top" are torch.uint8 of shape \(3, 24, 32, 3\), expected .*\(3, 12, 16, 3\)',
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecMismatch, match=message):
        made().loss({**batch_of(), **change})


def test_statistics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecMismatch, match='statistics of "state" have 3 dimensions, the Spec 4'):
        TorchPolicy.create(SPEC, {**STATS, "state": stats(3, 1)}, TINY, seed=0, fingerprint="")
    with pytest.raises(BadInput, match='no statistics of "action"'):
        TorchPolicy.create(SPEC, {"state": stats(4, 1)}, TINY, seed=0, fingerprint="")


def test_frozen_norms_without_weights_are_refused_unless_chosen_explicitly() -> None:
    with pytest.raises(BadInput, match="none were given"):
        made(replace(TINY, backbone_norm="frozen"))
    made(replace(TINY, backbone_norm="frozen", pretrained_backbone="none"))


def test_the_seed_alone_determines_the_initial_weights() -> None:
    torch.manual_seed(1)
    first = made(seed=4).chunk(observed())
    torch.manual_seed(2)
    assert np.array_equal(made(seed=4).chunk(observed()), first)
    assert not np.array_equal(made(seed=5).chunk(observed()), first)


def test_a_policy_may_have_no_cameras() -> None:
    spec = replace(SPEC, cameras=())
    policy = made(replace(TINY, backbone_norm="frozen"), spec)
    assert policy.chunk(observed(frames={})).shape == (5, 3)


# -- on disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_saving_and_loading_is_exact(norm: Any, tmp_path: Path) -> None:
    config = replace(
        TINY, backbone_norm=norm, pretrained_backbone="none", actions="delta", queries="sinusoidal"
    )
    policy = made(config)
    policy.net.train()
    policy.loss(batch_of())  # moves the batch norms' statistics
    policy.save(tmp_path / "p")
    loaded = TorchPolicy.load(tmp_path / "p")
    ours, theirs = policy.net.state_dict(), loaded.net.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[n]) for n, v in ours.items())
    assert np.array_equal(policy.chunk(observed()), loaded.chunk(observed()))
    assert (loaded.spec, loaded.config, loaded.fingerprint) == (SPEC, config, "abc")
    for name, known in STATS.items():
        for part in ("mean", "std", "min", "max", "count"):
            assert np.array_equal(getattr(loaded.stats[name], part), getattr(known, part))
    assert all(p.requires_grad for p in loaded.net.parameters())
    assert not loaded.net.training


def test_a_policy_keeps_the_joint_limits_of_its_demonstrations_and_older_ones_have_none(
    tmp_path: Path,
) -> None:
    rows = np.cumsum(np.ones((20, 3)), axis=0) * np.array([0.01, 0.02, 0.03])
    limits = demonstrated_limits([rows], SPEC.action_names, SPEC.action_units, SPEC.rate_hz)
    policy = TorchPolicy.create(SPEC, STATS, TINY, seed=0, fingerprint="abc", limits=limits)
    policy.save(tmp_path / "p")
    loaded = TorchPolicy.load(tmp_path / "p")
    assert loaded.limits is not None
    assert loaded.limits.to_json() == limits.to_json()
    assert policy_folder.read_record(tmp_path / "p").limits is not None
    made().save(tmp_path / "older")
    assert "limits" not in policy_folder.read_policy_json(tmp_path / "older")
    assert TorchPolicy.load(tmp_path / "older").limits is None


def test_joint_limits_of_other_joints_are_refused() -> None:
    limits = demonstrated_limits([np.eye(3)], ("a", "b", "c"), ("rad",) * 3, 50.0)
    with pytest.raises(DamagedFile, match="limits are of a, b, c"):
        TorchPolicy.create(SPEC, STATS, TINY, seed=0, fingerprint="abc", limits=limits)


def test_a_saved_policy_holds_two_files_and_no_pickle(tmp_path: Path) -> None:
    made().save(tmp_path / "p")
    assert sorted(os.listdir(tmp_path)) == ["p"]
    assert sorted(os.listdir(tmp_path / "p")) == ["model.safetensors", "policy.json"]
    about = json.loads((tmp_path / "p" / "policy.json").read_text())
    assert about["format"] == 1
    assert about["weights"]["sha256"] == sha256(tmp_path / "p" / "model.safetensors")


def test_loading_needs_neither_dataset_nor_simulator(tmp_path: Path) -> None:
    made().save(tmp_path / "p")
    code = (
        "import sys; from imitact.models.policy import TorchPolicy; "
        f"TorchPolicy.load({str(tmp_path / 'p')!r}); "
        "bad = {'mujoco', 'gym_aloha', 'gymnasium', 'av', 'pyarrow', 'mink', 'tyro', 'rich', "
        "'torchvision', 'imitact.datasets', 'imitact.envs', 'imitact.training', "
        "'imitact.evaluation'}; "
        "print(sorted(bad & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_saving_again_replaces_the_policy_and_leaves_no_other_files(tmp_path: Path) -> None:
    made(seed=1).save(tmp_path / "p")
    newer = made(seed=2)
    newer.save(tmp_path / "p")
    assert os.listdir(tmp_path) == ["p"]
    assert np.array_equal(
        TorchPolicy.load(tmp_path / "p").chunk(observed()), newer.chunk(observed())
    )


def test_saving_never_removes_files_that_are_not_a_policys(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r'holds "notes\.txt", which is not part of a policy'):
        made().save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(BadInput, match="is a file"):
        made().save(tmp_path / "notes.txt")


@pytest.mark.parametrize("call", ["save_file", "write_bytes", "fsync", "rename_new"])
def test_a_full_disk_leaves_the_earlier_policy_intact(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = made(seed=1)
    old.save(tmp_path / "p")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rename = os.rename

    def full_for_the_new(source: Any, target: Any) -> None:
        if ".saving" in str(source):
            full()
        rename(source, target)

    with monkeypatch.context() as patch:
        if call == "save_file":
            patch.setattr(safetensors.torch, "save_file", full)
        elif call == "write_bytes":
            patch.setattr(Path, "write_bytes", full)
        elif call == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(os, "rename", full_for_the_new)
        with pytest.raises(
            BadInput, match=r"no room left while writing .*; free some space and save again"
        ):
            made(seed=2).save(tmp_path / "p")
    assert os.listdir(tmp_path) == ["p"]
    assert np.array_equal(TorchPolicy.load(tmp_path / "p").chunk(observed()), old.chunk(observed()))


def test_a_save_killed_at_any_moment_leaves_the_old_policy_or_the_new_one(tmp_path: Path) -> None:
    # Repeats the steps of a second save up to each rename and checks what a reader finds.
    old, new = made(seed=1), made(seed=2)
    answers = [p.chunk(observed()) for p in (old, new)]
    old.save(tmp_path / "p")
    new.save(tmp_path / "other")
    half = tmp_path / ".p.saving"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = [TorchPolicy.load(tmp_path / "p").chunk(observed())]
    os.rename(tmp_path / "p", tmp_path / ".p.previous")
    found.append(TorchPolicy.load(tmp_path / "p").chunk(observed()))
    new.save(tmp_path / "p")  # the next save cleans up after the killed one
    found.append(TorchPolicy.load(tmp_path / "p").chunk(observed()))
    assert sorted(os.listdir(tmp_path)) == ["other", "p"]
    for chunk, expected in zip(found, (0, 0, 1), strict=True):
        assert np.array_equal(chunk, answers[expected])


def test_an_execution_is_stored_and_changes_neither_chunks_nor_identity(tmp_path: Path) -> None:
    made(spec=replace(SPEC, rate_hz=50.0)).save(tmp_path / "p")
    untuned = {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()}
    was = policy_folder.identity(tmp_path / "p")
    assert TorchPolicy.load(tmp_path / "p").execution is None
    late = Execution("ensemble:0.01/5", "2..4")
    policy_folder.set_execution(tmp_path / "p", late)
    loaded = TorchPolicy.load(tmp_path / "p")
    assert loaded.execution == late
    assert np.array_equal(loaded.chunk(observed()), made().chunk(observed()))
    assert policy_folder.identity(tmp_path / "p") == was
    assert json.loads((tmp_path / "p" / "policy.json").read_text())["format"] == 2
    # Loading and saving keeps it; it can be replaced; removing it restores the original bytes.
    loaded.save(tmp_path / "q")
    for name in untuned:
        assert (tmp_path / "q" / name).read_bytes() == (tmp_path / "p" / name).read_bytes()
    policy_folder.set_execution(tmp_path / "p", Execution("replay:3"))
    assert TorchPolicy.load(tmp_path / "p").execution == Execution("replay:3")
    policy_folder.set_execution(tmp_path / "p", None)
    assert {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()} == untuned
    assert sorted(os.listdir(tmp_path)) == ["p", "q"]


def test_one_altered_digit_of_an_execution_is_refused(tmp_path: Path) -> None:
    path = made().save(tmp_path / "p") / "policy.json"
    policy_folder.set_execution(tmp_path / "p", Execution("replay:30"))
    path.write_text(path.read_text().replace("replay:30", "replay:31"))
    with pytest.raises(DamagedFile, match="is not what was written: its values"):
        TorchPolicy.load(tmp_path / "p")


def test_an_execution_that_cannot_be_written_leaves_the_policy_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made().save(tmp_path / "p")
    before = (tmp_path / "p" / "policy.json").read_bytes()

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in ("replace", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, broken, full)
            with pytest.raises(
                BadInput, match=r"no room left while writing .*run the same command again"
            ):
                policy_folder.set_execution(tmp_path / "p", Execution("replay:3"))
        assert (tmp_path / "p" / "policy.json").read_bytes() == before
        assert os.listdir(tmp_path) == ["p"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    policy = made()
    with torch.no_grad():
        policy.net.token_pos[0, 0] = float("inf")
    with pytest.raises(NotFinite, match='"token_pos" is not finite'):
        policy.save(tmp_path / "p")
    assert os.listdir(tmp_path) == []


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_digest(about: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the checksum that docs/formats.md describes."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    digest = hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()
    return {**rest, "sha256": digest}


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter policy.json and update its checksum, so that only the change can be refused."""
    path = directory / "policy.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(with_digest(about)))


def resign(directory: Path, data: bytes) -> None:
    """Replace the weights and their checksum in policy.json."""
    path = directory / "model.safetensors"
    path.write_bytes(data)
    signed = {"bytes": len(data), "sha256": sha256(path)}
    edit(directory, lambda about: about.update(weights=signed))


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


LATE = {"chunking": "replay:3", "delay_ticks": 2}


def remove_checksum(directory: Path) -> None:
    path = directory / "policy.json"
    about = json.loads(path.read_text())
    del about["sha256"]
    path.write_text(json.dumps(about))


def tensors(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    import safetensors.torch

    found = safetensors.torch.load_file(directory / "model.safetensors")
    change(found)
    resign(directory, safetensors.torch.save(found))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "policy.json").unlink(), r"policy\.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (truncate, r"model\.safetensors has \d+ bytes, policy\.json expects \d+: it is truncated"),
        (flip, r"model\.safetensors is not the file that was saved"),
        (lambda d: (d / "policy.json").write_text("{"), r"policy\.json is not JSON"),
        (lambda d: (d / "policy.json").write_text("[" * 10**5), r"policy\.json is not JSON"),
        (lambda d: (d / "policy.json").write_text("[]"), r"policy\.json holds list, expected an"),
        (lambda d: (d / "policy.json").write_bytes(b"\xff\xfe"), r"policy\.json is not JSON"),
        (lambda d: (d / "policy.json").write_bytes(b" " * (2**24 + 1)), "at most 16,777,216"),
        (
            lambda d: edit(d, lambda a: a.update(format=4, imitact="9.1")),
            r"format is 4, written by imitact 9\.1, this imitact \(.*\) reads 1, 2 and 3; use the",
        ),
        (lambda d: edit(d, lambda a: a.update(format=2)), r"missing keys execution"),
        (lambda d: edit(d, lambda a: a.update(execution=LATE)), r"unknown keys execution"),
        (
            lambda d: edit(d, lambda a: a.update(format=2, execution=LATE | {"more": 1})),
            r"execution: unknown keys more",
        ),
        (
            lambda d: edit(d, lambda a: a.update(format=2, execution=LATE | {"delay_ticks": -1})),
            "delay_ticks is -1; expected at least 0",
        ),
        (
            lambda d: edit(d, lambda a: a.update(format=2, execution=LATE | {"delay_ticks": "1"})),
            'delay_ticks is "1"; expected a number of ticks',
        ),
        (
            lambda d: edit(d, lambda a: a.update(format=2, execution=LATE | {"chunking": "all"})),
            'chunking "all" is not known',
        ),
        (lambda d: edit(d, lambda a: a.update(format=True)), "format is True"),
        (lambda d: edit(d, lambda a: a.update(extra=1)), r"unknown keys extra"),
        (remove_checksum, r"missing keys sha256"),
        (lambda d: edit(d, lambda a: a.pop("stats")), r"missing keys stats"),
        (
            lambda d: edit(d, lambda a: a["config"].update(colour=1)),
            r"policy\.json: config: unknown keys colour",
        ),
        (lambda d: edit(d, lambda a: a["config"].pop("dim")), r"config: .*missing keys dim"),
        (
            lambda d: edit(d, lambda a: a["config"].update(heads=3)),
            r"policy\.json: hidden_dim is 8 and num_heads 3",
        ),
        (
            lambda d: edit(d, lambda a: a["config"].update(dim="8")),
            r"policy\.json: hidden_dim is \"8\"; it must",
        ),
        (
            lambda d: edit(d, lambda a: a["config"].update(ffn=10**6)),
            r'"encoder\.layers\.0\.linear1\.weight" is .*the settings in policy\.json need',
        ),
        (
            lambda d: edit(d, lambda a: a["config"].update(decoder_layers=2)),
            r"model\.safetensors \(tensors\): missing keys decoder\.lay",
        ),
        (lambda d: edit(d, lambda a: a["spec"].update(rate_hz=-1)), r"policy\.json: rate_hz is -1"),
        (lambda d: edit(d, lambda a: a["spec"].update(rate_hz="x")), "spec: .*Expected `float`"),
        (
            lambda d: edit(d, lambda a: a["spec"]["cameras"][0].update(fov=1)),
            r"spec\.cameras: unknown keys fov",
        ),
        (
            lambda d: edit(d, lambda a: a["stats"]["state"]["mean"].pop()),
            "statistics: std has shape",
        ),
        (lambda d: resign(d, b""), "its header has 0 bytes"),
        (lambda d: resign(d, (2**62).to_bytes(8, "little") + b"{}"), "its header has 46116860184"),
        (lambda d: resign(d, (2).to_bytes(8, "little") + b"[]"), "cannot be read as safetensors"),
        (
            lambda d: tensors(d, lambda t: t["token_pos"].fill_(float("nan"))),
            '"token_pos" holds NaN',
        ),
        (
            lambda d: tensors(d, lambda t: t.update(token_pos=t["token_pos"].double())),
            '"token_pos" is torch.float64',
        ),
        (
            lambda d: tensors(d, lambda t: t.update(more=torch.zeros(1))),
            r"unknown keys more",
        ),
    ],
)
def test_a_damaged_policy_is_refused_with_file_and_cause(
    damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    directory = made().save(tmp_path / "p")
    damage(directory)
    with pytest.raises(BadInput, match=message) as caught:
        TorchPolicy.load(directory)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent: no such directory"):
        TorchPolicy.load(tmp_path / "absent")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:1]  # the others are of the same kind
    return [path, *(found for key, part in items for found in leaves(part, (*path, key)))]


def test_one_altered_digit_is_refused_but_another_layout_of_the_same_values_is_not(
    tmp_path: Path,
) -> None:
    directory = made().save(tmp_path / "p")
    path = directory / "policy.json"
    text = path.read_text()
    mean = json.loads(text)["stats"]["state"]["mean"][0]
    assert text.count(f"{mean}") >= 1
    path.write_text(text.replace(f"{mean}", f"{mean + 0.25}", 1))
    with pytest.raises(DamagedFile, match=r"policy\.json is not what was written: its values"):
        TorchPolicy.load(directory)
    backwards = dict(reversed(json.loads(text).items()))
    path.write_text(json.dumps(backwards, indent=7))
    TorchPolicy.load(directory)


def test_every_altered_setting_is_read_or_refused_with_a_clear_error(tmp_path: Path) -> None:
    directory = made().save(tmp_path / "p")
    about = json.loads((directory / "policy.json").read_text())
    refusals = []
    for path in leaves(about)[1:]:
        for value in (None, -1, 10**12, "x", []):
            changed = copy.deepcopy(about)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            (directory / "policy.json").write_text(json.dumps(changed))
            with pytest.raises(DamagedFile):
                TorchPolicy.load(directory)
            (directory / "policy.json").write_text(json.dumps(with_digest(changed)))
            begin = time.process_time()
            try:
                TorchPolicy.load(directory)
            except ImitactError as error:
                refusals.append((path, value, str(error)))
            assert time.process_time() - begin < 5, (path, value)
    assert len(refusals) > 300
    assert [r for r in refusals if str(directory) not in r[2]] == []
