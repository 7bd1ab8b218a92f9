"""Conversion: only codecs lose anything, the report states it, and a killed one continues."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from imitact.core.errors import BadInput, ImitactError
from imitact.datasets import convert as conversion
from imitact.datasets.convert import convert, read_conversion
from imitact.datasets.convert_config import ConvertConfig
from imitact.datasets.formats.aloha import AlohaDataset
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.video_config import VideoConfig
from imitact.quality.fix import FixPlan, KeptTicks, write_fixed
from tests.support import foreign_files as foreign
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
"""Datasets that LeRobot wrote."""

LOSSLESS = ConvertConfig(video=VideoConfig(codec="lossless"))


def arrays_of(file: Path) -> dict[str, np.ndarray]:
    """Return every array of an HDF5 file by its path."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(file) as root:
        root.visititems(visit)
    return found


def assert_same_arrays(one: Path, other: Path, but: tuple[str, ...] = ()) -> None:
    ours, theirs = arrays_of(one), arrays_of(other)
    assert set(ours) - set(but) == set(theirs) - set(but)
    for name in set(ours) - set(but):
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"dtype": "f8", "effort": True},
        {"base": True, "effort": True, "cameras": ("cam_high", "cam_low"), "sim": False},
        {"dtype": "f8", "base": True, "joints": 7},
    ],
    ids=str,
)
def test_aloha_through_lerobot_and_back_is_the_same_to_the_bit(
    tmp_path: Path, kind: dict[str, Any]
):
    touch = {"touch": np.arange(5, dtype=np.int16), "observations/seen": np.array([True] * 5)}
    foreign.aloha(tmp_path / "a", (5, 5), more=touch, **kind)
    convert(open_dataset(tmp_path / "a"), tmp_path / "lr", "lerobot", LOSSLESS)
    convert(open_dataset(tmp_path / "lr"), tmp_path / "b", "aloha-hdf5")
    for index in range(2):
        one, other = (tmp_path / f / f"episode_{index}.hdf5" for f in "ab")
        assert_same_arrays(one, other)
        with h5py.File(one) as before, h5py.File(other) as after:
            assert bool(before.attrs["sim"]) == bool(after.attrs["sim"])
    before, after = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b")
    assert before.spec == after.spec


def test_the_report_states_how_little_compression_loses(tmp_path: Path):
    foreign.aloha(tmp_path / "a")
    report = convert(open_dataset(tmp_path / "a"), tmp_path / "lr", "lerobot")
    near = report["frames"]["top"]
    assert not near["exact"]
    assert 35 <= near["least_psnr_db"] < 100
    assert near["worst_frame_db"] <= near["least_psnr_db"]
    report = convert(
        open_dataset(tmp_path / "lr"), tmp_path / "b", "aloha-hdf5", ConvertConfig(images="jpeg")
    )
    assert 35 <= report["frames"]["top"]["least_psnr_db"] < 100


def test_a_conversion_that_loses_too_much_fails(tmp_path: Path):
    foreign.aloha(tmp_path / "a", (3,))
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "a/episode_0.hdf5", "a") as root:
        root["observations/images/top"][...] = noise
    source = open_dataset(tmp_path / "a")
    with pytest.raises(BadInput, match=r"episode 0, camera \"top\".* dB.*--video\.codec lossless"):
        convert(source, tmp_path / "lr", "lerobot")
    assert not read_conversion(tmp_path / "lr")["done"]
    assert convert(source, tmp_path / "exact", "lerobot", LOSSLESS)["frames"]["top"]["exact"]


def test_jpeg_is_written_in_the_channel_order_of_act_plus_plus(tmp_path: Path):
    """cv2.imdecode takes what libjpeg gives for BGR, and act-plus-plus takes that for RGB."""
    foreign.aloha(tmp_path / "a", (4,), cameras=("left", "high"))
    convert(
        open_dataset(tmp_path / "a"), tmp_path / "b", "aloha-hdf5", ConvertConfig(images="jpeg")
    )
    with h5py.File(tmp_path / "b/episode_0.hdf5") as root:
        for tick, row in enumerate(root["observations/images/left"]):
            seen = np.asarray(Image.open(io.BytesIO(row.tobytes())))[..., ::-1]
            assert np.abs(seen.astype(int) - foreign.picture(0, tick)).mean() < 3


def test_a_jpeg_file_has_the_attributes_that_act_plus_plus_needs(tmp_path: Path):
    foreign.aloha(tmp_path / "a", (4,), cameras=("left", "high"))
    convert(
        open_dataset(tmp_path / "a"), tmp_path / "b", "aloha-hdf5", ConvertConfig(images="jpeg")
    )
    with h5py.File(tmp_path / "b/episode_0.hdf5") as root:
        assert root.attrs["compress"]
        for row, camera in enumerate(("high", "left")):  # in the order of the names
            packed = root[f"observations/images/{camera}"][...]
            sizes = [len(each.tobytes().rstrip(b"\0")) for each in packed]
            np.testing.assert_array_equal(root["compress_len"][row], sizes)
    source = open_dataset(tmp_path / "b")  # imitact's own files store their channel order
    assert source.spec == open_dataset(tmp_path / "a").spec


