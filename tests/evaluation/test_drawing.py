"""Laws of drawing on an image."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.evaluation import drawing

RED = (255, 0, 0)
PRINTABLE = "".join(chr(code) for code in range(32, 127))


def blank(height: int = 20, width: int = 40) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def drawn(letter: str) -> list[str]:
    image = blank(7, 5)
    drawing.text(image, 0, 0, letter, RED)
    return ["".join("#" if on else "." for on in row) for row in image[:, :, 0] > 0]


def test_a_letter_is_drawn_as_it_is_known() -> None:
    assert drawn("H") == ["#...#"] * 3 + ["#####"] + ["#...#"] * 3
    assert drawn("7") == ["#####", "....#", "...#.", "..#..", ".#...", ".#...", ".#..."]
    assert drawn("L") == ["#...."] * 6 + ["#####"]


def test_every_letter_differs_from_every_other() -> None:
    shapes = {letter: "".join(drawn(letter)) for letter in PRINTABLE}
    assert len(set(shapes.values())) == len(PRINTABLE)
    assert "#" not in shapes[" "]


def test_text_fills_exactly_the_width_it_says() -> None:
    image = blank(20, 80)
    drawing.text(image, 2, 3, "HM", RED, scale=2)
    columns = np.nonzero(image[:, :, 0].any(axis=0))[0]
    rows = np.nonzero(image[:, :, 0].any(axis=1))[0]
    assert (columns[0], columns[-1]) == (3, 3 + drawing.text_width("HM", 2) - 1)
    assert (rows[0], rows[-1]) == (2, 2 + drawing.LETTER_HEIGHT * 2 - 1)


def test_a_letter_outside_ascii_shows_as_a_question_mark() -> None:
    assert drawn("é") == drawn("?")


@pytest.mark.parametrize(("top", "left"), [(-3, 0), (16, 36), (0, -4), (-100, 500)])
def test_text_beyond_the_border_is_cut_off_not_wrapped(top: int, left: int) -> None:
    image = blank()
    room = blank(240, 680)
    drawing.text(image, top, left, "HHH", RED)
    drawing.text(room, top + 110, left + 120, "HHH", RED)
    np.testing.assert_array_equal(image, room[110:130, 120:160])


def test_a_steep_line_has_no_gaps() -> None:
    image = blank(50, 10)
    drawing.curve(image, np.array([0.0, 49.0, 10.0]), np.array([1.0, 3.0, 8.0]), RED)
    assert image[:, :, 0].any(axis=1).all()
    assert image[0, 1, 0] == 255
    assert image[49, 3, 0] == 255
    assert image[10, 8, 0] == 255


def test_a_curve_beyond_the_border_is_cut_off() -> None:
    image = blank()
    drawing.curve(image, np.array([-50.0, 60.0]), np.array([-80.0, 90.0]), RED, width=3)
    assert 0 < np.count_nonzero(image[:, :, 0]) < 200
    assert not image[:, :, 1:].any()


def test_one_point_is_a_dot_and_none_is_nothing() -> None:
    image = blank()
    drawing.curve(image, np.array([]), np.array([]), RED)
    assert not image.any()
    drawing.curve(image, np.array([4.0]), np.array([5.0]), RED)
    assert np.argwhere(image[:, :, 0]).tolist() == [[4, 5]]


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(BadInput, match="float64 of \\(4, 4\\)"):
        drawing.text(np.zeros((4, 4)), 0, 0, "x", RED)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="2 rows and 1 columns"):
        drawing.curve(blank(), np.zeros(2), np.zeros(1), RED)
    with pytest.raises(BadInput, match="scale 0"):
        drawing.text(blank(), 0, 0, "x", RED, scale=0)
