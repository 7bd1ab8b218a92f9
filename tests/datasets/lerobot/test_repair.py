"""Recordings that LeRobot never finished: what is recovered, and what is reported as lost.

tests/fixtures/lerobot/unfinished is what LeRobot 0.6.1 leaves when it is killed after five
episodes of 5, 8, 6, 4 and 7 ticks and three frames of a sixth (scripts/make_lerobot_fixtures.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.repair import is_unfinished, plan_repair
from imitact.datasets.lerobot.repair_copy import write_repaired
from imitact.datasets.lerobot.repair_plan import RepairPlan
from imitact.datasets.video import VideoWriter, frame_times, read_frames
from imitact.datasets.video_config import VideoConfig
from imitact.quality.dataset_check import open_damaged
from tests.support.command_line import answer, is_refused
from tests.support.demonstrations import demonstrate, write
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"
LENGTHS = (5, 8, 6, 4, 7)
TOP = "videos/observation.images.top/chunk-000"


def checksums(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A copy of a killed recording."""
    return Path(shutil.copytree(LEROBOT / "unfinished", tmp_path / "unfinished"))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A finished dataset of three data files, two videos and stored images."""
    return Path(shutil.copytree(LEROBOT / "v30", tmp_path / "many"))


def cut_footer(file: Path) -> None:
    """Cut a file to its unfinished state: the length of the footer and the magic come last."""
    data = file.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    file.write_bytes(data[: -8 - footer])


def recovered(plan: RepairPlan, out: Path) -> LeRobotDataset:
    write_repaired(plan, out)
    dataset = LeRobotDataset(out)
    check_dataset(dataset)
    return dataset


def recorded_rows() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the states and actions of scripts/parity_dataset.py."""
    rng = np.random.default_rng(5)
    episodes = []
    for length in LENGTHS:
        ticks = [(rng.normal(size=3), rng.normal(size=2)) for _ in range(length)]
        state, action = (np.array(rows).astype(np.float32) for rows in zip(*ticks, strict=True))
        episodes.append((state, action))
    return episodes


def square(frame: np.ndarray) -> tuple[int, int]:
    """Return row and column of the bright square of 12 pixels."""
    red = frame[..., 0].astype(int) - frame[..., 1]
    row, column = (np.convolve(red.sum(axis=a), np.ones(12), "valid").argmax() for a in (1, 0))
    return int(row), int(column)


# --- a recording that LeRobot did not finish ----------------------------------------------------


def test_episodes_with_a_finished_data_file_are_recovered_and_others_reported(
    unfinished: Path, tmp_path: Path
) -> None:
    plan = plan_repair(unfinished)
    assert plan.lines() == [
        "recovered: 4 of 5 episodes, 23 of 30 ticks",
        "lost: data/chunk-000/file-003.parquet has no footer: episode 4",
        f"remains: {TOP}/file-002.mp4, frames 0 to 6 (0.00 to 0.30 s)",
        "remains: images/observation.images.top/episode-000005, 3 images that are in no video",
    ]
    before = checksums(unfinished)
    dataset = recovered(plan, tmp_path / "out")
    assert checksums(unfinished) == before
    assert dataset.lengths == LENGTHS[:4]
    for index, (state, action) in enumerate(recorded_rows()[:4]):
        episode = dataset.episode(index)
        assert np.array_equal(episode.state, state)
        assert np.array_equal(episode.action, action)
        assert episode.task == f"task {index % 2}"
        for tick, frame in enumerate(episode.frames("top")):
            row, column = square(frame)
            assert abs(row - 4 * index) <= 1
            assert abs(column - 4 * tick) <= 1


