"""Checkpoints of the released ACT (tonyzhaozh/act), read and written.

`policy_best.ckpt` is a state dict of torch's, `dataset_stats.pkl` a pickle of arrays; neither is
run. Nothing else of the policy is on disk: heads, cameras and rate are told by whoever reads.

Layouts: docs/policies.md. Legend: S state, A action, D width, K chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.types import Spec
from imitact.models.config import ActConfig
from imitact.models.interop import common, restricted_pickle
from imitact.models.interop.common import Imported, Told, Values
from imitact.models.normalization import IMAGENET_MEAN, IMAGENET_STD, Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.transformer import sine_table

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
"""How weights are called there (behind `model.`) and here."""

_OTHER_TRUNK = re.compile(r"backbones\.([1-9]\d*)\.0\.body\.(.+)")
_LAYER = re.compile(r"transformer\.decoder\.layers\.(\d+)\.")
_TABLE, _PAD_HEAD = "pos_table", "is_pad_head"
_OLD_ENCODER = "encoder_proj"
"""What the CVAE encoder had instead of two projections before 57d9206."""

DECODER_LAYERS = 7
"""That the released code builds (imitate_episodes.py); it returns the output of the first."""

HEADS = 8


def is_checkpoint(path: Path) -> bool:
    """Whether a path looks like a checkpoint of the released ACT: its folder, or its .ckpt."""
    return path.suffix == ".ckpt" if path.is_file() else (path / WEIGHTS).is_file()


def read(path: Path, told: Told, *, heads: int = HEADS, stats: Path | None = None) -> Imported:
    """A checkpoint of the released ACT as a policy that gives equal actions.

    path:  the folder, or a .ckpt file of another name beside dataset_stats.pkl.
    told:  cameras in the order of training, names, units and rate.
    heads: attention heads, which the weights do not tell.
    stats: where dataset_stats.pkl is, if not beside the weights.

    The six decoder layers that the released code never uses are left out.
    """
    file = path if path.is_file() else path / WEIGHTS
    stats = stats or file.parent / STATS
    tensors, notes = _tensors(file)
    config = _network(tensors, heads, file)
    weights = _weights(tensors, config, file, notes)
    found = restricted_pickle.loads(common.read_bytes(stats, restricted_pickle.MAX_BYTES), stats)
    try:
        return _imported(file, stats, told, config, weights, found, notes)
    except ImitactError as error:
        if str(file) in str(error) or str(stats) in str(error):
            raise
        raise DamagedFile(f"{file}: {error}") from error


def _imported(
    file: Path,
    stats: Path,
    told: Told,
    config: ActConfig,
    weights: Mapping[str, Tensor],
    found: Mapping[str, Any],
    notes: list[str],
) -> Imported:
    state, action = weights["state_proj.weight"].shape[1], weights["head.weight"].shape[0]
    told = told.or_else(common.read_side(file.parent))
    if told.cameras is None:
        told = Told(cameras=(common.ALOHA_CAMERA,)).or_else(told)
        notes.append(
            "cameras are not in the checkpoint; taken: top of 480x640, that of the released "
            "simulated tasks (--cameras names others, in the order of training)"
        )
    assert told.cameras is not None
    if len({(c.height, c.width) for c in told.cameras}) > 1:
        raise BadInput(
            "the released ACT sees all cameras at one size; told were "
            + ", ".join(f"{c.name} of {c.height}x{c.width}" for c in told.cameras)
        )
    spec, supposed = common.spec_of(told, state, action, told.cameras)
    own, parts = {}, {}
    for what, name, size in (("state", "qpos", state), ("action", "action", action)):
        values = {k: _row(found, f"{name}_{k}", size, stats) for k in ("mean", "std", "min", "max")}
        if values["mean"] is None or values["std"] is None:
            raise DamagedFile(
                f"{stats} has no {name}_mean and {name}_std; it holds {sorted(found)}"
            )
        if np.any(values["std"] <= 0):
            raise DamagedFile(f"{stats}: {name}_std is not above 0 everywhere")
        own[what], unknown = common.stats_of(Values(**values), size, what)
        parts |= {f"{what}_mean": _tuple(values["mean"]), f"{what}_std": _tuple(values["std"])}
        supposed += unknown
    names = [c.name for c in spec.cameras]
    scaling = Scaling(
        **parts,
        state_shift=(0.0,) * state,
        pixel_mean=dict.fromkeys(names, IMAGENET_MEAN),
        pixel_std=dict.fromkeys(names, IMAGENET_STD),
    )
    policy = common.assembled(
        spec,
        own,
        config,
        weights,
        scaling,
        origin="released-act",
        where=str(file),
        execution=Execution(f"replay:{config.chunk_size}"),
    )
    return Imported(policy, (*notes, *supposed))


def _row(found: Mapping[str, Any], name: str, size: int, path: Path) -> Any:
    """Numbers of a dataset_stats.pkl, float64; None where it does not hold them."""
    value = found.get(name)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise DamagedFile(
            f"{path}: {name} is {type(value).__name__}, an array of numbers is expected"
        )
    if value.size != size:
        raise DamagedFile(f"{path}: {name} has {value.size} values, the weights need {size}")
    row = value.reshape(-1).astype(np.float64)
    if not np.all(np.isfinite(row)):
        raise DamagedFile(f"{path}: {name} is not finite")
    return row


def _tuple(values: Any) -> tuple[float, ...]:
    return tuple(values.tolist())


# -- weights ---------------------------------------------------------------------------------------


def _tensors(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a .ckpt, by names without `model.`, without what is never used."""
    if not file.is_file():
        raise DamagedFile(f"{file} is missing; copy the checkpoint again from where it was trained")
    size = file.stat().st_size
    try:
        # weights_only: torch's own restricted reader; a pickle may run anything else.
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever that reader raises on bytes that are not tensors
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
                f"{file}: {str(name)[:100]!r} is {type(value).__name__}, not a tensor"
            )
        total += value.numel() * value.element_size()
        if total > size:  # a view may claim any size
            raise DamagedFile(f"{file}: {name!r} is larger than the file; its shape is not true")
        tensors[name.removeprefix("module.").removeprefix("model.")] = value
    return _used(tensors, file)


