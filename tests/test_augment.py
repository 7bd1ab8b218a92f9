"""Laws of moved frames."""

from __future__ import annotations

import torch

from imitact.model.augment import shifted


def frames(batch: int, height: int = 6, width: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    one = torch.randint(0, 256, (1, height, width, 3), generator=draw, dtype=torch.uint8)
    return one.expand(batch, -1, -1, -1)


def moved(frame: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The frame moved pixel by pixel, borders repeated."""
    height, width, _ = frame.shape
    result = torch.empty_like(frame)
    for row in range(height):
        for column in range(width):
            y, x = min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1)
            result[row, column] = frame[y, x]
    return result


def test_every_frame_is_moved_on_its_own_and_every_move_occurs_equally_often() -> None:
    torch.manual_seed(0)
    many = shifted(frames(1800), 1)
    assert many.shape == (1800, 6, 8, 3)
    assert many.dtype == torch.uint8
    counts = [
        int((many == moved(frames(1)[0], down, right)).flatten(1).all(dim=1).sum())
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    assert sum(counts) == 1800  # whole pixels, no further than asked, and nothing but the border
    assert min(counts) > 140  # 200 each on average, 13 their deviation
    assert max(counts) < 260


def test_no_pixels_is_no_move() -> None:
    assert torch.equal(shifted(frames(3), 0), frames(3))


def test_the_moves_are_those_of_torchs_random_state() -> None:
    torch.manual_seed(5)
    first = shifted(frames(9), 2)
    torch.manual_seed(5)
    assert torch.equal(shifted(frames(9), 2), first)
    assert not torch.equal(shifted(frames(9), 2), first)
