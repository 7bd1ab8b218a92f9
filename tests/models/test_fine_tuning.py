"""Fine-tuning: dimensions keep their weights by name, and statistics change no answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.feature_statistics import Stats
from imitact.core.types import Camera, Spec
from imitact.models.config import ActConfig
from imitact.models.fine_tuning import Parent, fine_tuned
from imitact.models.normalization import Scaling
from imitact.models.parent import network_changes, spec_changes
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord

NET = ActConfig(
    chunk_size=5,
    backbone_width=8,
    backbone_stages=1,
    backbone_norm="batch",
    hidden_dim=16,
    num_heads=2,
    dim_feedforward=16,
    encoder_layers=1,
    vae_encoder_layers=1,
    latent_dim=4,
    dropout=0.0,
)
JOINTS = ("waist", "elbow", "wrist")


def a_spec(
    names: tuple[str, ...] = JOINTS, cameras: tuple[str, ...] = ("top",), **changes: Any
) -> Spec:
    units = ("rad",) * len(names)
    rows = tuple(Camera(name, 16, 24) for name in cameras)
    return dataclasses.replace(Spec(names, names, units, units, rows, 10.0), **changes)


def statistics(spec: Spec, seed: int) -> dict[str, Stats]:
    rng = np.random.default_rng(seed)

    def rows(size: int) -> Stats:
        mean = rng.normal(size=size) * 3
        return Stats(mean, rng.uniform(0.2, 2, size), mean - 5, mean + 5, 100)

    sizes = {"state": spec.state_size, "action": spec.action_size, "delta": spec.action_size}
    return {name: rows(size) for name, size in sizes.items()}


def a_parent(
    spec: Spec, config: ActConfig = NET, scaling: Scaling | None = None, **kind: Any
) -> Parent:
    stats = {n: s for n, s in statistics(spec, 1).items() if n != "delta" or is_delta(config)}
    record = PolicyRecord(spec, stats, config, "data", scaling=scaling)
    policy = TorchPolicy.initialized(record, seed=3)
    return Parent(policy, "runs/a/policy", "identity", **kind)


def is_delta(config: ActConfig) -> bool:
    return config.actions == "delta"


def begin(parent: Parent, spec: Spec, config: ActConfig | None = None) -> TorchPolicy:
    config = config or parent.policy.config
    stats = {n: s for n, s in statistics(spec, 2).items() if n != "delta" or is_delta(config)}
    return fine_tuned(parent, spec, stats, config, seed=4, fingerprint="other")


def a_batch(spec: Spec, size: int = 3, chunk: int = 5) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    return {
        "state": torch.randn(size, spec.state_size, generator=rng) * 3,
        "frames": {
            c.name: torch.randint(0, 256, (size, 16, 24, 3), dtype=torch.uint8, generator=rng)
            for c in spec.cameras
        },
        "action": torch.randn(size, chunk, spec.action_size, generator=rng) * 3,
        "is_pad": torch.zeros(size, chunk, dtype=torch.bool),
    }


def answers(policy: TorchPolicy, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return chunks as the policy predicts them, and as its CVAE reconstructs them."""
    policy.net.eval()
    with torch.no_grad():
        state = policy._state(batch)
        images, _ = policy._images(batch["frames"], len(state))
        target = policy._normalized(batch["action"], batch["state"])
        noise = torch.ones(len(state), policy.config.latent_dim)
        rebuilt = policy.net(state, images, target, batch["is_pad"], noise).action
        return torch.stack([policy.predict(batch), policy._physical(rebuilt, batch["state"])])


