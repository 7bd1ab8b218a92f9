"""Video settings: codec, quality and key frames of compressed frames, and their exact rate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from imitact.core.errors import BadInput
from imitact.core.ranges import Range, check_ranges


@dataclass(frozen=True)
class VideoConfig:
    """How frames are compressed."""

    codec: Literal["h264", "lossless", "av1"] = "h264"
    """h264 decodes fastest everywhere; lossless (h264 in RGB, eight times the size) keeps every
    pixel; av1 is LeRobot's own default."""

    crf: Annotated[int, Range(0, 51)] = 20
    """Constant rate factor of h264 and av1, 0 (best) to 51; 20 gives 46 dB at 4 kB per frame on
    the ALOHA scene at 480x640. Lossless ignores it."""

    gop: Annotated[int, Range(1, 10_000)] = 10
    """Frames from one key frame to the next: reading any single frame decodes at most as many."""

    preset: str = "auto"
    """Preset of the encoder (its speed), in its own terms; auto is superfast for h264 and lossless
    (about 4 ms per frame of 480x640), 12 for av1."""

    chroma: Literal["420", "444"] = "420"
    """Colour resolution: 420 halves it and needs an even height and width; 444 keeps it, for any
    size. Lossless ignores it."""

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise BadInput(f"codec is {self.codec}; it must be {', '.join(_CODECS)}")
        check_ranges(self)
        if self.chroma not in ("420", "444"):
            raise BadInput(f"chroma is {self.chroma}; it must be 420 or 444")

    @property
    def stored_codec(self) -> str:
        """Codec name in the file and in LeRobot's info.json."""
        return "av1" if self.codec == "av1" else "h264"

    @property
    def stored_pixels(self) -> str:
        """Pixel format in the file."""
        return "gbrp" if self.codec == "lossless" else f"yuv{self.chroma}p"

    @property
    def used_preset(self) -> str:
        """Preset given to the encoder, with "auto" replaced."""
        return _CODECS[self.codec][1] if self.preset == "auto" else self.preset

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return _CODECS[self.codec][0]

    def check_size(self, height: int, width: int, camera: str) -> None:
        """Raise BadInput for a frame size that the pixel format does not allow."""
        if self.codec != "lossless" and self.chroma == "420" and (height % 2 or width % 2):
            raise BadInput(
                f'camera "{camera}" has {height}x{width} pixels, but chroma 420 needs an even '
                "height and width; set chroma to 444, or the capture size to even numbers"
            )


_CODECS = {
    "h264": ("libx264", "superfast"),
    "lossless": ("libx264rgb", "superfast"),
    "av1": ("libsvtav1", "12"),
}
"""FFmpeg's name of each encoder, and its preset."""


def exact_rate(rate_hz: float) -> Fraction:
    """Return a rate as the intended fraction: 50 for 50.0, 30000/1001 for 29.97002997."""
    return Fraction(rate_hz).limit_denominator(1001)
