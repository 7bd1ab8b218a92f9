"""Frames as they might have been: moved, seen from nearer or in other light, in training only.

A trunk without pretrained weights learns where things are from a few dozen places of the cube,
and between those it answers like the nearest one. Frames that move against the targets make it
measure: the random crops of robomimic (Mandlekar et al. 2021, arXiv:2108.03298, section 4.3) and
Diffusion Policy (Chi et al. 2023, arXiv:2303.04137), as the shift with repeated borders of DrQ
(Kostrikov et al. 2020, arXiv:2004.13649), which keeps the size and needs no crop at inference.

Each frame of a batch is changed on its own: a sample has one tick of each camera, and two cameras
do not move, or change their light, together. All of it is computed on the frames' device; draws are
from its global random state, or as a `Part` says.

Legend: B frames, H and W pixels, C channels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imitact.models.batch_shard import WHOLE, BatchShard

_GREY = (0.299, 0.587, 0.114)
"""What red, green and blue give to the grey of a pixel (ITU-R BT.601)."""

_COLOUR = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
"""The two axes of colour beside that grey (YIQ): both are 0 for a grey pixel."""


def random_shifts(frames: Tensor, pixels: int, part: BatchShard = WHOLE) -> Tensor:
    """(2, B, 1) by how many pixels each frame is to move down and right, -`pixels` to `pixels`,
    each as likely. Draws from the global random state of the frames' device, or as `part` says.
    """
    return part.drawn(
        lambda count, generator: torch.randint(
            -pixels, pixels + 1, (2, count, 1), generator=generator, device=frames.device
        ),
        len(frames),
        axis=1,
    )


def shift_frames(frames: Tensor, by: Tensor) -> Tensor:
    """Each frame moved by whole pixels, `by` (2, B, 1) as of `shifts`.

    frames: (B, H, W, C), of any type; what moves in repeats the border.
    """
    batch, height, width, channels = frames.shape
    device = frames.device
    down, right = by
    rows = (torch.arange(height, device=device) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=device) - right).clamp(0, width - 1)  # (B, W)
    first = torch.arange(batch, device=device)[:, None, None] * height
    places = (first + rows[:, :, None]) * width + columns[:, None, :]
    # By whole pixels, 14 times as fast on a CPU as frames[index, rows, columns]: 1.2 ms for 16
    # frames of 120x160 instead of 17.
    return frames.reshape(-1, channels).index_select(0, places.flatten()).view(frames.shape)


def random_crop(images: Tensor, share: float, part: BatchShard = WHOLE) -> Tensor:
    """Each image's window of a random place, enlarged to the image again, bilinearly.

    images: (B, C, H, W) of floating point. A window has the image's proportions and 1 - `share`
    to 1 of its height and width, each as likely, and lies anywhere within it (the random resized
    crop of torchvision, with one proportion: a stretched picture shows no place the scene has).
    """
    batch, device = images.shape[0], images.device
    size = 1.0 - share * _uniform(1, images, part)[0]
    place = (2.0 * _uniform(2, images, part) - 1.0) * (1.0 - size)
    # grid_sample's coordinates run from -1 to 1 over the image: x = size * x' + place.
    window = torch.zeros(batch, 2, 3, device=device, dtype=images.dtype)
    window[:, 0, 0] = window[:, 1, 1] = size
    window[:, :, 2] = place.T
    grid = F.affine_grid(window, list(images.shape), align_corners=False)
    # Coordinates reach half a pixel beyond the outermost centres: the border is repeated there.
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter_color(images: Tensor, strength: float, part: BatchShard = WHOLE) -> Tensor:
    """Each image in other light: brightness, contrast, saturation and hue changed at random.

    images: (B, 3, H, W) of floating point, red, green and blue from 0 to 255; what leaves that
    range is cut off. The first three are multiplied by 1 - `strength` to 1 + `strength` (contrast
    about the image's mean grey, saturation about each pixel's), hue is turned by up to a quarter
    of `strength` of a full turn, either way: torchvision's ColorJitter, where LeRobot's usual
    values are a strength of 0.2 with more saturation. In that order, as one matrix for each image.
    """
    batch, device, dtype = images.shape[0], images.device, images.dtype
    draws = 2.0 * _uniform(4, images, part).to(dtype) - 1.0
    brightness, contrast, saturation = 1.0 + strength * draws[:3]
    turn = 2.0 * math.pi * strength / 4.0 * draws[3]
    grey = torch.tensor(_GREY, device=device, dtype=dtype)
    axes = np.array((_GREY, *_COLOUR))
    to_yiq = torch.tensor(axes, device=device, dtype=dtype)
    back = torch.tensor(np.linalg.inv(axes), device=device, dtype=dtype)
    change = torch.zeros(batch, 3, 3, device=device, dtype=dtype)
    change[:, 0, 0] = 1.0
    change[:, 1, 1] = change[:, 2, 2] = saturation * turn.cos()
    change[:, 2, 1] = saturation * turn.sin()
    change[:, 1, 2] = -change[:, 2, 1]
    # A grey pixel has no colour to change, so the mean grey goes through as it is.
    colour = back @ change @ to_yiq
    mean = torch.einsum("c,bchw->b", grey, images) / (images.shape[2] * images.shape[3])
    matrix = (brightness * contrast)[:, None, None] * colour
    offset = brightness * (1.0 - contrast) * mean
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2)  # as they lie in memory, channels last
    changed = torch.baddbmm(offset[:, None, None], pixels, matrix.transpose(1, 2))
    changed = changed.clamp_(0.0, 255.0).view(batch, *images.shape[2:], 3)
    return changed.permute(0, 3, 1, 2)


def _uniform(rows: int, images: Tensor, part: BatchShard) -> Tensor:
    """Numbers from 0 to 1, (rows, B), those of the samples in `part`."""
    return part.drawn(
        lambda count, generator: torch.rand(rows, count, generator=generator, device=images.device),
        len(images),
        axis=1,
    )
