"""Checkpoints of the released ACT (tonyzhaozh/act), read and written.

`policy_best.ckpt` is a torch state dict, `dataset_stats.pkl` a pickle of arrays; nothing in them is
executed. They hold neither heads nor cameras nor the rate. docs/policies.md describes the layouts.

Legend: S state, A action, D width, K chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.core.types import Camera, Spec
from imitact.core.words import counted
from imitact.models.act import CvaeEncoder
from imitact.models.config import ActConfig
from imitact.models.interop import restricted_pickle, weight_conversion
from imitact.models.interop.imported_policy import ImportedPolicy, assemble_policy, complete_stats
from imitact.models.interop.partial_spec import ALOHA_CAMERA, PartialSpec
from imitact.models.interop.spec_sidecar import export_folder, read_sidecar
from imitact.models.normalization import IMAGENET_MEAN, IMAGENET_STD, Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from imitact.storage.json_file import naming_file, read_bytes
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.zip_file import check_stored

WEIGHTS, STATS = "policy_best.ckpt", "dataset_stats.pkl"

NAMES = (
    ("backbones.0.0.body.", "backbone."),
    ("input_proj_robot_state", "state_proj"),
    ("input_proj", "image_proj"),
    ("latent_out_proj", "latent_proj"),
    ("additional_pos_embed.weight", "token_pos"),
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    ("query_embed.weight", "queries"),
    ("action_head", "head"),
    ("encoder.", "cvae.encoder."),
    ("cls_embed.weight", "cvae.cls"),
    ("encoder_joint_proj", "cvae.state_proj"),
    ("encoder_action_proj", "cvae.action_proj"),
    ("latent_proj", "cvae.latent_head"),
)
"""Prefixes of weight names: the released code's (after `model.`) and imitact's."""

_OTHER_BACKBONE = re.compile(r"backbones\.([1-9]\d*)\.0\.body\.(.+)")
_DECODER_LAYER = re.compile(r"transformer\.decoder\.layers\.(\d+)\.")
_POSITION_TABLE, _PAD_HEAD = "pos_table", "is_pad_head"
_OLD_ENCODER = "encoder_proj"
"""The CVAE encoder's projection before commit 57d9206, which split it in two."""

DECODER_LAYERS = 7
"""Decoder layers that the released code builds (imitate_episodes.py); it uses the first only."""

NUM_HEADS = 8


def read(
    path: Path, known: PartialSpec, *, num_heads: int = NUM_HEADS, stats: Path | None = None
) -> ImportedPolicy:
    """Read a checkpoint of the released ACT as a policy with equal actions.

    The path is the folder's, or a .ckpt file's of another name; `stats` is dataset_stats.pkl, if
    that is not beside the weights. The weights do not show the number of attention heads. The six
    decoder layers that the released code never uses are dropped.
    """
    file = path if path.is_file() else path / WEIGHTS
    stats = stats or file.parent / STATS
    tensors, notes = _read_tensors(file)
    config = _config(tensors, num_heads, file)
    weights = _weights(tensors, config, file, notes)
    data = read_bytes(stats, limit=restricted_pickle.MAX_BYTES)
    arrays = restricted_pickle.loads(data, stats)
    with naming_file(file, stats):
        known = known.or_else(read_sidecar(file.parent))
        spec, assumed = known.complete(
            weights["state_proj.weight"].shape[1],
            weights["head.weight"].shape[0],
            _cameras(known, notes),
        )
        notes += assumed
        complete, scaling = _statistics(arrays, spec, stats, notes)
        execution = Execution(f"replay:{config.chunk_size}")
        record = PolicyRecord(spec, complete, config, "released-act", execution)
        return ImportedPolicy(assemble_policy(record, scaling, weights, str(file)), tuple(notes))


