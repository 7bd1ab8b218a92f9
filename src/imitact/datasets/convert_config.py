"""Conversion settings: how a dataset is copied into another layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from imitact.core.errors import BadInput
from imitact.core.ranges import Range, check_ranges
from imitact.datasets.video_config import VideoConfig

TargetLayout = Literal["lerobot", "aloha-hdf5"]


@dataclass(frozen=True)
class ConvertConfig:
    """How a copy is made."""

    task: str = ""
    """Task description of all episodes; empty keeps that of each episode, or "unknown"."""

    images: Literal["plain", "jpeg"] = "plain"
    """Frames in ALOHA HDF5: plain keeps every pixel (0.9 MB per frame of 480x640), jpeg compresses
    them as act-plus-plus does."""

    min_psnr_db: Annotated[float, Range(0, 100)] = 35.0
    """Lowest peak signal-to-noise ratio of compressed frames, in dB over an episode and camera;
    below it the conversion fails."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Frames in LeRobot's layout."""

    def __post_init__(self) -> None:
        if self.images not in ("plain", "jpeg"):
            raise BadInput(f"images is {self.images}; it must be plain or jpeg")
        check_ranges(self)

    def keeps_pixels(self, to: TargetLayout) -> bool:
        """Whether frames of a copy in this layout equal those that were read, bit for bit."""
        return self.video.codec == "lossless" if to == "lerobot" else self.images == "plain"
