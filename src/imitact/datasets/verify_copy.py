"""Copy verification: a converted dataset compared with its source, every number and frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Dataset, Episode, Spec
from imitact.core.words import counted
from imitact.datasets.convert_config import ConvertConfig, TargetLayout

_DEFECT = "this is a defect of imitact; do not use the copy"


def check_copy(source: Dataset, copy: Dataset, columns: Sequence[str]) -> None:
    """Raise ImitactError where episodes, cameras, rate or (extra) columns of the copy differ."""
    if copy.lengths != source.lengths:
        raise ImitactError(
            f"the copy has episodes of {_first(copy.lengths)} ticks, the dataset of "
            f"{_first(source.lengths)}; {_DEFECT}"
        )
    parts = (
        (spec.cameras, spec.rate_hz, spec.environment_size) for spec in (copy.spec, source.spec)
    )
    if len({*parts}) > 1:
        raise ImitactError(f"the copy has {copy.spec}, the dataset {source.spec}; {_DEFECT}")
    if lacking := [name for name in columns if name not in copy.extra_columns]:
        raise ImitactError(f"the copy lacks the columns {', '.join(lacking)}; {_DEFECT}")


def compare_episode(
    ours: Episode,
    theirs: Episode,
    spec: Spec,
    columns: Sequence[str],
    config: ConvertConfig,
    to: TargetLayout,
) -> dict[str, Any]:
    """Return camera to "exact", "psnr_db" (over the episode) and "worst_frame_db" of its copy.

    Raises:
        ImitactError: numbers differ, or frames although the codec loses nothing.
        BadInput: compressed frames differ more than `config.min_psnr_db` allows.
    """
    index = ours.index
    pairs = {"state": (ours.state, theirs.state), "action": (ours.action, theirs.action)}
    extras = ours.extra_values(columns), theirs.extra_values(columns)
    pairs |= {name: (extras[0][name], extras[1][name]) for name in columns}
    for name, (one, other) in pairs.items():
        if (one.shape, one.dtype, one.tobytes()) != (other.shape, other.dtype, other.tobytes()):
            raise ImitactError(f"episode {index}: {name} of the copy differs; {_DEFECT}")
    cameras = {}
    for camera in spec.cameras:
        quality = _frame_quality(ours, theirs, camera.name)
        cameras[camera.name] = quality
        if config.keeps_pixels(to) and not quality["exact"]:
            raise ImitactError(
                f'episode {index}, camera "{camera.name}": frames of the copy differ, though the '
                f"codec loses nothing; {_DEFECT}"
            )
        if not quality["exact"] and quality["psnr_db"] < config.min_psnr_db:
            finer = "--video.codec lossless, or a lower --video.crf"
            better = finer if to == "lerobot" else "--images plain"
            raise BadInput(
                f'episode {index}, camera "{camera.name}": compressed frames have '
                f"{quality['psnr_db']:.1f} dB, expected at least {config.min_psnr_db:g}. Use "
                f"{better} in a new folder, or allow less with --min-psnr-db"
            )
    return cameras


def _frame_quality(ours: Episode, theirs: Episode, camera: str) -> dict[str, Any]:
    """Return how close the frames of an episode's copy are, in dB."""
    length = len(ours.state)
    total = worst = 0.0
    count, pixels = 0, 1
    for one, other in itertools.zip_longest(ours.frames(camera), theirs.frames(camera)):
        if one is None or other is None or one.shape != other.shape:
            raise ImitactError(
                f'camera "{camera}": number or size of the frames differs at tick {count}; '
                f"{_DEFECT}"
            )
        error = float(np.square(one.astype(np.int32) - other).sum())
        total, worst, count, pixels = total + error, max(worst, error), count + 1, one.size
    if count != length:
        of = f"{counted(count, 'frame')} in {counted(length, 'tick')}"
        raise ImitactError(f'camera "{camera}" has {of}')
    return {
        "exact": total == 0,
        "psnr_db": _psnr_db(total / (count * pixels)),
        "worst_frame_db": _psnr_db(worst / pixels),
    }


def _psnr_db(mean_square: float) -> float:
    """Return the peak signal-to-noise ratio of 8-bit values; 100 stands for equal."""
    return 100.0 if not mean_square else round(10 * math.log10(255**2 / mean_square), 2)


def _first(lengths: Sequence[int]) -> str:
    return ", ".join(map(str, lengths[:10])) + (", ..." if len(lengths) > 10 else "")
