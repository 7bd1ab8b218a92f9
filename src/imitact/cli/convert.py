"""`imitact convert`: a dataset of any layout that is read, as one of LeRobot's or ALOHA's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.core.errors import BadInput
from imitact.core.types import Frame
from imitact.datasets.convert import REPORT, ConvertConfig, convert
from imitact.datasets.images import png
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.video import VideoConfig
from imitact.evaluation import drawing
from imitact.storage.atomic import write_bytes

GO_ON = "what is converted is kept; the same command goes on"

_GAP, _TITLE = 8, 24
"""Pixels between two pictures, and above them."""


@dataclass(frozen=True)
class Convert:
    """Copy a dataset into another layout, and compare every number and frame of the copy with what
    was read before it is called done. The dataset itself is only read.

    Interrupted, the same command goes on where it stopped.
    """

    source: Positional[Path]
    """The dataset: LeRobot's or an ALOHA HDF5 folder, a robomimic file, a diffusion-policy zarr."""

    out: Positional[Path | None] = None
    """New folder for the copy; its conversion.json says what was compared, and that it is done."""

    to: Literal["lerobot", "aloha-hdf5"] = "lerobot"
    """Layout of the copy: lerobot (LeRobotDataset v3.0) or aloha-hdf5 (one HDF5 file an
    episode)."""

    task: str = ""
    """What the episodes show, in words; none takes the dataset's own words, or "unknown"."""

    images: Literal["plain", "jpeg"] = "plain"
    """Frames in ALOHA HDF5: plain keeps every pixel (0.9 MB a frame of 480x640), jpeg compresses
    them as act-plus-plus does."""

    least_psnr_db: float = 35.0
    """Frames that are compressed must be this close to those that were read, dB over an episode and
    camera; below it the conversion fails, and says what to do."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Frames in LeRobot's layout; lossless keeps every pixel."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset does not say of itself."""

    colour_picture: Path | None = None
    """Write the first frame of each camera to this PNG, once as rgb and once as bgr, and convert
    nothing: look which is right, then say it with --read.colour."""


def run(settings: Convert) -> None:
    """Convert, and print what was compared."""
    if settings.colour_picture:
        if settings.out:
            raise BadInput("--colour-picture converts nothing; give it without a folder to write")
        _picture(settings, settings.colour_picture)
        return
    if settings.out is None:
        raise BadInput("give a new folder for the copy: imitact convert SRC DST")
    source = open_dataset(settings.source, settings.read)
    config = ConvertConfig(
        task=settings.task,
        images=settings.images,
        least_psnr_db=settings.least_psnr_db,
        video=settings.video,
    )
    count = len(source.lengths)
    with ProgressDisplay("convert", 2 * count, "episodes written and compared") as waiting:
        told = convert(
            source,
            settings.out,
            settings.to,
            config,
            on_progress=lambda what, done: waiting.to(done + (count if what == "verified" else 0)),
        )
    for text in lines(told):
        print_result(text)
    print_result(f"dataset: {settings.out}")
    print_result(f"report:  {settings.out / REPORT}")


def lines(told: Mapping[str, Any]) -> list[str]:
    """A report for a reader."""
    said = told["settings"]
    found = [
        f"{told['episodes']} episodes, {told['ticks']} ticks from {said['from']} to {said['to']}: "
        "states and actions equal to the bit"
    ]
    if told["extras"]:
        found.append(f"equal to the bit, too: {', '.join(told['extras'])}")
    for camera, near in told["frames"].items():
        found.append(
            f"camera {camera}: every frame equal"
            if near["exact"]
            else f"camera {camera}: at least {near['least_psnr_db']:.1f} dB an episode, the worst "
            f"frame {near['worst_frame_db']:.1f} dB"
        )
    for setting, value in said["read"].items():
        found.append(f"read with {setting}: {value}")
    found += [f"left out: {name} ({why})" for name, why in told["left_out"].items()]
    return found


def _picture(settings: Convert, out: Path) -> None:
    reads = {c: replace(settings.read, colour=c) for c in ("rgb", "bgr")}
    columns: list[Frame] = []
    for colour, read in reads.items():
        source = open_dataset(settings.source, read)
        episode = source.episode(0)
        frames = [next(episode.frames(camera.name, 0, 1)) for camera in source.spec.cameras]
        if not frames:
            raise BadInput(f"{settings.source} has no camera to show")
        columns.append(_column(f"--read.colour {colour}", frames))
    height = columns[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    page = np.concatenate([columns[0], gap, columns[1]], axis=1)
    folder = out.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"no such folder: {folder}")
    write_bytes(out, png(page), folder)
    print_progress("look at the picture: the side whose colours are right names the setting")
    print_result(f"picture: {out}")


def _column(title: str, frames: list[Frame]) -> Frame:
    """Frames below each other, under a title."""
    width = max(drawing.text_width(title, 2), *(frame.shape[1] for frame in frames))
    rows = [np.full((_TITLE, width, 3), 255, np.uint8)]
    drawing.text(rows[0], 4, 0, title, (0, 0, 0), scale=2)
    for frame in frames:
        row = np.full((frame.shape[0] + _GAP, width, 3), 255, np.uint8)
        row[: frame.shape[0], : frame.shape[1]] = frame
        rows.append(row)
    return np.concatenate(rows)
