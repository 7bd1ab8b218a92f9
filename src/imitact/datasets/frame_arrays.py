"""Frame arrays: frames that are stored as numbers, recognized by their shape and made uint8 RGB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import Frame

_MAP_NAME = re.compile(
    r"(^|[^a-z])(point_?(?:map|cloud)s?|pcd|xyz|(?:surface_?)?normals?)($|[^a-z])"
)
"""Names of maps of points and of normals, whose values may lie from 0 to 1 by chance."""

_MIN_SIDE = 8
"""Pixels; smaller arrays, such as a matrix of 4x4, are only frames where their name says so."""


@dataclass(frozen=True)
class FrameShape:
    """How a frame is stored: its size, with 3 colour channels or 1, which may come first."""

    height: int
    width: int
    channels: int = 3
    channels_first: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a stored frame; that of one channel may lack an axis for it."""
        sides, channels = self.size, (self.channels,)
        return (*channels, *sides) if self.channels_first else (*sides, *channels)

    @property
    def is_plain(self) -> bool:
        """Whether the frame is stored as (H, W, 3)."""
        return self.channels == 3 and not self.channels_first

    def stored_so(self, dtype: str) -> str:
        """How a frame is stored, in words, for a camera stored as numbers of this type; "" where
        that is uint8 RGB."""
        if self.is_plain and np.dtype(dtype) == np.uint8:
            return ""
        return f"numbers {np.dtype(dtype).name} {list(self.stored_shape)}"

    def to_rgb(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Return a stored frame as (H, W, 3); one channel becomes three equal ones."""
        if self.channels == 1:
            return np.repeat(frame.reshape(*self.size, 1), 3, axis=2)
        return np.ascontiguousarray(frame.transpose(1, 2, 0)) if self.channels_first else frame


def frame_shape(shape: Sequence[Any], *, is_named: bool = False) -> FrameShape | None:
    """Return how frames of this shape are stored; None where it is no shape of a frame.

    Frames are (H, W, 3), (3, H, W), (H, W, 1), (1, H, W) or (H, W). `is_named` says that the name
    of the feature is that of a camera, so that any size is one.
    """
    if len(shape) not in (2, 3) or not all(type(n) is int and n > 0 for n in shape):
        return None
    found = None
    if len(shape) == 2:
        found = FrameShape(*shape, channels=1)
    elif shape[2] in (1, 3):
        found = FrameShape(*shape[:2], channels=shape[2])
    elif shape[0] in (1, 3):
        found = FrameShape(*shape[1:], channels=shape[0], channels_first=True)
    if found is None or (min(found.size) < _MIN_SIDE and not is_named):
        return None
    return found


def frames_or_reason(
    key: str, shape: Sequence[Any], dtype: np.dtype[Any], *, is_named: bool = False
) -> FrameShape | str | None:
    """Return how the frames of an array of numbers are stored.

    Args:
        key: its name.
        shape: of one tick.
        is_named: as in `frame_shape`.

    Returns:
        A reason where it looks like frames, or is called so, and is no camera; None where it does
        not even look like frames.
    """
    found = frame_shape(shape, is_named=is_named or (dtype == np.uint8 and len(shape) == 3))
    if found is None or dtype.kind not in "uif":
        return f"it is {dtype.name} {list(shape)}, not frames" if is_named else None
    if is_depth_name(key):
        return "it is a depth map"
    if dtype != np.uint8 and (named := _MAP_NAME.search(key.lower())):
        return f"it is no picture but a map of numbers, by its name ({named[2]})"
    if found.channels == 1 and dtype != np.uint8:
        return f"it has one channel of {dtype.name}: a depth map, or no frames"
    return found


def why_no_picture(frame: NDArray[Any]) -> str:
    """Return why a frame of numbers is no picture by its values; "" where it is one.

    A picture has whole numbers from 0 to 255, or fractions from 0 to 1. Point maps are in metres
    and normals have negative components.
    """
    if frame.dtype == np.uint8:
        return ""
    with np.errstate(invalid="ignore"):
        in_range = (frame >= 0) & (frame <= 255)
        is_picture = in_range.all() and ((frame <= 1).all() or (frame == np.rint(frame)).all())
    if is_picture:
        return ""
    low, high = float(np.min(frame)), float(np.max(frame))
    return (
        f"its values go from {low:g} to {high:g}, while pictures have fractions from 0 to 1 or "
        "whole numbers from 0 to 255: a map of points, normals or distances"
    )


def without_maps(
    cameras: Mapping[str, FrameShape],
    dtype_of: Callable[[str], Any],
    sample: Callable[[str], NDArray[Any]],
) -> tuple[dict[str, FrameShape], dict[str, str]]:
    """Tell cameras from other maps of their shape: return the cameras, and why others are none.

    Args:
        cameras: what has the shape of frames.
        dtype_of: type of the numbers of one of them; uint8 is always a picture.
        sample: some of its frames.
    """
    numbers = [name for name in cameras if np.dtype(dtype_of(name)) != np.uint8]
    maps = {name: why for name in numbers if (why := why_no_picture(sample(name)))}
    return {name: shape for name, shape in cameras.items() if name not in maps}, maps


def is_depth_name(key: str) -> bool:
    """Whether a name says that it is a depth map."""
    return "depth" in key.lower()


def top_of_range(frames: Iterable[NDArray[Any]]) -> int:
    """Return which number is white: 1 for fractions from 0 to 1, 255 for whole numbers to 255.

    Frames of one camera have one range; those that hold only 0 and 1 do not say which.
    """
    for frame in frames:
        if frame.dtype.kind != "f" or (frame > 1).any():
            return 255
        if ((frame > 0) & (frame < 1)).any():
            return 1
    return 1


def as_uint8(frame: NDArray[Any], top: int, where: str) -> Frame:
    """Return a frame of whole numbers to 255, or of fractions to 1, as uint8.

    Args:
        top: `top_of_range` of its camera.
        where: file, feature and tick, for the error.

    Raises:
        BadInput: another range, or fractions of 255.
    """
    if frame.dtype == np.uint8:
        return frame
    with np.errstate(invalid="ignore"):
        scaled = np.rint(frame.astype(np.float64) * 255) if top == 1 else frame
        result = np.clip(scaled, 0, 255).astype(np.uint8)
        is_right = ((frame >= 0) & (frame <= 1)).all() if top == 1 else (result == frame).all()
    if not is_right:
        low, high = float(np.min(frame)), float(np.max(frame))
        raise BadInput(
            f"{where} has values from {low:g} to {high:g}; imitact reads frames of whole numbers "
            "from 0 to 255 or of fractions from 0 to 1, one of the two throughout a camera. "
            "--read.cameras names the cameras to read"
        )
    return result
