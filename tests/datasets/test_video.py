"""Video files: exact frames where the codec is lossless, exact times, whole files or none."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.video import VideoWriter, check_whole, read_frames
from imitact.datasets.video_config import VideoConfig
from tests.support.dot_env import DotEnv

EXACT = VideoConfig(codec="lossless", gop=4)


def dots(count: int, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Frames of a dot that moves over a smooth background."""
    env = DotEnv((("top", height, width),))
    frames = [env.reset(1).frames["top"]]
    for tick in range(count - 1):
        at = 0.5 + 0.4 * np.array([np.cos(tick / 3), np.sin(tick / 3)])
        frames.append(env.step(at).observation.frames["top"])
    return frames


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write(path: Path, frames: list[np.ndarray], rate_hz: float, config: VideoConfig) -> Path:
    height, width, _ = frames[0].shape
    with VideoWriter(path, height, width, rate_hz, config) as writer:
        for frame in frames:
            writer.add(frame)
    return path


def read(path: Path, ticks: list[int], rate_hz: float, like: np.ndarray) -> list[np.ndarray]:
    return list(read_frames(path, [t / rate_hz for t in ticks], like.shape))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (23, 31), (16, 16)])
def test_lossless_video_keeps_every_pixel(tmp_path: Path, height: int, width: int) -> None:
    frames = noise(9, height, width)
    path = write(tmp_path / "v.mp4", frames, 20, EXACT)
    assert np.array_equal(read(path, list(range(9)), 20, frames[0]), frames)


@pytest.mark.parametrize(
    ("rate_hz", "rate"),
    [(50.0, Fraction(50)), (30.0, Fraction(30)), (12.5, Fraction(25, 2)),
     (30000 / 1001, Fraction(30000, 1001))],
)  # fmt: skip
@pytest.mark.parametrize("codec", ["h264", "lossless", "av1"])
def test_frame_i_has_the_time_i_over_rate_and_none_is_reordered(
    tmp_path: Path, rate_hz: float, rate: Fraction, codec: str
) -> None:
    config = VideoConfig(codec=codec, gop=4)  # type: ignore[arg-type]
    path = write(tmp_path / "v.mp4", dots(11, 64, 64), rate_hz, config)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        assert stream.average_rate == rate
        assert [p.pts * p.time_base for p in packets] == [i / rate for i in range(11)]
        assert [p.dts for p in packets] == [p.pts for p in packets]


@pytest.mark.parametrize("codec", ["h264", "lossless", "av1"])
def test_key_frames_are_at_most_gop_frames_apart(tmp_path: Path, codec: str) -> None:
    config = VideoConfig(codec=codec, gop=4)  # type: ignore[arg-type]
    path = write(tmp_path / "v.mp4", dots(19, 64, 64), 20, config)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert keys[0] == 0
    assert max(b - a for a, b in pairwise([*keys, len(packets)])) <= 4


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 9, 18])
def test_reading_from_the_middle_gives_the_same_frames_as_from_the_start(
    tmp_path: Path, start: int
) -> None:
    frames = dots(19)
    path = write(tmp_path / "v.mp4", frames, 20, VideoConfig(gop=4))
    whole = read(path, list(range(19)), 20, frames[0])
    assert np.array_equal(read(path, list(range(start, 19)), 20, frames[0]), whole[start:])


def test_a_compressed_frame_is_close_to_the_original(tmp_path: Path) -> None:
    frames = dots(19, 96, 128)
    path = write(tmp_path / "v.mp4", frames, 20, VideoConfig())
    seen = np.stack(read(path, list(range(19)), 20, frames[0])).astype(float)
    squares = np.square(seen - np.stack(frames)).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / squares.max()) > 35  # dB


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    for config in (VideoConfig(), EXACT):
        one = write(tmp_path / "one.mp4", dots(12), 20, config).read_bytes()
        assert write(tmp_path / "other.mp4", dots(12), 20, config).read_bytes() == one


def test_a_frame_may_be_off_its_time_by_the_tolerance_only(tmp_path: Path) -> None:
    frames = noise(6, 24, 32)
    path = write(tmp_path / "v.mp4", frames, 20, EXACT)
    for off_s in (-9e-5, 9e-5):
        (found,) = read_frames(path, [3 / 20 + off_s], (24, 32, 3))
        assert np.array_equal(found, frames[3])
    for off_s in (-2e-4, 2e-4):
        with pytest.raises(DamagedFile, match="no frame within"):
            list(read_frames(path, [3 / 20 + off_s], (24, 32, 3)))


