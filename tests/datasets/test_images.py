"""Still images: decoded bit for bit where the format allows it, and refused with their place."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from imitact.core.errors import DamagedFile
from imitact.datasets import images


def encoded(frame: np.ndarray, codec: str, format_: str) -> bytes:
    """Return one image as FFmpeg encodes it."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height = frame.shape[1], frame.shape[0]
    context.pix_fmt = format_
    context.time_base = Fraction(1)
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=format_)
    picture.pts = 0
    held = io.BytesIO()
    for packet in [*context.encode(picture), *context.encode(None)]:
        held.write(bytes(packet))
    return held.getvalue()


def noise(height: int = 33, width: int = 47) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_png_of_any_size_is_decoded_bit_for_bit() -> None:
    for height, width in ((1, 1), (33, 47), (64, 64), (3, 500)):
        frame = noise(height, width)
        data = encoded(frame, "png", "rgb24")
        assert np.array_equal(images.decode(data, (height, width), "here"), frame)


def test_grey_and_transparent_images_become_rgb() -> None:
    frame = noise()
    assert np.array_equal(images.decode(encoded(frame, "png", "rgba"), (33, 47), "x"), frame)
    level = np.repeat(noise()[..., :1], 3, axis=2)
    data = encoded(level, "png", "gray")
    grey = images.decode(data, (33, 47), "x")
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.abs(grey.astype(int) - level).max() <= 2


def test_a_jpeg_is_decoded_closely() -> None:
    smooth = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    data = encoded(smooth, "mjpeg", "yuvj420p")
    found = images.decode(data, (48, 64), "here")
    assert np.abs(found.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is neither JPEG nor PNG: it is empty"),
        (b"II*\0" + bytes(40), "is neither JPEG nor PNG: it begins with"),
        (encoded(noise(32, 47), "png", "rgb24"), "has 32x47 pixels, expected 33x47"),
        (encoded(noise(), "png", "rgb24")[:60], "here"),
        (encoded(noise(), "png", "rgb24")[:20], "here"),
        (encoded(noise(64, 64), "mjpeg", "yuvj420p"), "here"),
        (b"\xff\xd8\xff" + bytes(100), "here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "here is a PNG image without its header"),
    ],
    ids=range(8),
)
def test_other_bytes_are_refused_with_their_place(data: bytes, message: str) -> None:
    with pytest.raises(DamagedFile, match=message) as refusal:
        images.decode(data, (33, 47), "here")
    assert str(refusal.value).startswith("here ")
