"""`imitact convert`: a dataset of any layout as one of LeRobot's or ALOHA's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.options import require_path, require_paths
from imitact.core.errors import BadInput
from imitact.core.ranges import Range
from imitact.core.words import counted
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.video_config import VideoConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.core.types import Frame

RESUME_HINT = "finished episodes are kept; the same command continues"

_PNG = b"\x89PNG\r\n\x1a\n"
"""How a picture starts, which is the only file that a picture replaces."""

_GAP, _TITLE, _TITLE_PX = 8, 24, 18
"""Pixels between two pictures, above them, and of the letters of the title."""


@dataclass(frozen=True)
class Convert:
    """Copy a dataset into another layout, and compare every number and frame with the original.

    The original is only read. Interrupted, the same command continues.
    """

    source: Annotated[Positional[tuple[Path, ...]], arg(metavar="SRC")]
    """Dataset: a folder of LeRobot or ALOHA HDF5, a robomimic file or a diffusion-policy zarr.
    Several of one robot become one, their episodes in the order given."""

    out: Path | None = None
    """New folder for the copy; its conversion.json lists what was compared."""

    to: Literal["lerobot", "aloha-hdf5"] = "lerobot"
    """Layout of the copy: lerobot (LeRobotDataset v3.0) or aloha-hdf5 (a file per episode)."""

    task: str = ""
    """Instruction stored with the episodes. Empty: the dataset's own, or "unknown"."""

    images: Literal["plain", "jpeg"] = "plain"
    """Frames in ALOHA HDF5: plain keeps every pixel (0.9 MB a frame of 480x640), jpeg compresses
    them as act-plus-plus does."""

    min_psnr_db: Annotated[float, Range(0, 100)] = 35.0
    """Least similarity of compressed frames to the original, in dB over an episode and camera;
    below it the conversion fails."""

    colour_picture: Path | None = None
    """Convert nothing; write the first frame of each camera as rgb and as bgr to this PNG, to find
    the right --read.colour."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Compression of the frames in LeRobot's layout; lossless keeps every pixel."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset's layout leaves open."""


OPTIONS = Convert


def run(settings: Convert) -> None:
    """Convert, and print what was compared."""
    if settings.out:
        check_output(settings.out, "conversion")
    if settings.colour_picture:
        check_output(settings.colour_picture, option="--colour-picture", is_file=True, starts=_PNG)
    require_paths(settings.source, "dataset")
    if settings.colour_picture:
        if settings.out:
            raise BadInput("--colour-picture converts nothing; give it without --out")
        _picture(settings, settings.colour_picture)
        return
    if settings.out is None:
        raise BadInput("--out is missing: the new folder for the copy")
    from imitact.datasets.convert import REPORT, ConvertConfig, convert
    from imitact.datasets.joined import open_datasets

    dataset = open_datasets(settings.source, settings.read)
    config = ConvertConfig(
        task=settings.task,
        images=settings.images,
        min_psnr_db=settings.min_psnr_db,
        video=settings.video,
    )
    count = len(dataset.lengths)
    with ProgressDisplay("convert", 2 * count, "episodes written and compared") as display:
        found = convert(
            dataset,
            settings.out,
            settings.to,
            config,
            on_progress=lambda what, done: display.to(done + (count if what == "verified" else 0)),
        )
    print_result(*lines(found))
    print_result(f"dataset: {settings.out}")
    print_result(f"report:  {settings.out / REPORT}")


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report of a conversion, for a reader."""
    settings = report["settings"]
    found = [
        f"{counted(report['episodes'], 'episode')}, {counted(report['ticks'], 'tick')} from "
        f"{settings['from']} to {settings['to']}: states and actions equal to the bit"
    ]
    if report["extras"]:
        found.append(f"equal to the bit, too: {', '.join(report['extras'])}")
    for camera, frames in report["frames"].items():
        found.append(
            f"camera {camera}: every frame equal"
            if frames["exact"]
            else f"camera {camera}: at least {frames['least_psnr_db']:.1f} dB per episode, "
            f"{frames['worst_frame_db']:.1f} dB in the worst frame"
        )
    for setting, value in settings["read"].items():
        found.append(f"read with {setting}: {value}")
    found += [f"left out: {name} ({why})" for name, why in report["left_out"].items()]
    return found


def _picture(settings: Convert, out: Path) -> None:
    """Write the first frame of each camera, read as rgb on the left and as bgr on the right."""
    import numpy as np

    from imitact.datasets.images import png
    from imitact.datasets.open import open_dataset
    from imitact.storage.atomic import write_bytes

    columns: list[Frame] = []
    for colour in ("rgb", "bgr"):
        dataset = open_dataset(settings.source[0], replace(settings.read, colour=colour))
        episode = dataset.episode(0)
        frames = [next(episode.frames(camera.name, 0, 1)) for camera in dataset.spec.cameras]
        if not frames:
            raise BadInput(f"{settings.source} has no camera to show")
        columns.append(_column(f"--read.colour {colour}", frames))
    gap = np.full((columns[0].shape[0], _GAP, 3), 255, np.uint8)
    page = np.concatenate([columns[0], gap, columns[1]], axis=1)
    folder = out.absolute().parent
    require_path(folder, "folder")
    write_bytes(out, png(page), folder)
    print_progress("use the setting over the side whose colours are right")
    print_result(f"picture: {out}")


def _column(title: str, frames: list[Frame]) -> Frame:
    """Stack frames below each other, under a title."""
    import numpy as np
    from PIL import Image, ImageDraw

    from imitact.evaluation.drawing import font, text_width

    width = max(text_width(title, _TITLE_PX), *(frame.shape[1] for frame in frames))
    height = _TITLE + sum(frame.shape[0] + _GAP for frame in frames)
    page = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(page).text((0, _TITLE / 2), title, "black", font(_TITLE_PX), anchor="lm")
    top = _TITLE
    for frame in frames:
        page.paste(Image.fromarray(frame), (0, top))
        top += frame.shape[0] + _GAP
    return np.asarray(page)
