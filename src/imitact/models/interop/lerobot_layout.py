"""What LeRobot calls the parts of an ACT checkpoint: files, features and weights.

Layouts: docs/policies.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imitact.core.types import Camera
from imitact.models.interop.common import Fields, camera_size

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
"""How weights are called there (behind `model.`) and here; all others are called the same."""

TABLE = "vae_encoder_pos_enc"
BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Where versions before 0.4 kept statistics, among the weights."""

EPS = 1e-8
"""What LeRobot adds to the deviation that it divides by (processor/normalize_processor.py)."""


@dataclass(frozen=True)
class Features:
    """What is seen and commanded: S, A, and key to camera, in the order of config.json."""

    state: int
    action: int
    cameras: Mapping[str, Camera]


def features_of(config: Fields) -> Features:
    inputs, outputs = config.within("input_features"), config.within("output_features")
    state: int | None = None
    cameras: dict[str, Camera] = {}
    for key in inputs.names():
        feature = inputs.within(key)
        kind = feature.text("type")
        if kind == "VISUAL":
            shape = feature.raw("shape")
            size = camera_size(shape, f"{config.path}: input_features.{key}.shape")
            cameras[key] = Camera(camera_name(key), *size)
        elif kind == "STATE" and key == STATE:
            state = _size(feature, key)
        else:
            raise config.refuse(
                "input_features",
                f"{key!r} of type {kind!r} has no place in imitact's network, which takes "
                f"{STATE!r} and cameras",
            )
    if state is None:
        raise config.refuse("input_features", f"{STATE!r} is missing; imitact's network needs it")
    if outputs.names() != [ACTION]:
        raise config.refuse("output_features", f"exactly {ACTION!r} is expected")
    return Features(state, _size(outputs.within(ACTION), ACTION), cameras)


def _size(feature: Fields, key: str) -> int:
    shape = feature.raw("shape")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        raise feature.refuse("shape", f"{key!r} is one row of numbers")
    if not 0 < shape[0] <= 10_000:
        raise feature.refuse("shape", "1 to 10,000 values are expected")
    return shape[0]


def camera_name(key: str) -> str:
    """ "observation.images.top" is "top", "observation.image" is "image"."""
    return key.removeprefix(IMAGES).removeprefix("observation.")