def _used(tensors: dict[str, Tensor], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    dead = {int(m[1]) for name in tensors if (m := _LAYER.match(name))} - {0}
    if dead:
        notes.append(
            f"{len(dead)} of {len(dead) + 1} decoder layers are dropped: the released code returns "
            "the output of the first and never trains the others (tonyzhaozh/act issue 25)"
        )
    if any(name.startswith(_PAD_HEAD) for name in tensors):
        notes.append("is_pad_head is dropped: no loss trains it and nothing uses its answer")
    for name, value in tensors.items():
        if other := _OTHER_TRUNK.match(name):
            first = tensors.get(f"backbones.0.0.body.{other[2]}")
            if first is None or first.shape != value.shape or not torch.equal(first, value):
                raise BadInput(
                    f"{file} has a trunk for each camera ({name!r} differs from the first), as "
                    "act-plus-plus trains them; imitact has one trunk for all cameras"
                )
    kept = {
        name: value
        for name, value in tensors.items()
        if not (m := _LAYER.match(name)) or int(m[1]) == 0
        if not name.startswith(_PAD_HEAD) and not _OTHER_TRUNK.match(name)
        if not name.endswith("num_batches_tracked")
    }
    return kept, notes


def _network(tensors: Mapping[str, Tensor], heads: int, file: Path) -> ActConfig:
    """The settings that the shapes of the weights tell."""

    def shape(name: str) -> torch.Size:
        if name not in tensors or tensors[name].ndim != 2:
            there = "is no matrix" if name in tensors else "is missing"
            raise DamagedFile(f"{file}: {name!r} {there}; it is no checkpoint of the released ACT")
        return tensors[name].shape

    def layers(stack: str) -> int:
        found = re.compile(rf"{re.escape(stack)}(\d+)\.")
        return len({m[1] for name in tensors if (m := found.match(name))})

    chunk, dim = shape("query_embed.weight")
    ffn = shape("transformer.decoder.layers.0.linear1.weight")[0]
    latent = shape("latent_out_proj.weight")[1]
    shape("input_proj_robot_state.weight")
    shape("action_head.weight")
    cvae = "encoder_joint_proj.weight" in tensors
    try:
        return ActConfig(
            chunk_size=chunk,
            hidden_dim=dim,
            num_heads=heads,
            dim_feedforward=ffn,
            latent_dim=latent,
            encoder_layers=layers("transformer.encoder.layers."),
            decoder_layers=1,
            use_vae=cvae,
            vae_encoder_layers=layers("encoder.layers.") if cvae else 4,
            l1_ticks="all",
        )
    except BadInput as error:
        raise DamagedFile(f"{file}: {error}") from error


def _weights(
    tensors: Mapping[str, Tensor], config: ActConfig, file: Path, notes: list[str]
) -> dict[str, Tensor]:
    """By imitact's names."""
    found: dict[str, Tensor] = {}
    if not config.use_vae:
        notes.append(
            "its CVAE encoder is of a generation that does not see the joints, and is left out; "
            "nothing uses it at inference"
        )
    for name, value in tensors.items():
        if name == _TABLE:
            if config.use_vae:
                common.check_table(value, config, f"{file}: {name!r}")
            continue
        ours = common.renamed(name, NAMES)
        if not config.use_vae and (ours.startswith("cvae.") or name.startswith(_OLD_ENCODER)):
            continue
        matrix = ours == "image_proj.weight" and value.shape[2:] == (1, 1)
        found[ours] = value.flatten(1) if matrix else value
    return common.flat_weights(found, str(file))


# -- outward ---------------------------------------------------------------------------------------


def write(policy: TorchPolicy, out: Path) -> tuple[str, ...]:
    """policy_best.ckpt and dataset_stats.pkl as the released code reads them.

    Gives what a person must know, the arguments among it with which that code builds the network.
    Refuses settings that it cannot express.
    """
    common.check_expressible(policy, "the released ACT")
    config, spec = policy.config, policy.spec
    scaling = policy.scaling or Scaling.plain(spec, policy.stats, config)
    _check(policy, scaling)
    weights, notes = common.frozen_norms(policy)
    if config.queries == "sinusoidal":
        weights["queries"] = sine_table(config.chunk_size, config.hidden_dim)
        notes.append("the fixed positions of the queries become learned ones of the same values")
    tensors = _theirs(weights, config, spec, notes)
    names = ", ".join(c.name for c in spec.cameras)
    notes.append(
        f"build it with --chunk_size {config.chunk_size} --hidden_dim {config.hidden_dim} --dim_feedforward "
        f"{config.dim_feedforward}, and camera_names in this order: {names}"
    )
    hard = {"state_dim": (spec.state_size, 14), "the action's size": (spec.action_size, 14)}
    hard |= {"nheads": (config.num_heads, HEADS), "latent_dim": (config.latent_dim, 32)}
    hard |= {"enc_layers": (config.encoder_layers, 4)}
    for name, (have, fixed) in hard.items():
        if have != fixed:
            notes.append(f"that code fixes {name} to {fixed}; it must be edited to {have}")
    mean = np.array(scaling.state_mean) - np.array(scaling.state_shift) * scaling.state_std
    # There states are normalised in the type of the statistics: float64 keeps a shifted mean.
    kind = np.float64 if any(scaling.state_shift) else np.float32
    stats = {
        "action_mean": np.array(scaling.action_mean, np.float32),
        "action_std": np.array(scaling.action_std, np.float32),
        "qpos_mean": mean.astype(kind),
        "qpos_std": np.array(scaling.state_std, kind),
        "example_qpos": np.zeros((0, spec.state_size), np.float32),  # none is known
    }

    def fill(folder: Path) -> None:
        torch.save(tensors, folder / WEIGHTS)
        (folder / STATS).write_bytes(restricted_pickle.dumps(stats))
        common.write_side(folder, spec)

    common.write_folder(out, fill)
    return tuple(notes)


def _check(policy: TorchPolicy, scaling: Scaling) -> None:
    config, spec = policy.config, policy.spec
    if not spec.cameras:
        raise BadInput("the released ACT sees at least one camera; this policy sees none")
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
                f"the released ACT normalises pixels as ImageNet's; camera {camera.name!r} of this "
                "policy has other statistics (--to lerobot can hold them)"
            )
        size = policy.views[camera.name].size
        if size != (camera.height, camera.width) or size != policy.views[spec.cameras[0].name].size:
            raise BadInput(
                f"the released ACT takes frames of one size and resizes none; {camera.name!r} "
                f"captures {camera.height}x{camera.width}, seen at {size[0]}x{size[1]}"
            )


