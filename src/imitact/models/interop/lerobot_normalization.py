"""What LeRobot normalises with, found in whichever place its version kept it.

LeRobot 0.4 and later keep it in processor files beside the weights; earlier versions kept it among
the weights, under names in which every dot became an underscore. Later versions load those without
any normalisation and without a word (huggingface/lerobot issue 4047). Here each statistic is found
by the features that config.json names, or the checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.errors import DamagedFile
from imitact.models.interop.common import Fields, Values, read_json, read_safetensors
from imitact.models.interop.lerobot_layout import (
    ACTION,
    BUFFERS,
    CONFIG,
    EPS,
    POSTPROCESSOR,
    PREPROCESSOR,
    STATE,
    WEIGHTS,
    Features,
)
from imitact.models.normalization import Scaling

_STATISTICS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}
"""How a kind of feature may be normalised, and the statistics that this takes."""

Row = NDArray[np.float32]
Numbers = Mapping[str, Row]
"""Statistics of a feature: "mean", "std", "min", "max", "q01", ..., each flat."""


@dataclass(frozen=True)
class Normalising:
    """What LeRobot normalises with.

    modes: kind of feature ("STATE", "ACTION", "VISUAL") to the name of a mode.
    known: feature to its statistics.
    skips: features that are not normalised, whatever their kind.
    eps:   what keeps divisors from 0.
    old:   whether it was done as before 0.4.
    where: what holds the statistics, for messages.
    """

    modes: Mapping[str, str]
    known: Mapping[str, Numbers]
    skips: frozenset[str]
    eps: float
    old: bool
    where: str

    def numbers(self, key: str, kind: str, size: int) -> tuple[str, Numbers]:
        """Mode and statistics of a feature; refuses what LeRobot would silently leave out."""
        mode = self.modes.get(kind, "IDENTITY")
        if key in self.skips:
            mode = "IDENTITY"
        known = self.known.get(key, {})
        for name in _STATISTICS[mode]:
            if name not in known:
                raise DamagedFile(
                    f"{self.where}: no {name!r} of {key!r}, which {mode} of {kind} needs; LeRobot "
                    "would run the policy without that normalisation and not say so "
                    "(huggingface/lerobot issue 4047). If it was trained so, set "
                    f"normalization_mapping's {kind} to IDENTITY"
                )
        for name, value in known.items():
            if name != "count" and value.size != size:
                raise DamagedFile(
                    f"{self.where}: {key}.{name} has {value.size} values, {CONFIG} says {size}"
                )
            if name in _STATISTICS[mode] and not np.all(np.isfinite(value)):
                raise DamagedFile(f"{self.where}: {key}.{name} is not finite: it was never filled")
        return mode, known


def normalising_of(
    folder: Path, config: Fields, features: Features, tensors: Mapping[str, Tensor]
) -> tuple[Normalising, list[str]]:
    """What a checkpoint normalises with, and what a person must know of it."""
    if (folder / PREPROCESSOR).is_file():
        return _of_processors(folder, features)
    if any(name.startswith(BUFFERS) for name in tensors):
        return _of_buffers(config, features, tensors, folder / WEIGHTS), []
    raise DamagedFile(
        f"{folder} has no {PREPROCESSOR}, and {WEIGHTS} holds no statistics either: what the "
        f"policy was normalised with is lost; copy the whole folder again (pretrained_model)"
    )


def _of_processors(folder: Path, features: Features) -> tuple[Normalising, list[str]]:
    """As LeRobot 0.4 and later keep it."""
    notes: list[str] = []
    pre = _step(
        folder / PREPROCESSOR,
        "normalizer_processor",
        {"rename_observations_processor", "to_batch_processor", "device_processor"},
        notes,
    )
    post = _step(folder / POSTPROCESSOR, "unnormalizer_processor", {"device_processor"}, notes)
    about, after = pre.within("config"), post.within("config")
    action = _modes(after.within("norm_map")).get("ACTION", "IDENTITY")
    modes = {**_modes(about.within("norm_map")), "ACTION": action}
    known = _resolved(_state(pre, folder), [STATE, *features.cameras], notes)
    known |= _resolved(_state(post, folder), [ACTION], notes)
    skips: frozenset[str] = frozenset()
    if about.has("normalize_observation_keys"):
        keys = about.raw("normalize_observation_keys")
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
            raise about.refuse("normalize_observation_keys", "a list of names is expected")
        skips = frozenset({STATE, *features.cameras} - set(keys))
    there = about.within("features").names()
    if lacking := [name for name in (STATE, *features.cameras) if name not in there]:
        raise about.refuse(
            "features", f"{lacking[0]!r} is missing, which LeRobot would then not normalise"
        )
    eps = about.number("eps", EPS)
    return Normalising(modes, known, skips, eps, False, f"{folder} (processors)"), notes


def _step(path: Path, wanted: str, others: set[str], notes: list[str]) -> Fields:
    """The one step of a processor file that normalises; refuses steps that do something else."""
    found: list[Fields] = []
    for step in Fields(read_json(path), path).objects("steps"):
        name = step.text("registry_name", "")
        about = step.within("config") if step.has("config") else Fields({}, path)
        if name == wanted:
            found.append(step)
        elif name not in others:
            raise step.refuse(
                "registry_name",
                "imitact does not know what that step does, so it could not answer alike",
            )
        if about.has("float_dtype") and about.text("float_dtype") != "float32":
            raise step.refuse("config", "imitact computes in float32")
        if about.has("rename_map") and (renames := about.object("rename_map")):
            shown = ", ".join(f"{a} to {b}" for a, b in list(renames.items())[:5])
            notes.append(f"LeRobot renames {shown} before the policy; here it has the latter names")
    if len(found) != 1:
        raise DamagedFile(f"{path}: steps has {len(found)} of {wanted!r}, exactly 1 is expected")
    return found[0]


def _modes(modes: Fields) -> dict[str, str]:
    """Kind of feature to mode."""
    found = {}
    for kind in modes.names():
        found[kind] = modes.text(kind)
        if found[kind] not in _STATISTICS:
            raise modes.refuse(kind, f"known are {', '.join(_STATISTICS)}")
    return found


def _state(step: Fields, folder: Path) -> tuple[dict[str, dict[str, Row]], Path]:
    """Feature to statistics, of a step's file, and that file."""
    if not step.has("state_file"):
        raise step.refuse(
            "state_file",
            "what the policy was normalised with is lost (huggingface/lerobot issue 4047)",
        )
    name = step.text("state_file")
    if name != Path(name).name or name in ("", ".", ".."):
        raise step.refuse("state_file", "a file in the same folder is expected")
    found: dict[str, dict[str, Row]] = {}
    path = folder / name
    for full, value in read_safetensors(path).items():
        key, _, statistic = full.rpartition(".")
        found.setdefault(key, {})[statistic] = flat(value, full, path)
    return found, path


