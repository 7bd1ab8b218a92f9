"""Still images: one JPEG, PNG or JPEG 2000 image decoded to a frame, and a frame encoded as one."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame
from imitact.storage.json_file import COPY_AGAIN

MAX_PIXELS = 64_000_000
"""Larger images are refused before memory is allocated: no camera takes them."""

JPEG_QUANTISER = 2
"""Quantiser of written JPEG images: the finest of FFmpeg's scale, 2 to 31."""

CODECS = {"imagecodecs_jpeg2k": "jpeg2000"}
"""Codecs of zarr chunks that are images: their id, and FFmpeg's decoder (diffusion-policy
diffusion_policy/codecs/imagecodecs_numcodecs.py)."""

_MARGIN = 256
"""Pixels that a decoder may add to either side for its own blocks."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


def image_size(data: bytes, where: str = "the image", advice: str = COPY_AGAIN) -> tuple[int, int]:
    """Return (height, width) from the header of a JPEG or PNG image, decoding nothing.

    Zero bytes may follow the image; `where` and `advice` are for errors.

    Raises:
        DamagedFile: the data are neither JPEG nor PNG, or the size is impossible.
    """
    if data.startswith(_PNG):
        if len(data) < 33 or data[12:16] != b"IHDR":  # IHDR always comes first
            raise DamagedFile(f"{where} is a PNG image without its header. {advice}")
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(_JPEG):
        size = _jpeg_size(data)
        if size is None:
            raise DamagedFile(f"{where} is a JPEG image without its header. {advice}")
        height, width = size
    else:
        begins = f"begins with {data[:4].hex()}" if data else "is empty"
        raise DamagedFile(f"{where} is neither JPEG nor PNG: it {begins}. {advice}")
    if not 1 <= height * width <= MAX_PIXELS:
        raise DamagedFile(f"{where} is an image of {height}x{width} pixels. {advice}")
    return height, width


def has_16_bits(data: bytes) -> bool:
    """Whether an image is a PNG with 16 bits for each channel."""
    return data.startswith(_PNG) and data[24:25] == b"\x10"


def decode(
    data: bytes,
    size: tuple[int, int],
    where: str = "the image",
    advice: str = COPY_AGAIN,
    lenient: bool = False,
) -> Frame:
    """Decode a JPEG or PNG image. Transparency is dropped; grey becomes three equal channels.

    Args:
        data: the image; zero bytes may follow it.
        size: expected (height, width).
        where: file, field and tick, for errors.
        lenient: also decode an image that any bytes follow, or that FFmpeg decodes in spite of
            errors in it.

    Raises:
        DamagedFile: another size, cut short, or not decodable.
    """
    is_png = data.startswith(_PNG)
    # FFmpeg finds the header of a JPEG image behind bytes that stop `image_size`.
    if not (lenient and data.startswith(_JPEG)):
        height, width = image_size(data, where, advice)
        if (height, width) != size:
            raise DamagedFile(
                f"{where} has {height}x{width} pixels, expected {size[0]}x{size[1]}. {advice}"
            )
    end = _PNG_END if is_png else _JPEG_END
    whole = data if lenient else data.rstrip(b"\0")
    # Decoders fill missing parts with grey instead of failing.
    if not (end in data if lenient else whole.endswith(end)):
        raise DamagedFile(f"{where} is an image that is cut short. {advice}")
    return decode_with("png" if is_png else "mjpeg", whole, size, where, advice, lenient)


def jpeg(frame: Frame) -> bytes:
    """Encode a frame as JPEG, with colours at half the resolution."""
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.qmin = encoder.qmax = JPEG_QUANTISER
    return _encode(encoder, frame, "yuvj420p")


def png(frame: Frame) -> bytes:
    """Encode a frame as PNG, bit for bit."""
    return _encode(av.VideoCodecContext.create("png", "w"), frame, "rgb24")


def decode_with(
    decoder_name: str,
    data: bytes,
    size: tuple[int, int],
    where: str,
    advice: str = COPY_AGAIN,
    lenient: bool = False,
) -> Frame:
    """Decode an image with FFmpeg's decoder of that name; arguments and errors as in `decode`."""
    cause = ""
    try:
        decoder: Any = av.VideoCodecContext.create(decoder_name, "r")
        # FFmpeg refuses an image of more pixels before it allocates memory for it.
        most = (size[0] + _MARGIN) * (size[1] + _MARGIN)
        strictness = {} if lenient else {"err_detect": "explode"}
        decoder.options = {**strictness, "max_pixels": str(most)}
        decoder.thread_count = 1
        pictures = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        if len(pictures) == 1:
            frame: Frame = pictures[0].to_ndarray(format="rgb24")
            if frame.shape == (*size, 3):
                return frame
            cause = f" ({frame.shape[0]}x{frame.shape[1]} pixels, expected {size[0]}x{size[1]})"
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        raise DamagedFile(
            f"{where} is an image that cannot be decoded ({error}). {advice}"
        ) from error
    raise DamagedFile(f"{where} is an image that cannot be decoded{cause}. {advice}")


def _encode(encoder: av.VideoCodecContext, frame: Frame, pixel_format: str) -> bytes:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise BadInput(
            f"a frame has type {frame.dtype} and shape {frame.shape}; expected uint8 (H, W, 3)"
        )
    encoder.height, encoder.width = frame.shape[:2]
    encoder.pix_fmt = pixel_format
    encoder.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    packets = [*encoder.encode(picture.reformat(format=pixel_format)), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of the first frame header (ITU-T T.81, B.2.2); None without one."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        if marker == 0xDA:
            return None
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None