def _theirs(
    weights: Mapping[str, Tensor], config: ActConfig, spec: Spec, notes: list[str]
) -> dict[str, Tensor]:
    """By the released code's names, with all that its load_state_dict asks for."""
    # "cvae.encoder." before "encoder.": of the names that begin alike, the longest counts.
    back = sorted(((ours, theirs) for theirs, ours in NAMES), key=lambda pair: -len(pair[0]))
    found = {}
    for name, value in weights.items():
        matrix = name == "image_proj.weight"
        theirs = common.renamed(name, back)
        found[theirs] = (value[:, :, None, None] if matrix else value).contiguous().clone()
    first = {n: v for n, v in found.items() if n.startswith("transformer.decoder.layers.0.")}
    for layer in range(1, DECODER_LAYERS):
        for name, value in first.items():
            found[name.replace(".layers.0.", f".layers.{layer}.")] = value.clone()
    found[f"{_PAD_HEAD}.weight"] = torch.zeros(1, config.hidden_dim)
    found[f"{_PAD_HEAD}.bias"] = torch.zeros(1)
    found[_TABLE] = sine_table(2 + config.chunk_size, config.hidden_dim)[None]
    notes.append(
        f"decoder layers 2 to {DECODER_LAYERS} are copies of the first, is_pad_head is zero: that "
        "code asks for them and uses neither"
    )
    if not config.use_vae:
        for name, shape in _cvae_shapes(config, spec).items():
            found[name] = torch.zeros(shape)
        notes.append(
            "the CVAE encoder, which this policy does not have, is zero; inference skips it"
        )
    return {f"model.{name}": value for name, value in found.items()}


