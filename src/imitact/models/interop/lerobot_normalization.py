"""LeRobot's normalization: modes and statistics of a checkpoint, wherever its version kept them.

LeRobot 0.4 and later keep them in processor files beside the weights; earlier versions kept the
statistics among the weights, under names with every dot replaced by an underscore. Later versions
load those without any normalization and without a warning (huggingface/lerobot issue 4047). Here
every feature of config.json must have its statistics, or the checkpoint is refused.
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
from imitact.core.words import counted
from imitact.models.interop import lerobot_layout as layout
from imitact.models.interop.json_fields import MAX_JSON_BYTES, JsonFields
from imitact.models.normalization import Scaling
from imitact.models.safetensors_file import read_safetensors

_MODES = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}
"""Normalization mode to the two statistics that it uses."""

Row = NDArray[np.float32]
Statistics = Mapping[str, Row]
"""Statistics of a feature: "mean", "std", "min", "max", "q01", ..., each flat."""


@dataclass(frozen=True)
class LeRobotNormalization:
    """Normalization of a checkpoint.

    Attributes:
        modes: Kind of feature ("STATE", "ENV", "ACTION", "VISUAL") to mode.
        statistics: Feature key to its statistics.
        skipped: Features that are not normalized, whatever their kind.
        eps: Constant that keeps divisors above 0.
        is_before_0_4: Whether the arithmetic of versions before 0.4 applies.
        where: File or folder of the statistics, for error messages.
    """

    modes: Mapping[str, str]
    statistics: Mapping[str, Statistics]
    skipped: frozenset[str]
    eps: float
    is_before_0_4: bool
    where: str

    def to_scaling(self, features: layout.Features) -> Scaling:
        """Return imitact's normalization that gives the same inputs and actions."""
        with np.errstate(all="ignore"):  # Scaling refuses values that are not finite
            states = [self._affine(*feature) for feature in features.states]
            action = self._affine(layout.ACTION, "ACTION", features.action_size)
            pixel_mean, pixel_std = {}, {}
            for key, camera in features.cameras.items():
                mean, std, shift = self._affine(key, "VISUAL", 3)
                # Pixels stay near their range, so the shift may be folded into the mean.
                pixel_mean[camera.name] = _tuple(mean - shift * std)
                pixel_std[camera.name] = _tuple(std)
        state_mean, state_std, state_shift = (
            _tuple(np.concatenate(rows)) for rows in zip(*states, strict=True)
        )
        action_mean, action_std, _ = map(_tuple, action)
        return Scaling(
            state_mean, state_std, state_shift, action_mean, action_std, pixel_mean, pixel_std
        )

    def _affine(self, key: str, kind: str, size: int) -> tuple[Row, Row, Row]:
        """Return mean, divisor and shift of a feature, computed in float32 as in LeRobot.

        The network sees (x - mean) / divisor + shift. An output y means y * divisor + mean.
        """
        mode, known = self._statistics(key, kind, size)
        zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
        eps = np.float32(self.eps)
        is_output = kind == "ACTION"
        if mode == "IDENTITY":
            return zeros, ones, zeros
        if mode == "MEAN_STD":
            return known["mean"], known["std"] if is_output else known["std"] + eps, zeros
        low, high = (known[name] for name in _MODES[mode])
        span = high - low
        if not self.is_before_0_4:
            span = np.where(span == 0, eps, span)
        elif not is_output:
            span = span + eps
        half: Row = np.divide(span, 2, dtype=np.float32)
        if is_output:
            return np.add(low, half, dtype=np.float32), half, zeros
        return low, half, -ones

    def _statistics(self, key: str, kind: str, size: int) -> tuple[str, Statistics]:
        """Return mode and statistics of a feature; refuse those that LeRobot silently skips."""
        mode = "IDENTITY" if key in self.skipped else self.modes.get(kind, "IDENTITY")
        known = self.statistics.get(key, {})
        for name in _MODES[mode]:
            if name not in known:
                raise DamagedFile(
                    f"{self.where}: no {name} of {key}, which {mode} of {kind} needs; LeRobot "
                    "would run the policy without that normalization and without a warning "
                    "(huggingface/lerobot issue 4047). If it was trained that way, set "
                    f"normalization_mapping's {kind} to IDENTITY"
                )
        for name, value in known.items():
            where = f"{self.where}: {key}.{name}"
            if name != "count" and value.size != size:
                raise DamagedFile(
                    f"{where} has {counted(value.size, 'value')}, config.json says {size}"
                )
            if name in _MODES[mode] and not np.all(np.isfinite(value)):
                raise DamagedFile(f"{where} is not finite: it was never filled")
        return mode, known


def read_normalization(
    folder: Path, config: JsonFields, features: layout.Features, tensors: Mapping[str, Tensor]
) -> tuple[LeRobotNormalization, list[str]]:
    """Return a checkpoint's normalization, and notes for the user."""
    if (folder / layout.PREPROCESSOR).is_file():
        return _from_processors(folder, features)
    if any(name.startswith(layout.BUFFERS) for name in tensors):
        return _from_buffers(config, features, tensors, folder / layout.WEIGHTS), []
    raise DamagedFile(
        f"{folder} has no {layout.PREPROCESSOR}, and {layout.WEIGHTS} holds no statistics either: "
        "the normalization of the policy is lost; copy the whole folder again (pretrained_model)"
    )


def _observed(features: layout.Features) -> list[str]:
    return [*(key for key, _, _ in features.states), *features.cameras]


def flat_row(value: Tensor, name: str, path: Path) -> Row:
    """Return the numbers of a tensor as a float32 row."""
    if value.is_complex() or value.dtype == torch.bool:
        raise DamagedFile(f'{path}: "{name}" is {value.dtype}, numbers are expected')
    return value.to(torch.float32).flatten().numpy()


