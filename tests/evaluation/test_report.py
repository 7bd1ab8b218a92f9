"""Evaluation reports: the file holds what was counted, and a reader can verify it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.execution import Execution
from imitact.evaluation import report
from imitact.evaluation.results import EnvInfo, EpisodeRow, Evaluation, EvaluationPlan, compare
from imitact.evaluation.runner import evaluate
from imitact.storage.checksum import with_checksum
from tests.support.tiny_arm import Reacher, TinyArm

ENV = EnvInfo(400, ("away", "near", "there"), ("a",), ("rad",), 50.0)


def made(successes: int, episodes: int = 100, chunking: str = "replay:50") -> Evaluation:
    """Return an evaluation from seed 1000 on whose first `successes` episodes succeeded."""
    rows = tuple(
        EpisodeRow(
            seed=1000 + at,
            success=at < successes,
            held=None if at < successes else False,
            highest_stage=2 if at < successes else 1,
            first_ticks=(0, 10, 200 if at < successes else None),
            reward_sum=5.0,
            ticks=201 if at < successes else 400,
            queries=5,
            jerk_rad_s3=12.5,
            rewards=((1.0, 200), (2.0, 1)) if at < successes else ((1.0, 400),),
            wall_s=1.0,
        )
        for at in range(episodes)
    )
    return Evaluation(
        EvaluationPlan(tuple(r.seed for r in rows), Execution(chunking)), ENV, rows, 2, 60.0
    )


def test_the_line_has_rate_interval_cap_seeds_and_chunking() -> None:
    assert report.summary_line(made(94)) == (
        "94 of 100 (95 % interval 87.4 to 97.8), cap 400 ticks, seeds 1000 to 1099, replay:50"
    )


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    for stop, delay in ((True, 0), (False, 0), (True, 2)):
        counted = evaluate(
            Reacher,
            TinyArm,
            seeds=range(5),
            execution=Execution("ensemble:0.01", delay),
            stop_on_success=stop,
            names={"policy": "ab12"},
            workers=0,
        )
        path = report.write(counted, tmp_path / "deep" / "out")
        assert report.read(path) == report.read(path.parent) == counted
        assert report.read(path).wall_s == counted.wall_s
        assert [p.name for p in path.parent.iterdir()] == ["evaluation.json"]


def test_a_delay_is_reported_and_a_delay_of_zero_changes_no_key() -> None:
    late = replace(made(94), plan=replace(made(94).plan, execution=Execution("replay:50", 3)))
    assert report.summary_line(late).endswith("replay:50 with a delay of 3 ticks")
    assert "delay, ticks" in report.table([made(94), late])
    assert "delay" not in report.table([made(94)])
    assert report.to_dict(late)["delay_ticks"] == 3
    values = report.to_dict(made(94))
    assert "delay_ticks" not in values
    assert "delay_ticks" not in values["plan"]
    assert report.from_dict(values) == made(94)  # as a file from before there were delays


def test_the_file_holds_the_figures_under_the_agreed_keys(tmp_path: Path) -> None:
    data = json.loads(report.write(made(94), tmp_path).read_text())
    assert data["successes"] == 94
    assert data["episodes"] == 100
    assert data["interval"] == pytest.approx([0.8740, 0.9777], abs=1e-4)
    assert data["step_cap"] == 400
    assert data["seeds"] == list(range(1000, 1100))
    assert data["chunking"] == "replay:50"
    assert data["wall_s"] == 60.0
    assert data["reached"] == [100, 100, 94]
    assert data["held"] is None
    assert data["mean_success_tick"] == 200.0
    row = data["rows"][0]
    assert row["seed"] == 1000
    assert row["success"] is True
    assert row["first_ticks"] == [0, 10, 200]
    assert row["rewards"] == [[1.0, 200], [2.0, 1]]


def without_a_row(data: dict[str, Any]) -> None:
    del data["rows"][3]


def better(data: dict[str, Any]) -> None:
    data["successes"] = 100


def rounded_up(data: dict[str, Any]) -> None:
    data["rows"][95]["success"] = True


def other_seed(data: dict[str, Any]) -> None:
    data["rows"][3]["seed"] = 7


def older(data: dict[str, Any]) -> None:
    data["format"] = 0


def no_plan(data: dict[str, Any]) -> None:
    del data["plan"]


def extra(data: dict[str, Any]) -> None:
    data["p_hacked"] = True


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (without_a_row, "not those of its seeds"),
        (better, "successes does not follow from its rows"),
        (rounded_up, "interval, .*successes does not follow"),
        (other_seed, "not those of its seeds"),
        (older, "format is 0, expected 1"),
        (no_plan, "not an evaluation"),
        (extra, "p_hacked does not follow"),
    ],
)
def test_figures_that_do_not_follow_from_the_rows_are_refused(
    tmp_path: Path, alter: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = report.write(made(94), tmp_path)
    data = json.loads(path.read_text())
    alter(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DamagedFile, match=r"evaluation\.json is not what was written"):
        report.read(tmp_path)
    path.write_text(json.dumps(with_checksum(data)))
    with pytest.raises(DamagedFile, match=message) as caught:
        report.read(tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_from_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    path = report.write(made(94), tmp_path)
    data = json.loads(path.read_text())
    del data["sha256"]
    path.write_text(json.dumps(data))
    assert report.read(path) == made(94)


def test_a_file_that_is_missing_or_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluation\.json is missing"):
        report.read(tmp_path)
    path = report.write(made(94), tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedFile, match=r"evaluation\.json is not JSON"):
        report.read(tmp_path)


def test_a_table_has_one_column_per_evaluation() -> None:
    table = report.table([made(94).only(range(1000, 1020)), made(18, 20, "ensemble:0.01")])
    start = table.index("replay:50") - len("84.0 to ")  # the widest cell ends with it
    lines = {line[:start].strip(): line[start:].split() for line in table.splitlines()}
    assert lines["chunking"] == ["replay:50", "ensemble:0.01"]
    assert lines["success"] == ["20", "of", "20", "18", "of", "20"]
    assert lines["seeds"] == ["1000", "to", "1019", "1000", "to", "1019"]
    assert lines["reward 2 or more: there"] == ["20", "18"]
    assert lines["held at the end"] == ["-", "-"]
    assert lines["jerk, rad/s^3, mean"] == ["12.5", "12.5"]
    assert len({len(line) for line in table.splitlines()}) == 1  # the last column is flush


def test_evaluations_of_different_environments_cannot_share_a_table() -> None:
    other = replace(made(94), env_info=replace(ENV, stages=("off", "on")))
    with pytest.raises(BadInput, match="cannot share a table"):
        report.table([made(94), other])
    with pytest.raises(BadInput, match="no evaluation"):
        report.table([])


def test_a_comparison_is_one_line() -> None:
    line = report.paired_line(compare(made(18, 20), made(15, 20)), "replay", "ensemble")
    assert line == (
        "replay minus ensemble on the same 20 seeds: +15.0 points "
        "(95 % interval -3.5 to +36.0); only replay succeeds on 3, only ensemble on 0 "
        "(exact McNemar p = 0.25)"
    )


def test_equal_rewards_are_equal_tick_for_tick() -> None:
    assert report.reward_differences(made(94), made(94)) == []


def test_the_first_tick_that_differs_is_named() -> None:
    ours = made(3, 3)
    rows = list(ours.rows)
    rows[1] = replace(rows[1], rewards=((1.0, 150), (0.0, 50), (2.0, 1)))
    rows[2] = replace(rows[2], rewards=((1.0, 200), (2.0, 2)))
    theirs = replace(ours, rows=tuple(rows))
    assert report.reward_differences(ours, theirs) == [
        "seed 1001, tick 150: 1 against 0",
        "seed 1002, tick 201: none (it had ended) against 2",
    ]
    with pytest.raises(BadInput, match="same seeds"):
        report.reward_differences(made(3, 3), made(3, 4))
