"""Text and curves on a uint8 image, so that a video needs no drawing library."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import Frame

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

LETTER_HEIGHT = 7
LETTER_STEP = 6
"""Pixels of a letter, and from one letter to the next, at scale 1."""

# The letters from space to ~, seven rows each from the top, a row of five pixels as one base-32
# digit, the leftmost pixel its highest bit: "h" is 10001.
_LETTERS = (
    "0000000 4444404 aaa0000 aavavaa 4fke5u4 op248j3 cik8lid 4480000 2488842 8422248 04lel40 "
    "044v440 0000c48 000e000 00000cc 01248g0 ehjlphe 4c4444e eh1248v v2421he 26aiv22 vgu11he "
    "68guhhe v124888 ehhehhe ehhf12c 0cc0cc0 0cc0c48 248g842 00v0v00 8421248 eh12404 eh1dlle "
    "ehhhvhh uhhuhhu ehggghe sihhhis vgguggv vgguggg ehgnhhf hhhvhhh e44444e 72222ic hikokih "
    "ggggggv hrllhhh hhpljhh ehhhhhe uhhuggg ehhhlid uhhukih fgge11u v444444 hhhhhhe hhhhha4 "
    "hhhllla hha4ahh hhha444 v1248gv e88888e 0g84210 e22222e 4ah0000 000000v 8420000 00e1fhf "
    "ggmphhu 00egghe 11djhhf 00ehvge 698s888 0fhhf1e ggmphhh 40c444e 20622ic ggikoki c44444e "
    "00qllhh 00mphhh 00ehhhe 00uhugg 00djf11 00mpggg 00ege1u 88s8896 00hhhjd 00hhha4 00hhlla "
    "00ha4ah 00hhf1e 00v248v 2448442 4444444 8442448 008l200"
)
_FIRST = ord(" ")


def text_width(words: str, scale: int = 1) -> int:
    """Pixels that `text` needs across, without the gap after the last letter."""
    return max(0, len(words) * LETTER_STEP - 1) * scale


def text(image: Frame, top: int, left: int, words: str, colour: Colour, *, scale: int = 1) -> None:
    """Write one line onto `image`, uint8 (H, W, 3), its upper left corner at (top, left).

    Letters are 5 by 7 pixels times `scale`. What lies outside the image is cut off; a letter
    outside ASCII shows as "?".
    """
    _check(image)
    if scale < 1:
        raise BadInput(f"text at scale {scale} cannot be seen; it must be at least 1")
    if not words:
        return
    font = _font()
    at = [ord(letter) - _FIRST for letter in words]
    unknown = ord("?") - _FIRST
    cells = np.zeros((len(words), LETTER_HEIGHT, LETTER_STEP), bool)
    cells[:, :, :-1] = font[[a if 0 <= a < len(font) else unknown for a in at]]
    line = cells.transpose(1, 0, 2).reshape(LETTER_HEIGHT, -1)
    rows, columns = np.nonzero(np.kron(line, np.ones((scale, scale), bool)))
    _dot(image, rows + top, columns + left, colour)


def curve(
    image: Frame,
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    colour: Colour,
    *,
    width: int = 1,
) -> None:
    """Join the points (rows[i], columns[i]), in pixels, by straight lines of `width` pixels.

    What lies outside the image is cut off; one point is a dot, none draws nothing.
    """
    _check(image)
    if len(rows) != len(columns):
        raise BadInput(f"a curve has {len(rows)} rows and {len(columns)} columns; one each a point")
    if len(rows) == 0:
        return
    # Enough points between two corners that no pixel of the line is jumped over.
    spans = np.maximum(np.abs(np.diff(rows)), np.abs(np.diff(columns)))
    steps = np.maximum(1, np.ceil(spans)).astype(np.int64)
    corners = np.concatenate([[0], np.cumsum(steps)])
    between = np.arange(corners[-1] + 1)
    at_rows = np.rint(np.interp(between, corners, rows)).astype(np.int64)
    at_columns = np.rint(np.interp(between, corners, columns)).astype(np.int64)
    for down in range(width):
        for across in range(width):
            half = (width - 1) // 2
            _dot(image, at_rows + down - half, at_columns + across - half, colour)


def _check(image: Frame) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise BadInput(
            f"an image is uint8 of shape (height, width, 3); got {image.dtype} of {image.shape}"
        )


def _dot(image: Frame, rows: NDArray[np.int64], columns: NDArray[np.int64], colour: Colour) -> None:
    height, width = image.shape[:2]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    image[rows[inside], columns[inside]] = colour


@lru_cache(maxsize=1)
def _font() -> NDArray[np.bool_]:
    """(95, 7, 5): which pixels of each letter are set."""
    rows = [[int(digit, 32) for digit in letter] for letter in _LETTERS.split()]
    return (np.array(rows)[:, :, None] >> np.arange(4, -1, -1)) & 1 == 1
