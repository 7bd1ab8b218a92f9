"""LeRobot's checkpoints of ACT, read.

Layouts: docs/policies.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.statistics import Stats
from imitact.models.config import ActConfig
from imitact.models.interop import common, lerobot_plugin
from imitact.models.interop.common import Fields, Imported, Told
from imitact.models.interop.lerobot_layout import (
    ACTION,
    BUFFERS,
    CONFIG,
    NAMES,
    STATE,
    TABLE,
    WEIGHTS,
    Features,
    features_of,
)
from imitact.models.interop.lerobot_normalization import (
    Normalising,
    normalising_of,
    scaling_of,
    values_of,
)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot checkpoint."""
    return (folder / CONFIG).is_file()


def read(folder: Path, told: Told) -> Imported:
    """A LeRobot checkpoint of ACT as a policy that gives equal actions.

    folder: with config.json and model.safetensors, and from 0.4 on the processor files.
    told:   names, units and rate, which the checkpoint does not hold.

    Refuses settings that imitact's network does not have, processors that it does not know, and a
    normalisation whose statistics are not there.
    """
    config = Fields(common.read_json(folder / CONFIG), folder / CONFIG)
    kind = config.text("type")
    if kind == "imitact":
        return lerobot_plugin.read(config, folder, told)
    if kind != "act":
        raise BadInput(f"{folder / CONFIG}: type is {kind!r}; imitact reads 'act' and 'imitact'")
    features = features_of(config)
    net = _network(config)
    tensors = common.read_safetensors(folder / WEIGHTS)
    normalising, notes = normalising_of(folder, config, features, tensors)
    weights = _weights(tensors, net, folder / WEIGHTS)
    return _imported(
        folder, told, features, net, normalising, weights, _execution(config), notes, "lerobot-act"
    )


def _network(config: Fields) -> ActConfig:
    """The settings of imitact's network; refuses those of another one."""
    for name, value, why in (
        ("n_obs_steps", 1, "one observation is seen at a time"),
        ("vision_backbone", "resnet18", "imitact has ResNet18"),
        ("pre_norm", False, "imitact has post-norm layers"),
        ("feedforward_activation", "relu", "imitact has ReLU"),
    ):
        found = config.raw(name, value)
        if found != value or type(found) is not type(value):
            raise config.refuse(name, f"{why}; a network with another cannot be imported")
    if config.raw("replace_final_stride_with_dilation") not in (None, False, 0):
        raise config.refuse("replace_final_stride_with_dilation", "imitact's ResNet18 has strides")
    cvae = config.truth("use_vae", True)
    try:
        return ActConfig(
            chunk_size=config.whole("chunk_size"),
            hidden_dim=config.whole("dim_model"),
            num_heads=config.whole("n_heads"),
            dim_feedforward=config.whole("dim_feedforward"),
            encoder_layers=config.whole("n_encoder_layers"),
            decoder_layers=config.whole("n_decoder_layers"),
            use_vae=cvae,
            vae_encoder_layers=config.whole("n_vae_encoder_layers") if cvae else 4,
            latent_dim=config.whole("latent_dim"),
            kl_weight=config.number("kl_weight", 10.0),
            dropout=config.number("dropout", 0.1),
        )
    except DamagedFile:
        raise
    except BadInput as error:
        raise DamagedFile(f"{config.path}: {error}") from error


def _execution(config: Fields) -> Execution:
    """How LeRobot executes its chunks."""
    if config.has("temporal_ensemble_coeff"):
        text = f"ensemble:{config.number('temporal_ensemble_coeff')!r}"
    else:
        text = f"replay:{config.whole('n_action_steps')}"
    try:
        return Execution(text)
    except BadInput as error:
        raise DamagedFile(f"{config.path}: {error}") from error


# -- weights ---------------------------------------------------------------------------------------


def _weights(tensors: Mapping[str, Tensor], net: ActConfig, path: Path) -> dict[str, Tensor]:
    """By imitact's names."""
    found = {}
    for name, value in tensors.items():
        if name.startswith(BUFFERS) or name.endswith("num_batches_tracked"):
            continue
        own = name.replace("_orig_mod.", "").removeprefix("model.")
        if own == TABLE:
            common.check_table(value, net, f"{path}: {name!r}")
            continue
        ours = common.renamed(own, NAMES)
        if ours in found:
            raise DamagedFile(f"{path}: {ours!r} is there twice")
        found[ours] = _matrix(value) if ours == "image_proj.weight" else value
    return common.flat_weights(found, str(path))


def _matrix(value: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix that it is."""
    return value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def _imported(
    folder: Path,
    told: Told,
    features: Features,
    net: ActConfig,
    normalising: Normalising,
    weights: Mapping[str, Tensor],
    execution: Execution,
    notes: list[str],
    origin: str,
) -> Imported:
    try:
        cameras = list(features.cameras.values())
        told = told.or_else(common.read_side(folder))
        spec, supposed = common.spec_of(told, features.state, features.action, cameras)
        scaling = scaling_of(normalising, features)
        stats: dict[str, Stats] = {}
        for what, key, size in (
            ("state", STATE, features.state),
            ("action", ACTION, features.action),
        ):
            values = values_of(normalising.known.get(key, {}))
            stats[what], unknown = common.stats_of(values, size, what)
            supposed += unknown
        policy = common.assembled(
            spec, stats, net, weights, scaling,
            origin=origin, where=str(folder / WEIGHTS), execution=execution,
        )  # fmt: skip
    except ImitactError as error:
        if str(folder) in str(error):
            raise
        raise DamagedFile(f"{folder}: {error}") from error
    return Imported(policy, (*notes, *supposed))
