"""Evaluation runner: rows report what happened, and depend on the plan alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitact.core.errors import BadInput, DamagedFile, ImitactError, NotFinite, SpecMismatch
from imitact.core.execution import Execution
from imitact.evaluation import episode
from imitact.evaluation.episode import Job
from imitact.evaluation.episode_journal import EVALUATION_JOURNAL as JOURNAL
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.evaluation.eta import TimeLeft
from imitact.evaluation.results import EpisodeRow, Evaluation, compare, describe_seeds, jerk
from imitact.evaluation.runner import ONE_THREAD, EvaluationProgress, evaluate, record_videos
from imitact.storage.journal import journal_line
from tests.support import tiny_arm
from tests.support.tiny_arm import Reacher, TinyArm


def run(
    make_policy: Callable[[], Any] = Reacher, make_env: Callable[[], Any] = TinyArm, **given: Any
) -> Evaluation:
    settings = {"seeds": range(6), "execution": "replay:3", "workers": 0} | given
    return evaluate(make_policy, make_env, **settings)


class ThreadLimits(Reacher):
    """Commands 1 for each thread limit that is set in the environment of the process."""

    def chunk(self, observation: Any) -> np.ndarray:
        limits = [float(os.environ.get(name) == value) for name, value in ONE_THREAD.items()]
        return np.array([[*limits, 0.0]])


class WithoutStages(TinyArm):
    """Rewards are not stages."""

    stages = ()


def row_by_hand(seed: int, cap: int = 40) -> dict[str, Any]:
    """Run the same episode in a loop written for the test."""
    env, policy = TinyArm(), Reacher()
    observation = env.reset(seed)
    policy.reset(seed)
    rewards, actions, queries = [], [], 0
    while len(rewards) < cap:
        chunk = policy.chunk(observation)
        queries += 1
        for action in chunk[:3]:
            outcome = env.step(action)
            observation = outcome.observation
            actions.append(action)
            rewards.append(outcome.reward)
            if outcome.success or len(rewards) == cap:
                break
        if outcome.success:
            break
    third = np.array(actions)[:, [0, 1, 3, 4]]
    third = third[3:] - 3 * third[2:-1] + 3 * third[1:-2] - third[:-3]
    return {
        "seed": seed,
        "success": 3.0 in rewards,
        "ticks": len(rewards),
        "queries": queries,
        "reward_sum": sum(rewards),
        "highest_stage": max(rewards),
        "jerk_rad_s3": pytest.approx(np.abs(third).mean() * 10**3),
    }


def test_a_row_reports_what_happened() -> None:
    evaluation = run()
    for row in evaluation.rows:
        for name, value in row_by_hand(row.seed).items():
            assert getattr(row, name) == value, (row.seed, name)
    assert [row.success for row in evaluation.rows] == [True, False] * 3
    assert evaluation.successes == 3
    assert evaluation.episodes == 6


def test_first_ticks_are_where_the_reward_first_reached_the_stage() -> None:
    for row in run(stop_on_success=False).rows:
        rewards = row.reward_each_tick()
        assert len(rewards) == row.ticks == 40
        for stage, tick in enumerate(row.first_ticks):
            before = rewards if tick is None else rewards[:tick]
            assert all(reward < stage for reward in before)
            assert tick is None or rewards[tick] >= stage


def test_the_same_seeds_give_the_same_rows_for_any_number_of_workers() -> None:
    here = run(videos=0)
    assert run(workers=1).rows == here.rows
    assert run(workers=3).rows == here.rows


def test_rows_are_in_the_order_of_the_seeds() -> None:
    seeds = (5, 2, 9, 0)
    assert tuple(row.seed for row in run(seeds=seeds, workers=2).rows) == seeds


def test_every_worker_has_one_thread_and_this_process_keeps_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    evaluation = run(ThreadLimits, seeds=[0], step_cap=4, workers=1, stop_on_success=False)
    assert dict(os.environ) == before
    # Commands (1, 1, 1, 1, 0): the left shoulder reaches 1 rad at once.
    assert evaluation.rows[0].first_ticks == (0, 0, 0, 0)


def test_an_episode_ends_at_its_first_success_or_runs_to_the_cap() -> None:
    stopped = run(seeds=[0]).rows[0]
    whole = run(seeds=[0], stop_on_success=False).rows[0]
    assert stopped.success
    assert whole.success
    assert stopped.ticks == whole.first_ticks[3] + 1 < whole.ticks == 40
    assert stopped.reward_each_tick() == whole.reward_each_tick()[: stopped.ticks]
    assert stopped.held is None
    assert whole.held is True


def test_a_momentary_success_counts_but_is_not_held() -> None:
    slipping = run(make_env=partial(TinyArm, slips=True), seeds=[0, 1], stop_on_success=False)
    assert [row.success for row in slipping.rows] == [True, False]
    assert slipping.held == 0
    assert run(seeds=[0, 1], stop_on_success=False).held == 1
    assert run(seeds=[0, 1]).held is None


def test_a_success_of_fewer_than_the_last_ten_ticks_is_not_held() -> None:
    first = run(seeds=[0], stop_on_success=False).rows[0].first_ticks[3]
    late = run(seeds=[0], stop_on_success=False, step_cap=first + 9).rows[0]
    in_time = run(seeds=[0], stop_on_success=False, step_cap=first + 10).rows[0]
    assert late.reward_each_tick()[-9:] == [3.0] * 9
    assert (late.success, late.held) == (True, False)
    assert in_time.held is True


def test_the_step_cap_is_the_given_one_or_that_of_the_environment() -> None:
    capped = run(step_cap=7)
    assert capped.step_cap == 7
    assert all(row.ticks == 7 for row in capped.rows)
    assert run().step_cap == TinyArm.step_cap


def test_nothing_is_rendered_for_a_policy_that_reads_no_frame() -> None:
    blind = partial(TinyArm, blind=True)
    assert run(make_env=blind).episodes == 6
    with pytest.raises(ImitactError, match="AssertionError: camera eye was rendered"):
        run(partial(Reacher, looks=True), blind)


def test_the_policy_is_queried_as_often_as_the_chunking_requires() -> None:
    assert run(seeds=[1], execution="replay:3").rows[0].queries == 14  # 40 ticks
    assert run(seeds=[1], execution="ensemble:0.01").rows[0].queries == 40
    assert run(seeds=[1], execution="ensemble:0.01/5").rows[0].queries == 8
    with pytest.raises(BadInput, match='chunking "all" is not known'):
        run(execution="all")


def test_the_delay_is_part_of_the_evaluation(tmp_path: Path) -> None:
    late = run(seeds=[0, 1], execution=Execution("replay:3", 2), out=tmp_path)
    assert late.execution == Execution("replay:3", 2)
    in_time = run(seeds=[0, 1])
    assert late.rows[0].ticks > in_time.rows[0].ticks  # it waits for its first answer
    assert run(seeds=[0, 1], execution=Execution("replay:3", 0)) == in_time
    with pytest.raises(BadInput, match="delay_ticks was 2, is now not set"):
        run(seeds=[0, 1], out=tmp_path)
    with pytest.raises(BadInput, match="delay_ticks is -1; expected at least 0"):
        run(execution=Execution("replay:3", -1))


def test_a_journal_from_before_there_were_delays_is_continued(tmp_path: Path) -> None:
    first = run(out=tmp_path)
    assert b"delay" not in (tmp_path / JOURNAL).read_bytes()
    assert run(out=tmp_path) == first


def test_rewards_that_are_not_stages_are_only_summed() -> None:
    row = run(make_env=WithoutStages, seeds=[0]).rows[0]
    assert row.first_ticks == ()
    assert row.highest_stage is None
    assert row.reward_sum == run(seeds=[0]).rows[0].reward_sum


# Interruptions


class InterruptError(Exception):
    """Interrupts an evaluation."""


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_evaluation_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, workers: int
) -> None:
    def interrupt(progress: EvaluationProgress) -> None:
        if progress.done == 2:
            raise InterruptError

    with pytest.raises(InterruptError):
        run(workers=workers, out=tmp_path, on_progress=interrupt)
    seen: list[EvaluationProgress] = []
    resumed = run(workers=workers, out=tmp_path, on_progress=seen.append)
    assert resumed == run()
    assert seen[0].done >= 2
    assert seen[-1].done == seen[-1].total == 6
    assert seen[-1].left_s == 0.0


def test_an_interrupted_evaluation_ends_without_finishing_its_episodes() -> None:
    interrupted_at: list[float] = []

    def interrupt(progress: EvaluationProgress) -> None:
        if progress.done:
            interrupted_at.append(time.monotonic())
            raise InterruptError

    # Seed 0 succeeds at once, seed 1 runs for 100 s.
    with pytest.raises(InterruptError):
        run(
            make_env=partial(TinyArm, slow_s=0.1),
            seeds=[0, 1],
            step_cap=1000,
            workers=2,
            on_progress=interrupt,
        )
    assert time.monotonic() - interrupted_at[0] < 8  # after 10 s the process would be killed


def test_a_finished_evaluation_is_read_and_not_run_again(tmp_path: Path) -> None:
    first = run(out=tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    again = run(
        partial(tiny_arm.no_policy, Path("gone")), out=tmp_path
    )  # neither policy nor environment is created
    assert again == first
    assert again.wall_s == pytest.approx(first.wall_s, abs=0.1)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_an_episode_whose_line_is_incomplete_is_run_again(tmp_path: Path) -> None:
    whole = run(out=tmp_path)
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (lines[:1], lines[:2], lines[:5]):
        journal.write_bytes(b"".join(kept) + lines[len(kept)][:-7])
        assert run(out=tmp_path) == whole
        assert run(out=tmp_path) == whole  # the continued journal can be read again


def test_a_journal_of_another_evaluation_is_not_continued(tmp_path: Path) -> None:
    run(out=tmp_path, names={"policy": "ab12"})
    for other, message in (
        ({"seeds": range(7)}, "seeds was .0, 1, 2, 3, 4, 5., is now .0, 1, 2, 3, 4, 5, 6."),
        ({"execution": "replay:4"}, 'chunking was "replay:3", is now "replay:4"'),
        ({"step_cap": 9}, "step_cap was null, is now 9"),
        ({"stop_on_success": False}, "stop_on_success was true, is now false"),
        ({"names": {"policy": "cd34"}}, "names.policy was .*ab12.* is now .*cd34"),
        ({"videos": 1}, "videos was 0, is now 1"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            run(out=tmp_path, **({"names": {"policy": "ab12"}} | other))
        assert "another folder" in str(caught.value)


def test_another_spelling_of_the_same_execution_continues_the_journal(tmp_path: Path) -> None:
    first = run(out=tmp_path, execution="ensemble:0.01")
    assert run(out=tmp_path, execution="ensemble:.010/1") == first


def test_a_journal_with_a_replay_longer_than_the_chunk_is_continued_as_it_was_executed(
    tmp_path: Path,
) -> None:
    run(out=tmp_path, execution="replay:200")  # as older versions stored it
    journal = tmp_path / JOURNAL
    before = journal.read_bytes()
    for given in ("replay:200", "replay:100", f"replay:{Reacher.k}"):
        journal.write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
        found = run(out=tmp_path, execution=given, chunk_size=Reacher.k)
        assert found.execution == Execution(f"replay:{Reacher.k}")
        assert found.rows == run(execution=f"replay:{Reacher.k}").rows
    shorter = f"replay:{Reacher.k - 1}"
    with pytest.raises(BadInput, match=f'chunking was "replay:200", is now "{shorter}"'):
        run(out=tmp_path, execution=shorter, chunk_size=Reacher.k)


def test_a_journal_of_another_environment_is_not_continued(tmp_path: Path) -> None:
    run(out=tmp_path)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(lines[:3]))
    with pytest.raises(BadInput, match="environment differs from that of the finished episodes"):
        run(make_env=WithoutStages, out=tmp_path)


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    run(out=tmp_path)
    journal = tmp_path / JOURNAL
    good = journal.read_bytes()
    journal.write_bytes(good.replace(b'"success":true', b'"success":tru3', 1))
    with pytest.raises(DamagedFile, match="line 3: its CRC-32 is not the one that it gives"):
        run(out=tmp_path)
    lines = good.splitlines(keepends=True)
    row = json.loads(lines[2])["episode"]
    lines[2] = journal_line({"episode": {**row, "success": "yes"}})
    journal.write_bytes(b"".join(lines))
    with pytest.raises(DamagedFile, match="does not fit: Expected `bool`"):
        run(out=tmp_path)
    lines[2] = json.dumps({"episode": row}).encode() + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(DamagedFile, match="line 3: its CRC-32 is missing"):
        run(out=tmp_path)
    for head in (b'{"hello":1}\n', b'{"format":3}\n'):
        journal.write_bytes(head)
        with pytest.raises(DamagedFile, match=r"has format (None|3), this imitact .* continues"):
            run(out=tmp_path)


def test_a_journal_from_before_there_were_checksums_is_continued(tmp_path: Path) -> None:
    whole = run(out=tmp_path)
    journal = tmp_path / JOURNAL
    old = []
    for text in journal.read_bytes().splitlines()[:5]:
        entry = json.loads(text)
        del entry["crc32"]
        old.append({**entry, "format": 1} if "format" in entry else entry)
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    assert run(out=tmp_path) == whole
    assert run(out=tmp_path) == whole


SCRIPT = """
import signal
import sys
from functools import partial
from pathlib import Path
from imitact.evaluation.runner import evaluate
from tests.support.tiny_arm import Reacher, TinyArm

