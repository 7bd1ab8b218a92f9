"""Tests of the image augmentation."""

from __future__ import annotations

import pytest
import torch

from imitact.models.augmentation import jitter_color, random_crop, random_shifts, shift_frames


def frames(batch: int, height: int = 6, width: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    one = torch.randint(0, 256, (1, height, width, 3), generator=draw, dtype=torch.uint8)
    return one.expand(batch, -1, -1, -1)


def moved(frame: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Shift a frame pixel by pixel, with repeated borders."""
    height, width, _ = frame.shape
    result = torch.empty_like(frame)
    for row in range(height):
        for column in range(width):
            y, x = min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1)
            result[row, column] = frame[y, x]
    return result


def drawn(frames: torch.Tensor, pixels: int) -> torch.Tensor:
    return shift_frames(frames, random_shifts(frames, pixels))


def test_frames_are_shifted_independently_and_uniformly() -> None:
    torch.manual_seed(0)
    many = drawn(frames(1800), 1)
    assert many.shape == (1800, 6, 8, 3)
    assert many.dtype == torch.uint8
    counts = [
        int((many == moved(frames(1)[0], down, right)).flatten(1).all(dim=1).sum())
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    assert sum(counts) == 1800  # whole pixels, within the limit, with repeated borders
    assert min(counts) > 140  # 200 each on average, with a deviation of 13
    assert max(counts) < 260


def test_a_shift_of_zero_pixels_changes_nothing() -> None:
    assert torch.equal(drawn(frames(3), 0), frames(3))


def test_shifts_follow_torchs_random_state() -> None:
    torch.manual_seed(5)
    first = drawn(frames(9), 2)
    torch.manual_seed(5)
    assert torch.equal(drawn(frames(9), 2), first)
    assert not torch.equal(drawn(frames(9), 2), first)


def ramp(batch: int, height: int = 12, width: int = 16) -> torch.Tensor:
    """Return images whose channels are row, column (pixel centers from 0 to 1) and 7."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    one = torch.stack(
        [
            rows[:, None].expand(height, width),
            columns.expand(height, width),
            torch.full((height, width), 7.0),
        ]
    )
    return one.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


def test_a_random_crop_keeps_the_aspect_ratio_and_lies_within_the_image() -> None:
    torch.manual_seed(0)
    images = random_crop(ramp(500), 0.4)
    assert images.shape == (500, 3, 12, 16)
    inner = images[:, :, 1:-1, 1:-1]  # at the edge the border may be repeated by half a pixel
    down = (inner[:, 0].diff(dim=1) * 12).flatten(1)
    right = (inner[:, 1].diff(dim=2) * 16).flatten(1)
    sizes = down.mean(dim=1)
    assert torch.allclose(down, sizes[:, None].expand_as(down), atol=1e-4)  # still linear
    assert torch.allclose(right, sizes[:, None].expand_as(right), atol=1e-4)
    assert sizes.min() == pytest.approx(0.6, abs=0.01)
    assert sizes.max() == pytest.approx(1.0, abs=0.01)
    assert images[:, 0].min() >= 0.5 / 12 - 1e-6  # within the image
    assert images[:, 0].max() <= 1 - 0.5 / 12 + 1e-6
    assert torch.allclose(images[:, 2], torch.tensor(7.0))
    top, bottom = images[:, 0, 0, 0], 1 - images[:, 0, -1, 0]
    assert abs(float(top.mean() - bottom.mean())) < 0.02  # no side is preferred
    assert float((top + bottom).max()) == pytest.approx(0.4, abs=0.1)


def coloured(batch: int, height: int = 5, width: int = 7) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    one = 80 + 90 * torch.rand(1, 3, height, width, generator=draw)
    return one.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


def grey(images: torch.Tensor) -> torch.Tensor:
    return 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]


def test_color_jitter_is_linear_per_image_and_keeps_grey_pixels_grey() -> None:
    torch.manual_seed(0)
    dull = coloured(200)[:, :1].expand(-1, 3, -1, -1)
    changed = jitter_color(dull, 0.2)
    assert torch.allclose(changed[:, :1].expand_as(changed), changed, atol=1e-2)
    # Of grey values, the slope is contrast times brightness; the mean changes by brightness.
    before, after = grey(dull).flatten(1), grey(changed).flatten(1)
    bright = after.mean(dim=1) / before.mean(dim=1)
    slope = after.std(dim=1) / before.std(dim=1)
    assert bright.min() == pytest.approx(0.8, abs=0.02)
    assert bright.max() == pytest.approx(1.2, abs=0.02)
    assert (slope / bright).min() == pytest.approx(0.8, abs=0.02)
    assert (slope / bright).max() == pytest.approx(1.2, abs=0.02)


def test_hue_and_saturation_rotate_and_scale_chroma_about_grey() -> None:
    torch.manual_seed(0)
    images = coloured(300)
    changed = jitter_color(images, 0.1)
    assert changed.shape == images.shape
    axes = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    was, now = (torch.einsum("ac,bchw->abhw", axes, x).flatten(2) for x in (images, changed))
    # Each image's chroma, as complex numbers, is multiplied by one complex number.
    quotient = torch.complex(now[0], now[1]) / torch.complex(was[0], was[1])
    one = quotient.mean(dim=1, keepdim=True)
    assert torch.allclose(quotient, one.expand_as(quotient), atol=1e-3)
    turns = one.angle() / (2 * torch.pi)
    assert turns.min() == pytest.approx(-0.025, abs=0.002)
    assert turns.max() == pytest.approx(0.025, abs=0.002)
    lightness = grey(changed).flatten(1).std(dim=1) / grey(images).flatten(1).std(dim=1)
    stretched = one.abs()[:, 0] / lightness
    assert stretched.min() == pytest.approx(0.9, abs=0.01)
    assert stretched.max() == pytest.approx(1.1, abs=0.01)


def test_color_jitter_keeps_pixels_within_their_range() -> None:
    torch.manual_seed(0)
    extreme = 255 * (coloured(50) > 120).float()
    changed = jitter_color(extreme, 0.9)
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert changed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("change", [random_crop, jitter_color])
def test_images_are_augmented_independently_from_torchs_random_state(change: object) -> None:
    assert callable(change)
    images = coloured(2)
    torch.manual_seed(5)
    first = change(images, 0.3)
    torch.manual_seed(5)
    assert torch.equal(change(images, 0.3), first)
    assert not torch.equal(change(images, 0.3), first)
    assert not torch.equal(first[0], first[1])
    assert torch.allclose(change(images, 0.0), images, atol=1e-3)
