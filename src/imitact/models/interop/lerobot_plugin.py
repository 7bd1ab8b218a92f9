"""LeRobot plugin checkpoints: those of `lerobot-train --policy.type=imitact`, read.

They hold imitact's own network by its own names, and the normalization statistics among the
weights (integrations/lerobot_policy_imitact).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from imitact.core.errors import DamagedFile
from imitact.core.execution import Execution
from imitact.models.config import ActConfig
from imitact.models.interop import lerobot_layout as layout
from imitact.models.interop.imported_policy import ImportedPolicy, complete_stats
from imitact.models.interop.json_fields import JsonFields
from imitact.models.interop.lerobot_normalization import Row, flat_row
from imitact.models.interop.partial_spec import PartialSpec
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from imitact.models.safetensors_file import read_safetensors
from imitact.storage.json_file import naming_file

STATISTICS = "statistics."
"""Prefix of the statistics among the plugin's weights."""


def read(config: JsonFields, folder: Path, known: PartialSpec) -> ImportedPolicy:
    """Read a checkpoint of the plugin, whose config.json is `config`."""
    path = folder / layout.WEIGHTS
    features = layout.read_features(config)
    with naming_file(f"{config.path}: net"):
        net = ActConfig.from_json(config.object("net"))
    weights: dict[str, Tensor] = {}
    statistics: dict[str, dict[str, Row]] = {"state": {}, "action": {}}
    for name, value in read_safetensors(path).items():
        if name.startswith("net."):
            weights[name.removeprefix("net.")] = value.clone()
        elif name.startswith(STATISTICS):
            what, _, statistic = name.removeprefix(STATISTICS).partition("_")
            statistics.setdefault(what, {})[statistic] = flat_row(value, name, path)
        else:
            raise DamagedFile(f'{path}: "{name}" is not a weight of lerobot_policy_imitact')
    stored = PartialSpec(
        state_names=config.texts("state_names"),
        action_names=config.texts("action_names"),
        rate_hz=config.number("rate_hz") if config.number("rate_hz", 0) else None,
    )
    with naming_file(folder):
        spec, notes = known.or_else(stored).complete(
            features.joints + features.environment,
            features.action_size,
            features.cameras.values(),
            features.environment,
        )
        unknown: list[str] = []
        stats = {w: complete_stats(statistics[w], 0, w, unknown) for w in ("state", "action")}
        if unknown:
            raise DamagedFile(f"{path}: {unknown[0]}; the policy was saved without a dataset")
        execution = Execution(config.text("chunking"))
        record = PolicyRecord(spec, stats, net, "lerobot-imitact", execution)
        settings = f"the settings in {layout.CONFIG}"
        policy = TorchPolicy.from_weights(record, weights, where=str(path), settings=settings)
    return ImportedPolicy(policy, tuple(notes))