def flat(value: Tensor, name: str, path: Path) -> Row:
    """The numbers of a tensor."""
    if value.is_complex() or value.dtype == torch.bool:
        raise DamagedFile(f"{path}: {name!r} is {value.dtype}, numbers are expected")
    return value.to(torch.float32).flatten().numpy()


def _resolved(
    found: tuple[Mapping[str, Numbers], Path], keys: Sequence[str], notes: list[str]
) -> dict[str, Numbers]:
    """The statistics of these features, by their names.

    LeRobot's own migration of old checkpoints makes a dot of every underscore, so that
    `observation.images.cam_high` has statistics of `observation.images.cam.high`, which LeRobot
    then does not find. Where one name alone can be meant, it is.
    """
    by_name, path = found
    resolved: dict[str, Numbers] = {}
    for key in keys:
        if key in by_name:
            resolved[key] = by_name[key]
            continue
        alike = [n for n in by_name if n not in keys and n == key.replace("_", ".")]
        others = [k for k in keys if k != key and k.replace("_", ".") == key.replace("_", ".")]
        if alike and not others:
            resolved[key] = by_name[alike[0]]
            notes.append(
                f"{path.name} has the statistics of {key!r} as {alike[0]!r}; used. LeRobot itself "
                "does not find them there and runs this checkpoint without them"
            )
    return resolved


