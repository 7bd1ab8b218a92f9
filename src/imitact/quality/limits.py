"""Limits of the quality checks: the settings of all of them, as the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from imitact.quality.motion import MotionLimits
from imitact.quality.outliers import CrowdLimits
from imitact.quality.timestamps import TickLimits
from imitact.quality.tracking import TrackingLimits
from imitact.quality.video_sync import VideoLimits


@dataclass(frozen=True)
class Limits:
    """What counts as wrong. docs/checking.md says where each number comes from."""

    ticks: TickLimits = field(default_factory=TickLimits)
    """Of numbers and time stamps."""

    motion: MotionLimits = field(default_factory=MotionLimits)
    """Of what moves and what stands still."""

    tracking: TrackingLimits = field(default_factory=TrackingLimits)
    """Of how the state follows its action."""

    crowd: CrowdLimits = field(default_factory=CrowdLimits)
    """Of an episode among the others."""

    video: VideoLimits = field(default_factory=VideoLimits)
    """Of frames against joints."""