def test_a_time_beyond_the_end_is_refused(tmp_path: Path) -> None:
    frames = noise(6, 24, 32)
    path = write(tmp_path / "v.mp4", frames, 20, EXACT)
    with pytest.raises(DamagedFile, match=r"no frame within 0\.0001 s of 0\.300000 s"):
        read(path, [4, 5, 6], 20, frames[0])


def test_one_frame_may_serve_several_times(tmp_path: Path) -> None:
    frames = noise(4, 24, 32)
    path = write(tmp_path / "v.mp4", frames, 20, EXACT)
    assert np.array_equal(read(path, [1, 1, 2], 20, frames[0]), [frames[i] for i in (1, 1, 2)])


def test_frames_of_an_unexpected_size_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", dots(3), 20, EXACT)
    with pytest.raises(DamagedFile, match="24x32 pixels, expected 48x64"):
        list(read_frames(path, [0.0], (48, 64, 3)))


def test_a_video_cut_at_any_byte_is_not_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", dots(8), 20, VideoConfig())
    check_whole(path)
    data = path.read_bytes()
    for end in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(DamagedFile, match="cut short"):
            check_whole(path)


def test_an_unknown_codec_is_refused_with_the_file_name(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", dots(3), 20, EXACT)
    data = path.read_bytes()
    assert b"avc1" in data
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(DamagedFile, match=r"v\.mp4 has no known codec"):
        read(path, [0], 20, dots(1)[0])


def test_metadata_that_are_not_utf8_do_not_matter(tmp_path: Path) -> None:
    frames = dots(3)
    plain, path = write(tmp_path / "plain.mp4", frames, 20, EXACT), tmp_path / "v.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as copy:
        copy.metadata["title"] = "TITLE"
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = path.read_bytes()
    assert b"TITLE" in data
    path.write_bytes(data.replace(b"TITLE", b"TIT\xff\xfe"))
    assert np.array_equal(read(path, [2], 20, frames[2])[0], frames[2])


def test_other_files_are_refused_with_their_name(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(DamagedFile, match=r"v\.mp4 is missing"):
        list(read_frames(path, [0.0], (24, 32, 3)))
    with pytest.raises(DamagedFile, match=r"v\.mp4 is missing"):
        check_whole(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 4)
    for read_it in (lambda: check_whole(path), lambda: list(read_frames(path, [0.0], (24, 32, 3)))):
        with pytest.raises(DamagedFile, match=r"v\.mp4"):
            read_it()


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    def half(writer: VideoWriter) -> None:
        with writer:
            writer.add(dots(1)[0])
            raise KeyError("from elsewhere")

    with pytest.raises(KeyError, match="from elsewhere"):
        half(VideoWriter(tmp_path / "v.mp4", 24, 32, 20, EXACT))
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_shape_or_type_is_refused(tmp_path: Path) -> None:
    for wrong in (np.zeros((24, 33, 3), np.uint8), np.zeros((24, 32, 3), np.float32)):
        writer = VideoWriter(tmp_path / "v.mp4", 24, 32, 20, EXACT)
        with pytest.raises(BadInput, match=r"frame 0 of v\.mp4 is"), writer:
            writer.add(wrong)


def test_an_odd_size_needs_full_colour_resolution(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set chroma to 444"):
        VideoWriter(tmp_path / "v.mp4", 23, 32, 20, VideoConfig())
    frames = dots(3, 23, 31)
    path = write(tmp_path / "v.mp4", frames, 20, VideoConfig(chroma="444"))
    assert len(read(path, [0, 1, 2], 20, frames[0])) == 3


@pytest.mark.parametrize(
    "wrong", [{"codec": "divx"}, {"crf": 52}, {"crf": -1}, {"gop": 0}, {"chroma": "411"}]
)
def test_an_impossible_setting_is_refused_by_name(wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(BadInput, match=name):
        VideoConfig(**wrong)


def test_a_preset_unknown_to_the_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the encoder refused"):
        VideoWriter(tmp_path / "v.mp4", 24, 32, 20, VideoConfig(preset="heroic"))
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from imitact.datasets.video import VideoConfig, VideoWriter
frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
peaks = []
config = VideoConfig(preset="ultrafast", crf=40)
with VideoWriter(Path(sys.argv[1]), 480, 640, 50, config) as writer:
    for tick in range(250):
        writer.add(np.roll(frame, tick, axis=1))
        if tick in (49, 249):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 1024)
"""


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "v.mp4")]
    grown_mib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_mib < 20  # the 200 frames between the two looks are 176 MiB