def _cameras(known: PartialSpec, notes: list[str]) -> tuple[Camera, ...]:
    if known.cameras is None:
        notes.append(
            "cameras are not in the checkpoint; assumed: top of 480x640, the camera of the "
            "released simulated tasks (--cameras names others, in the order of training)"
        )
        return (ALOHA_CAMERA,)
    if len({(c.height, c.width) for c in known.cameras}) > 1:
        raise BadInput(
            "the released ACT takes all cameras at one size; given were "
            + ", ".join(f"{c.name} of {c.height}x{c.width}" for c in known.cameras)
        )
    return known.cameras


def _statistics(
    arrays: Mapping[str, Any], spec: Spec, path: Path, notes: list[str]
) -> tuple[dict[str, Stats], Scaling]:
    """Return the statistics in dataset_stats.pkl, and the normalization with them."""
    complete, parts = {}, {}
    for what, name, size in (
        ("state", "qpos", spec.state_size),
        ("action", "action", spec.action_size),
    ):
        rows = {
            part: _row(arrays[f"{name}_{part}"], f"{path}: {name}_{part}", size)
            for part in ("mean", "std", "min", "max")
            if arrays.get(f"{name}_{part}") is not None
        }
        if not {"mean", "std"} <= rows.keys():
            held = ", ".join(sorted(arrays)) or "nothing"
            raise DamagedFile(f"{path} has no {name}_mean and {name}_std; it holds {held}")
        if np.any(rows["std"] <= 0):
            raise DamagedFile(f"{path}: {name}_std is not above 0 everywhere")
        complete[what] = complete_stats(rows, size, what, notes)
        parts |= {f"{what}_{part}": tuple(rows[part].tolist()) for part in ("mean", "std")}
    return complete, replace(Scaling.plain(spec, complete, ActConfig()), **parts)


def _row(value: Any, where: str, size: int) -> NDArray[np.float64]:
    """Return an array of dataset_stats.pkl as a row."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise DamagedFile(f"{where} is {type(value).__name__}, an array of numbers is expected")
    if value.size != size:
        raise DamagedFile(f"{where} has {counted(value.size, 'value')}, the weights need {size}")
    if not np.all(np.isfinite(value)):
        raise DamagedFile(f"{where} is not finite")
    return value.reshape(-1).astype(np.float64)


# -- weights ---------------------------------------------------------------------------------------


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the used tensors of a .ckpt by names without `model.`, and notes."""
    if not file.is_file():
        raise DamagedFile(f"{file} is missing; copy the checkpoint again from where it was trained")
    size = file.stat().st_size
    if is_zipfile(file):  # all but those of torch before 1.6
        check_stored(file)
    try:
        # weights_only: torch's own restricted reader; a pickle may run anything else.
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises various types on damaged bytes
        refuse_lfs_pointer(file)
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DamagedFile(
            f"{file} cannot be read as a state dict of tensors, and nothing in it was run: {first}"
        ) from error
    if not isinstance(found, dict) or not found:
        raise DamagedFile(f"{file} holds {type(found).__name__}, expected tensors by name")
    tensors: dict[str, Tensor] = {}
    total = 0
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DamagedFile(
                f'{file}: "{str(name)[:100]}" is {type(value).__name__}, not a tensor'
            )
        total += value.numel() * value.element_size()
        if total > size:  # a view may claim any size
            raise DamagedFile(f'{file}: "{name}" is larger than the file; its shape is wrong')
        tensors[name.removeprefix("module.").removeprefix("model.")] = value
    return _used_tensors(tensors, file)