def a_scaling(spec: Spec) -> Scaling:
    """Return the normalization of another program: a range from -1 to 1, other pixels."""
    plain = Scaling.plain(spec, statistics(spec, 1), NET)
    return dataclasses.replace(
        plain,
        state_shift=(-1.0,) * spec.state_size,
        pixel_mean={c.name: (0.5, 0.4, 0.3) for c in spec.cameras},
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("actions", ["absolute", "delta"])
@pytest.mark.parametrize("is_imported", [False, True])
def test_statistics_of_the_data_change_no_answer_in_physical_units(
    head: Any, actions: Any, is_imported: bool
) -> None:
    spec, config = a_spec(), dataclasses.replace(NET, head=head, actions=actions)
    parent = a_parent(spec, config, a_scaling(spec) if is_imported else None, statistics="data")
    policy = begin(parent, spec)
    assert np.array_equal(policy.stats["action"].mean, statistics(spec, 2)["action"].mean)
    assert not torch.equal(policy.constants["state_mean"], parent.policy.constants["state_mean"])
    batch = a_batch(spec)
    torch.testing.assert_close(
        answers(policy, batch), answers(parent.policy, batch), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("is_imported", [False, True])
def test_statistics_of_the_policy_leave_every_weight_and_constant_as_it_is(
    is_imported: bool,
) -> None:
    spec = a_spec()
    parent = a_parent(spec, NET, a_scaling(spec) if is_imported else None)
    policy = begin(parent, spec)
    for name, tensor in parent.policy.net.state_dict().items():
        assert torch.equal(policy.net.state_dict()[name], tensor), name
    for name, tensor in parent.policy.constants.items():
        assert torch.equal(policy.constants[name], tensor), name
    assert policy.scaling == parent.policy.scaling
    assert (policy.parent, policy.fingerprint) == ("identity", "other")


@pytest.mark.parametrize("source", ["policy", "data"])
def test_dimensions_in_another_order_are_found_by_name(source: Any) -> None:
    spec, other = a_spec(), a_spec(("wrist", "waist", "elbow"))
    parent = a_parent(spec, statistics=source)
    policy = begin(parent, other)
    batch = a_batch(spec)
    order = [JOINTS.index(name) for name in other.state_names]
    moved = {
        **batch, "state": batch["state"][:, order], "action": batch["action"][..., order]
    }  # fmt: skip
    want = answers(parent.policy, batch)[..., order]
    torch.testing.assert_close(answers(policy, moved), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", ["policy", "data"])
def test_a_new_joint_changes_no_answer_of_the_others(source: Any) -> None:
    spec, wider = a_spec(), a_spec(("finger", *JOINTS))
    parent = a_parent(spec, statistics=source)
    policy = begin(parent, wider)
    batch = a_batch(wider)
    narrow = {**batch, "state": batch["state"][:, 1:], "action": batch["action"][..., 1:]}
    have, want = answers(policy, batch), answers(parent.policy, narrow)
    torch.testing.assert_close(have[..., 1:], want, rtol=1e-4, atol=1e-4)
    assert have[..., 0].std() > 0
    # Its normalization is that of the data, and the input learns from its first step.
    assert policy.stats["state"].mean[0] == statistics(wider, 2)["state"].mean[0]
    policy.net.train()
    policy.loss(batch).total.backward()
    gradient = policy.net.state_proj.weight.grad
    assert gradient is not None
    assert bool((gradient[:, 0] != 0).any())


def test_a_new_camera_shares_the_backbone_and_its_pixels_normalization() -> None:
    spec, wider = a_spec(), a_spec(cameras=("wrist", "top"))
    parent = a_parent(spec, NET, a_scaling(spec))
    policy = begin(parent, wider)
    for name, tensor in parent.policy.net.state_dict().items():
        assert torch.equal(policy.net.state_dict()[name], tensor), name
    assert policy.scaling is not None
    assert policy.scaling.pixel_mean["wrist"] == (0.5, 0.4, 0.3)
    assert answers(policy, a_batch(wider)).isfinite().all()


def test_a_policy_without_cameras_gets_a_new_backbone() -> None:
    parent = a_parent(a_spec(cameras=()))
    policy = begin(parent, a_spec())
    assert answers(policy, a_batch(a_spec())).isfinite().all()
    assert torch.equal(policy.net.head.weight, parent.policy.net.head.weight)


def test_states_of_the_environment_that_are_new_leave_the_joints_as_they_were() -> None:
    spec = a_spec()
    wider = dataclasses.replace(
        spec,
        state_names=(*JOINTS, "cube_x"),
        state_units=("rad",) * 3 + ("m",),
        environment_size=1,
    )
    parent = a_parent(spec)
    policy = begin(parent, wider)
    assert torch.equal(policy.net.state_proj.weight, parent.policy.net.state_proj.weight)
    assert torch.equal(policy.net.token_pos[:2], parent.policy.net.token_pos)
    assert answers(policy, a_batch(wider)).isfinite().all()


def test_another_chunk_keeps_the_queries_of_the_ticks_that_both_have() -> None:
    parent = a_parent(a_spec())
    for chunk in (3, 8):
        policy = begin(parent, a_spec(), dataclasses.replace(NET, chunk_size=chunk))
        kept = min(chunk, 5)
        assert torch.equal(policy.net.queries[:kept], parent.policy.net.queries[:kept])
        assert policy.predict(a_batch(a_spec())).shape == (3, chunk, 3)


# -- what fits -------------------------------------------------------------------------------------


def test_what_is_new_left_out_or_of_another_size_is_named() -> None:
    data = a_spec(("finger", "waist", "elbow"), cameras=())
    data = dataclasses.replace(data, cameras=(Camera("top", 32, 48), Camera("side", 16, 24)))
    policy = a_spec(cameras=("top", "wrist"))
    lines = spec_changes(policy, data, NET)
    for part in (
        "state finger is new: its weights start at 0",
        "action finger is new: its weights start at random",
        "state wrist of the policy is left out",
        "action wrist of the policy is left out",
        "camera side is new: it shares the image backbone",
        "camera wrist of the policy is left out",
        "camera top (32x48) had 16x24 pixels",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert spec_changes(policy, policy, NET) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (a_spec(rate_hz=30.0), r"rate is 30 Hz, expected 10 Hz.*--read\.every"),
        (a_spec(("a", "b", "c")), r"no state of the dataset \(a, b, c\).*waist.*import-policy"),
        (a_spec(action_units=("rad", "deg", "rad")), "action units are .*deg"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(data: Spec, words: str) -> None:
    with pytest.raises(SpecMismatch, match=words):
        spec_changes(a_spec(), data, NET)


def test_a_crop_in_the_pixels_of_another_size_is_refused() -> None:
    data = dataclasses.replace(a_spec(), cameras=(Camera("top", 32, 48),))
    cropped = dataclasses.replace(NET, crop="top=0:8,0:8")
    with pytest.raises(SpecMismatch, match=r"top \(32x48\), expected top \(16x24\).*--model\.crop"):
        spec_changes(a_spec(), data, cropped)


def test_settings_that_weights_depend_on_are_the_policys_and_others_are_named() -> None:
    changed = dataclasses.replace(NET, hidden_dim=32, encoder_layers=3)
    with pytest.raises(BadInput, match=r"--model\.hidden-dim is 32, the policy's 16; .*encoder"):
        network_changes(NET, changed, has_cameras=True)
    changed = dataclasses.replace(NET, state_noise=0.5, chunk_size=3)
    assert network_changes(NET, changed, has_cameras=True) == [
        "--model.chunk-size is 3, the policy's 5",
        "--model.state-noise is 0.5, the policy's 0.0",
    ]
    pretrained = dataclasses.replace(NET, pretrained_backbone="none")
    with pytest.raises(BadInput, match="pretrained-backbone"):
        network_changes(NET, pretrained, has_cameras=True)
    assert network_changes(NET, pretrained, has_cameras=False) == [
        '--model.pretrained-backbone is none, the policy\'s ""'
    ]
