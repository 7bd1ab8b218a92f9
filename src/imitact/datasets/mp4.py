"""MP4 headers: the frames of a video, their times and their size, read without decoding.

ISO 14496-12: a file is a sequence of boxes, each with its size and type; the tables of `moov` list
every frame. What the tables promise is compared with the size of the file before FFmpeg reads
them: it allocates about 40 bytes for each frame, and 20 kB can promise fifty million.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.regular_file import open_regular

RESTORE = "Copy the file again from its origin, or record the dataset again."

MAX_FRAMES = 5_000_000
"""Frames (or samples of another track) of a file; more are taken for damage. It is 27 hours at
50 Hz."""

_MAX_BOXES = 10_000
"""Boxes of a file or of its `moov`; even fragments of one second would make hours of video."""

_MAX_TABLES_BYTES = 256 << 20
"""Size of `moov` or a fragment's `moof`; five million frames take less."""

_CONTAINERS = (b"trak", b"mdia", b"minf", b"stbl", b"edts")


@dataclass(frozen=True)
class VideoTrack:
    """The first video track of a file.

    Attributes:
        times_s: time of each frame, (N,) in s, ascending.
        key_frames: whether decoding can begin at each frame, (N,).
        size: height and width of its frames in pixels.
    """

    times_s: NDArray[np.float64]
    key_frames: NDArray[np.bool_]
    size: tuple[int, int]


class _Odd(Exception):
    """Tables that the standard allows and this module does not read."""


def read_video_track(path: Path) -> VideoTrack | None:
    """Read the headers of a video; None where its tables are of a rarer kind (fragments, edits).

    Raises:
        DamagedFile: the file is missing, cut short, no MP4 file, or promises more frames than it
            can hold.
    """
    with open_regular(path, advice=RESTORE) as file:
        size = file.seek(0, 2)
        places = _top_boxes(file, size)
        kinds = [kind for kind, _, _ in places]
        ends = places[-1][2] if places else 0
        if ends != size or b"moov" not in kinds or b"mdat" not in kinds or kinds[0] != b"ftyp":
            refuse_lfs_pointer(path)
            raise DamagedFile(f"{path} is cut short or not an MP4 file ({size:,} bytes). {RESTORE}")
        try:
            promised = 0
            track: VideoTrack | None = None
            for kind, start, stop in places:
                if kind not in (b"moov", b"moof"):
                    continue
                if stop - start > _MAX_TABLES_BYTES:
                    raise ValueError(f"{stop - start:,} bytes of tables")
                file.seek(start)
                data = file.read(stop - start)
                if kind == b"moof":
                    promised += _fragment_samples(data)
                    continue
                tracks = _Movie(data, size)
                promised += tracks.samples
                track = tracks.video
            if promised > min(MAX_FRAMES, size):
                raise ValueError(
                    f"{promised:,} frames in {size:,} bytes; expected at most {MAX_FRAMES:,}"
                )
        except (ValueError, struct.error, IndexError, OverflowError) as error:
            raise DamagedFile(f"{path} has impossible tables: {error}. {RESTORE}") from error
    return None if b"moof" in kinds else track