def _by_feature(tensors: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Row]]:
    """Return name of feature to its statistics, of tensors named "FEATURE.STATISTIC"."""
    found: dict[str, dict[str, Row]] = {}
    for name, value in tensors.items():
        feature, _, statistic = name.rpartition(".")
        found.setdefault(feature, {})[statistic] = flat_row(value, name, path)
    return found


# -- LeRobot 0.4 and later ---------------------------------------------------------------------


def _from_processors(
    folder: Path, features: layout.Features
) -> tuple[LeRobotNormalization, list[str]]:
    notes: list[str] = []
    observed = _observed(features)
    before = {"rename_observations_processor", "to_batch_processor", "device_processor"}
    pre = _step(folder / layout.PREPROCESSOR, "normalizer_processor", before, notes)
    after = {"device_processor"}
    post = _step(folder / layout.POSTPROCESSOR, "unnormalizer_processor", after, notes)
    config = pre.within("config")
    output_modes = _modes(post.within("config").within("norm_map"))
    modes = _modes(config.within("norm_map")) | {"ACTION": output_modes.get("ACTION", "IDENTITY")}
    statistics = _of_features(pre, folder, observed, notes)
    statistics |= _of_features(post, folder, [layout.ACTION], notes)
    skipped: frozenset[str] = frozenset()
    if config.has("normalize_observation_keys"):
        skipped = frozenset(observed) - set(config.texts("normalize_observation_keys") or ())
    listed = config.within("features").names()
    if missing := [name for name in observed if name not in listed]:
        why = f"{missing[0]} is missing, so LeRobot would not normalize it"
        raise config.error("features", why)
    where, eps = f"{folder} (processors)", config.number("eps", layout.EPS)
    return LeRobotNormalization(modes, statistics, skipped, eps, False, where), notes


def _step(path: Path, wanted: str, others: set[str], notes: list[str]) -> JsonFields:
    """Return the one normalizing step of a processor file; refuse steps of unknown effect."""
    found: list[JsonFields] = []
    for step in JsonFields.from_file(path).objects("steps"):
        name = step.text("registry_name", "")
        config = step.within("config") if step.has("config") else JsonFields({}, path)
        if name == wanted:
            found.append(step)
        elif name not in others:
            why = "imitact does not know this step, so it could not give equal actions"
            raise step.error("registry_name", why)
        if config.has("float_dtype") and config.text("float_dtype") != "float32":
            raise step.error("config", "imitact computes in float32")
        if config.has("rename_map") and (renames := config.object("rename_map")):
            shown = ", ".join(f"{a} to {b}" for a, b in list(renames.items())[:5])
            notes.append(f"LeRobot renames {shown} before the policy; imitact has the new names")
    if len(found) != 1:
        raise DamagedFile(f"{path}: steps has {len(found)} of {wanted}, exactly 1 is expected")
    return found[0]


def _modes(modes: JsonFields) -> dict[str, str]:
    """Return kind of feature to mode."""
    found = {}
    for kind in modes.names():
        found[kind] = modes.text(kind)
        if found[kind] not in _MODES:
            raise modes.error(kind, f"known are {', '.join(_MODES)}")
    return found


def _of_features(
    step: JsonFields, folder: Path, keys: Sequence[str], notes: list[str]
) -> dict[str, Statistics]:
    """Return the statistics of these features from a step's state file.

    LeRobot's own migration of old checkpoints turns every underscore into a dot, so that the
    statistics of `observation.images.cam_high` are named `observation.images.cam.high`, where
    LeRobot does not find them. They are used if only one feature can be meant.
    """
    if not step.has("state_file"):
        why = "the normalization of the policy is lost (huggingface/lerobot issue 4047)"
        raise step.error("state_file", why)
    name = step.text("state_file")
    if name != Path(name).name or name in ("", ".", ".."):
        raise step.error("state_file", "a file in the same folder is expected")
    path = folder / name
    by_name = _by_feature(read_safetensors(path, limit=MAX_JSON_BYTES), path)
    found: dict[str, Statistics] = {}
    for key in keys:
        if key in by_name:
            found[key] = by_name[key]
            continue
        dotted = key.replace("_", ".")
        is_ambiguous = any(k != key and k.replace("_", ".") == dotted for k in keys)
        if dotted in by_name and dotted not in keys and not is_ambiguous:
            found[key] = by_name[dotted]
            notes.append(
                f"{path.name} has the statistics of {key} as {dotted}; used. LeRobot itself does "
                "not find them there and runs this checkpoint without them"
            )
    return found


# -- LeRobot before 0.4 ------------------------------------------------------------------------


def _from_buffers(
    config: JsonFields, features: layout.Features, tensors: Mapping[str, Tensor], path: Path
) -> LeRobotNormalization:
    """Return the statistics among the weights (lerobot/policies/normalize.py)."""
    buffers = {name: value for name, value in tensors.items() if name.startswith(layout.BUFFERS)}
    stored = _by_feature(buffers, path)
    statistics: dict[str, Statistics] = {
        key: stored.get(f"normalize_inputs.buffer_{key.replace('.', '_')}", {})
        for key in _observed(features)
    }
    # float32 statistics were shared by two modules of the policy, and saved once.
    for group in ("normalize_targets", "unnormalize_outputs"):
        if (action := f"{group}.buffer_{layout.ACTION}") in stored:
            statistics[layout.ACTION] = stored[action]
    modes = _modes(config.within("normalization_mapping"))
    return LeRobotNormalization(modes, statistics, frozenset(), layout.EPS, True, str(path))


def _tuple(values: NDArray[np.floating[Any]]) -> Any:
    return tuple(values.astype(np.float64).tolist())