def test_missing_velocities_are_written_as_zeros_and_not_read_as_a_column(tmp_path: Path):
    convert(FakeDataset(), tmp_path / "a", "aloha-hdf5")
    with h5py.File(tmp_path / "a/episode_0.hdf5") as root:
        assert root["observations/qvel"].shape == (7, 3)
        assert not root["observations/qvel"][...].any()
        assert root.attrs["sim"]
    source = AlohaDataset(tmp_path / "a")
    assert source.extra_columns == {}
    assert source.spec == FakeDataset().spec


@pytest.mark.parametrize("layout", ["robomimic", "diffusion-policy"])
@pytest.mark.parametrize("to", ["lerobot", "aloha-hdf5"])
def test_every_layout_can_be_converted(tmp_path: Path, layout: str, to: Any):
    if layout == "robomimic":
        path, read = foreign.robomimic(tmp_path / "a.hdf5"), ReadConfig(state=("robot0_eef_pos",))
    else:
        path = foreign.replay_buffer(tmp_path / "a.zarr")
        read = ReadConfig(state=("state",), rate_hz=10)
    source = open_dataset(path, read)
    report = convert(source, tmp_path / "b", to, LOSSLESS)
    assert report["done"]
    assert report["left_out"]
    copy = open_dataset(tmp_path / "b")
    assert copy.spec.rate_hz == source.spec.rate_hz
    assert copy.spec.state_names == source.spec.state_names
    for index in range(3):
        np.testing.assert_array_equal(copy.episode(index).state, source.episode(index).state)
        name = source.spec.cameras[0].name
        for one, other in zip(
            source.episode(index).frames(name), copy.episode(index).frames(name), strict=True
        ):
            np.testing.assert_array_equal(one, other)


# --- interrupted ---------------------------------------------------------------------------------


class Interrupted(FakeDataset):
    """A dataset that interrupts the process after a number of frames."""

    def at(self, frames: int) -> Interrupted:
        object.__setattr__(self, "left", [frames])
        return self

    def episode(self, index: int) -> Any:
        source = self

        class Episode(type(super().episode(index))):  # type: ignore[misc]
            def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Any]:
                for frame in super().frames(camera, start, stop):
                    source.left[0] -= 1
                    if source.left[0] < 0:
                        raise KeyboardInterrupt
                    yield frame

        made = super().episode(index)
        return Episode(made.index, made.length, made.height, made.width, made.size)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("to", ["lerobot", "aloha-hdf5"])
def test_an_interrupted_conversion_continues_to_the_same_bytes(tmp_path: Path, to: Any):
    convert(FakeDataset(), tmp_path / "whole", to, LOSSLESS)
    theirs = files(tmp_path / "whole")
    for frames in (0, 3, 7, 10, 19, 21, 29, 39):  # 20 are written, then 20 compared
        parts = tmp_path / f"parts-{frames}"
        for _ in range(2):  # stopped twice, where the second time gets beyond it
            with contextlib.suppress(KeyboardInterrupt):
                convert(Interrupted().at(frames), parts, to, LOSSLESS)
                assert frames >= 20
            if not read_conversion(parts)["done"]:
                assert (parts / ".staging").is_dir()
        assert convert(FakeDataset(), parts, to, LOSSLESS)["done"]
        ours = files(parts)
        assert ours.keys() == theirs.keys()
        different = {name for name in ours if ours[name] != theirs[name]}
        assert different == set()


@pytest.mark.parametrize("to", ["lerobot", "aloha-hdf5"])
def test_no_episode_is_written_or_compared_twice(tmp_path: Path, to: Any):
    with pytest.raises(KeyboardInterrupt):
        convert(Interrupted().at(12), tmp_path / "a", to, LOSSLESS)  # 7 and 4 ticks are written
    nine = Interrupted().at(9 + 12)
    with pytest.raises(KeyboardInterrupt):  # the 9 of the last one, then 7 and 4 compared
        convert(nine, tmp_path / "a", to, LOSSLESS)
    assert convert(Interrupted().at(9), tmp_path / "a", to, LOSSLESS)["done"]


def test_a_finished_conversion_is_returned_and_not_repeated(tmp_path: Path):
    first = convert(FakeDataset(), tmp_path / "a", "lerobot", LOSSLESS)
    before = files(tmp_path / "a")
    assert convert(Interrupted().at(0), tmp_path / "a", "lerobot", LOSSLESS) == first
    assert files(tmp_path / "a") == before


def test_a_conversion_with_other_settings_does_not_continue(tmp_path: Path):
    convert(FakeDataset(), tmp_path / "a", "lerobot", LOSSLESS)
    for source, config, message in (
        (FakeDataset((7, 4, 8)), LOSSLESS, "other settings: source"),
        (FakeDataset(), replace(LOSSLESS, task="go"), "other settings: task"),
        (FakeDataset(), ConvertConfig(), "other settings: video"),
    ):
        with pytest.raises(BadInput, match=message):
            convert(source, tmp_path / "a", "lerobot", config)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"is not empty and holds no conversion.*thesis\.txt"):
        convert(FakeDataset(), tmp_path / "b", "lerobot")


