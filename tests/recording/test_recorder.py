"""Recording: only successes are saved, every byte is reproducible, finished episodes survive."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.rollout import rollout
from imitact.core.types import FloatArray, Observation, StepResult
from imitact.core.validate import check_dataset
from imitact.datasets.open import open_dataset
from imitact.datasets.video_config import VideoConfig
from imitact.recording import recorder
from imitact.recording.episode import CaptureConfig, capture_episode
from imitact.recording.manifest import RecordingReport, read_report
from imitact.recording.recorder import RecordingProgress, record
from imitact.storage.checksum import with_checksum
from tests.support.dot_env import (
    TICKS,
    TWO_CAMERAS,
    DotEnv,
    DotExpert,
    make_dot,
    make_dot_expert,
    make_two_camera_dot,
)

TASK = "go to the mark"


def record_dots(out: Path, episodes: int = 4, **changes: Any) -> RecordingReport:
    settings: dict[str, Any] = {
        "make_env": make_two_camera_dot,
        "make_expert": make_dot_expert,
        "task": TASK,
        "seeds": range(1000),
        "workers": 2,
        **changes,
    }
    return record(out, episodes=episodes, **settings)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six demonstrations (seeds 0 to 6 without 3), recorded by one worker without interruption."""
    out = tmp_path_factory.mktemp("record") / "six"
    record_dots(out, 6, workers=1)
    return out


def test_the_number_of_workers_changes_no_byte(six: Path, tmp_path: Path) -> None:
    record_dots(tmp_path / "out", 6, workers=3)
    assert tree(tmp_path / "out") == tree(six)


def test_a_recording_equals_the_rollout_of_the_expert(tmp_path: Path) -> None:
    report = record_dots(tmp_path / "out", 2, video=VideoConfig(codec="lossless"))
    dataset = open_dataset(tmp_path / "out")
    check_dataset(dataset)
    env = DotEnv(TWO_CAMERAS)
    assert dataset.spec == env.spec
    for index, demonstration in enumerate(report.demonstrations):
        episode = dataset.episode(index)
        names = tuple(c.name for c in env.spec.cameras)
        seed = demonstration.seed
        run = rollout(DotExpert(), env, seed=seed, chunking=Replay(1), keep=names)
        frames = {name: episode.frames(name) for name in names}
        for tick in run:
            assert np.array_equal(episode.state[tick.index], tick.observation.state.astype("f4"))
            assert np.array_equal(episode.action[tick.index], tick.action.astype("f4"))
            for name in names:
                assert np.array_equal(next(frames[name]), tick.observation.frames[name])
        assert dataset.lengths[index] == TICKS == tick.index + 1


def test_a_failed_seed_is_counted_and_never_saved(six: Path) -> None:
    report = read_report(six)
    assert [d.seed for d in report.demonstrations] == [0, 1, 2, 4, 5, 6]
    assert [(f.seed, f.stage) for f in report.failures] == [(3, 1)]
    assert (report.saved, report.failed) == (6, 1)
    assert len(open_dataset(six).lengths) == 6


def test_variation_is_stored_with_the_dataset(six: Path) -> None:
    report = read_report(six)
    paces = []
    for demonstration in report.demonstrations:
        expert = DotExpert()
        expert.reset(demonstration.seed)
        assert demonstration.variation == expert.variation
        paces.append(expert.variation["pace"])
    assert report.deviations() == {"pace": pytest.approx(np.std(paces), rel=1e-12)}
    assert open_dataset(six).facts["episodes"][2]["variation"] == {"pace": paces[2]}


def test_the_first_tick_of_each_stage_is_stored(six: Path) -> None:
    report = read_report(six)
    for demonstration in report.demonstrations:
        run = rollout(DotExpert(), DotEnv(), seed=demonstration.seed, chunking=Replay(1))
        rewards = [tick.reward for tick in run]
        first = {stage: int(np.argmax(np.array(rewards) >= stage)) for stage in (1, 2)}
        assert demonstration.first_ticks == first
    assert report.first_ticks(2).tolist() == [d.first_ticks[2] for d in report.demonstrations]
    assert report.stages == DotEnv().stages


