"""LeRobot's ACT checkpoints: names of files, features and weights.

docs/policies.md describes the layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imitact.core.errors import DamagedFile
from imitact.core.types import Camera
from imitact.models.interop.json_fields import JsonFields

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."

NAMES = (
    ("encoder_img_feat_input_proj", "image_proj"),
    ("encoder_robot_state_input_proj", "state_proj"),
    ("encoder_latent_input_proj", "latent_proj"),
    ("encoder_1d_feature_pos_embed.weight", "token_pos"),
    ("decoder_pos_embed.weight", "queries"),
    ("action_head", "head"),
    ("vae_encoder_cls_embed.weight", "cvae.cls"),
    ("vae_encoder_robot_state_input_proj", "cvae.state_proj"),
    ("vae_encoder_action_input_proj", "cvae.action_proj"),
    ("vae_encoder_latent_output_proj", "cvae.latent_head"),
    ("vae_encoder.", "cvae.encoder."),
)
"""Prefixes of weight names: LeRobot's (after `model.`) and imitact's; all others are the same."""

POSITION_TABLE = "vae_encoder_pos_enc"
BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Prefixes of the statistics that versions before 0.4 kept among the weights."""

EPS = 1e-8
"""LeRobot adds this to the deviation before it divides (processor/normalize_processor.py)."""

_MAX_SIDE_PX = 16_384


@dataclass(frozen=True)
class Features:
    """Features of a policy; cameras by LeRobot's key, in the order of config.json."""

    state_size: int
    action_size: int
    cameras: Mapping[str, Camera]


def read_features(config: JsonFields) -> Features:
    """Return the features in config.json; refuse those that imitact's network does not have."""
    inputs, outputs = config.within("input_features"), config.within("output_features")
    state_size: int | None = None
    cameras: dict[str, Camera] = {}
    for key in inputs.names():
        feature = inputs.within(key)
        kind = feature.text("type")
        if kind == "VISUAL":
            where = f"{config.path}: input_features.{key}.shape"
            # "top" for "observation.images.top" and "image" for "observation.image".
            name = key.removeprefix(IMAGES).removeprefix("observation.")
            cameras[key] = Camera(name, *_frame_size(feature.raw("shape"), where))
        elif kind == "STATE" and key == STATE:
            state_size = _vector_size(feature, key)
        else:
            why = f"cannot be imported; imitact's network takes {STATE} and cameras"
            raise config.error("input_features", f'"{key}" of type {kind} {why}')
    if state_size is None:
        raise config.error("input_features", f"{STATE} is missing; imitact's network needs it")
    if outputs.names() != [ACTION]:
        raise config.error("output_features", f"exactly {ACTION} is expected")
    return Features(state_size, _vector_size(outputs.within(ACTION), ACTION), cameras)


def _vector_size(feature: JsonFields, key: str) -> int:
    shape = feature.raw("shape")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        raise feature.error("shape", f"{key} is one row of numbers")
    if not 0 < shape[0] <= 10_000:
        raise feature.error("shape", "1 to 10,000 values are expected")
    return shape[0]


def _frame_size(shape: Any, where: str) -> tuple[int, int]:
    """Return height and width of frames of shape (3, H, W)."""
    is_numbers = isinstance(shape, list) and all(type(n) is int for n in shape)
    if not is_numbers or len(shape) != 3 or shape[0] != 3:
        raise DamagedFile(f"{where} is {str(shape)[:100]}, expected [3, height, width]")
    if not (0 < shape[1] <= _MAX_SIDE_PX and 0 < shape[2] <= _MAX_SIDE_PX):
        raise DamagedFile(f"{where} is {shape}; 1 to {_MAX_SIDE_PX:,} pixels are expected")
    return shape[1], shape[2]
