"""LeRobot policy: imitact's ACT behind LeRobot's interface, from raw batches to actions.

Network, normalization, training loss and chunking are imitact's own (TorchPolicy); this file holds
only what LeRobot requires of a policy.

Legend: B batch, K chunk, S state, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from imitact.core.errors import BadInput
from imitact.core.execution import parse
from imitact.core.feature_statistics import Stats
from imitact.core.types import Camera, Spec
from imitact.models.act import Act
from imitact.models.interop.lerobot_layout import camera_name
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from imitact.models.resnet import load_pretrained
from lerobot_policy_imitact.configuration_imitact import STATES, ImitactConfig

ACTION = "action"
_PARTS = ("mean", "std", "min", "max")


class Statistics(nn.Module):
    """Statistics of state and action as buffers, saved and loaded with the weights."""

    def __init__(self, sizes: dict[str, int], states: Sequence[str]) -> None:
        """Make buffers for `sizes` values of "state" and "action"; `states` are LeRobot's keys."""
        super().__init__()
        self.sizes, self.states = sizes, states
        for what, size in sizes.items():
            for part in _PARTS:
                self.register_buffer(f"{what}_{part}", torch.full((size,), torch.nan))
            self.register_buffer(f"{what}_count", torch.zeros(1))

    def fill(self, known: dict[str, dict[str, Any]]) -> None:
        """Take LeRobot's statistics of a dataset."""
        for what, keys in (("state", self.states), ("action", [ACTION])):
            for part in (*_PARTS, "count"):
                for key in keys:
                    if part not in known.get(key, {}):
                        raise BadInput(
                            f"the dataset's meta/stats.json has no {part} of {key}; write it again "
                            "with LeRobot 0.4 or later"
                        )
                rows = [np.asarray(known[key][part], np.float32).reshape(-1) for key in keys]
                values = rows[0] if part == "count" else np.concatenate(rows)
                getattr(self, f"{what}_{part}").copy_(torch.as_tensor(values))

    def stats(self) -> dict[str, Stats]:
        """Return imitact's statistics."""
        found = {}
        for what in self.sizes:
            rows = {p: getattr(self, f"{what}_{p}").cpu().double().numpy() for p in _PARTS}
            if not all(np.all(np.isfinite(row)) for row in rows.values()):
                raise BadInput(
                    f"the policy has no statistics of {what}: it was created without a dataset, "
                    "and no checkpoint was loaded into it"
                )
            count = int(getattr(self, f"{what}_count").item())
            found[what] = Stats(**rows, count=max(count, 1))
        return found


