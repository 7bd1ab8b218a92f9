"""robomimic and diffusion-policy datasets: values bit for bit, and missing options named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.validate import check_dataset
from imitact.datasets.open import is_dataset, layout_of, open_dataset
from imitact.datasets.read_config import ReadConfig
from tests.support import foreign_files as foreign
from tests.support.paths import FIXTURES, ROOT

ROBOMIMIC = ReadConfig(state=("robot0_eef_pos", "robot0_gripper_qpos"))
REPLAY = ReadConfig(state=("state",), rate_hz=10)


def frames_of(dataset: Any, index: int, camera: str) -> np.ndarray:
    return np.stack(list(dataset.episode(index).frames(camera)))


# --- layout detection ----------------------------------------------------------------------------


def test_the_layout_is_detected_from_the_files(tmp_path: Path):
    foreign.aloha(tmp_path / "aloha")
    foreign.robomimic(tmp_path / "mimic" / "demo.hdf5")
    foreign.replay_buffer(tmp_path / "pusht.zarr")
    fixture = FIXTURES / "lerobot/h264"
    for path, layout in (
        (tmp_path / "aloha", "aloha-hdf5"),
        (tmp_path / "aloha" / "episode_2.hdf5", "aloha-hdf5"),
        (tmp_path / "mimic" / "demo.hdf5", "robomimic"),
        (tmp_path / "mimic", "robomimic"),
        (tmp_path / "pusht.zarr", "diffusion-policy"),
        (fixture, "lerobot"),
    ):
        assert layout_of(path) == layout
        assert is_dataset(path)
    assert not is_dataset(tmp_path)
    (tmp_path / "note.txt").write_text("no dataset")
    with pytest.raises(BadInput, match=r"note\.txt is not a dataset that imitact reads"):
        open_dataset(tmp_path / "note.txt")


def test_lerobots_layout_refuses_what_it_stores_itself():
    fixture = FIXTURES / "lerobot/h264"
    with pytest.raises(
        BadInput, match=r"--read.rate-hz given, but the layout lerobot.*uses --read"
    ):
        open_dataset(fixture, ReadConfig(rate_hz=10))


# --- robomimic -----------------------------------------------------------------------------------


def test_robomimic_demonstrations_are_in_natural_order(tmp_path: Path):
    lengths = (4, 3, 5, 2, 2, 2, 2, 2, 2, 2, 6)
    dataset = open_dataset(foreign.robomimic(tmp_path / "demo.hdf5", lengths), ROBOMIMIC)
    check_dataset(dataset)
    assert dataset.lengths == lengths
    assert dataset.spec.rate_hz == 20
    assert dataset.spec.state_names == (
        "robot0_eef_pos_0", "robot0_eef_pos_1", "robot0_eef_pos_2", "robot0_gripper_qpos_0",
        "robot0_gripper_qpos_1",
    )  # fmt: skip
    for index in (0, 10):
        episode, ticks = dataset.episode(index), lengths[index]
        want = np.hstack([foreign.walk(10 + index, ticks, 3), foreign.walk(20 + index, ticks, 2)])
        np.testing.assert_array_equal(episode.state, want.astype("f4"))
        np.testing.assert_array_equal(episode.action, foreign.walk(index, ticks, 7).astype("f4"))
        film = foreign.film(index, ticks)
        np.testing.assert_array_equal(frames_of(dataset, index, "agentview_image"), film)
        np.testing.assert_array_equal(
            np.stack(list(dataset.episode(index).frames("agentview_image", 1, 2))), film[1:2]
        )


def test_robomimic_errors_list_the_available_arrays(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with pytest.raises(BadInput, match=r"--read\.state.*robot0_eef_pos \(3\), robot0_gripper_qpos"):
        open_dataset(file)
    with pytest.raises(BadInput, match='no observation "joints"; available: robot0_eef_pos'):
        open_dataset(file, ReadConfig(state=("joints",)))
    with pytest.raises(BadInput, match=r'no array "actions_abs".*actions \(7\)'):
        open_dataset(file, ReadConfig(state=ROBOMIMIC.state, action="actions_abs"))
    with pytest.raises(BadInput, match='no camera "wrist"; available: agentview_image'):
        open_dataset(file, ReadConfig(state=ROBOMIMIC.state, cameras=("wrist",)))


def test_a_robomimic_filter_key_selects_demonstrations(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    read = ReadConfig(state=ROBOMIMIC.state, subset="train")
    assert open_dataset(file, read).lengths == (5, 7)
    with pytest.raises(BadInput, match=r'no filter key "valid"; available: train'):
        open_dataset(file, ReadConfig(state=ROBOMIMIC.state, subset="valid"))


def test_robomimic_needs_a_rate_where_the_file_has_none(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5", rate=None)
    with pytest.raises(BadInput, match=r"give --read\.rate-hz"):
        open_dataset(file, ROBOMIMIC)
    assert open_dataset(file, ReadConfig(state=ROBOMIMIC.state, rate_hz=30)).spec.rate_hz == 30


def test_hdf5_text_that_is_not_utf8_does_not_stop_reading(tmp_path: Path):
    path = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = b"\xff"
        file["data/demo_0/obs"].create_dataset(b"eye\xff_image", data=foreign.film(0, 9))
    with pytest.raises(BadInput, match=r"give --read\.rate-hz"):
        open_dataset(path, ROBOMIMIC)
    dataset = open_dataset(path, ReadConfig(state=ROBOMIMIC.state, rate_hz=20))
    check_dataset(dataset)
    assert [camera.name for camera in dataset.spec.cameras] == ["agentview_image"]


def shorter(demo: h5py.Group) -> None:
    del demo["obs/robot0_eef_pos"]
    demo["obs/robot0_eef_pos"] = np.zeros((2, 3))


def wider(demo: h5py.Group) -> None:
    del demo["actions"]
    demo["actions"] = np.zeros((5, 8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shorter, DamagedFile, "/data/demo_1/obs/robot0_eef_pos has 2 rows, the action has 5"),
        (wider, SpecMismatch, "/data/demo_1 has 5 state and 8 action values per tick"),
        (
            lambda demo: demo.__delitem__("actions"),
            DamagedFile,
            "/data/demo_1 has no numeric array /actions",
        ),
        (
            lambda demo: demo.__delitem__("obs"),
            DamagedFile,
            "demo_1 has no numeric array /obs/robot0_eef",
        ),
    ],
)
def test_a_damaged_demonstration_is_refused_with_its_name(
    tmp_path: Path, change: Callable[[h5py.Group], object], error: type[Exception], message: str
):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(file, "a") as opened:
        change(opened["data/demo_1"])
    with pytest.raises(error, match=rf"demo\.hdf5.*{message}"):
        open_dataset(file, ROBOMIMIC)


# --- diffusion-policy ----------------------------------------------------------------------------


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("codec", ["blosc", None, numcodecs.Zlib(), numcodecs.LZ4()], ids=str)
def test_a_replay_buffer_is_read_episode_by_episode(tmp_path: Path, codec: Any, floats: bool):
    folder = foreign.replay_buffer(tmp_path / "a.zarr", floats=floats, codec=codec)
    dataset = open_dataset(folder, REPLAY)
    check_dataset(dataset)
    assert dataset.lengths == (9, 5, 7)
    assert dataset.spec.state_names == tuple(f"state_{i}" for i in range(5))
    for index, ticks in enumerate(dataset.lengths):
        want = foreign.walk(index, ticks, 5).astype("f4")
        np.testing.assert_array_equal(dataset.episode(index).state, want)
        np.testing.assert_array_equal(frames_of(dataset, index, "img"), foreign.film(index, ticks))


def test_a_zipped_replay_buffer_is_the_same_demonstrations(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    zipped = open_dataset(tmp_path / "a.zarr.zip", REPLAY)
    check_dataset(zipped)
    assert zipped.fingerprint == open_dataset(folder, REPLAY).fingerprint


def test_a_replay_buffer_needs_state_and_rate(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    with pytest.raises(BadInput, match=r"--read\.state.*action \(2\), n_contacts \(1\), state \(5"):
        open_dataset(folder)
    with pytest.raises(BadInput, match=r"does not store its rate; give --read\.rate-hz"):
        open_dataset(folder, ReadConfig(state=("state",)))


def rewrite(name: str, **changes: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        file = folder / name / ".zarray"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


ZARR_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a chunk is gone": (lambda f: (f / "data/state/1.0").unlink(), r"state/1\.0 is missing"),
    "a chunk is cut": (
        lambda f: (f / "data/state/1.0").write_bytes((f / "data/state/1.0").read_bytes()[:30]),
        r"state/1\.0 cannot be read",
    ),
    "no array": (lambda f: shutil.rmtree(f / "data/state"), 'no observation "state"'),
    "no ends": (lambda f: (f / "meta/episode_ends/0").unlink(), "episode_ends/0 is missing"),
    "ends fall": (
        lambda f: foreign.zarr_array(f / "meta/episode_ends", np.array([9, 4, 21]), (3,)),
        "the ends of episodes must increase",
    ),
    "too many ticks": (
        lambda f: foreign.zarr_array(f / "meta/episode_ends", np.array([9, 14, 30]), (3,)),
        "has 21 rows, but meta/episode_ends gives 30",
    ),
    "no JSON": (
        lambda f: (f / "data/state/.zarray").write_text("{"),
        r"state/\.zarray is not JSON",
    ),
    "another format": (
        rewrite("data/state", zarr_format=3),
        "zarr format 3; imitact reads format 2",
    ),
    "filters": (rewrite("data/state", filters=[{"id": "delta"}]), "imitact reads arrays without"),
    "a pickle": (
        rewrite("data/state", compressor={"id": "pickle"}),
        'compressor "pickle"; imitact reads',
    ),
    "objects": (rewrite("data/state", dtype="|O"), r"\.zarray is not a valid zarr header"),
    "huge chunks": (
        rewrite("data/state", chunks=[2**40, 5]),
        r"\.zarray is not a valid zarr header",
    ),
    "other chunks": (rewrite("data/state", chunks=[7, 5]), "state/"),
}


@pytest.mark.parametrize("kind", ZARR_DAMAGES)
def test_a_damaged_replay_buffer_is_refused_with_its_file(tmp_path: Path, kind: str):
    damage, message = ZARR_DAMAGES[kind]
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    damage(folder)
    with pytest.raises(BadInput, match=message):
        check_dataset(open_dataset(folder, REPLAY))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_headers_that_promise_millions_of_chunks_are_refused_in_little_memory(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    rewrite("data/action", shape=[10_000_000, 5], chunks=[1, 5])(folder)
    shutil.rmtree(folder / "data/state")
    foreign.zarr_array(folder / "data/state", np.zeros((3, 5), "f4"), (1, 5))
    rewrite("data/state", shape=[10_000_000, 5])(folder)
    rewrite("data/n_contacts", shape=[10_000_000, 1], chunks=[1, 1])(folder)
    rewrite("data/img", shape=[10_000_000, 1, 60_000, 3], chunks=[1, 1, 1, 1])(folder)
    ends = np.arange(1, 21) * 500_000
    foreign.zarr_array(folder / "meta/episode_ends", ends, (20,))
    code = r"""
