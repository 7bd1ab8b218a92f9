"""LeRobotDataset v3.0: imitact reads datasets of LeRobot, and LeRobot those of imitact.

tests/fixtures/lerobot was made by LeRobot 0.6.1 (scripts/make_lerobot_fixtures.py);
scripts/parity_dataset.py checks the same live.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.layout import INFO
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.stats import PixelCounts
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.open import open_dataset
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.recording.recorder import record
from imitact.storage import atomic
from imitact.storage.checksum import with_checksum
from tests.support.dot_env import TWO_CAMERAS, DotEnv, dot_spec, make_dot_expert
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
BLOCK = 8
LOSSLESS = VideoConfig(codec="lossless")
SPEC = dot_spec(TWO_CAMERAS)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    return frame.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(1, 3))


def assert_reads_as_recorded(
    dataset: LeRobotDataset, reading: dict[str, Any], levels: float
) -> None:
    """Compare each tick with LeRobot's reading; frames within `levels` of 255 (decoders differ)."""
    assert dataset.spec.rate_hz == reading["fps"]
    assert len(dataset.lengths) == reading["total_episodes"]
    assert sum(dataset.lengths) == reading["total_frames"]
    cameras = [c.name for c in dataset.spec.cameras]
    assert [f"observation.images.{name}" for name in cameras] == reading["cameras"]
    rows = iter(reading["rows"])
    for index, length in enumerate(dataset.lengths):
        episode = dataset.episode(index)
        frames = {name: episode.frames(name) for name in cameras}
        for tick in range(length):
            row = next(rows)
            assert (row["episode_index"], row["frame_index"]) == (index, tick)
            assert row["task"] == episode.task
            assert episode.state[tick].tolist() == row["observation.state"]
            assert episode.action[tick].tolist() == row["action"]
            for name in cameras:
                seen = thumbnail(next(frames[name]))
                encoded = bytes.fromhex(row["frames"][f"observation.images.{name}"])
                want = np.frombuffer(encoded, "<u2").reshape(seen.shape) / 10
                assert np.abs(seen - want).max() < levels + 0.06, (index, tick, name)
    assert next(rows, None) is None


