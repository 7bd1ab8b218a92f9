"""Places of episodes: what metadata say is compared with the frames and files that are there.

tests/fixtures/lerobot/v30 has episodes of 5, 4 and 6 ticks at 20 Hz; the first two share a video.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imitact.core.errors import DamagedFile
from imitact.datasets.lerobot.layout import INFO
from imitact.datasets.lerobot.reader_v21 import open_lerobot
from imitact.datasets.lerobot.repair import plan_repair
from imitact.datasets.lerobot.video_segments import Segment, ShiftedSegments, check_segments
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.quality.dataset_check import open_damaged
from imitact.quality.fix import plan_fix, write_fixed
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
ROWS = "meta/episodes/chunk-000/file-000.parquet"
TOP = "videos/observation.images.top"
FROM, FILE = f"{TOP}/from_timestamp", f"{TOP}/file_index"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEROBOT / "v30", tmp_path / "new"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEROBOT / "v21", tmp_path / "old"))


def edit_rows(root: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = pq.read_table(root / ROWS).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), root / ROWS)


def edit_info(root: Path, **values: Any) -> None:
    info = json.loads((root / INFO).read_text())
    (root / INFO).write_text(json.dumps({**info, **values}))


def film(file: Path, frames: Sequence[np.ndarray]) -> None:
    height, width, _ = frames[0].shape
    with VideoWriter(file, height, width, 20.0, VideoConfig(gop=2)) as video:
        for frame in frames:
            video.add(frame)


def grey(count: int, level: int = 90) -> list[np.ndarray]:
    return [np.full((48, 64, 3), level + n, np.uint8) for n in range(count)]


def damaged_episodes(root: Path) -> set[int | None]:
    _, found = open_damaged(root)
    return {f.episode for f in found if f.severity == "error"}


# --- segments -----------------------------------------------------------------------------------


def segments(*places: tuple[float, int]) -> list[Segment]:
    return [Segment(i, from_s, ticks) for i, (from_s, ticks) in enumerate(places)]


def test_frames_between_and_after_segments_are_counted_and_allowed() -> None:
    times_s = np.arange(30) / 10
    assert check_segments(Path("v"), times_s, segments((0.0, 10), (1.0, 20)), 10) == 0
    assert check_segments(Path("v"), times_s, segments((0.0, 8), (1.2, 15)), 10) == 7
    assert check_segments(Path("v"), times_s, segments((1.2, 18), (0.3, 9)), 10) == 3


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (((0.0, 10), (0.9, 10)), "episode 0, .* overlaps with episode 1"),
        (((0.0, 10), (0.0, 10)), "overlaps"),
        (((0.0, 10), (2.1, 10)), "has only 9 frames there"),
        (((0.0, 20), (2.0, 20)), "30 frames, its episodes 0 to 1 have 40 ticks"),
        (((9.0, 10),), "has only 0 frames there"),
        (((-1.0, 10),), "begins before its first frame"),
        (((0.0, 31),), "30 frames, its episode 0 has 31 ticks"),
    ],
)
def test_segments_that_overlap_or_end_after_the_video_are_refused(
    places: tuple[tuple[float, int], ...], words: str
) -> None:
    with pytest.raises(DamagedFile, match=words):
        check_segments(Path("v"), np.arange(30) / 10, segments(*places), 10)


def test_a_shift_is_certain_only_where_the_episodes_fill_the_video() -> None:
    shifted = segments((4.0, 10), (5.0, 20))
    with pytest.raises(ShiftedSegments, match=r"from_timestamp in meta/episodes is 4\.000 s") as e:
        check_segments(Path("v"), np.arange(30) / 10, shifted, 10)
    assert e.value.shift_s == pytest.approx(4.0)
    for count, places in ((31, shifted), (30, segments((4.0, 10), (5.1, 20)))):
        with pytest.raises(DamagedFile) as damage:
            check_segments(Path("v"), np.arange(count) / 10, places, 10)
        assert not isinstance(damage.value, ShiftedSegments)


# --- datasets -----------------------------------------------------------------------------------


def test_episodes_that_claim_the_same_frames_are_all_in_doubt(new: Path, tmp_path: Path) -> None:
    edit_rows(new, lambda rows: rows[2].update({FILE: 0}))
    with pytest.raises(DamagedFile, match="has 9 frames, its episodes 0 to 2 have 15 ticks"):
        open_lerobot(new)
    assert damaged_episodes(new) == {0, 1, 2}
    dataset, found = open_damaged(new)
    assert dataset is not None
    assert plan_fix(dataset.lengths, found).kept == ()


def test_a_video_with_fewer_frames_than_ticks_is_no_fault_of_its_last_episode(new: Path) -> None:
    film(new / TOP / "chunk-000/file-000.mp4", grey(8))
    assert damaged_episodes(new) == {0, 1}


def test_an_offset_that_went_on_counting_in_a_new_file_is_named_and_repaired(
    new: Path, tmp_path: Path
) -> None:
    whole = open_lerobot(LEROBOT / "v30")
    edit_rows(new, lambda rows: rows[2].update({FROM: 9 / 20}))
    with pytest.raises(DamagedFile, match=r"from_timestamp in meta/episodes is 0\.450 s too late"):
        open_lerobot(new)
    dataset, found = open_damaged(new)
    assert dataset is not None
    assert [(f.kind, f.episode, f.fix) for f in found] == [("video-offset", 2, "rewrite")]
    plan = plan_fix(dataset.lengths, found)
    assert plan.has_changes
    assert plan.lines() == ["repaired: episode 2 (video-offset)"]
    write_fixed(dataset, plan, tmp_path / "copy")
    copy = open_lerobot(tmp_path / "copy")
    assert copy.lengths == whole.lengths
    for index in range(3):
        wanted = np.stack(list(whole.episode(index).frames("top"))).astype(int)
        assert np.abs(np.stack(list(copy.episode(index).frames("top"))) - wanted).mean() < 4


def test_frames_of_no_episode_are_noted(new: Path) -> None:
    film(new / TOP / "chunk-000/file-001.mp4", grey(10))
    dataset = open_lerobot(new)
    (note,) = dataset.notices
    assert note.startswith(f"4 frames in {TOP}/chunk-000/file-001.mp4: not read")
    assert any("4 frames" in name for name in dataset.left_out)
    _, found = open_damaged(new)
    assert [f.severity for f in found] == ["note"]


def test_two_cameras_cannot_have_one_video(new: Path) -> None:
    info = json.loads((new / INFO).read_text())
    key = "observation.images.top"
    features = {**info["features"], "observation.images.side": info["features"][key]}
    edit_info(
        new, features=features, video_path=f"videos/{key}/chunk-000/file-{{file_index:03d}}.mp4"
    )
    for name in ("chunk_index", "file_index", "from_timestamp"):
        edit_rows(
            new,
            lambda rows, name=name: [
                row.update({f"videos/observation.images.side/{name}": row[f"{TOP}/{name}"]})
                for row in rows
            ],
        )
    with pytest.raises(DamagedFile, match="is said to be the video of the cameras top, side"):
        open_lerobot(new)


def test_a_video_of_v21_has_a_frame_for_each_tick(old: Path) -> None:
    film(old / "videos/chunk-000/observation.images.top/episode_000001.mp4", grey(3))
    with pytest.raises(DamagedFile, match="has 3 frames, its episode 1 has 4 ticks"):
        open_lerobot(old)
    assert damaged_episodes(old) == {1}


def test_rows_are_found_by_their_own_numbers_whatever_metadata_say(new: Path) -> None:
    wanted = [open_lerobot(new).episode(i).state for i in range(3)]
    edit_rows(
        new,
        lambda rows: [row.update(dataset_from_index=3, dataset_to_index=99) for row in rows],
    )
    for index, state in enumerate(wanted):
        assert np.array_equal(open_lerobot(new).episode(index).state, state)


def test_an_episode_described_twice_and_differently_is_damaged(new: Path) -> None:
    edit_rows(new, lambda rows: rows.append({**rows[1], "length": 3}))
    with pytest.raises(DamagedFile, match="describes episode 1 twice, and differently"):
        open_lerobot(new)
    edit_rows(new, lambda rows: rows[-1].update(length=4))
    assert open_lerobot(new).lengths == (5, 4, 6)


# --- sizes --------------------------------------------------------------------------------------


def set_shape(root: Path, shape: list[int]) -> None:
    info = json.loads((root / INFO).read_text())
    info["features"]["observation.images.top"]["shape"] = shape
    edit_info(root, features=info["features"])


@pytest.mark.parametrize(
    ("shape", "right"),
    [([64, 48, 3], [48, 64, 3]), ([44, 64, 3], [48, 64, 3]), ([3, 64, 48], [3, 48, 64])],
)
def test_a_wrong_size_in_info_json_is_told_with_the_right_one(
    old: Path, new: Path, shape: list[int], right: list[int]
) -> None:
    for root in (old, new):
        set_shape(root, shape)
        with pytest.raises(DamagedFile) as error:
            open_lerobot(root)
        assert f"Set features.observation.images.top.shape in meta/info.json to {right}" in str(
            error.value
        )
        assert "Copy the file again" not in str(error.value)


def test_a_single_video_of_another_size_is_its_own_fault(old: Path) -> None:
    frames = [np.zeros((32, 64, 3), np.uint8)] * 4
    film(old / "videos/chunk-000/observation.images.top/episode_000001.mp4", frames)
    with pytest.raises(DamagedFile, match="has frames of 32x64 pixels, expected 48x64"):
        open_lerobot(old)
    assert damaged_episodes(old) == {1}


# --- numbers ------------------------------------------------------------------------------------


def take_out(root: Path, total: int, ticks: int) -> None:
    """Take episode 1 out by hand."""
    file = root / "meta/episodes.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[2])
    edit_info(root, total_episodes=total, total_frames=ticks)


@pytest.mark.parametrize(("total", "ticks"), [(3, 15), (2, 11), (1, 5)])
def test_no_episode_beyond_a_gap_in_the_numbers_is_lost(
    old: Path, tmp_path: Path, total: int, ticks: int
) -> None:
    states = [open_lerobot(old).episode(i).state for i in range(3)]
    take_out(old, total, ticks)
    with pytest.raises(DamagedFile, match="missing is 1"):
        open_lerobot(old)
    dataset, found = open_damaged(old)
    assert dataset is not None
    assert {f.episode for f in found if f.severity == "error"} <= {1, None}
    plan = plan_fix(dataset.lengths, found)
    assert plan.lines() == ["left out: episode 1 (damaged-file)"]
    write_fixed(dataset, plan, tmp_path / "copy")
    copy = open_lerobot(tmp_path / "copy")
    for new, state in enumerate((states[0], states[2])):
        assert np.array_equal(copy.episode(new).state, state)


def test_an_episode_that_is_not_counted_is_named(old: Path, new: Path, tmp_path: Path) -> None:
    """It may be of a recording that was killed, so that it is no error."""
    for root in (old, new):
        edit_info(root, total_episodes=2, total_frames=9)
        dataset, found = open_damaged(root)
        assert dataset is not None
        assert dataset.lengths == (5, 4)
        assert {f.severity for f in found} == {"note"}
        assert any("episode 2: not read" in f.what for f in found)
        lines = write_fixed(
            dataset, plan_fix(dataset.lengths, []), tmp_path / f"copy of {root.name}"
        )
        assert any("not copied: episode 2: " in line for line in lines)


def test_data_that_nothing_describes_are_named(old: Path, new: Path) -> None:
    shutil.copy(
        old / "data/chunk-000/episode_000002.parquet", old / "data/chunk-000/episode_000003.parquet"
    )
    assert list(open_lerobot(old).left_out) == ["data/chunk-000/episode_000003.parquet"]
    file = new / "data/chunk-000/file-002.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), file)
    assert "2 ticks in data/chunk-000/file-002.parquet" in open_lerobot(new).left_out


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "../other/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "data/../../other/file-{file_index:03d}.parquet",
        "/other/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "data/chunk-{chunk_index.__class__}/file-{file_index:03d}.parquet",
        "data/chunk-{chunk_index[0]}/file-{file_index:03d}.parquet",
        "data/{other}/file-{file_index:03d}.parquet",
        "data/{}/file-{file_index:03d}.parquet",
        "data/{chunk_index:{file_index}}/file-{file_index:03d}.parquet",
        "data/\0/file-{file_index:03d}.parquet",
    ],
)
def test_a_path_in_info_json_stays_inside_the_dataset(new: Path, template: str) -> None:
    shutil.copytree(new, new.parent / "other")
    for setting in ("data_path", "video_path"):
        edit_info(new, **{setting: template})
        with pytest.raises(DamagedFile, match=f"{setting} (leads out of the dataset|is )|layout"):
            open_lerobot(new)
        edit_info(new, **{setting: None})
    assert open_lerobot(new).lengths == (5, 4, 6)


def test_a_path_in_info_json_of_v21_stays_inside_the_dataset(old: Path) -> None:
    shutil.copytree(old, old.parent / "other")
    edit_info(old, data_path="../other/data/chunk-000/episode_{episode_index:06d}.parquet")
    with pytest.raises(DamagedFile, match="data_path leads out of the dataset"):
        open_lerobot(old)


@pytest.mark.parametrize("key", ["observation.images.x/../../../../out", "/out", "a\0b"])
def test_a_feature_cannot_have_a_name_that_leads_out(new: Path, key: str) -> None:
    info = json.loads((new / INFO).read_text())
    features = {**info["features"], key: info["features"]["observation.images.top"]}
    edit_info(new, features=features, video_path="videos/observation.images.top/file.mp4")
    with pytest.raises(DamagedFile, match="has a name that no file can have"):
        open_lerobot(new)
    with pytest.raises(DamagedFile, match="has a name that no file can have"):
        plan_repair(new)


def test_links_are_followed_as_in_a_hub_cache(new: Path, tmp_path: Path) -> None:
    wanted = open_lerobot(new).fingerprint
    for number, file in enumerate(sorted(p for p in new.rglob("*") if p.is_file())):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)
    assert open_lerobot(new).fingerprint == wanted


# --- versions, companions -----------------------------------------------------------------------


def test_files_of_another_version_are_named_with_codebase_version(old: Path, new: Path) -> None:
    edit_info(old, codebase_version="v3.0")
    edit_info(new, codebase_version="v2.1")
    for root, lies in ((old, "v2.1"), (new, "v3.0")):
        with pytest.raises(DamagedFile, match=rf"the files lie as in {lies}") as error:
            open_lerobot(root)
        assert f'Set codebase_version to "{lies}"' in str(error.value)
        edit_info(root, codebase_version=lies)
        assert open_lerobot(root).lengths == (5, 4, 6)


def test_hidden_companions_are_skipped(old: Path, new: Path) -> None:
    for root in (old, new):
        wanted = open_lerobot(LEROBOT / ("v21" if root == old else "v30")).fingerprint
        for path in sorted(root.rglob("*")):
            name = f"._{path.name}" if path.is_file() else ".DS_Store"
            (path.parent if path.is_file() else path).joinpath(name).write_bytes(b"\0\5\x16\7" * 99)
        dataset = open_lerobot(root)
        assert dataset.fingerprint == wanted
        assert dataset.left_out == {}