def _top_boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """Return type, begin of the contents, and end of each box of a file, as far as they follow."""
    places: list[tuple[bytes, int, int]] = []
    at = 0
    while at < size and len(places) < _MAX_BOXES:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head[:8])
        start = at + 8
        if length == 1 and len(head) == 16:
            length, start = struct.unpack(">Q", head[8:])[0], at + 16
        elif length == 0:  # to the end of the file
            length = size - at
        if length < start - at:
            break
        at += length
        places.append((kind, start, at))
    return places


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin of the contents, and end of each box within another."""
    for _ in range(_MAX_BOXES):
        if stop - start < 8:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        first = start + 8
        if length == 1:
            length, first = struct.unpack_from(">Q", data, first)[0], first + 8
        elif length == 0:
            length = stop - start
        if length < first - start or length > stop - start:
            raise ValueError("a box is longer than the one that it is in")
        yield kind, first, start + length
        start += length
    raise ValueError(f"more than {_MAX_BOXES:,} boxes")


def _fragment_samples(data: bytes) -> int:
    """Return how many frames a fragment promises."""
    total = 0
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind == b"traf":
            for inner, first, _ in _boxes(data, start, stop):
                if inner == b"trun":
                    total += struct.unpack_from(">I", data, first + 4)[0]
    return total


class _Movie:
    """The tracks that a `moov` box describes, in a file of `file_size` bytes."""

    def __init__(self, data: bytes, file_size: int) -> None:
        self.samples = 0
        self.video: VideoTrack | None = None
        scale, seen = 0, False
        for kind, start, stop in _boxes(data, 0, len(data)):
            if kind == b"cmov":
                raise ValueError("compressed tables")
            if kind == b"mvhd":
                scale = _timescale(data, start)
            elif kind == b"trak":
                found = _tables(data, start, stop)
                self.samples += _promised(found, file_size)
                if not seen and found.get(b"hdlr", b"")[8:12] == b"vide":
                    seen = True
                    try:
                        self.video = _video_track(found, scale)
                    except _Odd:
                        self.video = None


def _tables(data: bytes, start: int, stop: int) -> dict[bytes, bytes]:
    """Return the contents of the boxes within a track, however deep, the first of each type."""
    found: dict[bytes, bytes] = {}
    for kind, first, end in _boxes(data, start, stop):
        if kind in _CONTAINERS:
            found = {**_tables(data, first, end), **found}
        else:
            found.setdefault(kind, data[first:end])
    return found


def _promised(found: dict[bytes, bytes], file_size: int) -> int:
    """Return how many entries the tables of a track promise; refuse more than the file can hold."""
    sizes = found.get(b"stsz", found.get(b"stz2", bytes(12)))
    each, count = struct.unpack_from(">II", sizes, 4)
    if b"stsz" in found and (each * count > file_size or (not each and 4 * count > len(sizes))):
        raise ValueError(f"{count:,} frames, which {file_size:,} bytes cannot hold")
    runs = [count]
    for name in (b"stts", b"ctts"):
        if name in found:
            runs.append(int(_runs(found[name])[0].sum()))
    # FFmpeg lists the frames anew for each edit.
    edits = max(1, struct.unpack_from(">I", found[b"elst"], 4)[0] if b"elst" in found else 1)
    return max(runs) * edits


def _runs(table: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return counts and values of a table of runs (stts, ctts)."""
    (count,) = struct.unpack_from(">I", table, 4)
    if 8 * count > len(table) - 8:
        raise ValueError(f"a table of {count:,} entries in {len(table):,} bytes")
    counts = np.frombuffer(table, ">u4", 2 * count, 8)[::2].astype(np.int64)
    return counts, np.frombuffer(table, ">i4", 2 * count, 8)[1::2].astype(np.int64)


def _timescale(data: bytes, start: int) -> int:
    """Return the ticks per second of a mvhd or mdhd box, whose version decides where they are."""
    return struct.unpack_from(">I", data, start + (20 if data[start] == 1 else 12))[0]


def _video_track(found: dict[bytes, bytes], movie_scale: int) -> VideoTrack:
    """Return times and key frames as FFmpeg finds them, for tables of the usual kind."""
    if not {b"stsd", b"stsz", b"stts", b"mdhd"} <= found.keys():
        raise _Odd
    (count,) = struct.unpack_from(">I", found[b"stsz"], 8)
    scale = _timescale(found[b"mdhd"], 0)
    counts, steps = _runs(found[b"stts"])
    if max(count, int(counts.sum())) > MAX_FRAMES or counts.sum() < count or not scale:
        raise _Odd
    decoded = np.cumsum(np.repeat(steps, counts)[:count]) - np.repeat(steps, counts)[:count]
    shown = decoded
    if b"ctts" in found:
        counts, offsets = _runs(found[b"ctts"])
        if not count <= counts.sum() <= MAX_FRAMES:
            raise _Odd
        shown = decoded + np.repeat(offsets, counts)[:count]
    if b"elst" in found and count:
        shown = _edited(shown, found[b"elst"], movie_scale, scale)
    keys = np.full(count, b"stss" not in found)
    if b"stss" in found:
        (marked,) = struct.unpack_from(">I", found[b"stss"], 4)
        numbers = np.frombuffer(found[b"stss"], ">u4", marked, 8).astype(np.int64)
        keys[numbers[(numbers >= 1) & (numbers <= count)] - 1] = True
    height, width = struct.unpack_from(">HH", found[b"stsd"], 8 + 32)[::-1]
    order = np.argsort(shown, kind="stable")
    return VideoTrack(shown[order] / scale, keys[order], (height, width))


def _edited(
    shown: NDArray[np.int64], table: bytes, movie_scale: int, scale: int
) -> NDArray[np.int64]:
    """Return times after an edit list that delays all frames, or shows all from the first on."""
    (count,) = struct.unpack_from(">I", table, 4)
    if not movie_scale:
        raise _Odd
    form = ">QqI" if table[0] == 1 else ">IiI"
    empty = 0
    for number in range(count):
        length, begin, rate = struct.unpack_from(form, table, 8 + number * struct.calcsize(form))
        if begin == -1 and number < count - 1:
            empty += length
            continue
        shows_all = begin == shown.min() and (
            (shown.max() - begin) * movie_scale < length * scale or length == 0
        )
        if number < count - 1 or rate != 1 << 16 or not shows_all:
            raise _Odd
        delay = (empty * scale + movie_scale // 2) // movie_scale  # rounded as FFmpeg does
        return shown - begin + delay
    raise _Odd
