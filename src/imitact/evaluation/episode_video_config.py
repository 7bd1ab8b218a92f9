"""Settings of episode videos: the cameras shown, the pictures per second and their size."""

from __future__ import annotations

from dataclasses import dataclass

from imitact.core.errors import BadInput
from imitact.core.types import Spec


@dataclass(frozen=True)
class EpisodeVideoConfig:
    """What the video of an episode shows, and how large."""

    cameras: tuple[str, ...] = ()
    """Cameras shown side by side; none takes the environment's first one."""

    every: int = 2
    """Ticks between two pictures. Each picture renders every camera, about 0.1 s on a CPU."""

    height: int = 480
    """Largest height of a camera's picture, pixels; taller frames are reduced."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise BadInput(f"--video.every is {self.every}; it must be at least 1 tick")
        if self.height < 16:
            raise BadInput(f"--video.height is {self.height}; it must be at least 16 pixels")

    def cameras_in(self, spec: Spec) -> tuple[str, ...]:
        """Return the cameras to show for an environment of this Spec; refuse unknown names."""
        if not self.cameras:
            if not spec.cameras:
                raise BadInput("the environment has no camera; set videos and failure_videos to 0")
            return (spec.cameras[0].name,)
        for name in self.cameras:
            spec.camera(name)
        return self.cameras