def _of_buffers(
    config: Fields, features: Features, tensors: Mapping[str, Tensor], path: Path
) -> Normalising:
    """As LeRobot before 0.4 kept it (lerobot/policies/normalize.py): one name a feature."""

    def kept(key: str, group: str) -> dict[str, Row]:
        start = f"{group}.buffer_{key.replace('.', '_')}."
        return {
            name[len(start) :]: flat(value, name, path)
            for name, value in tensors.items()
            if name.startswith(start)
        }

    known: dict[str, Numbers] = {
        key: kept(key, "normalize_inputs") for key in (STATE, *features.cameras)
    }
    # Statistics given in float32 were shared by two parts of the policy, and saved once.
    known[ACTION] = kept(ACTION, "unnormalize_outputs") or kept(ACTION, "normalize_targets")
    return Normalising(
        _modes(config.within("normalization_mapping")), known, frozenset(), EPS, True, str(path)
    )


def _seen(normalising: Normalising, key: str, kind: str, size: int) -> Numbers:
    """How the network sees a feature: (x - "mean") / "std" + "shift", in float32 as LeRobot."""
    mode, known = normalising.numbers(key, kind, size)
    eps = np.float32(normalising.eps)
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
    if mode == "IDENTITY":
        return {"mean": zeros, "std": ones, "shift": zeros}
    if mode == "MEAN_STD":
        return {"mean": known["mean"], "std": known["std"] + eps, "shift": zeros}
    low, span = _span(normalising, mode, known)
    if normalising.old:
        span = span + eps
    return {"mean": low, "std": span / np.float32(2), "shift": -ones}


def _meant(normalising: Normalising, size: int) -> Numbers:
    """What an answer y of the network means: y * "std" + "mean"."""
    mode, known = normalising.numbers(ACTION, "ACTION", size)
    if mode == "IDENTITY":
        return {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)}
    if mode == "MEAN_STD":
        return {"mean": known["mean"], "std": known["std"]}
    low, span = _span(normalising, mode, known)
    return {"mean": low + span / np.float32(2), "std": span / np.float32(2)}


def _span(normalising: Normalising, mode: str, known: Numbers) -> tuple[Row, Row]:
    """Least value and range; from 0.4 on a range of 0 is eps instead."""
    low, high = (known[name] for name in _STATISTICS[mode])
    span = high - low
    if not normalising.old:
        span = np.where(span == 0, np.float32(normalising.eps), span)
    return low, span


def scaling_of(normalising: Normalising, features: Features) -> Scaling:
    """What imitact standardises with, to see and say the same."""
    with np.errstate(all="ignore"):  # what is not finite then is refused by name
        return _scaling(normalising, features)


def _scaling(normalising: Normalising, features: Features) -> Scaling:
    state = _seen(normalising, STATE, "STATE", features.state)
    action = _meant(normalising, features.action)
    pixel_mean, pixel_std = {}, {}
    for key, camera in features.cameras.items():
        seen = _seen(normalising, key, "VISUAL", 3)
        # Pixels are never far from their range, so a shift may go into the mean.
        pixel_mean[camera.name] = _tuple(seen["mean"] - seen["shift"] * seen["std"])
        pixel_std[camera.name] = _tuple(seen["std"])
    return Scaling(
        state_mean=_tuple(state["mean"]),
        state_std=_tuple(state["std"]),
        state_shift=_tuple(state["shift"]),
        action_mean=_tuple(action["mean"]),
        action_std=_tuple(action["std"]),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


def _tuple(values: NDArray[np.floating[Any]]) -> Any:
    return tuple(values.astype(np.float64).tolist())


def values_of(known: Numbers) -> Values:
    """What is told of the values themselves."""
    parts = {
        name: known[name].astype(np.float64)
        for name in ("mean", "std", "min", "max")
        if name in known and np.all(np.isfinite(known[name]))
    }
    count = known["count"] if "count" in known else np.zeros(0, np.float32)
    whole = count.size == 1 and np.isfinite(count[0]) and count[0] >= 1
    return Values(**parts, count=int(count[0]) if whole else None)