def test_the_copy_is_a_finished_dataset_of_lerobot(unfinished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recovered(plan_repair(unfinished), out)
    theirs = pq.read_schema(LEROBOT / "av1/meta/episodes/chunk-000/file-000.parquet")
    ours = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet")
    assert set(ours.column_names) == set(theirs.names)
    assert {n: ours.schema.field(n).type for n in theirs.names} == {
        n: theirs.field(n).type for n in theirs.names
    }
    assert ours["dataset_to_index"].to_pylist() == [5, 13, 19, 23]
    index = [n for f in sorted((out / "data").rglob("*")) if f.is_file()
             for n in pq.read_table(f)["index"].to_pylist()]  # fmt: skip
    assert index == list(range(23))
    info = json.loads((out / "meta/info.json").read_text())
    before = json.loads((unfinished / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (
        4,
        23,
        {"train": "0:4"},
    )
    assert info["features"] == before["features"]
    stats = json.loads((out / "meta/stats.json").read_text())
    rows = np.concatenate([state for state, _ in recorded_rows()[:4]]).astype(np.float64)
    np.testing.assert_allclose(stats["observation.state"]["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["observation.state"]["std"], rows.std(axis=0), rtol=1e-12)
    assert np.shape(stats["observation.images.top"]["q01"]) == (3, 1, 1)
    there, here = checksums(unfinished), checksums(out)
    for name in (f"{TOP}/file-000.mp4", f"{TOP}/file-001.mp4"):
        assert there[name] == here[name]  # not one video is encoded again
    assert f"{TOP}/file-002.mp4" not in here


def test_the_verb_says_so_and_what_it_writes_passes_the_check(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, output, _ = answer(capsys, "check", unfinished)
    assert code == 3
    assert "`imitact check DATASET --fix OUT` recovers" in output
    code, output, _ = answer(capsys, "check", unfinished, "--fix", out)
    assert "lost: data/chunk-000/file-003.parquet has no footer: episode 4\n" in output
    assert f"copy of 4 episodes in {out}" in output.splitlines()[-1]
    assert code == 0
    refusal = is_refused(capsys, "check", unfinished, "--fix", out)
    assert "is a dataset, into which nothing else is written" in refusal


def test_the_error_for_a_missing_footer_advises_repair(unfinished: Path) -> None:
    (unfinished / "meta/episodes/chunk-000").mkdir(parents=True)
    data = unfinished / "data/chunk-000/file-003.parquet"
    shutil.copy(data, unfinished / "meta/episodes/chunk-000")
    with pytest.raises(
        DamagedFile, match=r"has no footer: its recording was never finished.*--fix"
    ):
        LeRobotDataset(unfinished)


# --- other ways to be unfinished ----------------------------------------------------------------


def test_missing_metadata_are_rebuilt_from_data_and_videos(many: Path, tmp_path: Path) -> None:
    """A kill between the two footers of finalize loses nothing."""
    whole = LeRobotDataset(many)
    want = [(e.state, e.action, list(e.frames("top")), list(e.frames("wrist")), e.task)
            for e in map(whole.episode, range(3))]  # fmt: skip
    cut_footer(many / "meta/episodes/chunk-000/file-000.parquet")
    plan = plan_repair(many)
    assert (plan.lost, plan.remains, plan.is_whole) == ((), (), False)
    dataset = recovered(plan, tmp_path / "out")
    for index, (state, action, top, wrist, task) in enumerate(want):
        episode = dataset.episode(index)
        assert np.array_equal(episode.state, state)
        assert np.array_equal(episode.action, action)
        assert np.array_equal(list(episode.frames("top")), top)
        assert np.array_equal(list(episode.frames("wrist")), wrist)
        assert episode.task == task
    assert pq.read_schema(tmp_path / "out/data/chunk-000/file-000.parquet").metadata.keys() == (
        pq.read_schema(many / "data/chunk-000/file-000.parquet").metadata.keys()
    )
    rows = pq.read_table(tmp_path / "out/data/chunk-000/file-002.parquet")
    assert rows["next.reward"].to_pylist() == list(map(float, range(6)))  # other columns too


@pytest.mark.parametrize("is_described", [True, False])
def test_episodes_after_a_lost_one_are_renumbered_without_a_gap(
    many: Path, tmp_path: Path, is_described: bool
) -> None:
    whole = LeRobotDataset(many)
    cut_footer(many / "data/chunk-000/file-001.parquet")
    if not is_described:
        shutil.rmtree(many / "meta/episodes")
    plan = plan_repair(many)
    assert [one.index for one in plan.recoverable] == [0, 2]
    assert plan.lost == ("data/chunk-000/file-001.parquet has no footer: episode 1",)
    assert len(plan.remains) == 1  # its frames, between those of the others
    dataset = recovered(plan, tmp_path / "out")
    for new, old in enumerate((0, 2)):
        assert np.array_equal(dataset.episode(new).state, whole.episode(old).state)
        for camera in ("top", "wrist"):
            frames = (list(s.episode(i).frames(camera)) for s, i in ((dataset, new), (whole, old)))
            assert np.array_equal(*frames)
    assert pq.read_table(tmp_path / "out/data/chunk-000/file-001.parquet")["index"].to_pylist() == (
        list(range(5, 11))
    )


def test_nothing_is_counted_where_frames_are_missing(unfinished: Path, many: Path) -> None:
    """With other frames than were recorded, a count cannot assign them."""
    first = len(frame_times(unfinished / f"{TOP}/file-000.mp4")[0])
    assert first in np.cumsum(LENGTHS)
    seven_frames = unfinished / f"{TOP}/file-002.mp4"
    shutil.copy(seven_frames, unfinished / f"{TOP}/file-000.mp4")
    plan = plan_repair(unfinished)
    assert plan.recoverable == ()
    assert "episode 0: no video of observation.images.top is known to hold" in plan.lost[1]
    # What metadata tell needs no count, but as many frames as ticks: 6 are less than 5 + 4.
    shutil.copy(many / f"{TOP}/file-001.mp4", tmp := many / "longer.mp4")
    assert len(frame_times(tmp)[0]) == 6
    shutil.copy(tmp, many / f"{TOP}/file-000.mp4")
    tmp.unlink()
    plan = plan_repair(many)
    assert [one.index for one in plan.recoverable] == [2]
    assert "has 6 frames, its episodes 0 to 1 have 9 ticks" in plan.lost[0]


def insert_frames(file: Path, at: int, count: int) -> None:
    """Put frames of a discarded take into a video, which gets a key frame every second frame."""
    frames = list(read_frames(file, frame_times(file)[0].tolist(), (48, 64, 3)))
    frames[at:at] = [np.zeros((48, 64, 3), np.uint8)] * count
    with VideoWriter(file, 48, 64, 20.0, VideoConfig(gop=2)) as video:
        for frame in frames:
            video.add(frame)


@pytest.mark.parametrize("at", [5, 13])
def test_frames_of_a_discarded_take_move_nobody_to_other_frames(
    unfinished: Path, tmp_path: Path, at: int
) -> None:
    """lerobot#4109: they follow an episode's own. Only the first episode is certain."""
    insert_frames(unfinished / f"{TOP}/file-000.mp4", at, 4)
    plan = plan_repair(unfinished)
    assert [one.index for one in plan.recoverable] == [0]
    assert "there are 34 frames for 30 ticks" in plan.lost[1]
    dataset = recovered(plan, tmp_path / "out")
    for tick, frame in enumerate(dataset.episode(0).frames("top")):
        assert abs(square(frame)[1] - 4 * tick) <= 1


def test_companions_are_neither_lost_nor_remains(unfinished: Path) -> None:
    before = plan_repair(unfinished).lines()
    for file in sorted(unfinished.rglob("*")):
        if file.is_file():
            (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7" * 99)
    assert plan_repair(unfinished).lines() == before


def test_an_episode_that_would_not_begin_with_a_key_frame_is_lost(unfinished: Path) -> None:
    file = unfinished / f"{TOP}/file-000.mp4"
    count = len(frame_times(file)[0])
    assert count > LENGTHS[0] + 1
    with VideoWriter(file, 48, 64, 20.0, VideoConfig(gop=100)) as video:
        for _ in range(count):
            video.add(np.zeros((48, 64, 3), np.uint8))
    plan = plan_repair(unfinished)
    assert 1 not in [one.index for one in plan.recoverable]
    line = next(line for line in plan.lost if line.startswith("episode 1: "))
    assert "frame 5 of" in line
    assert "is not a key frame" in line


def test_a_missing_or_truncated_video_loses_only_its_episodes(
    unfinished: Path, tmp_path: Path
) -> None:
    file = unfinished / f"{TOP}/file-001.mp4"
    data = file.read_bytes()
    first = len(frame_times(unfinished / f"{TOP}/file-000.mp4")[0])
    kept = int(np.searchsorted(np.cumsum(LENGTHS), first, side="right"))
    for cut in (data[: len(data) // 2], None):
        if cut is None:
            file.unlink()
        else:
            file.write_bytes(cut)
        plan = plan_repair(unfinished)
        assert [one.index for one in plan.recoverable] == list(range(kept))
        assert len(plan.lost) == 1 + 4 - kept
    assert recovered(plan_repair(unfinished), tmp_path / "out").lengths == LENGTHS[:kept]


def test_missing_ticks_lose_only_their_episode(many: Path) -> None:
    file = many / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    plan = plan_repair(many)
    assert [one.index for one in plan.recoverable] == [0, 2]
    assert "episode 1: " in plan.lost[0]
    assert "holds 3 of its ticks, not numbered from 0" in plan.lost[0]


@pytest.mark.parametrize("number", [2**31, 2**60, -1])
def test_an_impossible_episode_number_is_reported_and_the_rest_recovered(
    many: Path, number: int
) -> None:
    file = many / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    episodes = [*table["episode_index"].to_pylist()[:-1], number]
    column = table.column_names.index("episode_index")
    pq.write_table(table.set_column(column, "episode_index", [episodes]), file)
    plan = plan_repair(many)
    assert [one.index for one in plan.recoverable] == [0, 1, 2]
    assert any(f"episode {number}: " in line for line in plan.lost)


def test_nothing_is_written_if_no_data_file_has_a_footer(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (unfinished / "data").rglob("*.parquet"):
        if file.name != "file-003.parquet":
            cut_footer(file)
    code, output, _ = answer(capsys, "check", unfinished, "--fix", tmp_path / "out")
    assert code == 3
    assert not (tmp_path / "out").exists()
    lines = output.splitlines()
    assert lines[0] == "recovered: 0 of 5 episodes, 0 of 30 ticks"
    assert "lost: data/chunk-000/file-000.parquet has no footer: episodes 0 to 4" in lines
    assert f"remains: {TOP}/file-001.mp4, frames 0 to " in output
    with pytest.raises(BadInput, match=r"nothing of .* can be recovered"):
        write_repaired(plan_repair(unfinished), tmp_path / "out")


def test_only_an_unfinished_recording_of_lerobot_is_repaired(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write(tmp_path / "ours", [demonstrate(0)])
    (tmp_path / "empty").mkdir()
    assert is_unfinished(unfinished)
    for root in (LEROBOT / "h264", LEROBOT / "v21", ours, tmp_path / "empty"):
        assert not is_unfinished(root)
    assert plan_repair(LEROBOT / "h264").is_whole
    out = tmp_path / "out"
    code, _, err = answer(capsys, "check", ours, "--fix", out)
    assert "there is nothing that can be left out safely" in err
    assert code == 0
    for root, message in (
        (LEROBOT / "v21", "layout v2.1, where every episode has files of its own"),
        (ours, "was recorded by imitact, which finishes every episode at once"),
    ):
        with pytest.raises(BadInput, match=message):
            plan_repair(root)
    refused = is_refused(capsys, "check", tmp_path / "empty", "--fix", out)
    assert "holds no finished dataset" in refused
    assert not out.exists()


def test_nan_does_not_prevent_recovery(many: Path, tmp_path: Path) -> None:
    file = many / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    rows = np.array(table["action"].to_pylist(), np.float32)
    rows[2, 0] = np.nan
    kind = table.schema.field("action").type
    column = pa.array(rows.tolist(), kind)
    at = table.column_names.index("action")
    pq.write_table(table.set_column(at, table.schema.field(at), column), file)
    shutil.rmtree(many / "meta/episodes")
    write_repaired(plan_repair(many), tmp_path / "out")
    dataset, findings = open_damaged(tmp_path / "out")
    assert dataset is not None
    assert findings == []
    assert np.isnan(dataset.episode(1).action[2, 0])