def test_a_complete_recording_is_not_touched(six: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in six.rglob("*")}
    assert record_dots(six, 6).saved == 6
    assert {p: p.stat().st_mtime_ns for p in six.rglob("*")} == before


def test_growing_a_dataset_equals_recording_it_at_once(six: Path, tmp_path: Path) -> None:
    record_dots(tmp_path / "out", 2)
    record_dots(tmp_path / "out", 6)
    assert tree(tmp_path / "out") == tree(six)


def test_used_up_seeds_are_an_error_and_successes_stay(six: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        BadInput, match="only 3 of 6 demonstrations succeeded: all 4 seeds are used up"
    ):
        record_dots(out, 6, seeds=range(4))
    assert len(open_dataset(out).lengths) == 3
    assert [f.seed for f in read_report(out).failures] == [3]
    record_dots(out, 6)
    assert tree(out) == tree(six)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"task": "another"}, "task"),
        ({"hold_ticks": 5}, "hold_ticks"),
        ({"video": VideoConfig(crf=30)}, r"video\.crf"),
        ({"extra": {"spread": 0.5}}, r"extra\.spread"),
    ],
)
def test_a_recording_continues_only_with_the_same_settings(
    six: Path, change: dict[str, Any], name: str
) -> None:
    before = tree(six)
    for episodes in (6, 7):
        with pytest.raises(BadInput, match=f"was begun with other settings: {name} was "):
            record_dots(six, episodes, **change)
    assert tree(six) == before


@pytest.mark.parametrize("seeds", [range(1, 1000), range(6), [*range(5), 7, 6]])
def test_a_recording_continues_only_with_the_same_seeds(six: Path, seeds: Sequence[int]) -> None:
    before = tree(six)
    with pytest.raises(BadInput, match="begun with other seeds or in another order: 7 have been"):
        record_dots(six, 7, seeds=seeds)
    assert tree(six) == before


def test_seeds_are_saved_in_the_given_order_whichever_finishes_first(tmp_path: Path) -> None:
    order = [9, 3, 0, 12, 5, 8]
    report = record_dots(tmp_path / "one", 3, seeds=order, workers=3)
    assert [d.seed for d in report.demonstrations] == [9, 0, 12]
    assert [f.seed for f in report.failures] == [3]
    record_dots(tmp_path / "two", 1, seeds=order, workers=1)
    capture_seed(
        tmp_path / "two" / ".staging", 12
    )  # left by an interrupted recording; 0 comes first
    record_dots(tmp_path / "two", 3, seeds=order, workers=1)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_a_recording_continues_only_in_the_same_environment(six: Path) -> None:
    before = tree(six)
    with pytest.raises(BadInput, match="was begun with other settings: cameras was "):
        record_dots(six, 7, make_env=make_dot)
    assert tree(six) == before


def test_a_refusal_names_every_setting_that_differs_and_no_other(tmp_path: Path) -> None:
    extra = {"expert": 2, "mujoco": "3.7", "spread": 1.0, "gone": 1}
    record_dots(tmp_path, 1, extra=extra)
    with pytest.raises(BadInput) as caught:
        record_dots(tmp_path, 2, extra={"expert": 3, "mujoco": "3.8", "spread": 1.0, "new": None})
    assert (
        'was begun with other settings: extra.expert was 2, is now 3; extra.mujoco was "3.7", is '
        'now "3.8"; extra.new was not set, is now null; extra.gone was 1, is now not set. Give'
    ) in str(caught.value)


