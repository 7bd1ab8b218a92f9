"""Video settings: codec, quality and key frames of compressed frames, and the exact frame rate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from imitact.core.errors import BadInput


@dataclass(frozen=True)
class VideoConfig:
    """How frames are compressed."""

    codec: Literal["h264", "lossless", "av1"] = "h264"
    """h264 is what every reader decodes fastest; lossless (h264 in RGB, eight times the size)
    gives every frame back to the bit; av1 is LeRobot's own default."""

    crf: int = 20
    """Quality of h264 and av1, 0 (best) to 51; 20 gives 46 dB at 4 kB a frame on the ALOHA scene
    at 480x640. Lossless ignores it."""

    gop: int = 10
    """Frames from one key frame to the next; a frame in the middle of a video costs at most as
    many decodes."""

    preset: str = "auto"
    """Effort of the encoder, by its own name for it; auto is superfast for h264 and lossless
    (about 4 ms a frame of 480x640), 12 for av1."""

    chroma: Literal["420", "444"] = "420"
    """420 keeps colour at half the resolution and needs an even height and width; 444 keeps all of
    it, for any size. Lossless ignores it."""

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise BadInput(f"no video codec {self.codec!r}; there are {list(_CODECS)}")
        if not 0 <= self.crf <= 51:
            raise BadInput(f"crf is {self.crf}; it must be from 0 (best) to 51 (smallest)")
        if self.gop < 1:
            raise BadInput(f"gop is {self.gop}; it must be at least 1 frame")
        if self.chroma not in ("420", "444"):
            raise BadInput(f"chroma is {self.chroma!r}; it must be 420 or 444")

    @property
    def stored_codec(self) -> str:
        """The name of the bitstream, as players and LeRobot's info.json know it."""
        return "av1" if self.codec == "av1" else "h264"

    @property
    def stored_pixels(self) -> str:
        """The pixel format in the file."""
        return "gbrp" if self.codec == "lossless" else f"yuv{self.chroma}p"

    @property
    def used_preset(self) -> str:
        """`preset`, with "auto" replaced."""
        return _CODECS[self.codec].preset if self.preset == "auto" else self.preset

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return _CODECS[self.codec].encoder

    def check_size(self, height: int, width: int, camera: str) -> None:
        """Refuse frames whose size this pixel format cannot hold."""
        if self.codec != "lossless" and self.chroma == "420" and (height % 2 or width % 2):
            raise BadInput(
                f"camera {camera!r} has {height}x{width} pixels, but chroma 420 needs an even "
                "height and width; set chroma to 444, or the capture size to even numbers"
            )


@dataclass(frozen=True)
class _Codec:
    encoder: str
    preset: str


_CODECS = {
    "h264": _Codec("libx264", "superfast"),
    "lossless": _Codec("libx264rgb", "superfast"),
    "av1": _Codec("libsvtav1", "12"),
}


def exact_rate(rate_hz: float) -> Fraction:
    """rate_hz as the fraction that is meant: 50 -> 50, 29.97002997 -> 30000/1001."""
    return Fraction(rate_hz).limit_denominator(1001)
