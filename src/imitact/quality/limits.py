"""Check limits: the settings of all quality checks, as the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from imitact.quality.control_check import ControlLimits
from imitact.quality.following import TrackingLimits
from imitact.quality.jumps import JumpLimits
from imitact.quality.motion import MotionLimits
from imitact.quality.outliers import OutlierLimits
from imitact.quality.timestamps import TickLimits
from imitact.quality.video_sync import VideoLimits


@dataclass(frozen=True)
class Limits:
    """Limits beyond which something is a finding; docs/checking.md gives their sources."""

    ticks: TickLimits = field(default_factory=TickLimits)
    """Values and time stamps."""

    motion: MotionLimits = field(default_factory=MotionLimits)
    """Movement and standstill."""

    jumps: JumpLimits = field(default_factory=JumpLimits)
    """Values that no motion explains."""

    tracking: TrackingLimits = field(default_factory=TrackingLimits)
    """How the state follows its action."""

    control: ControlLimits = field(default_factory=ControlLimits)
    """Times, holds and safety of a robot's recording."""

    outliers: OutlierLimits = field(default_factory=OutlierLimits)
    """Episodes compared with each other."""

    video: VideoLimits = field(default_factory=VideoLimits)
    """Frames compared with joints."""
