"""LeRobot export: a policy written as a checkpoint that LeRobot's ACT and processors run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.models.interop import lerobot_layout as layout
from imitact.models.interop import weight_conversion
from imitact.models.interop.json_fields import write_json
from imitact.models.interop.lerobot_normalization import Row
from imitact.models.interop.spec_sidecar import export_folder
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy


def write(policy: TorchPolicy, out: Path, *, at_input_size: bool = False) -> tuple[str, ...]:
    """Write a checkpoint that LeRobot 0.4 and later load and run.

    With `at_input_size`, it is for frames at the network's input size even if `policy` resizes its
    frames, which LeRobot's ACT does not do. Returns what the user must know, one line each.

    Raises:
        BadInput: LeRobot's ACT cannot express the settings.
    """
    config, spec = policy.config, policy.spec
    weights, notes = weight_conversion.export_weights(policy, "LeRobot's ACT")
    sizes = _frame_sizes(policy, at_input_size, notes)
    states = layout.state_features(policy.net.joints, spec.environment_size)
    has_joints = states[0][0] == layout.STATE
    inputs: dict[str, Any] = {key: {"type": kind, "shape": [size]} for key, kind, size in states}
    for name, (height, width) in sizes.items():
        inputs[f"{layout.IMAGES}{name}"] = {"type": "VISUAL", "shape": [3, height, width]}
    outputs = {layout.ACTION: {"type": "ACTION", "shape": [spec.action_size]}}
    scaling = policy.scaling or Scaling.plain(spec, policy.stats, config)
    modes, statistics = _normalization(policy, scaling, states)
    if not has_joints:
        notes.append(
            f"no input is {layout.STATE}; LeRobot 0.6.1 still takes the device from it, so it must "
            "be among the observations, with any values"
        )
    coefficient, steps = _execution(policy, notes)
    settings = {
        "type": "act",
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": outputs,
        "device": "cpu",
        "use_amp": False,
        "push_to_hub": False,
        "repo_id": None,
        "private": None,
        "tags": None,
        "license": None,
        "chunk_size": config.chunk_size,
        "n_action_steps": steps,
        "normalization_mapping": modes,
        "vision_backbone": "resnet18",
        "pretrained_backbone_weights": None,
        "replace_final_stride_with_dilation": False,
        "pre_norm": False,
        "dim_model": config.hidden_dim,
        "n_heads": config.num_heads,
        "dim_feedforward": config.dim_feedforward,
        "feedforward_activation": "relu",
        "n_encoder_layers": config.encoder_layers,
        "n_decoder_layers": config.decoder_layers,
        "use_vae": config.use_vae,
        "latent_dim": config.latent_dim,
        "n_vae_encoder_layers": config.vae_encoder_layers,
        "temporal_ensemble_coeff": coefficient,
        "dropout": config.dropout,
        "kl_weight": config.kl_weight,
        "optimizer_lr": 1e-5,
        "optimizer_weight_decay": 1e-4,
        "optimizer_lr_backbone": 1e-5,
    }
    tensors = weight_conversion.to_other_names(weights, layout.NAMES)
    if config.use_vae:
        table = weight_conversion.position_table(config, has_joints)[None]
        tensors[f"model.{layout.POSITION_TABLE}"] = table
    with export_folder(out, spec) as folder:
        write_json(folder / layout.CONFIG, settings)
        safetensors.torch.save_file(tensors, folder / layout.WEIGHTS)
        _write_processors(folder, inputs, outputs, modes, statistics)
    return tuple(notes)


def _frame_sizes(
    policy: TorchPolicy, at_input_size: bool, notes: list[str]
) -> dict[str, tuple[int, int]]:
    """Return camera name to height and width of the frames that the exported policy takes."""
    sizes = {name: view.size for name, view in policy.views.items()}
    resized = [c for c in policy.spec.cameras if sizes[c.name] != (c.height, c.width)]
    if resized and not at_input_size:
        camera = resized[0]
        height, width = sizes[camera.name]
        raise BadInput(
            f'the policy resizes frames of camera "{camera.name}" from '
            f"{camera.height}x{camera.width} to {height}x{width}, and LeRobot's ACT does not "
            "resize; --at-input-size writes a policy for frames that are resized beforehand"
        )
    for camera in resized:
        height, width = sizes[camera.name]
        notes.append(
            f'camera "{camera.name}" must give frames of {height}x{width} in LeRobot (imitact '
            f"resizes {camera.height}x{camera.width} to that by area averaging)"
        )
    return sizes


def _normalization(
    policy: TorchPolicy, scaling: Scaling, states: Sequence[tuple[str, str, int]]
) -> tuple[dict[str, str], dict[str, dict[str, Row]]]:
    """Return the modes and statistics with which LeRobot normalizes as the policy does."""
    eps = np.float32(layout.EPS)
    modes = {"VISUAL": "MEAN_STD", "ACTION": "MEAN_STD"}
    known = {layout.ACTION: _range(policy.stats["action"])}
    start = 0
    for key, kind, size in states:
        own = slice(start, start + size)
        start += size
        shifts = set(scaling.state_shift[own])
        if shifts - {0.0} and shifts - {-1.0}:
            raise BadInput("none of LeRobot's modes shifts the state as this policy does")
        modes[kind] = "MIN_MAX" if shifts == {-1.0} else "MEAN_STD"
        mean, std = _row(scaling.state_mean[own]), _row(scaling.state_std[own])
        known[key] = _range(policy.stats["state"], own)
        if shifts == {-1.0}:
            known[key] |= {"min": mean, "max": (mean + 2 * std).astype(np.float32)}
        else:
            known[key] |= {"mean": mean, "std": (std - eps).astype(np.float32)}
    for name in scaling.pixel_mean:
        known[f"{layout.IMAGES}{name}"] = {
            "mean": _row(scaling.pixel_mean[name]).reshape(3, 1, 1),
            "std": (_row(scaling.pixel_std[name]) - eps).reshape(3, 1, 1),
        }
    known[layout.ACTION] |= {"mean": _row(scaling.action_mean), "std": _row(scaling.action_std)}
    return modes, known


def _row(values: tuple[float, ...]) -> Row:
    return np.array(values, np.float32)


def _range(stats: Stats, own: slice = slice(None)) -> dict[str, Row]:
    rows = {"min": stats.min[own], "max": stats.max[own], "count": np.array([stats.count])}
    return {name: row.astype(np.float32) for name, row in rows.items()}


def _execution(policy: TorchPolicy, notes: list[str]) -> tuple[float | None, int]:
    """Return temporal_ensemble_coeff and n_action_steps for the policy's execution."""
    execution, chunk = policy.execution or Execution(), policy.config.chunk_size
    kind, _, value = execution.chunking.partition(":")
    if kind == "replay":
        number, _, fade = value.partition("~")
        steps = min(int(number), chunk)
        if fade:
            notes.append(f"LeRobot joins no chunks; {execution} becomes n_action_steps {steps}")
        if execution.delay_ticks:
            notes.append(f"LeRobot has no delay; {execution} becomes n_action_steps {steps}")
        return None, steps
    if "/" not in value and not execution.delay_ticks:
        return float(value), 1
    notes.append(
        f"LeRobot's ACT cannot execute {execution}; n_action_steps is {chunk} instead, which "
        "LeRobot's --policy.n_action_steps changes"
    )
    return None, chunk


def _write_processors(
    folder: Path,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    modes: Mapping[str, str],
    statistics: Mapping[str, Mapping[str, Row]],
) -> None:
    """Write LeRobot 0.6.1's processor files; order and names of steps are part of the format."""
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        device,
    ]
    tensors = {
        f"{key}.{name}": torch.tensor(value)
        for key, rows in statistics.items()
        for name, value in rows.items()
    }
    for name, first, step, features, last in (
        ("policy_preprocessor", before, "normalizer_processor", {**inputs, **outputs}, []),
        ("policy_postprocessor", [], "unnormalizer_processor", outputs, [device]),
    ):
        file = f"{name}_step_{len(first)}_{step}.safetensors"
        config = {"eps": layout.EPS, "features": features, "norm_map": modes}
        normalizer = {"registry_name": step, "config": config, "state_file": file}
        write_json(folder / f"{name}.json", {"name": name, "steps": [*first, normalizer, *last]})
        safetensors.torch.save_file(tensors, folder / file)
