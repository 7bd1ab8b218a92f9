"""Views: a resized frame is the exact area average, in both implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core import camera_view
from imitact.core.errors import BadInput, SpecMismatch


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_average(frame, height, width):
    """The definition, one output pixel at a time, in exact fractions of the area."""
    have_h, have_w = frame.shape[:2]
    out = np.zeros((height, width, 3), np.uint8)
    for i in range(height):
        for j in range(width):
            total = np.zeros(3, dtype=np.int64)
            for y in range(have_h):
                down = min((i + 1) * have_h, (y + 1) * height) - max(i * have_h, y * height)
                for x in range(have_w):
                    across = min((j + 1) * have_w, (x + 1) * width) - max(j * have_w, x * width)
                    if down > 0 and across > 0:
                        total += down * across * frame[y, x].astype(np.int64)
            area = have_h * have_w
            out[i, j] = (total + area // 2) // area
    return out


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_each_pixel_is_the_average_of_the_area_it_covers(have_h, have_w, height, width):
    frame = noise(have_h, have_w, seed=have_h * 100 + have_w)
    assert np.array_equal(
        camera_view.resize(frame, height, width), slow_average(frame, height, width)
    )


@pytest.mark.parametrize(("height", "width"), [(120, 160), (240, 320), (60, 640), (1, 1)])
def test_the_fast_case_equals_the_general_one_bit_for_bit(height, width):
    frame = noise(480, 640)
    assert np.array_equal(
        camera_view.resize(frame, height, width), camera_view._any_factors(frame, height, width)
    )


def test_a_tall_frame_does_not_overflow_the_fast_case():
    white = np.full((600, 2, 3), 255, np.uint8)
    assert np.all(camera_view.resize(white, 1, 1) == 255)


def test_a_frame_of_one_colour_keeps_it_at_any_size():
    frame = np.full((37, 53, 3), 201, np.uint8)
    for size in ((37, 53), (5, 7), (74, 106), (40, 20)):
        assert np.all(camera_view.resize(frame, *size) == 201)


def test_halving_twice_differs_from_quartering_by_at_most_one():
    frame = noise(8, 8)
    twice = camera_view.resize(camera_view.resize(frame, 4, 4), 2, 2)
    assert np.abs(twice.astype(int) - camera_view.resize(frame, 2, 2).astype(int)).max() <= 1


def test_the_same_size_gives_the_same_bytes():
    frame = noise(12, 16)
    assert np.array_equal(camera_view.resize(frame, 12, 16), frame)


def test_float_and_grey_images_are_refused_with_their_type_and_shape():
    with pytest.raises(SpecMismatch, match="float32"):
        camera_view.resize(np.zeros((4, 4, 3), np.float32), 2, 2)
    with pytest.raises(SpecMismatch, match=r"\(4, 4\)"):
        camera_view.resize(np.zeros((4, 4), np.uint8), 2, 2)


def test_a_size_below_one_pixel_is_refused():
    with pytest.raises(BadInput, match="at least 1 pixel"):
        camera_view.resize(noise(4, 4), 0, 2)


def test_a_view_is_the_resized_window() -> None:
    frame = noise(12, 16)
    view = camera_view.View(4, 5, (2, 10, 1, 11))
    assert np.array_equal(view.apply(frame), camera_view.resize(frame[2:10, 1:11].copy(), 4, 5))
    assert np.array_equal(camera_view.View(8, 10, (2, 10, 1, 11)).apply(frame), frame[2:10, 1:11])
    assert np.array_equal(camera_view.View(4, 5).apply(frame), camera_view.resize(frame, 4, 5))


@pytest.mark.parametrize("window", [(0, 13, 0, 4), (0, 4, 3, 17)])
def test_a_window_beyond_the_frame_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(SpecMismatch, match="a frame of 12x16 pixels does not hold the window"):
        camera_view.View(4, 4, window).apply(noise(12, 16))


@pytest.mark.parametrize("window", [(4, 4, 0, 1), (5, 4, 0, 1), (-1, 4, 0, 1), (0, 1, 2, 2)])
def test_a_window_without_pixels_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(BadInput, match="holds no pixel"):
        camera_view.View(4, 4, window)
