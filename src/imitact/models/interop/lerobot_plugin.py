"""Checkpoints that `lerobot-train --policy.type=imitact` wrote, read.

They hold imitact's own network by its own names, and among the weights the statistics that it
standardises with (integrations/lerobot_policy_imitact).
"""

from __future__ import annotations

from pathlib import Path

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.models.config import ActConfig
from imitact.models.interop import common
from imitact.models.interop.common import Fields, Imported, Told
from imitact.models.interop.lerobot_layout import CONFIG, WEIGHTS, features_of
from imitact.models.interop.lerobot_normalization import Numbers, flat, values_of
from imitact.models.policy import TorchPolicy

STATISTICS = "statistics."
"""Where lerobot_policy_imitact keeps, among its weights, what it standardises with."""


def read(config: Fields, folder: Path, told: Told) -> Imported:
    """What `lerobot-train --policy.type=imitact` wrote: imitact's network by its own names."""
    path = folder / WEIGHTS
    features = features_of(config)
    try:
        net = ActConfig.from_json(config.object("net"))
    except BadInput as error:
        raise DamagedFile(f"{config.path}: net: {error}") from error
    tensors = common.read_safetensors(path)
    weights = {
        name.removeprefix("net."): value.clone()
        for name, value in tensors.items()
        if name.startswith("net.")
    }
    values: dict[str, Numbers] = {"state": {}, "action": {}}
    for name, value in tensors.items():
        if not name.startswith(("net.", STATISTICS)):
            raise DamagedFile(f"{path}: {name!r} is no name of lerobot_policy_imitact's")
        if name.startswith(STATISTICS):
            what, _, statistic = name.removeprefix(STATISTICS).partition("_")
            values.setdefault(what, {})
            values[what] = {**values[what], statistic: flat(value, name, path)}
    written = Told(
        state_names=_texts(config, "state_names"),
        action_names=_texts(config, "action_names"),
        rate_hz=config.number("rate_hz") if config.number("rate_hz", 0) else None,
    )
    notes: list[str] = []
    try:
        cameras = list(features.cameras.values())
        told = told.or_else(written)
        spec, supposed = common.spec_of(told, features.state, features.action, cameras)
        stats = {}
        for what in ("state", "action"):
            stats[what], unknown = common.stats_of(values_of(values[what]), 0, what)
            if unknown:
                raise DamagedFile(f"{path}: {unknown[0]}; the policy was saved without a dataset")
        policy = TorchPolicy.from_weights(
            spec,
            stats,
            net,
            weights,
            fingerprint="lerobot-imitact",
            execution=Execution(config.text("chunking")),
            where=str(path),
            settings=f"the settings in {CONFIG}",
        )
    except ImitactError as error:
        if str(folder) in str(error):
            raise
        raise DamagedFile(f"{folder}: {error}") from error
    return Imported(policy, (*notes, *supposed))


def _texts(config: Fields, name: str) -> tuple[str, ...] | None:
    values = config.raw(name)
    if not values:
        return None
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise config.refuse(name, "a list of names is expected")
    return tuple(values)
