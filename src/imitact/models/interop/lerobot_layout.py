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
ENVIRONMENT = "observation.environment_state"

NAMES = (
    ("encoder_img_feat_input_proj", "image_proj"),
    ("encoder_robot_state_input_proj", "state_proj"),
    ("encoder_env_state_input_proj", "environment_proj"),
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
    """Features of a policy; cameras by LeRobot's key, in the order of config.json.

    imitact's states are those of observation.state, `joints` many or none, and then the
    `environment` many of observation.environment_state.
    """

    joints: int
    environment: int
    action_size: int
    cameras: Mapping[str, Camera]

    @property
    def states(self) -> tuple[tuple[str, str, int], ...]:
        """Key, type and size of the features that imitact's states are, in order."""
        return state_features(self.joints, self.environment)


def read_features(config: JsonFields) -> Features:
    """Return the features in config.json; refuse those that imitact's network does not have."""
    inputs, outputs = config.within("input_features"), config.within("output_features")
    joints = environment = 0
    cameras: dict[str, Camera] = {}
    for key in inputs.names():
        feature = inputs.within(key)
        kind = feature.text("type")
        if kind == "VISUAL":
            where = f"{config.path}: input_features.{key}.shape"
            cameras[key] = Camera(camera_name(key), *_frame_size(feature.raw("shape"), where))
        elif kind == "STATE" and key == STATE:
            joints = _vector_size(feature, key)
        elif kind == "ENV" and key == ENVIRONMENT:
            environment = _vector_size(feature, key)
        else:
            why = f"cannot be imported; imitact's network takes {STATE}, {ENVIRONMENT} and cameras"
            raise config.error("input_features", f'"{key}" of type {kind} {why}')
    if not joints + environment:
        raise config.error("input_features", f"{STATE} is missing; imitact's network needs it")
    if outputs.names() != [ACTION]:
        raise config.error("output_features", f"exactly {ACTION} is expected")
    return Features(joints, environment, _vector_size(outputs.within(ACTION), ACTION), cameras)


def state_features(joints: int, environment: int) -> tuple[tuple[str, str, int], ...]:
    """Return key, type and size of the features that a policy's states are, in order."""
    found = [(STATE, "STATE", joints)] if joints or not environment else []
    return (*found, *([(ENVIRONMENT, "ENV", environment)] if environment else []))


def camera_name(key: str) -> str:
    """Return "top" for "observation.images.top" and "image" for "observation.image"."""
    return key.removeprefix(IMAGES).removeprefix("observation.")


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
