"""Drawn policy: of the preset `quick`, with drawn weights, for a robot to stay about still."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imitact.core.feature_statistics import Stats
from imitact.core.types import Spec
from imitact.deploy.export import export
from imitact.deploy.export_config import ExportConfig
from imitact.models.act import Act
from imitact.models.config import MODEL_PRESETS
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from tests.support.fake_dataset import FakeDataset

SPREAD = {"rad": 0.01, "1": 0.02, "deg": 0.5, "%": 1.0}
"""Standard deviation of what the policy asks for, by unit."""


@dataclass(frozen=True)
class Observations(FakeDataset):
    """Observations of a robot, on which the exported file is compared with the network."""

    of: Spec | None = None

    @property
    def spec(self) -> Spec:
        assert self.of is not None
        return self.of


def save_drawn_policy(spec: Spec, pose: NDArray[np.float64], folder: Path) -> TorchPolicy:
    """Write a policy that asks for poses about this one to folder/policy, and return it."""
    config = MODEL_PRESETS["quick"]
    sizes = {"state_size": spec.state_size, "action_size": spec.action_size}
    generator = torch.Generator().manual_seed(0)
    views = [view.size for view in config.views(spec).values()]
    net = Act(config, **sizes, image_sizes=views, generator=generator)
    spread = np.array([SPREAD[unit] for unit in spec.action_units])
    stats = Stats(pose, spread, pose - 3 * spread, pose + 3 * spread, 1000)
    record = PolicyRecord(spec, {"state": stats, "action": stats}, config, "drawn")
    policy = TorchPolicy(net, record)
    policy.save(folder / "policy")
    return policy


def drawn_policy(spec: Spec, pose: NDArray[np.float64], folder: Path) -> Path:
    """Write a policy that asks for poses about this one, and its exported file; return the file."""
    policy = save_drawn_policy(spec, pose, folder)
    first = spec.cameras[0]
    data = Observations(
        cameras=tuple(camera.name for camera in spec.cameras),
        height=first.height,
        width=first.width,
        size=spec.state_size,
        of=spec,
    )
    settings = ExportConfig(observations=8, calls=50, torch_calls=5)
    export(policy, data, folder / "exported", settings, policy_sha256="drawn")
    return folder / "exported" / "policy.openvino"
