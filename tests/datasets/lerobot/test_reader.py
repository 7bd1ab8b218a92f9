"""LeRobot datasets of several versions and converters, whole and damaged.

tests/fixtures/lerobot/v21 was written by LeRobot 0.3.3, v30 and converted by 0.4.4
(scripts/make_old_lerobot_fixtures.py), depth by 0.6.1 (scripts/make_lerobot_fixtures.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.validate import check_dataset
from imitact.datasets import images
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import INFO, TASKS, version_of
from imitact.datasets.lerobot.parquet import read_cells
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.reader_v21 import LeRobotV21Dataset, open_lerobot
from imitact.datasets.lerobot.stats import merge_all_stats, row_stats
from imitact.quality.dataset_check import open_damaged
from imitact.quality.fix import plan_fix, write_fixed
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
BLOCK = 8
WRIST = "observation.images.wrist"
V21_DATA = "data/chunk-000/episode_000001.parquet"
V21_VIDEO = "videos/chunk-000/observation.images.top/episode_000001.mp4"


def thumbnail(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    return frame.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(1, 3))


def load(name: str) -> dict[str, Any]:
    return json.loads((LEROBOT / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of v21 that may be damaged."""
    return Path(shutil.copytree(LEROBOT / "v21", tmp_path / "old"))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A copy of v30 that may be damaged."""
    return Path(shutil.copytree(LEROBOT / "v30", tmp_path / "new"))


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((root / INFO).read_text(encoding="utf-8"))
    change(info)
    (root / INFO).write_text(json.dumps(info), encoding="utf-8")


def edit_table(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


# --- datasets of each LeRobot version -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "writer", "layout"),
    [("v21", "0.3.3", "v2.1"), ("v30", "0.4.4", "v3.0"), ("converted", "0.4.4", "v3.0")],
)
def test_each_version_is_read_as_lerobot_reads_it(name: str, writer: str, layout: str) -> None:
    reading = load(name)
    assert (reading["lerobot"], version_of(LEROBOT / name)) == (writer, layout)
    dataset = open_lerobot(LEROBOT / name)
    check_dataset(dataset)
    assert dataset.spec.rate_hz == reading["fps"]
    assert sum(dataset.lengths) == reading["total_frames"]
    assert [s.key for s in dataset.stored.values()] == reading["cameras"]
    rows = iter(reading["rows"])
    for index, length in enumerate(dataset.lengths):
        episode = dataset.episode(index)
        frames = {name: list(episode.frames(name)) for name in dataset.stored}
        for tick in range(length):
            row = next(rows)
            assert (row["episode_index"], row["frame_index"]) == (index, tick)
            assert tick > 0 or episode.task == row["task"]
            assert episode.state[tick].tolist() == np.float32(row["observation.state"]).tolist()
            assert episode.action[tick].tolist() == row["action"]
            assert episode.times_s[tick] == row["timestamp"]
            for camera, stored in dataset.stored.items():
                seen = thumbnail(frames[camera][tick])
                expected_bytes = bytes.fromhex(row["frames"][stored.key])
                want = np.frombuffer(expected_bytes, np.uint8).reshape(seen.shape)
                limit = 0.51 if stored.as_images else 2.5  # decoders may differ
                assert np.abs(seen - want).max() < limit, (index, tick, camera)
    assert next(rows, None) is None


def test_the_same_demonstrations_are_equal_in_every_version() -> None:
    v21, v30, converted = (open_lerobot(LEROBOT / n) for n in ("v21", "v30", "converted"))
    assert isinstance(v21, LeRobotV21Dataset)
    assert not isinstance(v30, LeRobotV21Dataset)
    for other in (v30, converted):
        assert other.lengths == v21.lengths == (5, 4, 6)
        for index in range(3):
            ours, theirs = v21.episode(index), other.episode(index)
            assert np.array_equal(ours.state, theirs.state)
            assert np.array_equal(ours.action, theirs.action)
            assert np.array_equal(list(ours.frames("wrist")), list(theirs.frames("wrist")))
    assert v21.spec.state_names == v30.spec.state_names == ("waist", "elbow", "gripper")
    assert v21.spec.action_names == ("action_0", "action_1")
    assert v30.spec.action_names == ("left", "right")


def test_the_fixtures_cover_the_storage_variants() -> None:
    """Several files, shared and not; columns as fixed lists, lists and images; float64."""
    v30 = LeRobotDataset(LEROBOT / "v30")
    assert len({v30.episode(i)._files.data for i in range(3)}) == 3
    starts = [v30.episode(i)._files.videos["top"] for i in range(3)]
    assert len({video for video, _ in starts}) == 2
    assert max(from_s for _, from_s in starts) > 0
    kinds = {
        name: str(pq.read_schema(file).field("observation.state").type)
        for name in ("v21", "v30", "converted")
        for file in sorted((LEROBOT / name / "data").rglob("*.parquet"))[:1]
    }
    assert "fixed_size_list" in kinds["v21"]
    assert kinds["converted"].startswith("list<")
    assert all("double" in kind for kind in kinds.values())


def test_the_task_of_an_episode_is_that_of_its_first_tick(old: Path, new: Path) -> None:
    for root in (old, new):
        dataset = open_lerobot(root)
        assert dataset.task_texts == {0: "task 0", 1: "task 1", 2: "tidy up"}
        assert [dataset.episode(i).task for i in range(3)] == ["task 0", "task 1", "task 0"]
    episodes = (old / "meta/episodes.jsonl").read_text().splitlines()
    episodes[2] = episodes[2].replace('["task 0", "tidy up"]', '["tidy up", "task 0"]')
    (old / "meta/episodes.jsonl").write_text("\n".join(episodes))
    assert open_lerobot(old).episode(2).task == "task 0"  # independent of the order of the list


def test_other_columns_are_read_in_the_order_of_ticks(new: Path, old: Path) -> None:
    edit_table(new / "data/chunk-000/file-001.parquet", lambda table: table.take([3, 0, 2, 1]))
    for root in (new, old):
        episode = open_lerobot(root).episode(1)
        table = episode.columns(["next.reward", "next.done"])
        assert table.to_pydict() == {
            "next.reward": [0.0, 1.0, 2.0, 3.0],
            "next.done": [False, False, False, True],
        }
        with pytest.raises(DamagedFile, match=r"lacks the columns nothing;"):
            episode.columns(["nothing"])


def test_depth_is_left_out_with_a_notice_and_the_rest_is_read(tmp_path: Path) -> None:
    dataset = open_lerobot(LEROBOT / "depth")
    check_dataset(dataset)
    assert [c.name for c in dataset.spec.cameras] == ["top"]
    (notice,) = dataset.notices
    assert "observation.images.depth is left out: it is a depth map" in notice
    _, found = open_damaged(LEROBOT / "depth")
    assert [(f.kind, f.severity) for f in found] == [("left-out", "note")]
    assert open_lerobot(LEROBOT / "h264").notices == ()
    copy = Path(shutil.copytree(LEROBOT / "depth", tmp_path / "depth"))
    depth = "observation.images.depth"
    for info in ({"video.is_depth_map": True}, None):  # before 0.6; by its one channel
        edit_info(copy, lambda i, info=info: i["features"][depth].update(info=info))
        assert len(open_lerobot(copy).notices) == 1


# --- variations that are allowed ----------------------------------------------------------------


def test_optional_metadata_may_be_missing(new: Path, old: Path) -> None:
    want = {root: [open_lerobot(root).episode(i).state for i in range(3)] for root in (new, old)}
    optional = ("robot_type", "splits", "chunks_size", "data_path", "video_path", "total_tasks")

    def drop(info: dict[str, Any]) -> None:
        for key in optional:
            info.pop(key, None)
        for feature in info["features"].values():
            feature.pop("names", None)
            feature.pop("info", None)

    for root in (new, old):
        edit_info(root, drop)
        for name in (TASKS, "meta/tasks.jsonl", "meta/stats.json", "meta/episodes_stats.jsonl"):
            (root / name).unlink(missing_ok=True)
        dataset = open_lerobot(root)
        check_dataset(dataset)
        assert dataset.spec.state_names == ("state_0", "state_1", "state_2")
        for index in range(3):
            assert np.array_equal(dataset.episode(index).state, want[root][index])
    edit_table(
        new / "meta/episodes/chunk-000/file-000.parquet",
        lambda table: table.drop_columns(["tasks", *(n for n in table.column_names if "/" in n
                                                     and n.startswith("stats"))]),
    )  # fmt: skip
    assert open_lerobot(new).episode(0).task == ""


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 2)],
    ids=str,
)
def test_vectors_may_be_stored_in_any_list_type(new: Path, kind: pa.DataType) -> None:
    file = new / "data/chunk-000/file-001.parquet"
    want = open_lerobot(new).episode(1).action
    rows = pq.read_table(file)["action"].to_pylist()
    edit_table(file, lambda t: with_column(t, "action", pa.array(rows, kind)))
    assert np.array_equal(open_lerobot(new).episode(1).action, want)


def test_integers_and_booleans_are_numbers_too(new: Path) -> None:
    file = new / "data/chunk-000/file-001.parquet"
    for kind, value in ((pa.int32(), 3), (pa.bool_(), True), (pa.float16(), np.float16(1.5))):
        column = pa.array([[value, value]] * 4, pa.list_(kind))
        edit_table(file, lambda t, column=column: with_column(t, "action", column))
        assert np.all(open_lerobot(new).episode(1).action == float(value))


def test_a_number_too_large_for_float32_becomes_infinite(new: Path) -> None:
    file = new / "data/chunk-000/file-001.parquet"
    column = pa.array([[1e300, 0.0, 0.0]] * 4, pa.list_(pa.float64()))
    edit_table(file, lambda table: with_column(table, "observation.state", column))
    assert np.isinf(open_lerobot(new).episode(1).state[:, 0]).all()


def test_images_may_be_in_any_order_in_their_file(new: Path) -> None:
    file = new / "data/chunk-000/file-002.parquet"
    before = list(open_lerobot(new).episode(2).frames("wrist"))
    order = np.array([5, 2, 0, 4, 1, 3])
    edit_table(file, lambda table: table.take(order))
    episode = open_lerobot(new).episode(2)
    assert np.array_equal(list(episode.frames("wrist")), before)
    assert np.array_equal(list(episode.frames("wrist", 2, 5)), before[2:5])
    pq.write_table(pq.read_table(file), file, row_group_size=1)
    assert np.array_equal(list(open_lerobot(new).episode(2).frames("wrist", 1)), before[1:])


def test_stored_images_are_decoded_bit_for_bit() -> None:
    """The frames of scripts/make_old_lerobot_fixtures.py; PNG is lossless."""
    frames = list(open_lerobot(LEROBOT / "v30").episode(1).frames("wrist"))
    rows = np.linspace(20, 120, 32)[:, None, None]
    columns = np.linspace(0, 80, 40)[None, :, None]
    for tick, frame in enumerate(frames):
        want = (rows + columns + 15.0 * np.arange(3)).astype(np.uint8)
        want[4:16, 4 * tick : 4 * tick + 12] = (230, 60, 30)
        assert np.array_equal(frame, want)


def test_an_image_is_read_whatever_bytes_follow_it(new: Path) -> None:
    """As every earlier version did; some cameras append their own data to a JPEG."""
    file = new / "data/chunk-000/file-001.parquet"
    frames = list(open_lerobot(new).episode(1).frames("wrist"))

    def change(table: pa.Table) -> pa.Table:
        cells = table[WRIST].to_pylist()
        cells[0]["bytes"] += b"\0camera 3\n"
        cells[1]["bytes"] = images.jpeg(frames[1]) + b"\0camera 3\n"
        return with_column(table, WRIST, pa.array(cells, table.schema.field(WRIST).type))

    edit_table(file, change)
    read = list(open_lerobot(new).episode(1).frames("wrist"))
    assert np.array_equal(read[0], frames[0])
    assert np.array_equal(read[1], images.decode(images.jpeg(frames[1]), frames[1].shape[:2]))
    assert np.array_equal(read[2:], frames[2:])


def test_only_one_page_of_images_is_in_memory(tmp_path: Path) -> None:
    """48 MB here, in pages of 2.4 MB (LeRobot's hold an episode)."""
    count, size = 400, 120_000
    rng = np.random.default_rng(0)
    cells = [{"bytes": rng.bytes(size), "path": None} for _ in range(count)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    file = tmp_path / "data.parquet"
    pq.write_table(pa.table({"a.b": pa.array(cells, kind)}), file, row_group_size=20)
    want = [cell["bytes"][:9] for cell in cells]
    del cells
    pool = pa.default_memory_pool()
    before, most, seen = pool.bytes_allocated(), 0, []
    for cell in read_cells(file, "a.b", range(count), DatasetChecksums(tmp_path)):
        seen.append(cell["bytes"][:9])
        most = max(most, pool.bytes_allocated() - before)
    assert seen == want
    assert most < 12_000_000


def test_the_fingerprint_covers_stored_images(new: Path) -> None:
    before = open_lerobot(new).fingerprint
    file = new / "data/chunk-000/file-001.parquet"

    def change(table: pa.Table) -> pa.Table:
        cells = table[WRIST].to_pylist()
        cells[0], cells[1] = cells[1], cells[0]
        return with_column(table, WRIST, pa.array(cells, table.schema.field(WRIST).type))

    edit_table(file, change)
    assert open_lerobot(new).fingerprint != before


def test_an_unusable_description_affects_only_its_episode(new: Path) -> None:
    """A batch of videos that was never encoded leaves a null instead of a number."""
    key = "videos/observation.images.top/file_index"
    file = new / "meta/episodes/chunk-000/file-000.parquet"
    edit_table(file, lambda t: with_column(t, key, pa.array([0, None, 1], pa.int64())))
    with pytest.raises(DamagedFile, match=r"file-000\.parquet does not follow its layout"):
        open_lerobot(new)
    dataset, found = open_damaged(new)
    assert dataset is not None
    assert [(f.kind, f.episode) for f in found] == [("damaged-file", 1)]
    assert dataset.lengths == (5, 0, 6)


def test_damaged_column_metadata_raise_an_error_and_do_not_hang(tmp_path: Path) -> None:
    root = Path(shutil.copytree(LEROBOT / "converted", tmp_path / "converted"))
    file = root / "data/chunk-000/file-000.parquet"
    data = bytearray(file.read_bytes())
    data[8006] ^= 0x40  # in the footer: length of a histogram in the size statistics of a column
    file.write_bytes(data)
    with pytest.raises(DamagedFile, match=r"file-000\.parquet cannot be read: .*histogram"):
        _ = open_lerobot(root).episode(0).state


def test_a_path_template_with_too_long_a_name_is_refused(new: Path) -> None:
    info = json.loads((new / INFO).read_text())
    info["data_path"] = "data/" + "9" * 256 + "-{chunk_index}-{file_index}.parquet"
    (new / INFO).write_text(json.dumps(info))
    with pytest.raises(DamagedFile, match=r"data_path makes names longer than a file can have"):
        open_lerobot(new)


# --- v2.1: errors that name file and field ------------------------------------------------------


def test_opening_v21_names_a_missing_or_truncated_file(old: Path) -> None:
    for name in (V21_DATA, V21_VIDEO, "meta/episodes.jsonl"):
        file = old / name
        data = file.read_bytes()
        for end in (5, len(data) // 2, len(data) - 2):
            file.write_bytes(data[:end])
            with pytest.raises(DamagedFile, match=r"episode_?s?"):
                open_lerobot(old)
        file.unlink()
        with pytest.raises(DamagedFile, match=rf"{file.name} is missing"):
            open_lerobot(old)
        file.write_bytes(data)
    check_dataset(open_lerobot(old))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nul", r"episodes\.jsonl, line 2 is not JSON"),
        ("[1]", r"episodes\.jsonl, line 2 holds list, expected an object"),
        ('{"tasks": []}', r"episodes\.jsonl, line 2 does not follow .*'episode_index'"),
        ('{"episode_index": 1, "tasks": ["a"]}', r"line 2 does not follow .*'length'"),
        ('{"episode_index": 1, "length": 0}', "line 2 .*an episode of 0 ticks"),
        ('{"episode_index": 1, "length": "x"}', "line 2 does not follow"),
        ("", r"describes 2 of 3 episodes; the first that is missing is 1"),
        ('{"episode_index": 1, "length": 5}', r"info\.json counts 15 ticks, its episodes 16"),
    ],
)
def test_a_wrong_line_of_v21_is_reported_by_number(old: Path, line: str, message: str) -> None:
    file = old / "meta/episodes.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = line
    file.write_text("\n".join(lines))
    with pytest.raises(DamagedFile, match=message):
        open_lerobot(old)


def test_a_damaged_episode_of_v21_leaves_the_others_readable(old: Path) -> None:
    (old / V21_DATA).unlink()
    dataset, found = open_damaged(old)
    assert dataset is not None
    assert [(f.kind, f.episode) for f in found] == [("damaged-file", 1)]
    assert "episode_000001.parquet is missing" in found[0].what
    assert len(dataset.episode(2).state) == 6
    lines = (old / "meta/episodes.jsonl").read_text().splitlines()
    lines[1] = '{"episode_index": 1, "length": -4}'
    (old / "meta/episodes.jsonl").write_text("\n".join(lines))
    dataset, found = open_damaged(old)
    assert {f.episode for f in found} == {1}


def test_v20_is_read_and_other_versions_are_refused_by_name(old: Path) -> None:
    edit_info(old, lambda i: i.update(codebase_version="v2.0"))
    check_dataset(open_lerobot(old))
    for version in ("v1.6", "v4.0", None):
        edit_info(old, lambda i, version=version: i.update(codebase_version=version))
        with pytest.raises(BadInput, match=rf"layout {version}, imitact reads v2\.0, v2\.1 and"):
            open_lerobot(old)
    assert version_of(old.parent) == ""


def test_files_of_v21_are_where_info_json_places_them(old: Path) -> None:
    """A thousand files per chunk is the default, not a rule."""
    for name in (V21_DATA, V21_VIDEO):
        there = old / name.replace("chunk-000", "chunk-001")
        there.parent.mkdir(parents=True)
        shutil.move(old / name, there)
    for folder in ("data", "videos"):
        for file in sorted((old / folder).rglob("*episode_000002*")):
            there = Path(str(file).replace("chunk-000", "chunk-002"))
            there.parent.mkdir(parents=True)
            shutil.move(file, there)
    with pytest.raises(DamagedFile, match="missing"):
        open_lerobot(old)
    edit_info(old, lambda i: i.update(chunks_size=1))
    check_dataset(open_lerobot(old))


def test_a_missing_image_is_reported_by_file_episode_and_tick(new: Path) -> None:
    file = new / "data/chunk-000/file-001.parquet"
    cells = pq.read_table(file)[WRIST].to_pylist()
    cells[2] = {"bytes": None, "path": "frame-000002.png"}
    kind = pq.read_schema(file).field(WRIST).type
    edit_table(file, lambda table: with_column(table, WRIST, pa.array(cells, kind)))
    episode = open_lerobot(new).episode(1)
    assert len(list(episode.frames("wrist", 0, 2))) == 2
    message = rf"file-001\.parquet: {WRIST} of episode 1 at tick 2 holds only .*000002\.png"
    with pytest.raises(DamagedFile, match=message):
        list(episode.frames("wrist", 1))


# --- copies and statistics ----------------------------------------------------------------------


def test_a_fixed_copy_of_v21_is_v30_with_images_kept_bit_for_bit(old: Path, tmp_path: Path) -> None:
    for name in ("meta/episodes.jsonl", "meta/tasks.jsonl"):
        text = (old / name).read_text()
        for words in ('["task 1"]', '["task 0", "tidy up"]'):
            text = text.replace(words, '["task 0"]')
        (old / name).write_text(text)
    dataset = open_lerobot(old)
    write_fixed(dataset, plan_fix(dataset.lengths, []), tmp_path / "copy")
    copy = open_lerobot(tmp_path / "copy")
    assert version_of(tmp_path / "copy") == "v3.0"
    assert copy.lengths == dataset.lengths
    for index in range(3):
        ours, theirs = copy.episode(index), dataset.episode(index)
        assert np.array_equal(ours.state, theirs.state)
        assert np.array_equal(list(ours.frames("wrist")), list(theirs.frames("wrist")))
        assert np.array_equal(list(ours.frames("top")), list(theirs.frames("top")))
    assert [p.name for p in (tmp_path / "copy").iterdir() if p.name.startswith(".")] == []


def statistics(root: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the statistics of state and action as imitact computes them."""
    dataset = open_lerobot(root)
    found: dict[str, Any] = {}
    for index in range(len(dataset.lengths)):
        episode = dataset.episode(index)
        rows = {"observation.state": episode.state, "action": episode.action}
        more = {name: row_stats(values) for name, values in rows.items()}
        found = merge_all_stats(found, more) if found else more
    return found


@pytest.mark.parametrize("name", ["h264", "av1", "v30", "converted"])
def test_statistics_of_state_and_action_equal_those_of_lerobot(name: str) -> None:
    stored = json.loads((LEROBOT / name / "meta/stats.json").read_text())
    for feature, ours in statistics(LEROBOT / name).items():
        assert ours["count"].tolist() == stored[feature]["count"]
        for key in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(ours[key], stored[feature][key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["h264", "av1", "v30"])
def test_quantiles_equal_lerobots_within_its_sampling_error(name: str) -> None:
    """LeRobot reads quantiles from a histogram: within an episode they are off by at most the gap
    between two neighbouring ticks, and those of several episodes are the mean of these."""
    dataset = open_lerobot(LEROBOT / name)
    stored = json.loads((LEROBOT / name / "meta/stats.json").read_text())
    for feature, ours in statistics(LEROBOT / name).items():
        rows = [getattr(dataset.episode(i), feature.rpartition(".")[2]) for i in
                range(len(dataset.lengths))]  # fmt: skip
        for key in ("q01", "q10", "q50", "q90", "q99"):
            q = int(key[1:]) / 100
            gaps = sum(len(r) * gap(r, q) for r in rows) / sum(map(len, rows))
            assert np.all(np.abs(ours[key] - np.array(stored[feature][key])) <= gaps + 1e-6), key


def gap(rows: np.ndarray, q: float) -> np.ndarray:
    """Return the distance between the two ticks around a quantile, plus one bin."""
    ordered = np.sort(rows, axis=0)
    at = q * (len(rows) - 1)
    low, high = max(int(np.floor(at)) - 1, 0), min(int(np.ceil(at)) + 1, len(rows) - 1)
    return ordered[high] - ordered[low] + (ordered[-1] - ordered[0]) / 5000
