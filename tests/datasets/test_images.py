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


def test_only_a_lenient_reader_decodes_an_image_that_bytes_follow() -> None:
    frame = noise()
    for data in (images.png(frame), images.jpeg(frame)):
        want = images.decode(data, (33, 47))
        for padded in (data + b"\0\0", data + b"\0camera 3\n"):
            assert np.array_equal(images.decode(padded, (33, 47), lenient=True), want)
        assert np.array_equal(images.decode(data + b"\0\0", (33, 47)), want)
        with pytest.raises(DamagedFile, match="cut short"):
            images.decode(data + b"\0camera 3\n", (33, 47))


def test_only_a_lenient_reader_decodes_an_image_with_errors_that_ffmpeg_tolerates() -> None:
    data = images.jpeg(noise())
    want = images.decode(data, (33, 47))
    gap = data[:2] + b"\x01\x02" + data[2:]
    assert np.array_equal(images.decode(gap, (33, 47), lenient=True), want)
    with pytest.raises(DamagedFile, match="without its header"):
        images.decode(gap, (33, 47))
    lacking = data[:-202] + data[-2:]
    top = images.decode(lacking, (33, 47), lenient=True)[:16]
    assert np.array_equal(top, want[:16])
    with pytest.raises(DamagedFile, match="cannot be decoded"):
        images.decode(lacking, (33, 47))


@pytest.mark.parametrize("encode", [images.png, images.jpeg])
def test_a_lenient_reader_refuses_other_sizes_and_images_cut_short(encode) -> None:
    data = encode(noise())
    for size, image in (((32, 47), data), ((330, 470), data), ((33, 47), data[:-20])):
        with pytest.raises(DamagedFile, match=r"^here "):
            images.decode(image, size, "here", lenient=True)
