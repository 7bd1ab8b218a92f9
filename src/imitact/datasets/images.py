"""One compressed image to a frame, and a frame to one: as datasets store them."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import Frame

MOST_PIXELS = 64_000_000
"""An image of more is none of a camera's."""

JPEG_QUANTISER = 2
"""Of the JPEG that is written: the finest of FFmpeg's scale, 2 to 31."""

CODECS = {"imagecodecs_jpeg2k": "jpeg2000"}
"""Codecs of zarr whose chunks are images, by their id, and FFmpeg's decoder (diffusion-policy
diffusion_policy/codecs/imagecodecs_numcodecs.py)."""

_MARGIN = 256
"""Pixels that a decoder may add to either side for its own blocks."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


class NoImageError(ValueError):
    """Bytes that are no image; the message says why, in words that follow "is"."""


def is_image(data: bytes) -> bool:
    """Whether bytes begin as JPEG or PNG does."""
    return data.startswith((_JPEG, _PNG))


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) as an image's header tells them; nothing is decoded."""
    if data.startswith(_PNG):
        if len(data) < 33 or data[12:16] != b"IHDR":
            raise NoImageError("a PNG image without its header")
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(_JPEG):
        height, width = _jpeg_size(data)
    else:
        raise NoImageError(f"neither JPEG nor PNG: it begins with {data[:4].hex() or 'nothing'}")
    if not 1 <= height * width <= MOST_PIXELS:
        raise NoImageError(f"an image of {height}x{width} pixels")
    return height, width


def decode(data: bytes, size: tuple[int, int]) -> Frame:
    """The frame in a JPEG or PNG image of (height, width); zeros behind the image mean nothing."""
    found = size_of(data)
    if found != size:
        raise NoImageError(f"{found[0]}x{found[1]} pixels, expected {size[0]}x{size[1]}")
    whole = data.rstrip(b"\0")
    png = data.startswith(_PNG)
    # Decoders fill what is missing with grey, so the end is looked for.
    if not whole.endswith(_PNG_END if png else b"\xff\xd9"):
        raise NoImageError("cut short")
    return _exactly("png" if png else "mjpeg", whole, size)


def decode_as(codec: str, data: bytes, size: tuple[int, int]) -> Frame:
    """The frame of (height, width) in an image of one of `CODECS`."""
    return _exactly(CODECS[codec], data, size)


def _exactly(name: str, data: bytes, size: tuple[int, int]) -> Frame:
    most = (size[0] + _MARGIN) * (size[1] + _MARGIN)
    frame = decoded(name, data, most, err_detect="explode")
    if frame.shape != (*size, 3):
        raise NoImageError(f"{frame.shape[0]}x{frame.shape[1]} pixels")
    return frame


def decoded(name: str, data: bytes, most_pixels: int, **options: str) -> Frame:
    """The one frame that FFmpeg's decoder of that name finds, of whatever size; more pixels than
    that are refused before memory is taken for them."""
    try:
        decoder: Any = av.VideoCodecContext.create(name, "r")
        decoder.options = {**options, "max_pixels": str(most_pixels)}
        decoder.thread_count = 1
        pictures = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        if len(pictures) != 1:
            raise NoImageError("an image that cannot be decoded")
        frame: Frame = pictures[0].to_ndarray(format="rgb24")
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, NoImageError):
            raise
        raise NoImageError(f"an image that cannot be decoded ({error})") from error
    return frame


def jpeg(frame: Frame) -> bytes:
    """A frame as JPEG, colours at half the resolution."""
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.qmin = encoder.qmax = JPEG_QUANTISER
    return _encoded(encoder, frame, "yuvj420p")


def png(frame: Frame) -> bytes:
    """A frame as PNG, to the bit."""
    return _encoded(av.VideoCodecContext.create("png", "w"), frame, "rgb24")


def _encoded(encoder: av.VideoCodecContext, frame: Frame, pixels: str) -> bytes:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise BadInput(f"a picture of {frame.dtype} and shape {frame.shape}; expected (H, W, 3)")
    encoder.height, encoder.width = frame.shape[:2]
    encoder.pix_fmt = pixels
    encoder.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    packets = [*encoder.encode(picture.reformat(format=pixels)), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the first frame header (ITU-T T.81, B.2.2), found by going from marker to marker."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        if marker == 0xDA:
            break
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise NoImageError("a JPEG image without its header")
