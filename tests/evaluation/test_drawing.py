"""Drawing: labels fit their image and change nothing else, and each arm has its panel of curves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from imitact.core.rollout import Tick
from imitact.core.types import Observation, Spec
from imitact.evaluation.drawing import BACKGROUND, TEXT, ActionCurves, draw_label, font, text_width
from tests.support.tiny_arm import SPEC


def curves(spec: Spec, ticks: int, level: float = 0.0) -> ActionCurves:
    """Return curves of actions that stay at one level, each chunk one tick long."""
    made = ActionCurves(spec)
    for index in range(ticks):
        action = np.full(spec.action_size, level)
        made.add(Tick(index, Observation(action), action, 0.0, False, action[None]))
    return made


def spec_of(*names: str) -> Spec:
    units = ("rad",) * len(names)
    return Spec(names, names, units, units, (), 10.0)


def drawn_columns(image: np.ndarray) -> list[int]:
    """Return the columns that hold something bright."""
    return np.flatnonzero((image.max(axis=2) > 150).any(axis=0)).tolist()


def test_text_is_as_wide_as_its_width_says() -> None:
    left, top, right, bottom = font(20).getbbox("seed 1000")
    assert abs(right - left - text_width("seed 1000", 20)) <= 2
    assert text_width("seed 1000", 20) > text_width("seed 1000", 11) > text_width("seed", 11)
    assert 0 < bottom - top <= 20


def test_a_label_darkens_its_box_and_changes_nothing_else() -> None:
    page = Image.new("RGB", (400, 100), (120, 120, 120))
    below = draw_label(page, 10, "2/4 right arm lifts the cube", TEXT)
    seen = np.asarray(page)
    changed = np.argwhere((seen != 120).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (top, left, bottom) == (10, 8, below - 1)
    assert right < 400 - 8
    assert (seen[10:below, 8] == 40).all()
    assert seen[10:below, 8 : right + 1].max() > 200


@pytest.mark.parametrize("words", [1, 6, 12])
def test_a_label_is_reduced_until_it_fits(words: int) -> None:
    page = Image.new("RGB", (480, 60), (120, 120, 120))
    draw_label(page, 10, " ".join(["lifts"] * words), TEXT)
    assert (np.asarray(page)[:, -8:] == 120).all()


def test_a_picture_of_curves_has_the_requested_size_and_background() -> None:
    picture = curves(SPEC, 3).picture(168, 481)
    assert picture.size == (481, 168)
    assert picture.getpixel((480, 167)) == ImageColor.getrgb(BACKGROUND)


def test_each_arm_has_a_panel_of_its_own() -> None:
    two = np.asarray(curves(spec_of("left_a", "left_b", "right_a", "right_b"), 3).picture(168, 480))
    assert min(drawn_columns(two[:20, 240:])) < 20  # the title of the second panel
    one = np.asarray(curves(spec_of("waist", "elbow"), 3).picture(168, 480))
    assert max(drawn_columns(one[:20])) < 200


def test_a_panel_is_scaled_to_the_range_of_its_actions() -> None:
    low, high = (np.asarray(curves(SPEC, 30, level).picture(168, 480)) for level in (-5.0, 5.0))
    # A level line is in the middle of its panel, whatever the level.
    np.testing.assert_array_equal(low[60:100, 20:100], high[60:100, 20:100])


def test_curves_end_in_the_middle_of_the_panel() -> None:
    seen = np.asarray(curves(spec_of("a"), 40).picture(168, 480))[60:120]
    columns = drawn_columns(seen)
    assert abs(max(columns) - 240) <= 2
    assert min(columns) >= 8


def test_many_names_take_several_rows_and_leave_room_for_curves() -> None:
    names = [f"{letter}-joint-with-a-name" for letter in "abcdefghi"]
    seen = np.asarray(curves(spec_of(*names), 20).picture(168, 480))
    assert all(max(drawn_columns(seen[row : row + 13])) < 480 - 6 for row in (4, 17))
    assert drawn_columns(seen[60:140])