if __name__ == "__main__":
    # A process started in the background ignores Ctrl-C, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    slow = partial(TinyArm, slow_s=0.01)
    evaluate(Reacher, slow, seeds=range(6), execution="replay:3", workers=2, out=Path(sys.argv[1]))
"""


def finished(out: Path) -> int:
    journal = out / JOURNAL
    return journal.read_bytes().count(b'{"episode"') if journal.is_file() else 0


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_killed_evaluation_leaves_no_process_and_can_be_continued(
    tmp_path: Path, kill: signal.Signals
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    started = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while finished(out) < 2 and started.poll() is None:
        time.sleep(0.005)
    helpers = children(started.pid)
    assert len(helpers) >= 2
    if kill == signal.SIGINT:
        os.killpg(started.pid, kill)  # as a terminal does: to every process
    else:
        started.send_signal(kill)
    _, errors = started.communicate(timeout=60)
    assert finished(out) < 6
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in helpers):
        assert time.monotonic() < deadline, "a worker outlived the evaluation"
        time.sleep(0.02)
    if kill == signal.SIGINT:
        assert errors.count(b"KeyboardInterrupt") == 1, errors.decode()
    assert run(out=out) == run()


# Errors


@pytest.mark.parametrize("workers", [0, 2])
def test_an_episode_that_raises_is_noted_and_its_seed_is_named(
    tmp_path: Path, workers: int
) -> None:
    cramped = partial(Reacher, at=3)
    with pytest.raises(ImitactError, match="seed 3, replay:3: the episode failed") as caught:
        run(cramped, workers=workers, out=tmp_path)
    assert "ValueError: the reacher has a cramp" in str(caught.value)
    assert "the same command continues from there" in str(caught.value)
    assert "tiny_arm.py" in "".join(caught.value.__notes__)
    lines = [json.loads(text) for text in (tmp_path / JOURNAL).read_text().splitlines()]
    noted = [entry["error"] for entry in lines if "error" in entry]
    assert [error["seed"] for error in noted] == [3]
    assert "has a cramp" in noted[0]["message"]
    # Continued with a sound policy: the failed seed is run again and counts once.
    assert run(out=tmp_path, workers=workers) == run()


def test_bad_input_in_an_episode_stays_bad_input() -> None:
    with pytest.raises(
        NotFinite, match="seed 3, replay:3: the episode failed: the chunk is nan at row 0"
    ):
        run(partial(Reacher, at=3, what="nan"), workers=1)


def test_the_seed_of_a_killed_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImitactError, match=r"seed 2.*exit code -9.*memory.*fewer workers"):
        run(partial(Reacher, at=2, what="exit"), seeds=[0, 2], workers=1, out=tmp_path)
    assert finished(tmp_path) == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            tiny_arm.OtherJoints,
            "the environment is of another robot than the policy: 5 actions, expected 1; 5 states",
        ),
        (
            tiny_arm.MoreCameras,
            r"cameras are .*wrist \(12x16\), expected chest \(24x32\)",
        ),
        (
            tiny_arm.LargerCamera,
            r"cameras are eye \(24x32\), .*, expected eye \(48x64\)",
        ),
        (tiny_arm.OtherRate, "rate is 10 Hz, expected 50 Hz"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_the_first_episode(
    policy: type[Reacher], message: str, workers: int, tmp_path: Path
) -> None:
    with pytest.raises(SpecMismatch, match=message):
        run(policy, workers=workers, out=tmp_path)
    assert finished(tmp_path) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 2, 1]}, "more than once: 1$"),
        ({"seeds": [-1]}, "seed -1 is negative"),
        ({"step_cap": 0}, "step cap is 0"),
        ({"videos": -1}, "-1 videos"),
        ({"videos": 1}, "need an output folder"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_an_impossible_plan_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run(**given)


def test_what_cannot_be_pickled_is_refused_with_a_remedy() -> None:
    with pytest.raises(BadInput, match=r"functions of a module.*or set workers to 0"):
        run(lambda: Reacher(), workers=1)
    assert run(lambda: Reacher()).episodes == 6


# Figures


def test_jerk_is_the_third_derivative_of_the_joints_without_grippers() -> None:
    spec = tiny_arm.SPEC
    t = np.arange(30) / spec.rate_hz
    cubic = np.zeros((30, 5))
    cubic[:, 0] = 5 * t**3  # 30 rad/s^3, on one joint of four
    cubic[:, 2] = np.arange(30) % 2  # the gripper opens and closes at every tick
    assert jerk(cubic, spec) == pytest.approx(30 / 4)
    assert jerk(cubic + 2 * t[:, None] ** 2, spec) == pytest.approx(30 / 4)
    assert jerk(cubic[:3], spec) is None
    assert jerk(np.zeros((9, 1)), tiny_arm.OtherJoints.spec) is None


def test_a_subset_of_an_evaluation_equals_an_evaluation_of_those_seeds() -> None:
    whole = run()
    assert whole.only([4, 1]) == run(seeds=[4, 1])
    with pytest.raises(BadInput, match=r"seeds not evaluated: 8; there are seeds 0 to 5"):
        whole.only([4, 8])


def test_a_comparison_pairs_episodes_by_seed_in_any_order() -> None:
    a, b = run(), run(seeds=[3, 5, 1, 4, 0, 2], step_cap=40)
    same = compare(a, b)
    assert (same.both, same.only_a, same.only_b, same.neither) == (3, 0, 0, 3)
    with pytest.raises(BadInput, match="same seeds"):
        compare(a, run(seeds=range(5)))
    with pytest.raises(BadInput, match="A was capped at 40 ticks, B at 39"):
        compare(a, run(step_cap=39))


def test_seeds_are_described_briefly() -> None:
    assert describe_seeds(range(1000, 1100)) == "seeds 1000 to 1099"
    assert describe_seeds([7]) == "seed 7"
    assert describe_seeds([1, 5, 9]) == "seeds 1, 5, 9"
    assert describe_seeds(range(0, 40, 2)) == "20 seeds from 0 to 38"


# Time left


def row(seed: int, ticks: int, wall_s: float) -> EpisodeRow:
    return EpisodeRow(seed, True, None, 3, (0,), 0.0, ticks, 1, None, ((0.0, ticks),), wall_s)


def job(seed: int) -> Job:
    return Job(Execution("replay:1"), seed)


def time_left(seeds: int = 6, workers: int = 2, videos: int = 0, cap: int = 400) -> TimeLeft:
    return TimeLeft(workers, range(videos), set(map(job, range(seeds))), step_cap=cap)


def test_time_left_is_unknown_until_an_episode_has_run_for_some_ticks() -> None:
    begun = time_left()
    assert begun.left_s() is None
    begun.running[job(0)] = 2, 5.0
    assert begun.left_s() is None
    begun.running[job(0)] = 100, 5.0
    assert begun.left_s() is not None


def test_time_left_is_that_of_waiting_episodes_shared_by_the_workers() -> None:
    half = time_left()
    half.rows[job(0)] = row(0, 200, 10.0)
    half.rows[job(1)] = row(1, 200, 10.0)
    assert half.left_s() == pytest.approx(20.0)  # four more, two at a time
    half.running[job(2)] = 100, 5.0
    half.running[job(3)] = 150, 7.5
    assert half.left_s() == pytest.approx(15.0)  # 2.5 + 10 and 5 + 10


def test_an_episode_that_has_just_begun_is_expected_to_take_the_mean() -> None:
    begun = time_left(seeds=2, workers=1)
    begun.rows[job(0)] = row(0, 200, 10.0)
    begun.running[job(1)] = 1, 2.0
    assert begun.left_s() == pytest.approx(8.0)


def test_an_episode_with_video_does_not_raise_the_estimate_for_the_others() -> None:
    mixed = time_left(videos=1, workers=1)
    mixed.rows[job(0)] = row(0, 200, 60.0)
    mixed.rows[job(1)] = row(1, 200, 2.0)
    assert mixed.left_s() == pytest.approx(4 * 2.0)


def test_an_episode_longer_than_the_mean_is_expected_to_run_to_the_cap() -> None:
    last = time_left(seeds=2, workers=1)
    last.rows[job(0)] = row(0, 100, 1.0)
    last.running[job(1)] = 200, 2.0
    assert last.left_s() == pytest.approx(2.0)


def test_progress_counts_up_and_ends_with_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode, "REPORT_EVERY_S", 0.02)
    seen: list[EvaluationProgress] = []
    run(seeds=range(4), make_env=partial(TinyArm, slow_s=0.003), on_progress=seen.append)
    assert seen[0] == EvaluationProgress(0, 4, 0, None)
    assert all(a.done <= b.done for a, b in pairwise(seen))
    assert any(p.done == 0 and p.left_s is not None for p in seen)  # reported while running
    assert (seen[-1].done, seen[-1].successes, seen[-1].left_s) == (4, 2, 0.0)


# Videos


def test_recording_videos_changes_no_row_and_covers_the_first_seeds_only(tmp_path: Path) -> None:
    recorded = run(
        partial(Reacher, looks=True),
        out=tmp_path,
        videos=2,
        video=EpisodeVideoConfig(("eye", "wrist"), 3),
    )
    assert recorded.rows == run().rows
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == ["seed-0.mp4", "seed-1.mp4"]


def test_failures_can_be_recorded_afterwards_without_changing_the_evaluation(
    tmp_path: Path,
) -> None:
    make = partial(Reacher, looks=True)
    evaluation = run(make, out=tmp_path)
    failed = [row for row in evaluation.rows if not row.success]
    before = (tmp_path / JOURNAL).read_bytes()
    again = record_videos(
        make, TinyArm, evaluation, seeds=[r.seed for r in failed], out=tmp_path, workers=0
    )
    assert again.rows == tuple(failed)
    names = {f"seed-{row.seed}.mp4" for row in failed}
    assert {p.name for p in (tmp_path / "videos").iterdir()} == names
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert run(make, out=tmp_path) == evaluation


def test_an_episode_that_raises_leaves_no_partial_video(tmp_path: Path) -> None:
    with pytest.raises(ImitactError, match="cramp"):
        run(partial(Reacher, at=0), out=tmp_path, videos=1, seeds=[0])
    with pytest.raises(NotFinite):
        run(FailsLater, out=tmp_path / "later", videos=1, seeds=[0])
    assert [p.name for p in tmp_path.rglob("*") if "mp4" in p.name] == []


class FailsLater(Reacher):
    """Answers two queries, then gives NaN."""

    queries = 0

    def chunk(self, observation: Any) -> np.ndarray:
        self.queries += 1
        return super().chunk(observation) * (np.nan if self.queries == 3 else 1)