def load(name: str) -> dict[str, Any]:
    return json.loads((LEROBOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that scripts/make_lerobot_fixtures.py gave to LeRobot."""
    root = tmp_path_factory.mktemp("layout") / "ours"
    record(
        root,
        make_env=partial(DotEnv, TWO_CAMERAS, 12, rate_hz=20.0),
        make_expert=make_dot_expert,
        episodes=3,
        task="go to the mark",
        seeds=range(1000),
        workers=2,
        video=LOSSLESS,
        hold_ticks=2,
    )
    return root


@pytest.mark.parametrize("name", ["h264", "av1"])
def test_datasets_of_lerobot_are_read_as_lerobot_reads_them(name: str) -> None:
    dataset = open_dataset(LEROBOT / name)
    check_dataset(dataset)
    assert_reads_as_recorded(dataset, load(f"{name}.json"), levels=2)


def test_lerobot_read_what_imitact_wrote(ours: Path) -> None:
    reading = load("ours.json")
    dataset = open_dataset(ours)
    assert_reads_as_recorded(dataset, reading, levels=0)
    rows = pq.read_table(ours / "data/chunk-000/file-001.parquet").to_pydict()
    recorded = [row for row in reading["rows"] if row["episode_index"] == 1]
    for column in ("timestamp", "frame_index", "episode_index", "index"):
        assert rows[column] == [row[column] for row in recorded]


def test_files_and_columns_are_those_that_lerobot_accepted(ours: Path) -> None:
    reading = load("ours.json")
    files = sorted(p.relative_to(ours).as_posix() for p in ours.rglob("*") if p.is_file())
    assert files == reading["files"]
    for name, columns in reading["tables"].items():
        schema = pq.read_schema(ours / name)
        assert {f.name: str(f.type) for f in schema} == columns
    note = json.loads(pq.read_schema(ours / "meta/tasks.parquet").metadata[b"pandas"])
    assert note["index_columns"] == ["task"]  # without it LeRobot finds no task


def test_metadata_have_every_column_of_lerobots_own(ours: Path) -> None:
    theirs = pq.read_schema(LEROBOT / "h264/meta/episodes/chunk-000/file-000.parquet")
    mine = pq.read_schema(ours / "meta/episodes/chunk-000/file-000.parquet")
    assert set(theirs.names) == set(mine.names)
    assert {n: theirs.field(n).type for n in theirs.names} == {
        n: mine.field(n).type for n in theirs.names
    }
    info, own = read_info(LEROBOT / "h264"), read_info(ours)
    assert set(info) == set(own)
    assert list(own["features"]["observation.state"]) == ["dtype", "shape", "names"]


def read_info(root: Path) -> dict[str, Any]:
    return json.loads((root / INFO).read_text(encoding="utf-8"))


def test_statistics_have_lerobots_keys_and_shapes(ours: Path) -> None:
    theirs = json.loads((LEROBOT / "h264/meta/stats.json").read_text())
    mine = json.loads((ours / "meta/stats.json").read_text())
    assert set(theirs) == set(mine)
    for feature in mine:
        assert set(mine[feature]) == set(theirs[feature])
    top = mine["observation.images.top"]
    assert np.shape(top["mean"]) == np.shape(top["q01"]) == (3, 1, 1)
    assert 0 <= np.min(top["min"]) <= np.max(top["max"]) <= 1


def test_statistics_are_those_of_all_ticks(ours: Path) -> None:
    dataset = open_dataset(ours)
    stats = json.loads((ours / "meta/stats.json").read_text())
    for feature in ("state", "action"):
        rows = np.concatenate([getattr(dataset.episode(i), feature) for i in range(3)])
        of = stats[feature if feature == "action" else f"observation.{feature}"]
        for name in ("min", "max", "mean", "std"):
            want = getattr(rows.astype(np.float64), name)(axis=0)
            np.testing.assert_allclose(of[name], want, rtol=1e-12)
        assert of["count"] == [36]
    frames = np.concatenate([np.stack(list(dataset.episode(i).frames("wrist"))) for i in range(3)])
    wrist = stats["observation.images.wrist"]
    np.testing.assert_allclose(np.ravel(wrist["mean"]), frames.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(np.ravel(wrist["std"]), frames.std((0, 1, 2)) / 255, rtol=1e-9)


BIN = 1 / 5000
"""Bin of the histogram from which LeRobot reads quantiles, in parts of the range
(RunningQuantileStats)."""


def test_statistics_are_those_that_lerobot_computes(ours: Path) -> None:
    """Recorded from LeRobot's own functions (scripts/parity_dataset.py: lerobots_stats). It sums
    pixels and their squares in single precision, which leaves four digits."""
    theirs, mine = load("ours.json")["stats"], json.loads((ours / "meta/stats.json").read_text())
    dataset = open_dataset(ours)
    assert len(theirs) == 4
    for feature, statistics in theirs.items():
        is_camera = "images" in feature
        for name, value in statistics.items():
            difference = np.abs(np.array(mine[feature][name]) - np.array(value))
            if not name.startswith("q"):
                assert np.all(difference <= (1e-4 if is_camera else 1e-6)), (feature, name)
            elif is_camera:
                assert np.all(difference <= BIN + 1e-9), (feature, name)
            else:  # where two ticks are neighbours, it may take the one or the other
                rows = [getattr(dataset.episode(i), feature.rpartition(".")[2]) for i in range(3)]
                gaps = np.mean([widest_gap(r, int(name[1:]) / 100) for r in rows], axis=0)
                assert np.all(difference <= gaps + 1e-9), (feature, name)


def widest_gap(rows: np.ndarray, q: float) -> np.ndarray:
    """Return the distance between the ticks around a quantile, plus one bin."""
    ordered = np.sort(rows.astype(np.float64), axis=0)
    at = q * (len(rows) - 1)
    low, high = max(int(at) - 1, 0), min(int(at) + 2, len(rows) - 1)
    return ordered[high] - ordered[low] + BIN * (ordered[-1] - ordered[0])


# --- reading datasets of LeRobot ---------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEROBOT / "h264", tmp_path / "theirs"))


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = read_info(root)
    change(info)
    (root / INFO).write_text(json.dumps(info), encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["a", "b", "c"], ("a", "b", "c")),
        ({"motors": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"left": ["a", "b"], "right": ["c"]}, ("a", "b", "c")),
        ({"a": 0, "b": 1, "c": 2}, ("a", "b", "c")),
        ([["a", "b", "c"]], ("a", "b", "c")),
        (None, ("state_0", "state_1", "state_2")),
        (["a", "b"], ("state_0", "state_1", "state_2")),
        (["a", "a", "b"], ("a", "a_1", "b")),
    ],
)
def test_names_may_be_nested(theirs: Path, names: Any, want: tuple[str, ...]) -> None:
    edit_info(theirs, lambda i: i["features"]["observation.state"].update(names=names))
    assert open_dataset(theirs).spec.state_names == want


def test_units_that_are_not_stored_are_unknown() -> None:
    spec = open_dataset(LEROBOT / "h264").spec
    assert set(spec.state_units) == set(spec.action_units) == {"unknown"}


def test_recorded_units_are_read_back(ours: Path) -> None:
    assert open_dataset(ours).spec.state_units == ("m", "m")


def test_cameras_keep_the_order_of_the_dataset(theirs: Path) -> None:
    def turn(info: dict[str, Any]) -> None:
        info["features"] = dict(reversed(info["features"].items()))

    edit_info(theirs, turn)
    assert [c.name for c in open_dataset(theirs).spec.cameras] == ["wrist", "top"]


def test_frame_sizes_may_have_the_channels_first(theirs: Path) -> None:
    def turn(info: dict[str, Any]) -> None:
        top = info["features"]["observation.images.top"]
        top.update(shape=[3, 48, 64], names=["channels", "height", "width"])

    edit_info(theirs, turn)
    dataset = open_dataset(theirs)
    assert (dataset.spec.camera("top").height, dataset.spec.camera("top").width) == (48, 64)
    check_dataset(dataset)


def test_ticks_may_be_in_any_order_in_their_file(theirs: Path) -> None:
    before = open_dataset(theirs).episode(1).state
    file = theirs / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), file)
    assert np.array_equal(open_dataset(theirs).episode(1).state, before)


def test_a_range_of_ticks_gives_their_frames() -> None:
    episode = open_dataset(LEROBOT / "h264").episode(1)
    whole = list(episode.frames("top"))
    assert len(whole) == 8
    assert np.array_equal(list(episode.frames("top", 3, 6)), whole[3:6])
    assert np.array_equal(list(episode.frames("top", 7)), whole[7:])
    assert list(episode.frames("top", 4, 4)) == []
    for start, stop in ((0, 9), (-1, 3), (5, 4)):
        with pytest.raises(BadInput, match="do not exist; it has 8"):
            episode.frames("top", start, stop)


def test_an_unknown_camera_or_episode_is_refused_by_name() -> None:
    dataset = open_dataset(LEROBOT / "h264")
    with pytest.raises(SpecMismatch, match=r"no camera left; there are top, wrist"):
        dataset.episode(0).frames("left")
    with pytest.raises(BadInput, match="no episode 3 in"):
        dataset.episode(3)


def test_an_unreadable_dataset_is_refused_with_the_cause(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"there is no meta/info\.json"):
        open_dataset(tmp_path / "empty")
    for change, message in (
        (lambda i: i.update(total_episodes=0), "holds no episode"),
        (lambda i: i.update(codebase_version="v1.6"), "layout v1.6, imitact reads v2.0, v2.1 and"),
        (
            lambda i: i["features"]["observation.images.top"].update(dtype="image"),
            r"file-000\.parquet lacks the columns observation\.images\.top; it has",
        ),
        (
            lambda i: i["features"]["observation.images.top"].update(shape=[48, 64, 4]),
            r"observation\.images\.top has shape \[48, 64, 4\]; imitact reads RGB frames",
        ),
        (
            lambda i: i["features"].pop("observation.state"),
            r"no observation\.state: name .*--read\.state",
        ),
        (lambda i: i.update(total_frames=20), "counts 20 ticks, its episodes 19"),
        (lambda i: i.update(total_episodes=4), "the first that is missing is 3"),
        (lambda i: i.pop("fps"), 'lacks "fps"'),
        (lambda i: i.update(fps=None), '"fps" is of type NoneType, expected float'),
        (lambda i: i.update(total_episodes="3"), '"total_episodes" is of type str, expected int'),
        (lambda i: i.update(features=None), '"features" is of type NoneType, expected dict'),
        (lambda i: i["features"].update(action=None), r"info\.json does not follow"),
        (lambda i: i["features"]["action"].update(shape=[None]), r"info\.json does not follow"),
        (lambda i: i.update(data_path="data/{what}"), r"info\.json does not follow"),
    ):
        shutil.copy(LEROBOT / "h264" / INFO, theirs / INFO)
        edit_info(theirs, change)
        with pytest.raises(BadInput, match=message):
            open_dataset(theirs)


def test_two_features_with_one_camera_name_are_refused_by_name(theirs: Path) -> None:
    def add(info: dict[str, Any]) -> None:
        info["features"]["observation.top"] = info["features"]["observation.images.top"]

    edit_info(theirs, add)
    with pytest.raises(BadInput, match=r"observation\.images\.top and observation\.top would"):
        open_dataset(theirs)


@pytest.mark.parametrize(
    "change", [{"episodes": None}, {"settings": None}, {"settings": {"units": {"state": None}}}]
)
def test_recorded_facts_of_another_shape_are_damage(
    ours: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    file = copy / "meta/imitact.json"
    file.write_text(json.dumps(with_checksum({**json.loads(file.read_text()), **change})))
    with pytest.raises(DamagedFile, match=r"imitact\.json does not follow its layout"):
        open_dataset(copy)


NEEDED = (
    "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet",
    "videos/observation.images.top/chunk-000/file-000.mp4",
    "videos/observation.images.wrist/chunk-000/file-000.mp4",
)


@pytest.mark.parametrize("name", NEEDED)
def test_opening_names_a_missing_or_truncated_file(theirs: Path, name: str) -> None:
    file = theirs / name
    data = file.read_bytes()
    for end in (0, 5, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:end])
        with pytest.raises(DamagedFile, match=file.name):
            open_dataset(theirs)
    file.unlink()
    with pytest.raises(DamagedFile, match="missing"):
        open_dataset(theirs)


def test_missing_rows_are_detected(theirs: Path) -> None:
    file = theirs / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, len(table) - 1), file)
    with pytest.raises(DamagedFile, match="holds 18 ticks, its episodes 19"):
        open_dataset(theirs)
    indices = table["frame_index"].to_numpy().copy()
    indices[6] = 7
    pq.write_table(table.set_column(3, "frame_index", [indices]), file)
    with pytest.raises(DamagedFile, match="ticks of episode 1"):
        _ = open_dataset(theirs).episode(1).state


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_opening_and_reading_write_nothing(ours: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in ours.rglob("*")}
    dataset = open_dataset(ours)
    check_dataset(dataset)
    _ = dataset.fingerprint
    assert {p: p.stat().st_mtime_ns for p in ours.rglob("*")} == before


def test_a_copy_has_the_same_fingerprint_and_a_changed_one_another(
    ours: Path, tmp_path: Path
) -> None:
    print_ = open_dataset(ours).fingerprint
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    assert open_dataset(copy).fingerprint == print_
    shutil.rmtree(copy / "meta/imitact")  # the checksums would refuse another dataset
    assert open_dataset(copy).fingerprint == print_
    video = copy / "videos/observation.images.top/chunk-000/file-001.mp4"
    kept = video.read_bytes()
    video.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert open_dataset(copy).fingerprint != print_
    video.write_bytes(kept)
    assert open_dataset(copy).fingerprint == print_
    data = copy / "data/chunk-000/file-002.parquet"
    table = pq.read_table(data)
    actions = table["action"].to_pylist()
    actions[3][1] += 1e-6
    column = pa.array(actions, table.schema.field("action").type)
    pq.write_table(table.set_column(1, table.schema.field(1), column), data)
    assert open_dataset(copy).fingerprint != print_


# --- writing, and being killed while writing ---------------------------------------------------


def put_episode(writer: LeRobotWriter, seed: int, staging: Path) -> None:
    """Append a small episode that depends on the seed alone."""
    rng = np.random.default_rng(seed)
    staging.mkdir(exist_ok=True)
    videos, pixels = {}, {}
    for camera in SPEC.cameras:
        counts = PixelCounts()
        path = staging / f"{camera.name}.mp4"
        with VideoWriter(path, camera.height, camera.width, SPEC.rate_hz, LOSSLESS) as video:
            for _ in range(4):
                frame = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
                video.add(frame)
                counts.add(frame)
        videos[camera.name], pixels[camera.name] = path, counts.result()
    rows = rng.normal(size=(2, 4, 2)).astype(np.float32)
    writer.append(rows[0], rows[1], videos, pixels, {"format": 1, "seeds": list(range(seed + 1))})


def open_writer(out: Path) -> LeRobotWriter:
    staging = out.parent / "staging"
    staging.mkdir(exist_ok=True)
    return LeRobotWriter(out, SPEC, task="t", video=LOSSLESS, staging=staging)


class PowerCut(BaseException):
    """Ends the process, for the code under test."""


@pytest.fixture
def renames(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count renames into place, and cut the power before the one numbered `cut`."""
    state = {"count": 0, "cut": -1}
    replace = os.replace

    def counted(old: Any, new: Any) -> None:
        if state["count"] == state["cut"]:
            raise PowerCut
        state["count"] += 1
        replace(old, new)

    monkeypatch.setattr(atomic.os, "replace", counted)
    return state


def test_a_power_cut_before_any_rename_loses_only_the_unfinished_episode(
    tmp_path: Path, renames: dict[str, int]
) -> None:
    staging = tmp_path / "staging"
    want = tmp_path / "want"
    writer = open_writer(want)
    put_episode(writer, 0, staging)
    first = renames["count"]
    put_episode(writer, 1, staging)
    per_episode = renames["count"] - first
    # Two videos, data, checksums, statistics, imitact.json, metadata, info.json.
    assert per_episode == 8
    put_episode(writer, 2, staging)
    assert renames["count"] == first + 2 * per_episode  # as expensive as the one before
    for step in range(per_episode):
        out = tmp_path / f"cut-{step}"
        renames.update(count=0, cut=-1)
        writer = open_writer(out)
        put_episode(writer, 0, staging)
        put_episode(writer, 1, staging)
        renames["cut"] = renames["count"] + step
        with pytest.raises(PowerCut):
            put_episode(writer, 2, staging)
        assert read_info(out)["total_episodes"] == 2
        # Parts of LeRobot count these; only the cut between the last two renames shows one more.
        assert len(list(out.glob("meta/episodes/*/*"))) == (3 if step == per_episode - 1 else 2)
        dataset = open_dataset(out)
        check_dataset(dataset)
        assert dataset.fingerprint == fingerprint_of_first(want, 2)
        renames["cut"] = -1
        again = open_writer(out)
        assert again.episodes == 2
        assert not list(out.rglob("file-002.*"))  # the tail is gone
        put_episode(again, 2, staging)
        assert tree(out) == tree(want)


def fingerprint_of_first(root: Path, episodes: int) -> str:
    """Return the fingerprint of the dataset when it had that many episodes."""
    copy = root.parent / f"{root.name}-{episodes}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    frames = 4 * episodes
    shutil.rmtree(copy / "meta/imitact")  # the checksums would refuse another count
    edit_info(copy, lambda i: i.update(total_episodes=episodes, total_frames=frames))
    return open_dataset(copy).fingerprint


def test_appending_changes_no_finished_episode(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "out")
    put_episode(writer, 0, tmp_path / "staging")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("file-000.*")}
    assert len(before) == 5
    put_episode(writer, 1, tmp_path / "staging")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in before} == before


def test_a_full_chunk_is_followed_by_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imitact.datasets.lerobot.layout.FILES_PER_CHUNK", 2)
    writer = open_writer(tmp_path / "out")
    for seed in range(3):
        put_episode(writer, seed, tmp_path / "staging")
    assert (tmp_path / "out/data/chunk-001/file-000.parquet").is_file()
    dataset = open_dataset(tmp_path / "out")
    check_dataset(dataset)
    assert len(dataset.lengths) == 3
    assert open_writer(tmp_path / "out").episodes == 3
    assert len(open_dataset(tmp_path / "out").lengths) == 3


def test_a_camera_name_that_lerobot_does_not_allow_is_refused(tmp_path: Path) -> None:
    spec = dot_spec((("top/left", 24, 32),))
    with pytest.raises(BadInput, match='allows no "/"'):
        LeRobotWriter(tmp_path / "o", spec, task="t", video=LOSSLESS, staging=tmp_path)


def test_an_episode_of_another_size_is_refused(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "out")
    with pytest.raises(SpecMismatch, match=r"expected \(4, 2\) and \(4, 2\)"):
        writer.append(np.zeros((4, 3)), np.zeros((4, 2)), {}, {}, {})
