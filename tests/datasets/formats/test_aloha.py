"""ALOHA datasets: files of the recorders read bit for bit, and damage named by file and field."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.validate import check_dataset
from imitact.datasets import images
from imitact.datasets.formats import aloha_file
from imitact.datasets.formats.aloha import AlohaDataset
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from tests.support import foreign_files as foreign


def frames_of(dataset: Any, index: int = 0, camera: str = "top") -> np.ndarray:
    return np.stack(list(dataset.episode(index).frames(camera)))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(one.astype(float) - other).mean())


@pytest.mark.parametrize(
    ("dtype", "joints"), [("f4", 14), ("f8", 16), (">f4", 7), ("f8", 7), ("f2", 1)]
)
def test_numbers_and_frames_are_those_of_the_files(tmp_path: Path, dtype: str, joints: int):
    foreign.aloha(tmp_path, dtype=dtype, joints=joints, cameras=("cam_low", "cam_high"))
    dataset = open_dataset(tmp_path)
    check_dataset(dataset)
    assert dataset.lengths == (9, 5, 7)
    assert [c.name for c in dataset.spec.cameras] == ["cam_high", "cam_low"]
    assert dataset.spec.rate_hz == 50.0
    assert (dataset.spec.state_size, dataset.spec.action_size) == (joints, joints)
    for index, ticks in enumerate(dataset.lengths):
        episode = dataset.episode(index)
        want = foreign.walk(index, ticks, joints)
        np.testing.assert_array_equal(episode.state, want.astype(dtype).astype("f4"))
        np.testing.assert_array_equal(episode.action, (want + 0.01).astype(dtype).astype("f4"))
        np.testing.assert_array_equal(
            frames_of(dataset, index, "cam_low"), foreign.film(index, ticks)
        )


def test_episodes_are_in_natural_order_without_hidden_files(tmp_path: Path):
    for index in (0, 2, 10, 1):
        foreign.aloha_file(tmp_path / f"episode_{index}.hdf5", index=index, ticks=3 + index)
    (tmp_path / "._episode_0.hdf5").write_bytes(b"of another system's file manager")
    assert open_dataset(tmp_path).lengths == (3, 4, 5, 13)


def test_a_file_pattern_leaves_mirrored_copies_out(tmp_path: Path):
    foreign.aloha(tmp_path)
    foreign.aloha_file(tmp_path / "mirror_episode_0.hdf5", ticks=4)
    assert open_dataset(tmp_path).lengths == (9, 5, 7, 4)
    assert open_dataset(tmp_path, ReadConfig(files="episode_*.hdf5")).lengths == (9, 5, 7)


def test_one_file_opens_as_a_dataset_of_one_episode(tmp_path: Path):
    file = foreign.aloha_file(tmp_path / "episode_7.hdf5", ticks=6)
    assert open_dataset(file).lengths == (6,)


def test_two_arms_get_the_joint_names_of_the_simulated_aloha(tmp_path: Path):
    spec = open_dataset(foreign.aloha(tmp_path)).spec
    assert spec.state_names == spec.action_names == ALOHA_JOINTS
    assert spec.state_units == ALOHA_UNITS
    assert spec.rate_hz == ALOHA_RATE_HZ


def test_the_action_ends_with_the_values_of_a_mobile_base(tmp_path: Path):
    dataset = open_dataset(foreign.aloha(tmp_path, base=True))
    assert dataset.spec.action_names[14:] == ("base_linear", "base_angular")
    assert dataset.spec.action_units[14:] == ("m/s", "rad/s")
    assert dataset.spec.state_size == 14
    np.testing.assert_array_equal(
        dataset.episode(1).action[:, 14:], foreign.walk(201, 5, 2).astype("f4")
    )


def test_other_arrays_with_a_row_per_tick_are_extra_columns(tmp_path: Path):
    touch = np.arange(9, dtype=np.int16)
    foreign.aloha_file(tmp_path / "episode_0.hdf5", effort=True, dtype="f8", more={"touch": touch})
    dataset = AlohaDataset(tmp_path)
    extras = dataset.episode(0).extra_values([*dataset.extra_columns])
    assert set(extras) == {"observation.effort", "observation.velocity", "touch",
                           "aloha.observations.qpos", "aloha.action"}  # fmt: skip
    np.testing.assert_array_equal(extras["observation.effort"], foreign.walk(100, 9, 14))
    np.testing.assert_array_equal(extras["aloha.observations.qpos"], foreign.walk(0, 9, 14))
    np.testing.assert_array_equal(extras["touch"], touch)
    assert extras["touch"].dtype == np.int16


def test_an_action_offset_of_1_pairs_each_tick_with_the_action_before(tmp_path: Path):
    foreign.aloha(tmp_path, sim=False)
    plain = open_dataset(tmp_path).episode(0).action
    moved = open_dataset(tmp_path, ReadConfig(action_offset=1)).episode(0).action
    np.testing.assert_array_equal(moved[1:], plain[:-1])
    np.testing.assert_array_equal(moved[0], plain[0])
    long = foreign.aloha(tmp_path / "long", dtype="f8")
    episode = open_dataset(long, ReadConfig(action_offset=1)).episode(0)
    extras = episode.extra_values(["aloha.action"])
    np.testing.assert_array_equal(extras["aloha.action"].astype("f4"), moved)


def test_a_pickled_dataset_is_the_same_and_other_data_have_another_fingerprint(tmp_path: Path):
    dataset = open_dataset(foreign.aloha(tmp_path / "a"))
    again = copy.deepcopy(dataset)  # uses the pickling protocol
    np.testing.assert_array_equal(frames_of(again, 1), frames_of(dataset, 1))
    assert again.fingerprint == dataset.fingerprint
    assert open_dataset(foreign.aloha(tmp_path / "b")).fingerprint == dataset.fingerprint
    others = [
        open_dataset(foreign.aloha(tmp_path / "c", effort=True)),
        open_dataset(tmp_path / "a", ReadConfig(colour="bgr")),
        open_dataset(tmp_path / "a", ReadConfig(action_offset=1)),
        open_dataset(tmp_path / "a", ReadConfig(rate_hz=25)),
        open_dataset(tmp_path / "a", ReadConfig(files="episode_[01].hdf5")),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 6


# --- compressed images ---------------------------------------------------------------------------


@pytest.mark.parametrize("has_lengths", [True, False])
def test_jpeg_is_refused_until_its_channel_order_is_given(tmp_path: Path, has_lengths: bool):
    foreign.aloha(tmp_path, jpeg=True, compress_len=has_lengths)
    with pytest.raises(BadInput, match=r"JPEG.*--colour-picture.*--read\.colour"):
        open_dataset(tmp_path)
    right = open_dataset(tmp_path, ReadConfig(colour="bgr"))
    check_dataset(right)
    assert psnr(frames_of(right, 2), foreign.film(2, 7)) > 35
    wrong = frames_of(open_dataset(tmp_path, ReadConfig(colour="rgb")), 2)
    np.testing.assert_array_equal(wrong[..., ::-1], frames_of(right, 2))


def test_frames_can_be_read_from_the_middle_of_an_episode(tmp_path: Path):
    foreign.aloha(tmp_path, jpeg=True)
    dataset = open_dataset(tmp_path, ReadConfig(colour="bgr"))
    whole = frames_of(dataset, 0)
    part = np.stack(list(dataset.episode(0).frames("top", 3, 5)))
    np.testing.assert_array_equal(part, whole[3:5])
    with pytest.raises(BadInput, match="ticks 3 to 10 of episode 0"):
        list(dataset.episode(0).frames("top", 3, 10))


def test_images_stored_as_byte_strings_are_read(tmp_path: Path):
    """Byte strings of one length, as RoboTwin writes them, and of differing lengths."""
    packed = [images.jpeg(frame) for frame in foreign.film(0, 9)]
    for kind in ("S", "vlen"):
        file = foreign.aloha_file(tmp_path / kind / "episode_0.hdf5", cameras=())
        with h5py.File(file, "a") as root:
            if kind == "S":
                root["observations/images/top"] = np.array(
                    packed, dtype=f"S{max(map(len, packed))}"
                )
            else:
                array = root.create_dataset(
                    "observations/images/top", (9,), h5py.vlen_dtype(np.uint8)
                )
                for tick, data in enumerate(packed):
                    array[tick] = np.frombuffer(data, np.uint8)
        dataset = open_dataset(tmp_path / kind, ReadConfig(colour="rgb"))
        assert psnr(frames_of(dataset), foreign.film(0, 9)) > 35


def test_jpeg_decodes_as_with_pillow():
    """Pillow uses libjpeg, as OpenCV does."""
    frame = foreign.picture(1, 5, 48, 64)
    data = images.jpeg(frame)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    ours = images.decode(data, (48, 64))
    assert np.abs(ours.astype(int) - theirs).max() <= 4
    assert psnr(ours, frame) > 35
    assert psnr(theirs, frame) > 35


def test_png_keeps_every_pixel():
    frame = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.decode(images.png(frame), (13, 17)), frame)


def test_depth_is_left_out_with_a_reason(tmp_path: Path):
    depth = np.zeros((9, 24, 32), np.uint16)
    foreign.aloha_file(
        tmp_path / "episode_0.hdf5", more={"observations/images/top_depth": depth, "note": depth}
    )
    dataset = AlohaDataset(tmp_path)
    assert [c.name for c in dataset.spec.cameras] == ["top"]
    assert dataset.left_out == {
        "/observations/images/top_depth": "it is a depth map",
        "/note": "it may be frames, but cameras are below /observations/images/",
    }
    assert dataset.unread_cameras == ("note", "observations/images/top_depth")
    named = {notice.split()[0] for notice in dataset.notices}
    assert named == {"observations/images/top_depth", "observations/qvel", "note"}


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_channel_first_and_grey_images_are_cameras(tmp_path: Path, dtype: str):
    for index, ticks in enumerate((9, 5)):
        film = foreign.film(index, ticks)
        stored = film if dtype == "u1" else (film / 255).astype(dtype)
        more = {"observations/images/first": stored.transpose(0, 3, 1, 2)}
        if dtype == "u1":
            more["observations/images/grey"] = film[..., 0]
        foreign.aloha_file(tmp_path / f"episode_{index}.hdf5", index=index, ticks=ticks, more=more)
    dataset = AlohaDataset(tmp_path)
    check_dataset(dataset)
    np.testing.assert_array_equal(frames_of(dataset, 1, "first"), foreign.film(1, 5))
    assert any("the camera first is read from" in notice for notice in dataset.notices)
    if dtype == "u1":
        grey = foreign.film(1, 5)[..., :1].repeat(3, axis=3)
        np.testing.assert_array_equal(frames_of(dataset, 1, "grey"), grey)


def test_other_arrays_form_state_environment_and_action(tmp_path: Path):
    for index, ticks in enumerate((9, 5)):
        more = {"observations/env_state": foreign.walk(50 + index, ticks, 3)}
        foreign.aloha_file(
            tmp_path / f"episode_{index}.hdf5", index=index, ticks=ticks, joints=7, effort=True,
            base=True, more=more,
        )  # fmt: skip
    plain = open_dataset(tmp_path)
    assert any("--read.environment observations/env_state" in n for n in plain.notices)
    assert any("--read.state observations/qpos observations/effort" in n for n in plain.notices)
    read = ReadConfig(
        state=("observations/qpos", "observation.effort"),
        environment=("/observations/env_state",),
        action=("action",),
    )
    dataset = open_dataset(tmp_path, read)
    check_dataset(dataset)
    assert dataset.spec.state_names[:8] == (*plain.spec.state_names, "effort_0")
    assert dataset.spec.state_units[7:] == ("unknown",) * 10
    assert dataset.spec.environment_size == 3
    assert dataset.spec.action_names == plain.spec.action_names[:7]
    want = np.hstack(
        [foreign.walk(i, 5, n) for i, n in ((1, 7), (101, 7))] + [foreign.walk(51, 5, 3)]
    )
    np.testing.assert_allclose(dataset.episode(1).state, want.astype("f4"))
    assert dataset.left_out["/base_action"] == "not selected"
    assert dataset.fingerprint != plain.fingerprint
    with pytest.raises(DamagedFile, match=r"has no array /observations/x; it has .*--read\.state"):
        open_dataset(tmp_path, ReadConfig(state=("observations/x",)))


# --- damage --------------------------------------------------------------------------------------


def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        with h5py.File(file, "a") as root:
            change(root)

    return apply


def without(name: str) -> Callable[[Path], None]:
    return edit(lambda root: root.__delitem__(name))


def instead(name: str, values: Any) -> Callable[[Path], None]:
    def change(root: h5py.File) -> None:
        del root[name]
        root[name] = values

    return edit(change)


def unwritten(root: h5py.File) -> None:
    del root["observations/images/top"]
    root.create_dataset("observations/images/top", (5, 24, 32, 3), "u1", chunks=(1, 24, 32, 3))
    root["observations/images/top"][:3] = 7


def elsewhere(root: h5py.File) -> None:
    del root["action"]
    root["action"] = h5py.ExternalLink("other.hdf5", "/action")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:3000]), r"episode_1\.hdf5 cannot be read"),
    "empty": (lambda f: f.write_bytes(b""), r"episode_1\.hdf5 cannot be read"),
    "no action": (without("action"), r"episode_1\.hdf5 has no /action.*it has /observations"),
    "no state": (without("observations/qpos"), r"episode_1\.hdf5 has no /observations/qpos"),
    "fewer actions": (instead("action", np.zeros((4, 14))), "/action has 4 rows, /observ.* has 5"),
    "words": (instead("action", np.array([b"a"] * 5)), "/action has type .*expected numbers"),
    "no rows": (instead("observations/qpos", np.zeros((0, 14))), r"qpos has shape \(0, 14\)"),
    "half a film": (edit(unwritten), "/observations/images/top is incomplete"),
    "a link": (edit(elsewhere), r"episode_1\.hdf5 has no /action"),
    "our note": (
        edit(lambda root: root.attrs.__setitem__("imitact", "{")),
        'attribute "imitact" was not written by imitact',
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_refused_with_its_name_and_field(tmp_path: Path, kind: str):
    damage, message = DAMAGES[kind]
    foreign.aloha(tmp_path)
    damage(tmp_path / "episode_1.hdf5")
    with pytest.raises(DamagedFile, match=message):
        open_dataset(tmp_path)


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "fewer joints": (
        {"joints": 7},
        r"x\.hdf5: /observations/qpos has 7 values per tick, but 14 values",
    ),
    "another size": ({"size": (20, 32)}, r"images/top has an image of 20x32 .* of 24x32"),
    "another camera": ({"cameras": ("left",)}, r"has no /observations/images/top.*cameras: left\."),
    "a base": ({"base": True}, "/action has 14 and 2 values per tick"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_an_episode_of_another_size_is_refused(tmp_path: Path, kind: str):
    changes, message = UNLIKE[kind]
    foreign.aloha(tmp_path)
    foreign.aloha_file(tmp_path / "x.hdf5", **changes)
    with pytest.raises(SpecMismatch, match=message):
        open_dataset(tmp_path)


def test_a_damaged_image_is_refused_with_its_camera_and_tick(tmp_path: Path):
    file = foreign.aloha_file(tmp_path / "episode_0.hdf5", jpeg=True)
    with h5py.File(file, "a") as root:
        rows = root["observations/images/top"]
        rows[2] = 0
        packed = rows[4].tobytes().rstrip(b"\0")
        rows[4] = np.frombuffer(packed[:-10].ljust(rows.shape[1], b"\0"), np.uint8)
        rows[6] = rows[0][::-1]
        rows[7, -1] = 7
    dataset = open_dataset(tmp_path, ReadConfig(colour="bgr"))
    for tick, message in (
        (2, "neither JPEG nor PNG"),
        (4, "an image that is cut short"),
        (6, "neither JPEG nor PNG"),
        (7, "an image that is cut short"),  # bytes other than zeros follow the image
    ):
        with pytest.raises(
            DamagedFile, match=rf"episode_0\.hdf5: .*images/top, tick {tick}, is {message}"
        ):
            list(dataset.episode(0).frames("top", tick, tick + 1))


def test_a_damaged_file_can_be_reported_and_the_others_read(tmp_path: Path):
    foreign.aloha(tmp_path)
    (tmp_path / "episode_1.hdf5").write_bytes(b"nothing")
    reported: list[Any] = []
    dataset = open_dataset(tmp_path, on_damage=lambda error, episodes: reported.append(episodes))
    assert reported == [[1]]
    assert dataset.lengths == (9, 0, 7)
    assert len(dataset.episode(2).state) == 7
    with pytest.raises(DamagedFile, match="episode 1"):
        dataset.episode(1)


def test_read_options_that_a_layout_does_not_use_are_refused(tmp_path: Path):
    foreign.aloha(tmp_path)
    unused = r"--read\.tolerance-s and --read\.subset given, but the layout aloha-hdf5"
    with pytest.raises(BadInput, match=unused):
        open_dataset(tmp_path, ReadConfig(tolerance_s=0.1, subset="train"))
    with pytest.raises(BadInput, match=r'no camera "left"; available: top'):
        open_dataset(tmp_path, ReadConfig(cameras=("left",)))
    with pytest.raises(BadInput, match=r"no file that matches \*\.h5"):
        open_dataset(tmp_path, ReadConfig(files="*.h5"))
    for wrong in ({"rate_hz": -1.0}, {"colour": "grb"}, {"action_offset": 2}):
        with pytest.raises(BadInput):
            ReadConfig(**wrong)  # type: ignore[arg-type]


def test_the_path_of_a_feature_is_the_inverse_of_the_feature_of_a_path():
    for path in ("/observations/qvel", "/observations/effort", "/observations/qpos", "/action",
                 "/observations/velocity", "/observations/state", "/observations/images_seen",
                 "/index", "/timestamp", "/reward", "/next.reward", "/observation.x",
                 "/base_action", "/aloha.x"):  # fmt: skip
        feature = aloha_file.feature_of(path)
        assert aloha_file.path_of(feature) == path, feature
        assert feature not in ("index", "timestamp", "action", "observation.state")


def test_what_only_later_files_have_is_named(tmp_path: Path):
    folder = foreign.aloha(tmp_path / "d", [5, 6])
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        name = next(iter(file["observations/images"]))
        file[f"observations/images/{name}_2"] = file[f"observations/images/{name}"][()]
        file["observations/force"] = np.zeros((6, 3))
    dataset = open_dataset(folder)
    camera = f"observations/images/{name}_2"
    assert dataset.unread_cameras == (camera,)
    named = {notice.split()[0] for notice in dataset.notices}
    assert {camera, "observations/force"} <= named
