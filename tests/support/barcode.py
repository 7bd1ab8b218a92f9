"""Barcode dataset: each frame shows its tick as bars that survive any video codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imitact.core.types import Camera, Dataset, Episode, Frame, Spec
from tests.support.fake_dataset import FakeEpisode

LENGTHS = (120, 90, 150)
BITS = 8
SIDE = 64
HOSTILE = "</script><img src=x onerror='window.hacked=1'>"


@dataclass(frozen=True)
class Barcode(Dataset):
    """A dataset whose every frame shows its tick as eight black or white bars."""

    lengths: tuple[int, ...] = LENGTHS
    fingerprint: str = "barcode"

    @property
    def spec(self) -> Spec:
        names = ("left_waist", HOSTILE, "right_waist", "right_elbow")
        return Spec(names, names, ("rad",) * 4, ("rad",) * 4, (Camera("top", SIDE, SIDE),), 50.0)

    def episode(self, index: int) -> Episode:
        return BarcodeEpisode(index, self.lengths[index], size=4)


class BarcodeEpisode(FakeEpisode):
    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for tick in range(start, self.length if stop is None else stop):
            bars = [255 * (tick >> bit & 1) for bit in range(BITS)]
            row = np.repeat(np.array(bars, np.uint8), SIDE // BITS)
            yield np.ascontiguousarray(np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)))


def tick_of(frame: Frame) -> int:
    """Return the tick that a frame shows."""
    bar_px = frame.shape[1] // BITS
    middle = frame[frame.shape[0] // 2, bar_px // 2 :: bar_px, 0] > 128
    return sum(int(bar) << bit for bit, bar in enumerate(middle))
