"""LeRobot's ACT checkpoints, read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.models.config import ActConfig
from imitact.models.interop import lerobot_layout as layout
from imitact.models.interop import lerobot_plugin
from imitact.models.interop.imported_policy import (
    ImportedPolicy,
    assemble_policy,
    complete_stats,
    side_by_side,
)
from imitact.models.interop.json_fields import JsonFields
from imitact.models.interop.lerobot_normalization import read_normalization
from imitact.models.interop.partial_spec import PartialSpec
from imitact.models.interop.spec_sidecar import read_sidecar
from imitact.models.interop.weight_conversion import to_imitact_names
from imitact.models.policy_folder import PolicyRecord
from imitact.models.safetensors_file import read_safetensors
from imitact.storage.json_file import naming_file


def read(folder: Path, known: PartialSpec) -> ImportedPolicy:
    """Read a LeRobot checkpoint of ACT as a policy with equal actions.

    It does not hold names, units and rate, which are `known`.

    Raises:
        BadInput: The settings, a processor or the normalization have no equivalent in imitact.
        DamagedFile: A file is missing or damaged.
    """
    config = JsonFields.from_file(folder / layout.CONFIG)
    kind = config.text("type")
    if kind == "imitact":
        return lerobot_plugin.read(config, folder, known)
    if kind != "act":
        raise BadInput(f"{folder / layout.CONFIG}: type is {kind}; imitact reads act and imitact")
    features = layout.read_features(config)
    net = _network(config)
    tensors = read_safetensors(folder / layout.WEIGHTS)
    normalization, notes = read_normalization(folder, config, features, tensors)
    weights = _weights(tensors, net, folder / layout.WEIGHTS, bool(features.joints))
    with naming_file(folder):
        spec, assumed = known.or_else(read_sidecar(folder)).complete(
            features.joints + features.environment,
            features.action_size,
            features.cameras.values(),
            features.environment,
        )
        notes += assumed
        stored = normalization.statistics
        states = [
            complete_stats(stored.get(key, {}), size, key.removeprefix("observation."), notes)
            for key, _, size in features.states
        ]
        action = complete_stats(stored.get(layout.ACTION, {}), spec.action_size, "action", notes)
        stats = {"state": side_by_side(states), "action": action}
        scaling = normalization.to_scaling(features)
        record = PolicyRecord(spec, stats, net, "lerobot-act", _execution(config))
        policy = assemble_policy(record, scaling, weights, str(folder / layout.WEIGHTS))
    return ImportedPolicy(policy, tuple(notes))


def _network(config: JsonFields) -> ActConfig:
    """Return the network's settings; refuse those of a network that imitact does not have."""
    for name, value, why in (
        ("n_obs_steps", 1, "imitact takes one observation at a time"),
        ("vision_backbone", "resnet18", "imitact has ResNet18"),
        ("pre_norm", False, "imitact has post-norm layers"),
        ("feedforward_activation", "relu", "imitact has ReLU"),
    ):
        found = config.raw(name, value)
        if found != value or type(found) is not type(value):
            raise config.error(name, f"{why}; this network cannot be imported")
    if config.raw("replace_final_stride_with_dilation") not in (None, False, 0):
        raise config.error("replace_final_stride_with_dilation", "imitact's ResNet18 has strides")
    cvae = config.truth("use_vae", True)
    with naming_file(config.path):
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


def _execution(config: JsonFields) -> Execution:
    """Return how LeRobot executes the chunks."""
    if config.has("temporal_ensemble_coeff"):
        text = f"ensemble:{config.number('temporal_ensemble_coeff')!r}"
    else:
        text = f"replay:{config.whole('n_action_steps')}"
    with naming_file(config.path):
        return Execution(text)


def _weights(
    tensors: Mapping[str, Tensor], net: ActConfig, path: Path, has_joints: bool
) -> dict[str, Tensor]:
    """Return the weights by imitact's names."""
    used = (
        (name.replace("_orig_mod.", "").removeprefix("model."), value)
        for name, value in tensors.items()
        if not name.startswith(layout.BUFFERS) and not name.endswith("num_batches_tracked")
    )
    return to_imitact_names(used, layout.NAMES, layout.POSITION_TABLE, net, path, has_joints)
