"""Frame arrays: shapes that are frames, and numbers that become uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.datasets.frame_arrays import (
    FrameShape,
    as_uint8,
    frame_shape,
    frames_or_reason,
    top_of_range,
)

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((48, 64, 3), FrameShape(48, 64)),
        ((3, 48, 64), FrameShape(48, 64, channels_first=True)),
        ((48, 64, 1), FrameShape(48, 64, channels=1)),
        ((1, 48, 64), FrameShape(48, 64, channels=1, channels_first=True)),
        ((48, 64), FrameShape(48, 64, channels=1)),
        ((48, 64, 4), None),
        ((4, 4), None),  # a matrix
        ((14,), None),
        ((2, 48, 64, 3), None),
        (("a", 64, 3), None),
    ],
)
def test_the_shape_tells_how_frames_are_stored(shape: tuple[Any, ...], want: FrameShape | None):
    assert frame_shape(shape) == want


def test_a_camera_by_name_may_have_any_size():
    assert frame_shape((4, 6, 3)) is None
    assert frame_shape((4, 6, 3), is_named=True) == FrameShape(4, 6)


def test_every_stored_shape_becomes_the_same_rgb():
    for shape, frame in (
        (FrameShape(16, 16), LEVELS),
        (FrameShape(16, 16, channels_first=True), LEVELS.transpose(2, 0, 1)),
        (FrameShape(16, 16, 1), LEVELS[..., :1]),
        (FrameShape(16, 16, 1, channels_first=True), LEVELS[None, ..., 0]),
    ):
        assert shape.stored_shape == frame.shape
        np.testing.assert_array_equal(shape.to_rgb(frame), LEVELS)


def test_depth_maps_and_other_grey_numbers_are_no_cameras():
    for key, shape, dtype in (
        ("depth_front", (48, 64, 3), "uint8"),
        ("front", (48, 64), "uint16"),
        ("front", (48, 64, 1), "float32"),
    ):
        assert "depth" in str(frames_or_reason(key, shape, np.dtype(dtype)))
    assert frames_or_reason("covariance", (4, 4), np.dtype("float32")) is None
    assert frames_or_reason("mask", (48, 64, 3), np.dtype("bool")) is None
    reason = frames_or_reason("a", (4,), np.dtype("u1"), is_named=True)
    assert reason == "it is uint8 [4], not frames"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_each_of_the_256_levels_survives_as_a_fraction(dtype: str):
    stored = (LEVELS / 255).astype(dtype)
    assert top_of_range([stored]) == 1
    np.testing.assert_array_equal(as_uint8(stored, 1, "x"), LEVELS)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16"])
def test_whole_numbers_to_255_are_levels_themselves(dtype: str):
    stored = LEVELS.astype(dtype)
    assert top_of_range([stored]) == 255
    np.testing.assert_array_equal(as_uint8(stored, 255, "x"), LEVELS)


def test_a_dark_frame_does_not_decide_which_number_is_white():
    dark, lit = np.zeros((8, 8, 3), "f4"), np.full((8, 8, 3), 7, "f4")
    assert top_of_range([dark, lit]) == 255
    assert top_of_range([dark, lit / 255]) == 1


@pytest.mark.parametrize(
    ("value", "top"),
    [(-0.01, 1), (1.004, 1), (np.nan, 1), (np.inf, 1), (0.5, 255), (256, 255), (-1, 255)],
)
def test_any_other_range_is_refused_with_its_values(value: float, top: int):
    frame = np.zeros((8, 8, 3), "f4")
    frame[3, 4, 1] = value
    with pytest.raises(BadInput, match=r"FILE has values from .*0 to 255.*--read\.cameras"):
        as_uint8(frame, top, "FILE")
