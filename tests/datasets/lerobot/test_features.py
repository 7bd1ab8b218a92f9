"""LeRobot features: any of them as state, action, environment state and cameras; the rest named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.validate import check_dataset
from imitact.datasets import images
from imitact.datasets.convert import convert
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.without_cameras import seen_by_policy
from imitact.quality.fix import FixPlan, KeptTicks, write_fixed
from tests.support.foreign_files import film, walk
from tests.support.lerobot_files import LENGTHS, arm, numbers, v21, v30
from tests.support.paths import FIXTURES

FRONT = "observation.images.front"


def frames_of(dataset: Any, camera: str, index: int = 1) -> np.ndarray:
    return np.stack(list(dataset.episode(index).frames(camera)))


def png(frame: np.ndarray) -> dict[str, Any]:
    return {"bytes": images.png(frame), "path": None}


# --- vectors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [v21, v30])
def test_any_features_form_state_and_action_side_by_side(
    tmp_path: Path, write: Callable[..., Path]
):
    features = {
        **numbers("left", 2, names=["x", "gripper"]),
        **numbers("right", 2, names=["x", "gripper"]),
        **numbers("actions", 3),
        **numbers("hand", 1),
    }
    root = write(tmp_path / "d", features)
    dataset = open_dataset(root, ReadConfig(state=("left", "right"), action=("actions", "hand")))
    check_dataset(dataset)
    assert dataset.spec.state_names == ("x", "gripper", "x_1", "gripper_1")
    assert dataset.spec.action_names == ("actions_0", "actions_1", "actions_2", "hand")
    seeds = {key: 10 * number for number, key in enumerate(sorted(features))}
    for index, length in enumerate(LENGTHS):
        parts = {k: walk(s + index, length, features[k]["shape"][0]) for k, s in seeds.items()}
        episode = dataset.episode(index)
        want = np.hstack([parts["left"], parts["right"]])
        np.testing.assert_array_equal(episode.state, want.astype("f4"))
        want = np.hstack([parts["actions"], parts["hand"]])
        np.testing.assert_array_equal(episode.action, want.astype("f4"))
    swapped = ReadConfig(state=("right", "left"), action=("actions", "hand"))
    other = open_dataset(root, swapped)
    assert other.fingerprint != dataset.fingerprint
    assert other.read_options == swapped.given()


def test_other_keys_are_refused_with_what_there_is_and_the_options(tmp_path: Path):
    root = v21(tmp_path / "d", {**numbers("state", 8), **numbers("actions", 7)})
    with pytest.raises(
        BadInput, match=r"no observation\.state and no action.*--read\.state.*--read\.action.*"
        r"state \(8\), actions \(7\)"
    ):  # fmt: skip
        open_dataset(root)
    with pytest.raises(BadInput, match=r'no array "action".*--read\.action.*actions \(7\)'):
        open_dataset(root, ReadConfig(state=("state",)))
    with pytest.raises(BadInput, match=r'no observation "states"; available: state \(8\)'):
        open_dataset(root, ReadConfig(state=("states",), action=("actions",)))
    with pytest.raises(BadInput, match="each observation may be given once"):
        open_dataset(root, ReadConfig(state=("state", "state"), action=("actions",)))


def test_only_equal_names_are_numbered(tmp_path: Path):
    names = {"motors": ["x", "gripper", "gripper"]}
    root = v21(tmp_path / "d", {**numbers("observation.state", 3, names=names),
                                **numbers("action", 2, names=["x", "gripper"])})  # fmt: skip
    assert open_dataset(root).spec.state_names == ("x", "gripper", "gripper_1")


def test_the_state_of_the_environment_is_named_and_can_be_read(tmp_path: Path):
    key = "observation.environment_state"
    root = v21(tmp_path / "d", arm(**numbers(key, 2)))
    (notice,) = open_dataset(root).notices
    assert notice.startswith(f"{key} (2 values")
    assert f"--read.environment {key}" in notice
    dataset = open_dataset(root, ReadConfig(environment=(key,)))
    check_dataset(dataset)
    assert dataset.spec.environment_size == 2
    assert dataset.spec.environment_names == ("environment_state_0", "environment_state_1")
    assert dataset.notices == ()
    assert key not in dataset.extra_columns
    assert open_dataset(root).extra_columns.keys() == {key}
    state, seed = dataset.episode(0).state, 10 * sorted(arm(**numbers(key, 2))).index(key)
    np.testing.assert_array_equal(state[:, 3:], walk(seed, 9, 2).astype("f4"))
    assert dataset.fingerprint != open_dataset(root).fingerprint
    with pytest.raises(BadInput, match=r"--read\.state and --read\.environment both name"):
        open_dataset(root, ReadConfig(state=(key,), environment=(key,)))


def test_what_a_policy_could_need_is_named_with_the_option(tmp_path: Path):
    features = arm(
        **numbers("observation.effort", 3), **numbers("next.reward", 1), **numbers("current", 3)
    )
    features["tactile"] = {"dtype": "float32", "shape": [4, 4]}
    features["note"] = {"dtype": "string", "shape": [1]}
    matrices = {"tactile": lambda i, n: np.zeros((n, 4, 4), "f4"), "note": lambda i, n: ["a"] * n}
    dataset = open_dataset(v21(tmp_path / "d", features, matrices))
    named = {notice.split()[0]: notice for notice in dataset.notices}
    assert named.keys() == {"observation.effort", "current", "tactile"}
    assert "--read.state observation.state observation.effort" in named["observation.effort"]
    assert "[4, 4]" in named["tactile"]
    assert dataset.left_out.keys() == {"tactile", "note"}


def test_a_column_that_info_json_does_not_describe_is_named(tmp_path: Path):
    root = v21(tmp_path / "d", arm(**numbers("observation.force", 2)))
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.force"]
    (root / "meta/info.json").write_text(json.dumps(info))
    dataset = open_dataset(root)
    why = "meta/info.json does not describe it"
    assert dataset.left_out == {"observation.force": why}
    assert any(n.startswith("observation.force") and why in n for n in dataset.notices)


# --- cameras -------------------------------------------------------------------------------------


def test_cameras_are_chosen_and_ordered_by_name_or_feature(tmp_path: Path):
    about = {"dtype": "image", "shape": [24, 32, 3]}
    keys = (FRONT, "observation.images.top", "wrist_image")
    cells = {key: lambda i, n: [png(f) for f in film(i, n)] for key in keys}
    root = v21(tmp_path / "d", arm(**dict.fromkeys(keys, about)), cells)
    names = [c.name for c in open_dataset(root).spec.cameras]
    assert names == ["front", "top", "wrist_image"]
    dataset = open_dataset(root, ReadConfig(cameras=("wrist_image", FRONT)))
    check_dataset(dataset)
    assert [c.name for c in dataset.spec.cameras] == ["wrist_image", "front"]
    assert dataset.left_out == {"observation.images.top": "not selected"}
    np.testing.assert_array_equal(frames_of(dataset, "front"), film(1, LENGTHS[1]))
    with pytest.raises(BadInput, match='no camera "left"; available: front, top, wrist_image'):
        open_dataset(root, ReadConfig(cameras=("left",)))


def test_videos_of_cameras_that_are_not_chosen_are_not_needed(tmp_path: Path):
    root = Path(shutil.copytree(FIXTURES / "lerobot/v30", tmp_path / "d"))
    cameras = [c.name for c in open_dataset(root).spec.cameras]
    shutil.rmtree(root / "videos")
    with pytest.raises(BadInput, match="is missing"):
        open_dataset(root)
    check_dataset(open_dataset(root, ReadConfig(cameras=("wrist",))))
    assert "wrist" in cameras
    assert len(cameras) > 1


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_frames_stored_as_numbers_are_a_camera(tmp_path: Path, dtype: str, first: bool):
    shape = [3, 24, 32] if first else [24, 32, 3]

    def cells(index: int, length: int) -> np.ndarray:
        frames = film(index, length)
        frames = frames.transpose(0, 3, 1, 2) if first else frames
        return frames if dtype == "uint8" else (frames / 255).astype(dtype)

    root = v21(tmp_path / "d", arm(**{FRONT: {"dtype": dtype, "shape": shape}}), {FRONT: cells})
    dataset = open_dataset(root)
    check_dataset(dataset)
    assert not dataset.frames_in_video
    assert dataset.left_out == {}
    assert any(FRONT in notice and dtype in notice for notice in dataset.notices)
    np.testing.assert_array_equal(frames_of(dataset, "front"), film(1, LENGTHS[1]))
    part = list(dataset.episode(0).frames("front", 4, 6))
    np.testing.assert_array_equal(np.stack(part), film(0, LENGTHS[0])[4:6])
    assert dataset.fingerprint == open_dataset(root).fingerprint


@pytest.mark.parametrize(
    ("key", "values", "why"),
    [
        ("observation.points", lambda f: f / 100 - 1, "its values go from -1"),
        (FRONT, lambda f: f / 127.5 - 1, "its values go from -1"),
        ("observation.distances", lambda f: f * 100, "its values go from 0"),
        ("observation.half", lambda f: f + 0.5, "fractions from 0 to 1 or whole numbers"),
        ("observation.holes", lambda f: np.where(f > 60, np.nan, f), "map of points"),
        ("observation.surface_normals", lambda f: f / 255, "by its name (surface_normals)"),
        ("observation.point_cloud", lambda f: f / 255, "by its name (point_cloud)"),
        ("observation.depth_rgb", lambda f: f / 255, "depth map"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_map_in_the_shape_of_frames_is_left_out_by_its_values_or_its_name(
    tmp_path: Path, key: str, values: Callable[[np.ndarray], np.ndarray], why: str, first: bool
):
    def cells(index: int, length: int) -> np.ndarray:
        numbers = values(film(index, length).astype("f4")).astype("f4")
        return numbers.transpose(0, 3, 1, 2) if first else numbers

    shape = [3, 24, 32] if first else [24, 32, 3]
    root = v21(tmp_path / "d", arm(**{key: {"dtype": "float32", "shape": shape}}), {key: cells})
    dataset = open_dataset(root)
    check_dataset(dataset)
    assert dataset.spec.cameras == ()
    assert why in dataset.left_out[key]
    assert dataset.unread_cameras == (key,)
    assert any(n.startswith(key) and why in n for n in dataset.notices)
    with pytest.raises(BadInput, match="see nothing"):
        seen_by_policy(dataset, no_cameras=False)
    with pytest.raises(BadInput, match=r"no camera|cannot be a camera"):
        open_dataset(root, ReadConfig(cameras=(key,)))


def test_float_frames_of_another_range_are_refused_with_episode_and_tick(tmp_path: Path):
    about = {"dtype": "float32", "shape": [24, 32, 3]}
    # The first episode has pictures, the others another range.
    cells = {FRONT: lambda i, n: film(i, n).astype("f4") / (127.5 if i else 255) - bool(i)}
    dataset = open_dataset(v21(tmp_path / "d", arm(**{FRONT: about}), cells))
    with pytest.raises(BadInput, match=r"front of episode 1 at tick 0 has values from -"):
        frames_of(dataset, "front")


@pytest.mark.parametrize("kind", ["image", "uint8"])
@pytest.mark.parametrize("shape", [[24, 32, 1], [1, 24, 32], [24, 32]])
def test_grey_frames_are_three_equal_channels(tmp_path: Path, kind: str, shape: list[int]):
    grey = film(1, LENGTHS[1])[..., 1]

    def cells(index: int, length: int) -> list[Any]:
        frames = film(index, length)[..., 1]
        if kind == "uint8":
            return [frame.reshape(shape) for frame in frames]
        return [png(frame[..., None].repeat(3, axis=2)) for frame in frames]

    root = v21(tmp_path / "d", arm(**{FRONT: {"dtype": kind, "shape": shape}}), {FRONT: cells})
    dataset = open_dataset(root)
    np.testing.assert_array_equal(frames_of(dataset, "front"), grey[..., None].repeat(3, axis=3))
    assert any(FRONT in notice for notice in dataset.notices)


def test_a_grey_video_is_three_equal_channels(tmp_path: Path):
    root = v21(tmp_path / "d", arm(**{FRONT: {"dtype": "video", "shape": [24, 32, 1]}}))
    frames = frames_of(open_dataset(root), "front")
    assert frames.shape == (LENGTHS[1], 24, 32, 3)
    assert (frames[..., :1] == frames).all()


@pytest.mark.parametrize(
    "about",
    [
        {"dtype": "video", "shape": [24, 32, 1], "info": {"video.is_depth_map": True}},
        {"dtype": "video", "shape": [24, 32, 1], "info": {"video.pix_fmt": "gray12le"}},
        {"dtype": "uint16", "shape": [24, 32]},
        {"dtype": "float32", "shape": [24, 32, 1]},
    ],
)
def test_depth_is_left_out_and_named_and_cannot_be_chosen(tmp_path: Path, about: dict[str, Any]):
    cells = {FRONT: lambda i, n: np.zeros((n, *about["shape"]), "f4")}
    root = v21(tmp_path / "d", arm(**{FRONT: about}), cells)
    dataset = open_dataset(root)
    assert dataset.spec.cameras == ()
    assert dataset.unread_cameras == (FRONT,)
    assert any(FRONT in n and "depth" in n for n in dataset.notices)
    assert FRONT in dataset.left_out
    with pytest.raises(BadInput, match=f"{FRONT} cannot be a camera: .*depth"):
        open_dataset(root, ReadConfig(cameras=(FRONT,)))


def test_a_grey_image_of_16_bits_is_refused_as_depth(tmp_path: Path):
    deep = bytearray(images.png(film(0, 1)[0]))
    deep[24] = 16
    about = {"dtype": "image", "shape": [24, 32, 1]}
    cells = {FRONT: lambda i, n: [{"bytes": bytes(deep), "path": None}] * n}
    dataset = open_dataset(v21(tmp_path / "d", arm(**{FRONT: about}), cells))
    with pytest.raises(BadInput, match="16 bits, as of a depth map"):
        frames_of(dataset, "front")


def test_frames_that_do_not_have_their_shape_are_damage(tmp_path: Path):
    about = {"dtype": "uint8", "shape": [24, 31, 3]}
    cells = {FRONT: lambda i, n: film(i, n)}
    dataset = open_dataset(v21(tmp_path / "d", arm(**{FRONT: about}), cells))
    with pytest.raises(BadInput, match="has 2304 values, expected 2232"):
        frames_of(dataset, "front")


def test_two_cameras_of_one_name_are_chosen_by_their_features(tmp_path: Path):
    about = {"dtype": "image", "shape": [24, 32, 3]}
    keys = (FRONT, "front")
    cells = {key: lambda i, n: [png(f) for f in film(i, n)] for key in keys}
    root = v21(tmp_path / "d", arm(**dict.fromkeys(keys, about)), cells)
    with pytest.raises(BadInput, match=r'both be called "front".*--read\.cameras'):
        open_dataset(root)
    info = json.loads((root / "meta/info.json").read_text())
    assert "front" in info["features"]
    dataset = open_dataset(root, ReadConfig(cameras=(FRONT,)))
    assert dataset.left_out == {"front": "not selected"}


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["lerobot", "aloha-hdf5"])
def test_a_copy_still_says_which_states_are_the_environments(
    tmp_path: Path, to: Literal["lerobot", "aloha-hdf5"]
):
    key = "observation.environment_state"
    source = open_dataset(
        v21(tmp_path / "d", arm(**numbers(key, 2))), ReadConfig(environment=(key,))
    )
    convert(source, tmp_path / "copy", to)
    copy = open_dataset(tmp_path / "copy")
    assert copy.spec.environment_names == source.spec.environment_names
    np.testing.assert_array_equal(copy.episode(1).state, source.episode(1).state)
    write_fixed(source, FixPlan((KeptTicks(0, 2, 9),), {}, source.lengths), tmp_path / "fixed")
    fixed = open_dataset(tmp_path / "fixed").spec
    assert fixed.environment_names == source.spec.environment_names


def test_frames_stored_as_numbers_are_copied_bit_for_bit(tmp_path: Path):
    about = {FRONT: {"dtype": "float32", "shape": [3, 24, 32]}}
    cells = {FRONT: lambda i, n: (film(i, n) / 255).astype("f4").transpose(0, 3, 1, 2)}
    source = open_dataset(v21(tmp_path / "d", arm(**about), cells))
    report = convert(source, tmp_path / "copy", "aloha-hdf5")
    assert report["frames"]["front"]["exact"]


# --- what lies there and is not described --------------------------------------------------------


def undescribe(root: Path, key: str) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"][key]
    (root / "meta/info.json").write_text(json.dumps(info))


VIDEO = {"dtype": "video", "shape": [24, 32, 3]}


@pytest.mark.parametrize("layout", ["v21", "v30", "images"])
def test_a_camera_whose_files_lie_there_and_info_json_does_not_describe_is_named(
    tmp_path: Path, layout: str
):
    key = "observation.images.side"
    if layout == "v30":
        root = Path(shutil.copytree(FIXTURES / "lerobot/v30", tmp_path / "d"))
        key = next(k for k in json.loads((root / "meta/info.json").read_text())["features"]
                   if k.startswith("observation.images."))  # fmt: skip
        undescribe(root, key)
    elif layout == "v21":
        root = v21(tmp_path / "d", arm(**{FRONT: VIDEO, key: VIDEO}))
        undescribe(root, key)
    else:
        root = v21(tmp_path / "d", arm())
        (root / f"images/{key}/episode_000000").mkdir(parents=True)
        (root / f"images/{key}/episode_000000/frame_000000.png").write_bytes(b"")
    dataset = open_dataset(root)
    assert "meta/info.json does not describe it, but" in dataset.left_out[key]
    assert any(notice.startswith(key) for notice in dataset.notices)
    assert key in dataset.unread_cameras


def test_a_dataset_whose_only_camera_is_not_described_trains_no_blind_policy(tmp_path: Path):
    root = v21(tmp_path / "d", arm(**{FRONT: VIDEO}))
    undescribe(root, FRONT)
    with pytest.raises(BadInput, match=r"see nothing: observation\.images\.front .*describe"):
        seen_by_policy(open_dataset(root), no_cameras=False)


def test_images_in_a_column_that_info_json_does_not_describe_count_as_a_camera(tmp_path: Path):
    about = {"dtype": "image", "shape": [24, 32, 3]}
    cells = {"look": lambda i, n: [png(f) for f in film(i, n)]}
    root = v21(tmp_path / "d", arm(look=about), cells)
    undescribe(root, "look")
    dataset = open_dataset(root)
    assert dataset.left_out == {"look": "meta/info.json does not describe it"}
    assert dataset.unread_cameras == ("look",)


def test_a_video_that_no_episode_has_is_named(tmp_path: Path):
    root = v21(tmp_path / "d", arm(**{FRONT: VIDEO}))
    folder = root / "videos/chunk-000" / FRONT
    shutil.copy(folder / "episode_000000.mp4", folder / "episode_000007.mp4")
    shutil.copy(folder / "episode_000000.mp4", folder / "._episode_000000.mp4")
    name = f"videos/chunk-000/{FRONT}/episode_000007.mp4"
    assert open_dataset(root).left_out == {name: "no episode has it"}