def _used_tensors(tensors: dict[str, Tensor], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    kept: dict[str, Tensor] = {}
    unused: set[int] = set()
    has_pad_head = False
    for name, value in tensors.items():
        if (layer := _DECODER_LAYER.match(name)) and int(layer[1]) > 0:
            unused.add(int(layer[1]))
        elif name.startswith(_PAD_HEAD):
            has_pad_head = True
        elif other := _OTHER_BACKBONE.match(name):
            first = tensors.get(f"backbones.0.0.body.{other[2]}")
            if first is None or first.shape != value.shape or not torch.equal(first, value):
                raise BadInput(
                    f'{file} has a backbone for each camera ("{name}" differs from the first), as '
                    "act-plus-plus trains them; imitact has one backbone for all cameras"
                )
        elif not name.endswith("num_batches_tracked"):
            kept[name] = value
    notes: list[str] = []
    if unused:
        notes.append(
            f"{len(unused)} of {len(unused) + 1} decoder layers are dropped: the released code "
            "returns the output of the first and never trains the others (tonyzhaozh/act issue 25)"
        )
    if has_pad_head:
        notes.append("is_pad_head is dropped: no loss trains it and nothing uses its output")
    return kept, notes


def _config(tensors: Mapping[str, Tensor], num_heads: int, file: Path) -> ActConfig:
    """Return the settings that the shapes of the weights imply."""

    def shape(name: str) -> torch.Size:
        if name not in tensors or tensors[name].ndim != 2:
            problem = "is not a matrix" if name in tensors else "is missing"
            raise DamagedFile(
                f'{file}: "{name}" {problem}; this is not a checkpoint of the released ACT'
            )
        return tensors[name].shape

    def layers(stack: str) -> int:
        pattern = re.compile(rf"{re.escape(stack)}(\d+)\.")
        return len({m[1] for name in tensors if (m := pattern.match(name))})

    chunk_size, hidden_dim = shape("query_embed.weight")
    dim_feedforward = shape("transformer.decoder.layers.0.linear1.weight")[0]
    latent_dim = shape("latent_out_proj.weight")[1]
    shape("input_proj_robot_state.weight")
    shape("action_head.weight")
    use_vae = "encoder_joint_proj.weight" in tensors
    with naming_file(file):
        return ActConfig(
            chunk_size=chunk_size,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            latent_dim=latent_dim,
            encoder_layers=layers("transformer.encoder.layers."),
            decoder_layers=1,
            use_vae=use_vae,
            vae_encoder_layers=layers("encoder.layers.") if use_vae else 4,
            l1_ticks="all",
        )


def _weights(
    tensors: Mapping[str, Tensor], config: ActConfig, file: Path, notes: list[str]
) -> dict[str, Tensor]:
    """Return the weights by imitact's names."""
    if not config.use_vae:
        notes.append(
            "its CVAE encoder is of a version without the joints as input, and is left out; "
            "nothing uses it at inference"
        )
        tensors = {
            name: value
            for name, value in tensors.items()
            if not name.startswith((_POSITION_TABLE, _OLD_ENCODER))
            if not weight_conversion.renamed(name, NAMES).startswith("cvae.")
        }
    return weight_conversion.to_imitact_names(tensors.items(), NAMES, _POSITION_TABLE, config, file)


# -- writing ---------------------------------------------------------------------------------------


def write(policy: TorchPolicy, out: Path) -> tuple[str, ...]:
    """Write policy_best.ckpt and dataset_stats.pkl as the released code reads them.

    Returns what the user must know, one line each: among it the arguments with which the released
    code builds the network.

    Raises:
        BadInput: The released code cannot express the settings.
    """
    config, spec = policy.config, policy.spec
    if spec.environment_size:
        raise BadInput(
            "the released ACT has no input for states of the environment; this policy has "
            f"{', '.join(spec.environment_names)} (--to lerobot can hold them)"
        )
    scaling = policy.scaling or Scaling.plain(spec, policy.stats, config)
    weights, notes = weight_conversion.export_weights(policy, "the released ACT")
    _check(policy, scaling)
    tensors = _released_weights(weights, config, spec, notes)
    notes.append(
        f"build it with --chunk_size {config.chunk_size} --hidden_dim {config.hidden_dim} "
        f"--dim_feedforward {config.dim_feedforward}, and camera_names in this order: "
        + ", ".join(c.name for c in spec.cameras)
    )
    for name, value, fixed in (
        ("state_dim", spec.state_size, 14),
        ("the action's size", spec.action_size, 14),
        ("nheads", config.num_heads, NUM_HEADS),
        ("latent_dim", config.latent_dim, 32),
        ("enc_layers", config.encoder_layers, 4),
    ):
        if value != fixed:
            notes.append(f"that code fixes {name} to {fixed}; it must be edited to {value}")
    mean = np.array(scaling.state_mean) - np.array(scaling.state_shift) * scaling.state_std
    # The released code normalizes states in the type of the statistics; a shifted mean needs
    # float64.
    dtype = np.float64 if any(scaling.state_shift) else np.float32
    stats = {
        "action_mean": np.array(scaling.action_mean, np.float32),
        "action_std": np.array(scaling.action_std, np.float32),
        "qpos_mean": mean.astype(dtype),
        "qpos_std": np.array(scaling.state_std, dtype),
        "example_qpos": np.zeros((0, spec.state_size), np.float32),  # none is known
    }
    with export_folder(out, spec) as folder:
        torch.save(tensors, folder / WEIGHTS)
        (folder / STATS).write_bytes(restricted_pickle.dumps(stats))
    return tuple(notes)


def _check(policy: TorchPolicy, scaling: Scaling) -> None:
    config, spec = policy.config, policy.spec
    if not spec.cameras:
        raise BadInput("the released ACT needs at least one camera; this policy has none")
    if config.decoder_layers != 1:
        raise BadInput(
            f"the released ACT uses its first decoder layer only, this policy "
            f"{config.decoder_layers} layers (--to lerobot can hold them)"
        )
    if config.use_vae and config.vae_encoder_layers != config.encoder_layers:
        raise BadInput(
            f"the released ACT has as many CVAE layers as encoder layers; this policy has "
            f"{config.vae_encoder_layers} and {config.encoder_layers}"
        )
    for camera in spec.cameras:
        own = scaling.pixel_mean[camera.name], scaling.pixel_std[camera.name]
        if not np.allclose(own, (IMAGENET_MEAN, IMAGENET_STD), rtol=1e-6, atol=0):
            raise BadInput(
                f"the released ACT normalizes pixels with ImageNet's statistics; camera "
                f'"{camera.name}" of this policy has others (--to lerobot can hold them)'
            )
        size = policy.views[camera.name].size
        if size != (camera.height, camera.width) or size != policy.views[spec.cameras[0].name].size:
            raise BadInput(
                f"the released ACT takes frames of one size and does not resize; camera "
                f'"{camera.name}" captures {camera.height}x{camera.width}, and the network takes '
                f"{size[0]}x{size[1]}"
            )


def _released_weights(
    weights: Mapping[str, Tensor], config: ActConfig, spec: Spec, notes: list[str]
) -> dict[str, Tensor]:
    """Return the weights by the released code's names, with all that its load_state_dict needs."""
    if not config.use_vae:
        with torch.device("meta"):
            encoder = CvaeEncoder(
                replace(config, vae_encoder_layers=config.encoder_layers),
                spec.state_size,
                spec.action_size,
            )
        absent = {f"cvae.{n}": torch.zeros(v.shape) for n, v in encoder.state_dict().items()}
        weights = {**weights, **absent}
        notes.append(
            "the CVAE encoder, which this policy does not have, is zero; inference skips it"
        )
    found = weight_conversion.to_other_names(weights, NAMES)
    first = {n: v for n, v in found.items() if n.startswith("model.transformer.decoder.layers.0.")}
    for layer in range(1, DECODER_LAYERS):
        for name, value in first.items():
            found[name.replace(".layers.0.", f".layers.{layer}.")] = value.clone()
    found[f"model.{_PAD_HEAD}.weight"] = torch.zeros(1, config.hidden_dim)
    found[f"model.{_PAD_HEAD}.bias"] = torch.zeros(1)
    found[f"model.{_POSITION_TABLE}"] = weight_conversion.position_table(config)[None]
    notes.append(
        f"decoder layers 2 to {DECODER_LAYERS} are copies of the first, is_pad_head is zero: the "
        "released code loads them and uses neither"
    )
    return found
