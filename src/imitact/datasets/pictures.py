"""One compressed picture, as a frame."""

from __future__ import annotations

import struct

from imitact.core.errors import DamagedFile
from imitact.core.types import Frame
from imitact.datasets import images

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"

_MOST_PIXELS = 1 << 26
"""A picture of more is no camera's, whatever its dataset promises."""

_ALIGNED = 64
"""Pixels by which FFmpeg may widen a picture in memory, which it counts too."""


def decode_picture(data: bytes, height: int, width: int, where: str) -> Frame:
    """The frame, uint8 (height, width, 3), RGB, of a PNG or a JPEG picture.

    where: names file, field and tick in errors.

    A picture of more pixels than were promised is refused before memory is taken for them.
    Transparency is dropped; grey becomes three equal channels.
    """
    if data.startswith(_PNG):
        codec = "png"
        if len(data) >= 24:
            columns, rows = struct.unpack(">II", data[16:24])  # IHDR always comes first
            _check_size(rows, columns, height, width, where)
    elif data.startswith(_JPEG):
        codec = "mjpeg"
    else:
        raise DamagedFile(
            f"{where} is neither a PNG nor a JPEG picture: it begins with {data[:8]!r} and has "
            f"{len(data):,} bytes. {_RESTORE}"
        )
    most = min((height + _ALIGNED) * (width + _ALIGNED), _MOST_PIXELS)
    try:
        frame = images.decoded(codec, data, int(most))
    except images.NoImageError as error:
        raise DamagedFile(f"{where} is {error}. {_RESTORE}") from error
    _check_size(frame.shape[0], frame.shape[1], height, width, where)
    return frame


def _check_size(rows: int, columns: int, height: int, width: int, where: str) -> None:
    if (rows, columns) != (height, width):
        raise DamagedFile(
            f"{where} has {rows}x{columns} pixels, its dataset promises {height}x{width}. "
            f"{_RESTORE}"
        )


_RESTORE = "Copy the file again from where it came, or record the dataset anew."
