"""LeRobot plugin checkpoints: those of `lerobot-train --policy.type=imitact`, read.

They hold imitact's own network by its own names, and the normalization statistics among the
weights (integrations/lerobot_policy_imitact).
"""

from __future__ import annotations

from pathlib import Path

from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.execution import Execution
from imitact.models.config import ActConfig
from imitact.models.interop.imported_policy import ImportedPolicy
from imitact.models.interop.json_fields import JsonFields
from imitact.models.interop.lerobot_layout import CONFIG, WEIGHTS, read_features
from imitact.models.interop.lerobot_normalization import Statistics, flat_row, partial_stats
from imitact.models.interop.partial_spec import PartialSpec
from imitact.models.policy import TorchPolicy
from imitact.models.policy_file import PolicyRecord
from imitact.models.safetensors_file import read_safetensors

STATISTICS = "statistics."
"""Prefix of the statistics among the plugin's weights."""


def read(config: JsonFields, folder: Path, known: PartialSpec) -> ImportedPolicy:
    """Read a checkpoint of the plugin, whose config.json is `config`."""
    path = folder / WEIGHTS
    features = read_features(config)
    try:
        net = ActConfig.from_json(config.object("net"))
    except BadInput as error:
        raise DamagedFile(f"{config.path}: net: {error}") from error
    tensors = read_safetensors(path)
    weights = {
        name.removeprefix("net."): value.clone()
        for name, value in tensors.items()
        if name.startswith("net.")
    }
    statistics: dict[str, Statistics] = {"state": {}, "action": {}}
    for name, value in tensors.items():
        if not name.startswith(("net.", STATISTICS)):
            raise DamagedFile(f'{path}: "{name}" is not a weight of lerobot_policy_imitact')
        if name.startswith(STATISTICS):
            what, _, statistic = name.removeprefix(STATISTICS).partition("_")
            row = flat_row(value, name, path)
            statistics[what] = {**statistics.get(what, {}), statistic: row}
    stored = PartialSpec(
        state_names=config.texts("state_names"),
        action_names=config.texts("action_names"),
        rate_hz=config.number("rate_hz") if config.number("rate_hz", 0) else None,
    )
    try:
        cameras = list(features.cameras.values())
        spec, notes = known.or_else(stored).complete(
            features.state_size, features.action_size, cameras
        )
        stats = {}
        for what in ("state", "action"):
            stats[what], unknown = partial_stats(statistics[what]).complete(0, what)
            if unknown:
                raise DamagedFile(f"{path}: {unknown[0]}; the policy was saved without a dataset")
        execution = Execution(config.text("chunking"))
        record = PolicyRecord(spec, stats, net, "lerobot-imitact", execution)
        settings = f"the settings in {CONFIG}"
        policy = TorchPolicy.from_weights(record, weights, where=str(path), settings=settings)
    except ImitactError as error:
        if str(folder) in str(error):
            raise
        raise DamagedFile(f"{folder}: {error}") from error
    return ImportedPolicy(policy, tuple(notes))
