"""Settings of episode videos: the cameras shown, the pictures per second and their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from imitact.core.errors import BadInput
from imitact.core.ranges import Count, Range, check_ranges
from imitact.core.types import Spec


@dataclass(frozen=True)
class EpisodeVideoConfig:
    """What the video of an episode shows, and how large."""

    cameras: tuple[str, ...] = ()
    """Cameras shown side by side; none takes the environment's first one."""

    every: Count = 2
    """Ticks between two pictures. Each picture renders every camera, about 0.1 s on a CPU."""

    height: Annotated[int, Range(16, 16_384)] = 480
    """Largest height of a camera's picture, pixels; taller frames are reduced."""

    def __post_init__(self) -> None:
        check_ranges(self, "--video.")

    def cameras_in(self, spec: Spec) -> tuple[str, ...]:
        """Return the cameras to show for an environment of this Spec; refuse unknown names."""
        if not self.cameras:
            if not spec.cameras:
                raise BadInput("the environment has no camera; set videos and failure_videos to 0")
            return (spec.cameras[0].name,)
        for name in self.cameras:
            spec.camera(name)
        return self.cameras