def test_settings_may_change_before_the_first_seed_is_finished(tmp_path: Path, six: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="nosuch"):
        record_dots(out, 6, video=VideoConfig(preset="nosuch"))
    assert (out / "meta/imitact.json").is_file()
    # A seed captured with other settings must not be adopted.
    capture_seed(out / ".staging", 1, VideoConfig(crf=40))
    record_dots(out, 6)
    assert tree(out) == tree(six)


def test_the_environment_may_change_before_the_first_seed_is_finished(
    tmp_path: Path, six: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ImitactError, match="in seed 0"):
        record_dots(out, 6, make_env=partial(BrokenEnv, "refuses", 0), workers=1)
    record_dots(out, 6)
    assert tree(out) == tree(six)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match=r"not empty and not a recording of imitact .*thesis\.tex"):
        record_dots(tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        record_dots(tmp_path / "thesis.tex")
    assert tree(tmp_path) == {"thesis.tex": b"mine"}


def test_a_recording_that_was_killed_in_its_first_write_continues(
    tmp_path: Path,
) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / ".staging").mkdir()
    (tmp_path / ".staging" / "imitact.json.part").write_text("{")
    assert record_dots(tmp_path, 1).saved == 1


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("meta/imitact.json", {"episodes": None}),
        ("meta/imitact.json", {"failed": [{"seed": 3}]}),
        ("meta/imitact.json", {"settings": {}}),
        ("meta/info.json", {"total_episodes": None}),
    ],
)
def test_a_manifest_of_another_shape_is_refused_with_its_file(
    six: Path, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    out = Path(shutil.copytree(six, tmp_path / "out"))
    altered = {**json.loads((out / file).read_text()), **change}
    (out / file).write_text(json.dumps(with_checksum(altered) if "sha256" in altered else altered))
    with pytest.raises(DamagedFile, match=f"{Path(file).name} does not follow its layout"):
        record_dots(out, 7)
    with pytest.raises(DamagedFile, match=Path(file).name):
        read_report(out)


def test_fewer_episodes_than_are_saved_are_refused(six: Path) -> None:
    with pytest.raises(BadInput, match="already has 6 episodes, more than the 5 wanted"):
        record_dots(six, 5)


def test_a_dataset_that_another_program_added_to_is_not_recorded_into(
    six: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(six, tmp_path / "out"))
    info = json.loads((out / "meta/info.json").read_text())
    (out / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 7}))
    with pytest.raises(BadInput, match="another program has added to it"):
        record_dots(out, 8)


def test_a_missing_info_file_removes_no_episodes(six: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(six, tmp_path / "out"))
    (out / "meta/info.json").unlink()
    before = tree(out)
    with pytest.raises(DamagedFile, match=r"lists 6 episodes, .*info\.json 0"):
        record_dots(out, 7)
    assert tree(out) == before