class ImitactPolicy(PreTrainedPolicy):
    """imitact's ACT."""

    config_class = ImitactConfig
    name = "imitact"

    def __init__(
        self,
        config: ImitactConfig,
        dataset_stats: dict[str, dict[str, Any]] | None = None,
        dataset_meta: Any = None,
        **_: Any,
    ) -> None:
        """Build the policy.

        Args:
            config: Settings.
            dataset_stats: Statistics of the training dataset; None if a checkpoint brings them.
            dataset_meta: LeRobot's metadata of the training dataset, for the rate.
        """
        super().__init__(config)
        config.validate_features()
        if dataset_meta is not None:
            config.rate_hz = float(dataset_meta.fps)
        self.config: ImitactConfig = config
        self._spec = _spec(config)
        self._cameras = {camera_name(key): key for key in config.image_features}
        views = config.net.views(self._spec)
        # LeRobot seeds torch's global generator; the initial weights follow from it.
        seed = int(torch.randint(2**62, ()).item())
        self.net = Act(
            config.net,
            state_size=self._spec.state_size,
            action_size=self._spec.action_size,
            environment_size=self._spec.environment_size,
            image_sizes=[view.size for view in views.values()],
            generator=torch.Generator().manual_seed(seed),
        )
        self.statistics = Statistics(
            {"state": self._spec.state_size, "action": self._spec.action_size},
            list(config.state_sizes),
        )
        if dataset_stats is not None:
            self.statistics.fill(dataset_stats)
            if views and not config.pretrained_path:
                load_pretrained(self.net.backbone, config.net.pretrained_backbone)
        self._inner: TorchPolicy | None = None
        self.register_load_state_dict_post_hook(_forget)
        self.reset()

    @property
    def policy(self) -> TorchPolicy:
        """The same policy as a TorchPolicy; shares the weights."""
        device = self.statistics.state_mean.device
        if self._inner is None:
            stats = self.statistics.stats()
            record = PolicyRecord(self._spec, stats, self.config.net, "lerobot")
            self._inner = TorchPolicy(self.net, record).to(device)
            # TorchPolicy uses channels last; LeRobot saves the optimizer's state, which has the
            # memory layout of the weights, and safetensors takes contiguous tensors only.
            self.net.to(memory_format=torch.contiguous_format)
        if self._inner.constants["state_mean"].device != device:
            self._inner.to(device)
        return self._inner

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return two parameter groups; the image backbone has its own learning rate."""
        trained = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        backbone = [p for n, p in trained if n.startswith("net.backbone.")]
        rest = [p for n, p in trained if not n.startswith("net.backbone.")]
        return [{"params": rest}, {"params": backbone, "lr": self.config.optimizer_lr_backbone}]

    def reset(self) -> None:
        """Begin an episode."""
        self._chunking = parse(self.config.chunking, spec=self._spec)

    def forward(
        self, batch: dict[str, Tensor], reduction: str = "mean"
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch in physical units, with frames from 0 to 1."""
        if reduction != "mean":
            raise BadInput(
                f'reduction "{reduction}" is not supported: imitact weights all samples equally'
            )
        inputs = self._inputs(batch)
        inputs |= {"action": batch[ACTION], "is_pad": batch["action_is_pad"]}
        losses = self.policy.loss(inputs)
        return losses.total, {"l1_loss": losses.l1.item(), "kld_loss": losses.kl.item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return chunks (B, K, A) in physical units."""
        return self.policy.predict(self._inputs(batch))

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the action of this tick, (B, A), by imitact's chunking, in step for all B."""
        self.eval()
        state = batch[next(iter(self.config.state_sizes))]
        if self._chunking.wants_chunk:
            chunk = self.predict_action_chunk(batch)
            self._chunking.feed(chunk.transpose(0, 1).flatten(1).cpu().numpy())
        action = self._chunking.next()
        assert action is not None  # without a delay there is always one
        return torch.from_numpy(action).to(state.device, torch.float32).view(state.shape[0], -1)

    def _inputs(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Return a batch for TorchPolicy: uint8 frames at the network's input size."""
        policy = self.policy
        frames = {}
        for name, view in policy.views.items():
            image = batch[self._cameras[name]]
            # LeRobot's floats from 0 to 1 are bytes / 255; this restores them exactly.
            pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            camera = self._spec.camera(name)
            if pixels.shape[1:3] != (camera.height, camera.width):
                raise BadInput(
                    f'camera "{name}" gave frames of {pixels.shape[1]}x{pixels.shape[2]}, the '
                    f"policy expects {camera.height}x{camera.width}"
                )
            if view.window is None and view.size == (camera.height, camera.width):
                frames[name] = pixels
                continue
            small = [view.apply(frame) for frame in pixels.cpu().numpy()]
            frames[name] = torch.from_numpy(np.stack(small)).to(image.device)
        states = [batch[key] for key in self.config.state_sizes]
        return {"state": torch.cat(states, dim=-1), "frames": frames}


def _forget(module: ImitactPolicy, _: Any) -> None:
    """Drop the TorchPolicy after a load: its statistics are outdated."""
    module._inner = None


def _spec(config: ImitactConfig) -> Spec:
    action, states = config.action_feature, config.state_sizes
    assert action is not None  # validate_features
    sizes = {"state": sum(states.values()), "action": action.shape[0]}
    names = {
        what: tuple(getattr(config, f"{what}_names")) or tuple(f"{what}_{i}" for i in range(size))
        for what, size in sizes.items()
    }
    return Spec(
        state_names=names["state"],
        action_names=names["action"],
        state_units=("unknown",) * sizes["state"],
        action_units=("unknown",) * sizes["action"],
        cameras=tuple(
            Camera(camera_name(key), feature.shape[1], feature.shape[2])
            for key, feature in config.image_features.items()
        ),
        rate_hz=config.rate_hz or 50.0,
        environment_size=states.get(STATES[1], 0),
    )