def test_a_copy_that_differs_is_never_reported_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Writers that alter one value or one pixel show that the comparison can fail."""
    foreign.aloha(tmp_path / "a")
    source = open_dataset(tmp_path / "a")
    original = conversion.AlohaWriter._arrays

    def altered(self: Any, state: Any, action: Any, extras: Any) -> Any:
        return original(self, state, np.nextafter(action, np.float32(9)), extras)

    with monkeypatch.context() as patch:
        patch.setattr(conversion.AlohaWriter, "_arrays", altered)
        with pytest.raises(ImitactError, match="episode 0: action of the copy differs"):
            convert(source, tmp_path / "b", "aloha-hdf5")
    checked = conversion.AlohaWriter._checked

    def painted(self: Any, frames: Any, camera: str, length: int) -> Iterator[Any]:
        for tick, frame in enumerate(checked(self, frames, camera, length)):
            if tick == 2:
                frame = frame.copy()
                frame[0, 0, 0] ^= 1
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(conversion.AlohaWriter, "_checked", painted)
        with pytest.raises(ImitactError, match='camera "top": frames of the copy differ'):
            convert(source, tmp_path / "c", "aloha-hdf5")
    for name in "bc":
        assert not json.loads((tmp_path / name / "conversion.json").read_text())["done"]


def test_a_converted_dataset_can_be_checked_and_fixed(tmp_path: Path):
    """It can be checked and fixed, but not recorded into."""
    from imitact.quality.dataset_check import inspect_numbers
    from imitact.recording.manifest import read_report

    foreign.aloha(tmp_path / "a", effort=True)
    convert(open_dataset(tmp_path / "a"), tmp_path / "lr", "lerobot", LOSSLESS)
    source = open_dataset(tmp_path / "lr")
    assert isinstance(source, LeRobotDataset)
    inspect_numbers(source)
    plan = FixPlan((KeptTicks(0, 0, 9), KeptTicks(2, 1, 7)), {1: ("asked",)}, source.lengths)
    write_fixed(source, plan, tmp_path / "mended")
    assert open_dataset(tmp_path / "mended").lengths == (9, 6)
    with pytest.raises(BadInput, match="was converted from aloha-hdf5, not recorded"):
        read_report(tmp_path / "lr")


def test_a_copy_keeps_the_task_of_every_episode_unless_one_is_given(tmp_path: Path):
    source = LeRobotDataset(LEROBOT / "h264")
    tasks = [source.episode(index).task for index in range(len(source.lengths))]
    assert len(set(tasks)) > 1
    report = convert(source, tmp_path / "own", "lerobot", LOSSLESS)
    assert report["settings"]["tasks"] == [*dict.fromkeys(tasks)]
    copy = LeRobotDataset(tmp_path / "own")
    assert [copy.episode(index).task for index in range(len(tasks))] == tasks
    info = json.loads((tmp_path / "own/meta/info.json").read_text())
    assert info["total_tasks"] == len(set(tasks))
    assert copy.task_texts == dict(enumerate(dict.fromkeys(tasks)))
    for index, words in enumerate(tasks):
        numbers = copy.episode(index).columns(["task_index"])["task_index"].to_pylist()
        assert {copy.task_texts[number] for number in numbers} == {words}
    convert(source, tmp_path / "one", "lerobot", replace(LOSSLESS, task="tidy up"))
    one = LeRobotDataset(tmp_path / "one")
    assert {one.episode(index).task for index in range(len(tasks))} == {"tidy up"}


def test_a_conversion_of_several_tasks_continues_to_the_same_bytes(tmp_path: Path):
    source = open_dataset(LEROBOT / "h264")
    convert(source, tmp_path / "whole", "lerobot", LOSSLESS)

    def stop(what: str, done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "cut", "lerobot", LOSSLESS, on_progress=stop)
    convert(source, tmp_path / "cut", "lerobot", LOSSLESS)
    for file in sorted((tmp_path / "whole").rglob("*")):
        if file.is_file():
            same = tmp_path / "cut" / file.relative_to(tmp_path / "whole")
            assert same.read_bytes() == file.read_bytes(), file


def test_a_writer_refuses_a_task_that_it_was_not_given(tmp_path: Path):
    from imitact.datasets.lerobot.writer import LeRobotWriter

    spec, video = FakeDataset().spec, VideoConfig(codec="lossless")
    for tasks in ([], ["a", ""], ["a", "a"]):
        with pytest.raises(BadInput, match="task"):
            LeRobotWriter(tmp_path / "o", spec, task=tasks, video=video, staging=tmp_path / "s")
    writer = LeRobotWriter(
        tmp_path / "o", spec, task=["a", "b"], video=video, staging=tmp_path / "s"
    )
    rows = np.zeros((3, spec.state_size)), np.zeros((3, spec.action_size))
    with pytest.raises(BadInput, match=r'task "c", which is not among the writer\'s \("a", "b"\)'):
        writer.append(*rows, {}, {}, {}, task="c")