@pytest.mark.parametrize(
    "change",
    [
        {"episodes": 0},
        {"workers": 0},
        {"hold_ticks": 0},
        {"seeds": []},
        {"seeds": [-1, 0]},
        {"seeds": [3, 3]},
        {"seeds": range(2**32)},
    ],
)
def test_an_invalid_argument_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        record_dots(tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_progress_counts_up_and_ends_with_no_time_left(tmp_path: Path) -> None:
    seen: list[RecordingProgress] = []
    record_dots(tmp_path / "out", 5, on_progress=seen.append)
    assert [p.saved for p in seen] == sorted(p.saved for p in seen)
    assert (seen[-1].saved, seen[-1].failed, seen[-1].wanted, seen[-1].left_s) == (5, 1, 5, 0.0)
    assert seen[0].left_s is None
    estimates = [p.left_s for p in seen if p.left_s is not None]
    assert len(estimates) > 2
    assert min(estimates[:-1]) >= 0


# --- what counts as a success ------------------------------------------------------------------


class SlippingEnv(DotEnv):
    """Succeeds over its last 10 ticks, but not at the last tick for even seeds."""

    def reset(self, seed: int) -> Observation:
        self._slips = seed % 2 == 0
        self._steps = 0
        return super().reset(seed)

    def step(self, action: FloatArray) -> StepResult:
        outcome = super().step(action)
        self._steps += 1
        last = self._steps == TICKS
        success = self._steps > TICKS - 10 and not (self._slips and last)
        return StepResult(outcome.observation, 2.0 if success else 1.0, success)


def test_a_success_that_does_not_hold_to_the_end_is_a_failure(tmp_path: Path) -> None:
    report = record_dots(tmp_path / "out", 2, make_env=SlippingEnv)
    assert [d.seed for d in report.demonstrations] == [1, 3]
    assert [(f.seed, f.stage) for f in report.failures] == [(0, 2), (2, 2)]
    with pytest.raises(BadInput, match="only 0 of 1"):  # it holds for 10 ticks
        record_dots(tmp_path / "eleven", 1, make_env=SlippingEnv, hold_ticks=11, seeds=[0, 1])


class EndingEnv(DotEnv):
    """Ends the episode at the mark, or, with `lost`, at its fifth tick without success."""

    def __init__(self, lost: bool = False) -> None:
        super().__init__(ticks=400)
        self._lost = lost

    def reset(self, seed: int) -> Observation:
        self._steps = 0
        return super().reset(seed)

    def step(self, action: FloatArray) -> StepResult:
        found = super().step(action)
        self._steps += 1
        return replace(found, terminated=found.success or (self._lost and self._steps == 5))


def test_a_success_that_ends_the_episode_is_held_and_is_its_last_tick(tmp_path: Path) -> None:
    out = tmp_path / "out"
    record_dots(out, 2, make_env=EndingEnv, seeds=[0, 1])
    dataset = open_dataset(out)
    for index, length in enumerate(dataset.lengths):
        ticks = list(rollout(DotExpert(), EndingEnv(), seed=index, chunking=Replay(1)))
        assert length == len(ticks) < TICKS
        assert ticks[-1].success
        assert ticks[-1].terminated
    with pytest.raises(BadInput, match="only 0 of 1"):
        record_dots(tmp_path / "lost", 1, make_env=partial(EndingEnv, True), seeds=[0])


@pytest.mark.parametrize(("ends_early", "jobs_done"), [(True, 0), (True, 2), (False, 0)])
def test_the_time_left_follows_from_how_long_episodes_are_and_not_from_the_cap(
    ends_early: bool, jobs_done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"task": TASK, **({"end_when_held": True} if ends_early else {})}
    recording = recorder._Recording(tmp_path, settings, 10, range(100), VideoConfig())
    recording._step_cap, recording._first_seed_s = 400, 0.0
    monkeypatch.setattr(recorder.time, "monotonic", lambda: 60.0)
    # 60 ticks in 60 s: of two episodes that have ended, or of one that is running.
    running = {} if jobs_done else {0: 60}
    pool: Any = SimpleNamespace(ticks_done=60, jobs_done=jobs_done, in_flight=running)
    left_s = recording.progress(pool).left_s
    if ends_early and not jobs_done:
        assert left_s is None
    else:
        assert left_s == pytest.approx(10 * 30 if jobs_done else 10 * 400 - 60)


# --- errors in a worker ------------------------------------------------------------------------


def no_gripper() -> DotEnv:
    raise BadInput("the gripper is not plugged in")


class BrokenEnv(DotEnv):
    """Breaks at one seed, in the way that `how` names."""

    def __init__(self, how: str, at: int = 2) -> None:
        super().__init__()
        self._how, self._broken_at = how, at

    def reset(self, seed: int) -> Observation:
        observation = super().reset(seed)
        if seed != self._broken_at:
            return observation
        if self._how == "raises":
            raise ZeroDivisionError("in the environment")
        if self._how == "refuses":
            raise BadInput("the arm is not plugged in")
        if self._how == "finds no file":
            raise PermissionError(13, "Permission denied", "/scene.xml")
        if self._how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return Observation(np.array([0.5, np.nan]), observation.frames, observation.privileged)


def test_an_error_of_a_worker_is_raised_by_record(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the gripper is not plugged in"):
        record_dots(tmp_path / "out", make_env=no_gripper)
    record_dots(tmp_path / "out", 1)  # the next call is not affected


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raises", RuntimeError, "a worker failed in seed 2"),
        ("dies", ImitactError, "a worker died in seed 2 with exit code -9"),
        ("refuses", BadInput, "in seed 2: the arm is not plugged in"),
        ("finds no file", ImitactError, "in seed 2: Permission denied: /scene.xml"),
    ],
)
def test_a_failing_worker_is_reported_and_finished_episodes_stay(
    tmp_path: Path, how: str, error: type[Exception], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(error, match=message) as caught:
        record_dots(out, 4, make_env=partial(BrokenEnv, how), workers=1)
    if how == "raises":
        assert "ZeroDivisionError: in the environment" in str(caught.value.__cause__)
    assert len(open_dataset(out).lengths) == 2
    assert record_dots(out, 4, make_env=make_dot).saved == 4


def test_a_seed_with_values_that_are_not_finite_fails_and_the_next_is_tried(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    make_env = partial(BrokenEnv, "is not finite")
    report = record_dots(out, 3, make_env=make_env, workers=1)
    assert [d.seed for d in report.demonstrations] == [0, 1, 4]
    assert [(f.seed, f.stage) for f in report.failures] == [(2, 0), (3, 1)]
    assert "nan" in report.failures[0].error
    assert report.failures[1].error == ""
    assert read_report(out) == report
    assert len(open_dataset(out).lengths) == 3
    with pytest.raises(BadInput, match=r"2 failed \(1 ended early, the last in seed 2: .*nan"):
        record_dots(out, 4, make_env=make_env, workers=1, seeds=range(5))


def test_available_cores_are_those_that_the_process_may_use() -> None:
    code = (
        "import os\n"
        "if hasattr(os, 'sched_setaffinity'):\n"
        "    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from imitact.core.cpu import available_cores\nprint(available_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (1 if hasattr(os, "sched_setaffinity") else os.cpu_count())


# --- kills, interrupts, full disks -------------------------------------------------------------


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.record_dot", str(out), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(program: subprocess.Popen[str], saved: int) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if int(line) >= saved:
            return
    assert program.stderr is not None
    raise AssertionError(f"the program ended early: {program.stderr.read()}")


def finished(out: Path) -> int:
    """Number of episodes that can be read to their last frame; 0 before the first."""
    try:
        dataset = open_dataset(out)
    except BadInput:
        return 0
    check_dataset(dataset)
    # LeRobot relies on the count in info.json and on files for that many episodes.
    info = json.loads((out / "meta/info.json").read_text())
    assert info["total_episodes"] == len(dataset.lengths)
    for index in range(len(dataset.lengths)):
        assert len(list(out.rglob(f"file-{index:03d}.*"))) == 5
    return len(dataset.lengths)


def test_a_recording_that_is_killed_three_times_ends_with_the_same_bytes(
    six: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = 0
    for kill, saved in enumerate((0, 2, 4)):
        program = start(out, "6", "2", "0.002")
        wait_for(program, saved)
        time.sleep(random.Random(kill).uniform(0.0, 0.15))
        program.kill()  # the recorder alone; its workers must notice
        program.communicate()
        now = finished(out)
        assert now >= max(before, saved)
        before = now
    program = start(out, "6", "2")
    _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")
    assert tree(out) == tree(six)


def test_workers_of_a_killed_recorder_end(tmp_path: Path) -> None:
    program = start(tmp_path / "out", "6", "2", "0.01")
    wait_for(program, 1)
    program.kill()
    program.communicate()  # returns when the last process has closed the pipe
    work = tmp_path / "out" / ".staging"
    assert [p.name for p in work.iterdir() if p.name.startswith("work-")] == []


def capture_seed(staging: Path, seed: int, video: VideoConfig | None = None) -> None:
    """Leave a finished seed in the staging folder, as a worker does."""
    staging.mkdir(exist_ok=True)
    capture_episode(
        DotEnv(TWO_CAMERAS),
        DotExpert(),
        seed,
        CaptureConfig(staging, video or VideoConfig(), hold_ticks=10),
        check_stop=lambda: None,
        report_ticks=lambda count: None,
    )


def test_a_seed_that_a_killed_recorder_had_finished_does_not_run_again(
    six: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record_dots(out, 2)
    # Seed 4 was finished and seed 2 was not, so 4 waits in the staging folder.
    staging = out / ".staging"
    capture_seed(staging, 4)
    made = (staging / "seed-000004" / "0.mp4").stat().st_ino
    (staging / "seed-000005").mkdir()  # its worker was killed
    (staging / "work-abc").mkdir()
    record_dots(out, 6)
    video = out / "videos/observation.images.top/chunk-000/file-003.mp4"
    assert video.stat().st_ino == made
    assert tree(out) == tree(six)


@pytest.mark.parametrize("seeds", [range(1000), range(5)])
def test_a_waiting_later_seed_is_dropped_where_fewer_episodes_are_wanted(
    tmp_path: Path, seeds: Sequence[int]
) -> None:
    out = tmp_path / "out"
    record_dots(out, 2)
    capture_seed(out / ".staging", 4)  # seed 2 is not finished
    report = record_dots(out, 3, seeds=seeds, workers=1)
    assert [d.seed for d in report.demonstrations] == [0, 1, 2]
    record_dots(tmp_path / "want", 3)
    assert tree(out) == tree(tmp_path / "want")


def test_a_failed_seed_is_not_tried_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed seeds may have taken hours."""
    out = tmp_path / "out"
    rmtree = shutil.rmtree

    def killed(path: Path, **how: Any) -> None:
        rmtree(path, **how)
        if Path(path).name == "seed-000003":
            raise KeyboardInterrupt

    monkeypatch.setattr("imitact.recording.recorder.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        record_dots(out, 4, workers=1)
    assert [f.seed for f in read_report(out).failures] == [3]


def test_an_unfinished_episode_is_removed_from_a_complete_recording(
    six: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record_dots(out, 3)
    tail = sorted(p.relative_to(six) for p in six.rglob("file-003.*"))
    assert len(tail) == 5
    for file in tail:  # as a kill before info.json is written leaves it
        shutil.copy(six / file, out / file)
    record_dots(out, 3)
    assert not list(out.rglob("file-003.*"))
    assert len(open_dataset(out).lengths) == 3


def test_ctrl_c_keeps_finished_episodes_and_the_next_run_continues(
    six: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = start(out, "6", "2", "0.004")
    wait_for(program, 2)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does, to recorder and workers
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (130, "")
    assert 2 <= finished(out) < 6
    record_dots(out, 6)
    assert tree(out) == tree(six)


def test_two_recordings_in_one_folder_are_refused(tmp_path: Path) -> None:
    program = start(tmp_path / "out", "6", "1", "0.01")
    wait_for(program, 0)
    message = rf"another recording is writing to .* \(process {program.pid}\); wait for it"
    with pytest.raises(BadInput, match=message):
        record_dots(tmp_path / "out", 6)
    program.kill()
    program.communicate()


def test_a_full_disk_is_one_line_of_error_and_loses_nothing(six: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record_dots(out, 2)
    program = start(out, "6", "2", "0", "--max-file-bytes", "1000")
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 2
    assert errors.count("\n") == 1
    assert "no room left while writing" in errors
    assert "bytes are free" in errors
    assert str(out) in errors
    assert finished(out) == 2
    record_dots(out, 6)
    assert tree(out) == tree(six)