import re, sys, time
from pathlib import Path
from imitact.core.errors import BadInput
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
dataset = open_dataset(Path(sys.argv[1]), ReadConfig(state=("state",), rate_hz=10))
for call in (lambda: dataset.fingerprint, lambda: dataset.episode(0).state):
    try:
        call()
    except BadInput as error:
        print(error)
mib = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
assert mib < 512 and time.process_time() < 5, (mib, time.process_time())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "more than 1,000 chunks of data/" in done.stdout
    assert "is missing, a chunk of data/state" in done.stdout


def test_an_episode_longer_than_any_demonstration_is_refused(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    foreign.zarr_array(folder / "meta/episode_ends", np.array([500_001]), (1,))
    with pytest.raises(DamagedFile, match="must increase, by at most 500,000 ticks"):
        open_dataset(folder, REPLAY)


@pytest.mark.parametrize("white", [1, 255])
def test_float_images_of_either_range_are_read_exactly(tmp_path: Path, white: int):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    films = np.concatenate([foreign.film(i, n) for i, n in enumerate((9, 5, 7))])
    stored = (films / 255 * white).astype("f4")
    foreign.zarr_array(
        folder / "data/img", np.rint(stored) if white > 1 else stored, (4, 24, 32, 3)
    )
    dataset = open_dataset(folder, REPLAY)
    np.testing.assert_array_equal(frames_of(dataset, 1, "img"), foreign.film(1, 5))


def test_float_images_of_another_range_are_refused(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    films = np.random.default_rng(0).random((21, 24, 32, 3)).astype("f4")
    films[4:] *= 2  # the first frame is a picture
    foreign.zarr_array(folder / "data/img", films, (4, 24, 32, 3))
    dataset = open_dataset(folder, REPLAY)
    with pytest.raises(BadInput, match="img of episode 0 at tick 4 has values from 0"):
        list(dataset.episode(0).frames("img"))


def test_a_float_map_in_the_shape_of_frames_is_left_out_with_its_range(tmp_path: Path):
    points = np.random.default_rng(0).normal(0, 1, (21, 24, 32, 3)).astype("f4")
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    foreign.zarr_array(folder / "data/pts", points, (4, 24, 32, 3))
    file = foreign.robomimic(tmp_path / "a.hdf5")
    with h5py.File(file, "a") as opened:
        for index, ticks in enumerate((9, 5, 7)):
            opened[f"data/demo_{index}/obs/pts"] = points[:ticks]
    for dataset in (open_dataset(folder, REPLAY), open_dataset(file, ROBOMIMIC)):
        check_dataset(dataset)
        assert len(dataset.spec.cameras) == 1
        assert "its values go from -" in dataset.left_out["pts"]
        assert any(notice.startswith("pts is left out") for notice in dataset.notices)
        assert dataset.unread_cameras == ("pts",)


def test_the_state_of_the_environment_is_appended_to_the_state(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    dataset = open_dataset(
        folder, ReadConfig(state=("state",), environment=("n_contacts",), rate_hz=10)
    )
    check_dataset(dataset)
    assert dataset.spec.environment_names == ("n_contacts",)
    assert dataset.episode(1).state.shape == (5, 6)
    assert dataset.fingerprint != open_dataset(folder, REPLAY).fingerprint

    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(file, "a") as opened:
        for index, ticks in enumerate((9, 5, 7)):
            opened[f"data/demo_{index}/obs/object"] = foreign.walk(30 + index, ticks, 4)
    (notice,) = open_dataset(file, ROBOMIMIC).notices
    assert "object (4 values" in notice
    assert "--read.environment object" in notice
    dataset = open_dataset(file, ReadConfig(state=ROBOMIMIC.state, environment=("object",)))
    check_dataset(dataset)
    assert dataset.notices == ()
    want = foreign.walk(31, 5, 4).astype("f4")
    np.testing.assert_array_equal(dataset.episode(1).state[:, -4:], want)


def test_several_arrays_side_by_side_are_the_action(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    read = ReadConfig(state=ROBOMIMIC.state, action=("actions", "rewards"))
    dataset = open_dataset(file, read)
    check_dataset(dataset)
    assert dataset.spec.action_names[-2:] == ("actions_6", "rewards")
    assert dataset.episode(0).action.shape == (9, 8)


def test_observations_that_are_no_vectors_are_refused_with_their_shape(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(file, "a") as opened:
        for index, ticks in enumerate((9, 5, 7)):
            demo = opened[f"data/demo_{index}/obs"]
            demo["pose"] = foreign.walk(index, ticks, 4)[:, None]
            demo["matrix"] = np.zeros((ticks, 2, 2))
    for name, shape in (("pose", "9, 1, 4"), ("matrix", "9, 2, 2")):
        with pytest.raises(BadInput, match=rf"{name} cannot be part of .* shape \[{shape}\]"):
            open_dataset(file, ReadConfig(state=(name,)))


def test_a_file_without_observations_names_the_step_that_makes_them(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(file, "a") as opened:
        for index in range(3):
            del opened[f"data/demo_{index}/obs"]
    with pytest.raises(BadInput, match=r"no observations.*dataset_states_to_obs\.py"):
        open_dataset(file, ROBOMIMIC)


def test_channel_first_and_grey_observations_are_cameras_and_depth_is_named(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "demo.hdf5")
    with h5py.File(file, "a") as opened:
        for index, ticks in enumerate((9, 5, 7)):
            demo, film = opened[f"data/demo_{index}/obs"], foreign.film(index, ticks)
            demo["first_image"] = (film / 255).transpose(0, 3, 1, 2).astype("f4")
            demo["grey_image"] = film[..., :1]
            demo["agentview_depth"] = np.zeros((ticks, 24, 32, 1), "f4")
    dataset = open_dataset(file, ROBOMIMIC)
    check_dataset(dataset)
    assert [c.name for c in dataset.spec.cameras] == [
        "agentview_image", "first_image", "grey_image",
    ]  # fmt: skip
    assert dataset.left_out["agentview_depth"] == "it is a depth map"
    assert any("agentview_depth" in notice for notice in dataset.notices)
    np.testing.assert_array_equal(frames_of(dataset, 2, "first_image"), foreign.film(2, 7))
    grey = frames_of(dataset, 2, "grey_image")
    np.testing.assert_array_equal(grey, foreign.film(2, 7)[..., :1].repeat(3, axis=3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_chunks_that_divide_every_axis_are_joined(tmp_path: Path, order: str):
    folder = foreign.replay_buffer(tmp_path / "a.zarr")
    films = np.concatenate([foreign.film(i, n) for i, n in enumerate((9, 5, 7))])
    foreign.zarr_array(folder / "data/img", films, (5, 7, 32, 2), order=order)
    dataset = open_dataset(folder, REPLAY)
    np.testing.assert_array_equal(frames_of(dataset, 2, "img"), foreign.film(2, 7))


# --- files of the original libraries (scripts/make_format_fixtures.py) ---------------------------

THEIRS = FIXTURES / "formats"


@pytest.mark.parametrize(("name", "levels"), [("pusht.zarr", 0), ("real.zarr", 3)])
def test_a_dataset_of_the_zarr_library_reads_as_with_zarr(name: str, levels: int):
    """Numbers are equal; compressed frames differ by as much as two decoders do."""
    dataset = open_dataset(THEIRS / name, REPLAY)
    check_dataset(dataset)
    assert dataset.lengths == (5, 3)
    with np.load(THEIRS / "read.npz") as read:
        frames = np.concatenate([frames_of(dataset, i, "img") for i in range(2)])
        assert np.abs(frames.astype(int) - read[name].astype(int)).max() <= levels
        states = np.concatenate([dataset.episode(i).state for i in range(2)])
        np.testing.assert_array_equal(states, read["state"])


def test_jpeg_xl_is_refused_with_its_name():
    with pytest.raises(
        BadInput, match=r'umi\.zarr/data/img/\.zarray: compressor "imagecodecs_jpegxl"'
    ):
        open_dataset(THEIRS / "umi.zarr", REPLAY)


def test_jpeg_of_opencv_has_the_colours_that_act_plus_plus_sees():
    """libjpeg and FFmpeg place subsampled colours half a pixel apart, which is up to 8 levels at
    the edges of a frame as small as this."""
    dataset = open_dataset(THEIRS / "aloha", ReadConfig(colour="bgr"))
    with np.load(THEIRS / "read.npz") as read:
        difference = np.abs(frames_of(dataset, 0, "cam_high").astype(int) - read["aloha"])
    assert difference.max() <= 10
    assert difference.mean() < 2.5


def test_what_only_later_demonstrations_have_or_cannot_be_read_is_named(tmp_path: Path):
    file = foreign.robomimic(tmp_path / "low_dim.hdf5")
    with h5py.File(file, "a") as opened:
        obs = opened["data/demo_1/obs"]
        obs["force"] = np.zeros((5, 3))
        obs["wrist_image"] = np.zeros((5, 24, 32, 3), np.uint8)
        opened["data/demo_0/obs/hand/pose"] = np.zeros((9, 3))
        opened["data/demo_0/obs/said"] = np.array([b"a"] * 9, dtype="S1")
    dataset = open_dataset(file, ROBOMIMIC)
    for key in ("force", "wrist_image"):
        assert "demo_1 has it" in dataset.left_out[key]
    assert "nested group" in dataset.left_out["hand/pose"]
    assert dataset.left_out["said"] == "it is not numbers"
    assert dataset.unread_cameras == ("wrist_image",)
    assert any(notice.startswith("wrist_image") for notice in dataset.notices)


def test_what_lies_among_the_arrays_of_a_buffer_and_is_none_is_named(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "replay_buffer.zarr")
    (folder / "data/nested/force").mkdir(parents=True)
    (folder / "data/camera").mkdir()
    (folder / "data/camera/zarr.json").write_text("{}")
    dataset = open_dataset(folder, ReadConfig(rate_hz=10, state=("state",)))
    assert {"nested", "camera"} <= dataset.left_out.keys()


def test_videos_beside_a_buffer_without_frames_are_named(tmp_path: Path):
    folder = foreign.replay_buffer(tmp_path / "replay_buffer.zarr")
    shutil.rmtree(folder / "data/img")
    (tmp_path / "videos/0").mkdir(parents=True)
    dataset = open_dataset(folder, ReadConfig(rate_hz=10, state=("state",)))
    assert dataset.unread_cameras == (str(tmp_path / "videos"),)