def _cvae_shapes(config: ActConfig, spec: Spec) -> dict[str, tuple[int, ...]]:
    dim, ffn = config.hidden_dim, config.dim_feedforward
    shapes: dict[str, tuple[int, ...]] = {
        "cls_embed.weight": (1, dim),
        "encoder_joint_proj.weight": (dim, spec.state_size),
        "encoder_joint_proj.bias": (dim,),
        "encoder_action_proj.weight": (dim, spec.action_size),
        "encoder_action_proj.bias": (dim,),
        "latent_proj.weight": (2 * config.latent_dim, dim),
        "latent_proj.bias": (2 * config.latent_dim,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.in_proj_weight": (3 * dim, dim),
        "self_attn.in_proj_bias": (3 * dim,),
        "self_attn.out_proj.weight": (dim, dim),
        "self_attn.out_proj.bias": (dim,),
        "linear1.weight": (ffn, dim),
        "linear1.bias": (ffn,),
        "linear2.weight": (dim, ffn),
        "linear2.bias": (dim,),
    } | {f"norm{n}.{part}": (dim,) for n in (1, 2) for part in ("weight", "bias")}
    for at in range(config.encoder_layers):
        shapes |= {f"encoder.layers.{at}.{name}": shape for name, shape in layer.items()}
    return shapes
