"""ACT policy: the network with its normalization, physical units and uint8 frames in and out.

Nothing else in imitact normalizes, in training or at inference. `policy_folder` holds the directory
on disk.

Legend: B batch, K chunk, S state, A action, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.errors import DamagedFile, NotFinite, SpecMismatch
from imitact.core.feature_statistics import Stats
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Observation, Spec
from imitact.models.act import Act, Losses
from imitact.models.augmentation import jitter_color, random_crop, random_shifts, shift_frames
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.config import ActConfig
from imitact.models.normalization import IMAGENET_MEAN, IMAGENET_STD, Scaling
from imitact.models.policy_folder import (
    POLICY_JSON,
    WEIGHTS,
    PolicyRecord,
    check_keys,
    read_policy,
    write_policy,
)
from imitact.models.resnet import load_pretrained

Batch = Mapping[str, Any]
"""Tensors of B samples, in physical units: "state" (B, S) float, "frames" camera name to
(B, H, W, 3) uint8 at the network's input size, and for the loss "action" (B, K, A) float and
"is_pad" (B, K) bool."""


class TorchPolicy:
    """ACT with its normalization: a `core.types.Policy` in physical units.

    Build one with `create`, `from_weights` or `load`. Attributes that are not listed here are those
    of `PolicyRecord`.

    Attributes:
        net: The network, on normalized tensors.
        identity: The digest of what `load` read (`policy_folder.identity`); else empty.
        constants: Normalization constants in float32, floors applied: "state_mean", "state_std";
            "action_mean", "action_std" (of the predicted actions or deltas); "state_shift" where a
            scaling has one; "pixel_mean" and "pixel_std" (3, 1, 1) for pixels from 0 to 255, of the
            first camera, and as "pixel_mean.NAME" of each; "measured" with `delta` actions, the
            columns of the state.
        path: Directory that it was loaded from; None if it was built otherwise.
    """

    path: Path | None = None

    def __init__(self, net: Act, record: PolicyRecord) -> None:
        spec, config = record.spec, record.config
        # Frames have their channels last, where convolutions are faster: by a tenth for `quick`,
        # in training and inference, in float32 on processors with AVX2 only.
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec, self.config, self.stats = spec, config, dict(record.stats)
        self.fingerprint, self.execution = record.fingerprint, record.execution
        self.scaling, self.recorded_in = record.scaling, record.recorded_in
        self.parent, self.limits = record.parent, record.limits
        self.identity = record.identity
        self.views = config.views(spec)
        scaling = record.scaling or Scaling.plain(spec, self.stats, config)
        self.constants = _constants(spec, scaling)
        if config.actions == "delta":
            columns = [spec.state_names.index(n) for n in spec.action_names]
            self.constants["measured"] = torch.tensor(columns)

    @classmethod
    def create(
        cls,
        spec: Spec,
        stats: Mapping[str, Stats],
        config: ActConfig,
        *,
        seed: int,
        fingerprint: str,
        recorded_in: Mapping[str, Any] | None = None,
        limits: JointLimits | None = None,
    ) -> TorchPolicy:
        """Return an untrained policy; `seed` fixes its initial weights.

        Raises:
            BadInput: The statistics or the crop do not fit the Spec, a `delta` action is not a
                state, or frozen norms have no pretrained weights.
        """
        record = PolicyRecord(
            spec, stats, config, fingerprint, recorded_in=recorded_in or {}, limits=limits
        )
        policy = cls.initialized(record, seed)
        if spec.cameras:
            load_pretrained(policy.net.backbone, config.pretrained_backbone)
        return policy

    @classmethod
    def initialized(cls, record: PolicyRecord, seed: int) -> TorchPolicy:
        """Return a policy whose weights are all random; `seed` fixes them."""
        return cls(_network(record, torch.Generator().manual_seed(seed)), record)

    @classmethod
    def from_weights(
        cls,
        record: PolicyRecord,
        weights: Mapping[str, Tensor],
        *,
        where: str = "weights",
        settings: str = "the settings",
    ) -> TorchPolicy:
        """Return a policy with existing weights; uses the tensors themselves, not copies.

        `where` and `settings` say in error messages where weights and settings come from.

        Raises:
            DamagedFile: A weight is missing, unknown, of another shape or type, or not finite.
        """
        net = _network(record, None)
        _check_weights(weights, net, where, settings)
        net.adopt(weights)
        net.eval()
        return cls(net, record)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> TorchPolicy:
        """Move the weights to a device and return self."""
        self.net.to(device)
        self.constants = {n: t.to(device) for n, t in self.constants.items()}
        return self

    # -- training ------------------------------------------------------------------------------

    def loss(
        self, batch: Batch, *, noise: Tensor | None = None, shard: BatchShard = WHOLE
    ) -> Losses:
        """Return the loss of a batch, with z from the CVAE's posterior if there is a CVAE.

        The network stays in its mode; frames are augmented in train mode only. `noise` (B, Z) for z
        is standard normal; None draws it from torch's global random state. The losses of all shards
        of a larger batch add up to the loss of that batch.
        """
        state = self._state(batch)
        images, moved = self._images(batch["frames"], state.shape[0], shard)
        action, is_pad = batch["action"], batch["is_pad"]
        want = (state.shape[0], self.config.chunk_size, self.spec.action_size)
        if action.shape != want or is_pad.shape != want[:2] or is_pad.dtype != torch.bool:
            raise SpecMismatch(
                f"batch: action has shape {tuple(action.shape)}, is_pad {tuple(is_pad.shape)} "
                f"{is_pad.dtype}; expected {want} and {want[:2]} torch.bool"
            )
        target = self._normalized(action, batch["state"])
        prediction = self.net(state, images, target, is_pad, noise, shard, moved)
        return self.net.losses(prediction, target, is_pad, shard)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Return the chunks (B, K, A) at z = 0 in physical units, float32, without dropout."""
        was_training = self.net.training
        if was_training:
            self.net.eval()
        try:
            state = self._state(batch)
            images, _ = self._images(batch["frames"], state.shape[0])
            target = self.net(state, images).action.float()
        finally:
            if was_training:
                self.net.train()
        return self._physical(target, batch["state"])

    # -- inference -----------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Begin an episode. Inference is deterministic (z = 0), so the seed has no effect."""

    def chunk(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next K actions, (K, A), for frames at capture size, in the Spec's units.

        Raises:
            SpecMismatch: The state or a frame does not fit the Spec.
            NotFinite: The state or the answer is NaN or infinite.
        """
        state, captured = self.spec.checked(observation)
        frames = {name: self.views[name].apply(frame) for name, frame in captured.items()}
        return self.chunks_seen([Observation(state, frames)])[0]

    def chunks_seen(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Return the chunks (B, K, A) for frames that were already cropped and resized by `views`.

        Raises:
            SpecMismatch: A state or a frame has another size.
            NotFinite: A state or an answer is NaN or infinite.
        """
        for observation in observations:
            self.spec.check_state(np.asarray(observation.state))
        state = torch.stack([_float(np.asarray(each.state)) for each in observations])
        frames = {
            name: torch.from_numpy(np.stack([each.frames[name] for each in observations]))
            for name in self.views
        }
        batch = {
            "state": state.to(self.device),
            "frames": {name: frame.to(self.device) for name, frame in frames.items()},
        }
        with torch.inference_mode():
            chunks = self.predict(batch).cpu().numpy()
        if not np.all(np.isfinite(chunks)):
            raise NotFinite("the network answered with NaN or infinity; its weights are unusable")
        return chunks

    # -- units ---------------------------------------------------------------------------------

    def _state(self, batch: Batch) -> Tensor:
        state = batch["state"]
        if state.ndim != 2 or state.shape[1] != self.spec.state_size:
            raise SpecMismatch(
                f"batch: state has shape {tuple(state.shape)}, expected (B, {self.spec.state_size})"
            )
        constants = self.constants
        state = (state.float() - constants["state_mean"]) / constants["state_std"]
        return state + constants["state_shift"] if "state_shift" in constants else state

    def _images(
        self, frames: Mapping[str, Tensor], size: int, shard: BatchShard = WHOLE
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return normalized (B, 3, H, W) per camera, and the shifts (N, B, 2) that `Act` takes."""
        images: list[Tensor] = []
        moved: list[Tensor] = []
        augment = self.config if self.net.training else None
        for name, view in self.views.items():
            want = (size, *view.size, 3)
            if name not in frames:
                raise SpecMismatch(
                    f'batch: no frames of camera "{name}"; it has {", ".join(frames) or "none"}'
                )
            frame = frames[name]
            if frame.shape != want or frame.dtype != torch.uint8:
                raise SpecMismatch(
                    f'batch: frames of camera "{name}" are {frame.dtype} of shape '
                    f"{tuple(frame.shape)}, expected torch.uint8 of shape {want} (input size)"
                )
            if augment and augment.random_shift:
                pixels = random_shifts(frame, augment.random_shift, shard)
                frame = shift_frames(frame, pixels)
                moved.append(pixels[:, :, 0].T / augment.random_shift)
            # Strides are already those of channels_last.
            image = frame.permute(0, 3, 1, 2).to(torch.float32)
            if augment and augment.random_crop:
                image = random_crop(image, augment.random_crop, shard)
            if augment and augment.color_jitter:
                image = jitter_color(image, augment.color_jitter, shard)
            image.sub_(self.constants[f"pixel_mean.{name}"])
            images.append(image.div_(self.constants[f"pixel_std.{name}"]))
        return images, torch.stack(moved) if moved else None

    def _normalized(self, action: Tensor, state: Tensor) -> Tensor:
        action = action.float()
        if self.config.actions == "delta":
            action = action - state.float()[:, None, self.constants["measured"]]
        return (action - self.constants["action_mean"]) / self.constants["action_divisor"]

    def _physical(self, target: Tensor, state: Tensor) -> Tensor:
        action = target * self.constants["action_std"] + self.constants["action_mean"]
        if self.config.actions == "delta":
            action = action + state.float()[:, None, self.constants["measured"]]
        return action

    # -- on disk -------------------------------------------------------------------------------

    def save(self, directory: Path | str) -> Path:
        """Write the policy to a directory atomically and return its absolute path.

        A directory that holds anything besides a policy, and weights that are NaN or infinite, are
        refused.
        """
        directory = Path(directory).absolute()
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()
        }
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise NotFinite(f'weight "{name}" is not finite; the policy was not saved')
        record = PolicyRecord(
            self.spec,
            self.stats,
            self.config,
            self.fingerprint,
            self.execution,
            self.scaling,
            self.recorded_in,
            self.parent,
            limits=self.limits,
        )
        write_policy(directory, record, lambda path: safetensors.torch.save_file(tensors, path))
        return directory

    @classmethod
    def load(cls, directory: Path | str, device: torch.device | str = "cpu") -> TorchPolicy:
        """Read a policy that `save` wrote; a file that is missing or altered is refused."""
        directory = Path(directory).absolute()
        record, weights = read_policy(directory)
        where, settings = str(directory / WEIGHTS), f"the settings in {POLICY_JSON}"
        policy = cls.from_weights(record, weights, where=where, settings=settings)
        policy.path = directory
        return policy.to(device)


def _network(record: PolicyRecord, generator: torch.Generator | None) -> Act:
    spec, config = record.spec, record.config
    return Act(
        config,
        state_size=spec.state_size,
        action_size=spec.action_size,
        environment_size=spec.environment_size,
        image_sizes=[view.size for view in config.views(spec).values()],
        generator=generator,
    )


def _float(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _constants(spec: Spec, scaling: Scaling) -> dict[str, Tensor]:
    """Return `TorchPolicy.constants`, and "action_divisor" for training.

    The divisor is 1 where "action_std" is 0 (an action that never changes), which cannot be
    divided by.
    """
    found = {
        name: _float(getattr(scaling, name))
        for name in ("state_mean", "state_std", "action_mean", "action_std")
    }
    found["action_divisor"] = torch.where(found["action_std"] > 0, found["action_std"], 1.0)
    if any(scaling.state_shift):
        found["state_shift"] = _float(scaling.state_shift)
    for name, imagenet in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
        rows = {f"{name}.{c.name}": getattr(scaling, name)[c.name] for c in spec.cameras}
        rows = {name: next(iter(rows.values()), imagenet), **rows}
        found |= {n: _float(np.array(row) * 255).view(3, 1, 1) for n, row in rows.items()}
    return found


def _check_weights(tensors: Mapping[str, Tensor], net: Act, where: str, settings: str) -> None:
    expected = net.state_dict()
    check_keys(tensors, set(expected), f"{where} (tensors)")
    for name, want in expected.items():
        got = tensors[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise DamagedFile(
                f'{where}: "{name}" is {got.dtype} of shape {tuple(got.shape)}, {settings} need '
                f"{want.dtype} of shape {tuple(want.shape)}"
            )
        if got.is_floating_point() and not bool(got.isfinite().all()):
            raise DamagedFile(f'{where}: "{name}" holds NaN or infinity; use an earlier checkpoint')
