"""Frames as they might have been: moved by a few pixels, while training only.

A trunk without pretrained weights learns where things are from a few dozen places of the cube,
and between those it answers like the nearest one. Frames that move against the targets make it
measure: the random crops of robomimic (Mandlekar et al. 2021, arXiv:2108.03298, section 4.3) and
Diffusion Policy (Chi et al. 2023, arXiv:2303.04137), as the shift with repeated borders of DrQ
(Kostrikov et al. 2020, arXiv:2004.13649), which keeps the size and needs no crop at inference.

Legend: B frames, H and W pixels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imitact.model.part import WHOLE, Part


def shifted(frames: Tensor, pixels: int, part: Part = WHOLE) -> Tensor:
    """Each frame moved by whole pixels, -`pixels` to `pixels` down and right, each as likely.

    frames: (B, H, W, C), of any type; what moves in repeats the border. Draws from the global
    random state of the frames' device, or as `part` says.
    """
    batch, height, width, channels = frames.shape
    device = frames.device
    down, right = part.drawn(
        lambda count, generator: torch.randint(
            -pixels, pixels + 1, (2, count, 1), generator=generator, device=device
        ),
        batch,
        axis=1,
    )
    rows = (torch.arange(height, device=device) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=device) - right).clamp(0, width - 1)  # (B, W)
    first = torch.arange(batch, device=device)[:, None, None] * height
    places = (first + rows[:, :, None]) * width + columns[:, None, :]
    # By whole pixels, 14 times as fast on a CPU as frames[index, rows, columns]: 1.2 ms for 16
    # frames of 120x160 instead of 17.
    return frames.reshape(-1, channels).index_select(0, places.flatten()).view(frames.shape)
