"""Tuning: which executions are tried, dropped and chosen, and what success is reported."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.api import evaluate as evaluate_api
from imitact.core.answer_delay import delay_bounds
from imitact.core.errors import BadInput, ImitactError
from imitact.core.execution import Execution, parse
from imitact.core.feature_statistics import Accumulator
from imitact.envs import registry
from imitact.evaluation.episode import Job
from imitact.evaluation.episode_journal import TUNING_JOURNAL as JOURNAL
from imitact.evaluation.episode_journal import EpisodeJournal
from imitact.evaluation.results import EnvInfo, EpisodeRow, Evaluation, EvaluationPlan
from imitact.evaluation.runner import EvaluationProgress, Evaluator, evaluate
from imitact.evaluation.tuning import plot, report
from imitact.evaluation.tuning import successive_halving as tuning
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.selection import choose, ranked
from imitact.evaluation.tuning.successive_halving import UNTUNED, RaceConfig, Tuning
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import identity
from imitact.storage.lock import exclusive_writer
from tests.support import dot_env
from tests.support.command_line import answer
from tests.support.tiny_arm import Reacher, TinyArm
from tests.support.tiny_model import TINY_MODEL

ENV = EnvInfo(400, ("away", "there"), ("a",), ("rad",), 50.0)


def row(seed: int, success: bool, jerk: float | None, queries: int) -> EpisodeRow:
    first_ticks = (0, 9 if success else None)
    rewards = ((1.0, 100),)
    return EpisodeRow(
        seed, success, None, int(success), first_ticks, 1.0, 100, queries, jerk, rewards, 0.1
    )


def counted(
    execution: Execution | str, won: Sequence[bool], jerk: float | None = 10.0, queries: int = 4
) -> Evaluation:
    """Return episodes from seed 5000 on with those successes."""
    execution = Execution(execution) if isinstance(execution, str) else execution
    rows = tuple(row(5000 + at, w, jerk, queries) for at, w in enumerate(won))
    plan = EvaluationPlan(tuple(r.seed for r in rows), execution)
    return Evaluation(plan, ENV, rows, 0, 1.0)


def wins(count: int, of: int = 100) -> list[bool]:
    """Return successes on the first `count` seeds, so that more successes include fewer."""
    return [at < count for at in range(of)]


# The grid


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.integers(1, 30), max_size=4),
    st.integers(2, 40),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_an_execution_that_is_left_out_queries_as_often_as_one_that_is_tried(
    replay: list[int], every: list[int], chunk: int, delay: int
) -> None:
    if delay >= chunk:
        return
    grid = Grid(tuple(replay), (0.1,), tuple(every), fade=(0,))
    tried = grid.at(delay, chunk)
    assert len(set(tried)) == len(tried)

    def intervals(text: str) -> list[int]:
        chunking = parse(text, delay)
        queries = []
        for tick in range(150):
            if chunking.wants_chunk:
                chunking.feed(np.zeros((chunk, 1)))
                queries.append(tick)
            chunking.next()
        return np.diff(queries[2:]).tolist()

    def alike(a: list[int], b: list[int]) -> bool:
        """One of them may begin at another tick and so have one query more."""
        shorter = min(len(a), len(b))
        return a[:shorter] == b[:shorter] and abs(len(a) - len(b)) <= 1

    replays = [intervals(e.chunking) for e in tried if e.chunking.startswith("replay")]
    for n in replay:
        assert any(alike(intervals(f"replay:{n}"), r) for r in replays)
    # No two replays that are tried query equally often.
    assert not any(alike(a, b) for a, b in itertools.combinations(replays, 2))
    for e in set(every):
        tried_so = [t for t in tried if t.chunking.startswith("ensemble:0.1")]
        if max(e, delay) < chunk - delay:
            ours = intervals(f"ensemble:0.1/{e}")
            assert any(alike(intervals(t.chunking), ours) for t in tried_so)


def test_a_grid_names_replays_as_they_are_executed() -> None:
    grid = Grid((10, 25, 50, 100), (0.01,), (5,), fade=(0,))
    tried = [e.chunking for e in grid.at(0, 20)]
    assert tried == ["replay:20", "replay:10", "ensemble:0.01/5"]


def test_the_untuned_replay_is_named_as_it_is_executed() -> None:
    grid, race = (
        Grid((4, 20), (), (), fade=(0,)),
        RaceConfig(first_round=4, selection=4, finalists=2, confirmation=4),
    )
    found = tuning.tune(SimulatedEpisodes({}), grid, race, 20)
    assert {e.execution.chunking for e in found.confirmed} <= {"replay:20", "replay:4"}
    assert found.untuned == Execution("replay:20")
    assert found.gain is not None


def test_episodes_of_a_replay_longer_than_a_chunk_are_continued(tmp_path: Path) -> None:
    with evaluator(out=tmp_path) as running:
        (older,) = running.evaluations([Execution("replay:100")], range(3))
    plan = EvaluationPlan((0,), Execution())
    journal = EpisodeJournal.of_tuning(plan, tmp_path, chunk_size=20)
    executed = Execution("replay:20")
    assert [journal.rows[Job(executed, seed)] for seed in range(3)] == list(older.rows)


def test_at_a_delay_of_ten_a_query_every_five_ticks_becomes_one_every_ten() -> None:
    grid = Grid((5, 10, 50, 90, 100), (0.01,), (5, 10, 25), fade=(0,))
    tried = [e.chunking for e in grid.at(10, 100)]
    assert tried == ["replay:100", "replay:50", "replay:10", "ensemble:0.01/25", "ensemble:0.01/10"]
    assert len(grid.at(0, 100)) == 8


def test_each_replay_is_tried_with_each_fade_of_its_seams() -> None:
    tried = [e.chunking for e in Grid((25, 50), (), (), fade=(0, 10)).at(0, 50)]
    assert tried == ["replay:50", "replay:50~10", "replay:25", "replay:25~10"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"replay": (0,)}, "replay is 0"),
        ({"every": (0,)}, "every is 0"),
        ({"fade": (-1,)}, "fade is -1"),
        ({"delays": (-1,)}, "delays is -1"),
        ({"delays": ()}, "--delays is empty"),
        ({"m": (float("nan"),)}, "m is nan"),
        ({"replay": (), "m": ()}, "the grid is empty"),
        ({"fade": (), "m": ()}, "the grid is empty"),
    ],
)
def test_an_invalid_grid_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Grid(**grid)


def test_a_delay_as_long_as_a_chunk_is_refused() -> None:
    with pytest.raises(BadInput, match="tune for at most 9"):
        Grid().at(10, 10)
    with pytest.raises(BadInput, match="the grid has no execution"):
        Grid(replay=(), every=(25,)).at(0, 20)


# The selection


def test_the_most_successes_win_where_the_difference_is_significant() -> None:
    rough = counted("replay:5", wins(90), jerk=99.0, queries=50)
    choice = choose([counted("replay:50", wins(70), jerk=1.0, queries=1), rough])
    assert choice.best is choice.chosen is rough
    assert choice.equals == [rough]


def test_of_executions_that_do_not_differ_significantly_the_smoother_is_chosen() -> None:
    best = counted("replay:5", wins(96), jerk=30.0)
    smooth = counted("replay:50", wins(95), jerk=20.0)
    choice = choose([smooth, best])
    assert choice.best is best
    assert choice.chosen is smooth
    assert choice.equals == [best, smooth]


def test_smoothness_costs_at_most_two_points_even_without_significance() -> None:
    best = counted("replay:5", wins(96), jerk=30.0)
    lower = counted("replay:50", wins(93), jerk=1.0)
    (_, _, equal), (_, difference, lower_equal) = choose([best, lower]).candidates
    assert difference.interval[0] <= 0  # not significant
    assert (equal, lower_equal) == (True, False)
    assert choose([best, lower]).chosen is best
    assert choose([best, counted("replay:50", wins(94), jerk=1.0)]).chosen.successes == 94


def test_jerks_within_a_tenth_count_as_equal_and_fewer_queries_decide() -> None:
    often = counted("ensemble:0.01/5", wins(96), jerk=20.0, queries=20)
    seldom = counted("replay:50", wins(96), jerk=21.9, queries=2)
    rough = counted("replay:100", wins(96), jerk=22.1, queries=1)
    assert choose([often, seldom, rough]).chosen is seldom


def test_a_choice_does_not_depend_on_the_order() -> None:
    some = [
        counted("replay:5", wins(96), 30.0), counted("replay:50", wins(95), 20.0),
        counted("replay:100", wins(60), 1.0), counted("ensemble:0", wins(95), 21.0, 1),
    ]  # fmt: skip
    assert choose(some).chosen is choose(some[::-1]).chosen is some[3]


def test_jerk_decides_nothing_where_no_joint_is_in_rad() -> None:
    often = counted("replay:5", wins(9, 10), None, 9)
    seldom = counted("replay:50", wins(9, 10), None, 2)
    assert choose([often, seldom]).chosen is seldom


def test_executions_are_ranked_by_successes_then_jerk_then_queries() -> None:
    a, b, c, d = (
        counted("replay:1", wins(9, 10), 5.0, 1), counted("replay:2", wins(8, 10), 1.0, 1),
        counted("replay:3", wins(8, 10), 2.0, 1), counted("replay:4", wins(8, 10), 2.0, 2),
    )  # fmt: skip
    assert ranked([d, c, b, a]) == [a, b, c, d]


def test_a_choice_among_none_or_on_other_seeds_is_refused() -> None:
    with pytest.raises(BadInput, match="no evaluation to choose from"):
        choose([])
    with pytest.raises(BadInput, match="same seeds"):
        choose([counted("replay:1", wins(1, 2)), counted("replay:2", wins(1, 3))])


# The race


class SimulatedEpisodes:
    """Executions that succeed by chance, decided by the seed alone; notes what was run."""

    def __init__(self, chance: dict[str, float], falls: float = 0.0) -> None:
        self.chance, self.falls = chance, falls
        self.ran: list[tuple[Execution, tuple[int, ...]]] = []

    def __call__(self, executions: Sequence[Execution], seeds: Sequence[int]) -> list[Evaluation]:
        self.ran += [(e, tuple(seeds)) for e in executions]
        found = []
        for e in executions:
            late = delay_bounds(e.delay_ticks)[1]
            chance = self.chance.get(e.chunking, 0.2) - self.falls * late
            luck = [np.random.default_rng([seed, 3]).uniform() for seed in seeds]
            rows = tuple(
                row(seed, u < chance, 10.0, 4) for seed, u in zip(seeds, luck, strict=True)
            )
            plan = EvaluationPlan(tuple(seeds), e)
            found.append(Evaluation(plan, ENV, rows, 0, 1.0))
        return found


GRID = Grid((10, 25, 50, 100), (-0.1, 0.01), (5, 10), (0, 4), (0,))
RACE = RaceConfig(first_round=8, finalists=2, selection=64, confirmation=32)


def raced(run: Any, grid: Grid = GRID, race: RaceConfig = RACE) -> Tuning:
    return tuning.tune(run, grid, race, 100)


def test_a_race_halves_the_executions_and_doubles_the_seeds() -> None:
    assert RACE.rounds(8) == [(8, 8), (4, 16), (2, 64)]
    assert RACE.rounds(2) == [(2, 64)]
    assert RaceConfig(first_round=10, finalists=4, selection=100).rounds(13) == [
        (13, 10), (7, 20), (4, 100),
    ]  # fmt: skip
    race = raced(SimulatedEpisodes({"replay:25": 0.9})).races[0]
    assert [(len(each), each[0].episodes) for each in race.rounds] == RACE.rounds(8)
    for before, after in zip(race.rounds, race.rounds[1:], strict=False):
        kept = [e.execution for e in before[: len(after)]]
        assert sorted(map(str, kept)) == sorted(str(e.execution) for e in after)
    assert len(race.longest) == 8


def test_the_better_execution_wins() -> None:
    found = raced(SimulatedEpisodes({"ensemble:0.01/10": 0.95, "replay:25": 0.5}))
    assert found.chosen == Execution("ensemble:0.01/10")
    assert [race.choice.chosen.execution.chunking for race in found.races] == [
        "ensemble:0.01/10"
    ] * 2


def test_the_choice_is_confirmed_on_seeds_that_played_no_part_in_it() -> None:
    run = SimulatedEpisodes({"ensemble:0.01/10": 0.95}, falls=0.1)
    found = raced(run)
    selection, confirmation = set(RACE.selection_seeds), set(RACE.confirmation_seeds)
    assert min(selection) == 5000
    assert not selection & confirmation
    for _, seeds in run.ran:
        assert set(seeds) <= selection or set(seeds) == confirmation
    at = {(e.execution.chunking, e.execution.delay_ticks) for e in found.confirmed}
    assert at >= {("ensemble:0.01/10", 0), ("ensemble:0.01/10", 4), ("replay:50", 0)}
    assert len(at) == len(found.confirmed)
    assert found.gain is not None
    assert found.gain.episodes == 32
    assert found.gain.difference > 0.4
    late = found.confirmation("ensemble:0.01/10", 4)
    assert late is not None
    assert late.successes < found.confirmation("ensemble:0.01/10", 0).successes  # type: ignore[union-attr]


def test_the_execution_is_chosen_for_the_given_delay() -> None:
    class DelayDependent(SimulatedEpisodes):
        """Replays of 25 succeed without a delay, replays of 100 with one."""

        def __call__(self, executions: Any, seeds: Any) -> Any:
            found = []
            for e in executions:
                self.chance = {"replay:100" if e.delay_ticks else "replay:25": 0.95}
                found += super().__call__([e], seeds)
            return found

    assert raced(DelayDependent({})).chosen == Execution("replay:25")
    late = raced(
        DelayDependent({}), race=RaceConfig(delay_ticks=6, first_round=8, finalists=2, selection=64)
    )
    assert late.chosen == Execution("replay:100", 6)
    assert [race.delay_ticks for race in late.races] == [0, 4, 6]


def test_a_tuning_has_a_race_for_drawn_delays_and_draws_it_beside_the_others(
    tmp_path: Path,
) -> None:
    grid = Grid((10, 25), (0.01,), (5,), (0, 5, "3..9", "0..20"), (0,))
    race = RaceConfig(delay_ticks="3..9", first_round=8, finalists=2, selection=16, confirmation=8)
    found = raced(SimulatedEpisodes({"replay:25": 0.9}), grid, race)
    assert [each.delay_ticks for each in found.races] == [0, "0..20", "3..9", 5]
    assert found.chosen == Execution("replay:25", "3..9")
    values = json.loads(json.dumps(report.to_dict(found, grid, race, {})))
    assert values["chosen"] == {"chunking": "replay:25", "delay_ticks": "3..9"}
    assert "delay 3 to 9 ticks, " in "\n".join(report.report_lines(found, race))
    assert report.evaluate_options(found.chosen) == "--chunking replay:25 --delay-ticks 3..9"
    drawn = plot.draw(found, tmp_path).read_text()
    assert all(text in drawn for text in ("3..9", "0..20", "delay 3 to 9 ticks"))
    places = plot._places([0, "0..20", "3..9", 5])
    assert places[0] == 0
    assert places[5] == 5
    assert 5 < places["0..20"] < places["3..9"]


def test_what_acts_alike_at_the_longest_delay_only_is_tried_at_drawn_delays() -> None:
    grid = Grid((10, 25), (0.01,), (5, 10), fade=(0,))
    names = [execution.chunking for execution in grid.at("0..30", 100)]
    assert names == ["replay:25", "replay:10", "ensemble:0.01/10", "ensemble:0.01/5"]
    assert len(grid.at(30, 100)) == 2


def test_the_number_of_episodes_is_known_in_advance() -> None:
    for grid, race in ((GRID, RACE), (Grid(), RaceConfig()), (GRID, RaceConfig(confirmation=0))):
        run = SimulatedEpisodes({"ensemble:0.01/10": 0.95})
        raced(run, grid, race)
        ran = {(e, seed) for e, seeds in run.ran for seed in seeds}
        most = tuning.count_episodes(grid, race, 100)
        assert len(ran) <= most
        at_least = most - 3 * race.confirmation * len({*grid.delays, race.delay_ticks})
        assert len([1 for _, seed in ran if seed < race.confirmation_seeds.start]) == at_least


@pytest.mark.parametrize(
    ("race", "message"),
    [
        ({"first_seed": 1000}, "would bias the result"),
        ({"delay_ticks": -1}, "delay-ticks is -1"),
        ({"finalists": 0}, "finalists is 0"),
        ({"first_round": 0}, "first-round is 0"),
        ({"selection": 9}, "at least --first-round, which is 10"),
        ({"confirmation": -1}, "confirmation is -1"),
    ],
)
def test_an_invalid_race_is_refused(race: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        RaceConfig(**race)


# Episodes, each run once


SETTINGS = (Execution("replay:3"), Execution("ensemble:0.1/2", 2), Execution("replay:3", 1))


def evaluator(
    make_policy: Any = Reacher,
    make_env: Any = TinyArm,
    *,
    workers: int = 0,
    names: dict[str, str] | None = None,
    step_cap: int | None = None,
    out: Path | None = None,
    **given: Any,
) -> Evaluator:
    plan = EvaluationPlan((0,), Execution(), step_cap=step_cap, names=names or {})
    journal = EpisodeJournal.of_tuning(plan, out) if out else None
    return Evaluator(make_policy, make_env, plan, workers=workers, journal=journal, **given)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_tuning_gives_the_rows_of_an_evaluation(workers: int) -> None:
    with evaluator(workers=workers) as running:
        found = running.evaluations(SETTINGS, range(3))
    for execution, evaluation in zip(SETTINGS, found, strict=True):
        alone = evaluate(
            Reacher,
            TinyArm,
            seeds=range(3),
            execution=execution,
            workers=0,
        )
        assert evaluation == alone
        assert evaluation.execution == execution
    assert found[0].rows != found[2].rows  # the delay changes these rows


class InterruptError(Exception):
    """Interrupts a tuning."""


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_tuning_is_continued_and_runs_no_episode_twice(
    tmp_path: Path, workers: int
) -> None:
    def interrupt(progress: EvaluationProgress) -> None:
        if progress.done == 4:
            raise InterruptError

    with (
        pytest.raises(InterruptError),
        evaluator(out=tmp_path, workers=workers, on_progress=interrupt) as running,
    ):
        running.evaluations(SETTINGS, range(3))
    kept = (tmp_path / JOURNAL).read_bytes().count(b'{"episode"')
    assert 4 <= kept < 9
    with evaluator(out=tmp_path, workers=workers) as running:
        assert len(running.missing(SETTINGS, range(3))) == 9 - kept
        resumed = running.evaluations(SETTINGS, range(3))
        before = (tmp_path / JOURNAL).read_bytes()
        assert running.evaluations(SETTINGS, range(2))[0].episodes == 2
    assert before.count(b'{"episode"') == 9
    assert (tmp_path / JOURNAL).read_bytes() == before
    with evaluator() as running:
        assert running.evaluations(SETTINGS, range(3)) == resumed


def test_a_finished_tuning_needs_neither_policy_nor_environment(tmp_path: Path) -> None:
    with evaluator(out=tmp_path) as running:
        first = running.evaluations(SETTINGS, [7])
    with evaluator(lambda: 1 / 0, lambda: 1 / 0, out=tmp_path) as again:
        assert again.evaluations(SETTINGS, [7]) == first


def test_a_tuning_of_another_policy_is_not_continued(tmp_path: Path) -> None:
    with evaluator(out=tmp_path, names={"policy": "ab12"}) as running:
        running.evaluations(SETTINGS, [0])
    with pytest.raises(BadInput, match=r"names.* was .*ab12.* is now .*cd34"):
        evaluator(out=tmp_path, names={"policy": "cd34"})
    with pytest.raises(BadInput, match="step_cap was null, is now 7"):
        evaluator(out=tmp_path, names={"policy": "ab12"}, step_cap=7)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_episode_that_raises_names_its_seed_and_execution(tmp_path: Path, workers: int) -> None:
    cramped = evaluator(partial(Reacher, at=1), out=tmp_path, workers=workers)
    with pytest.raises(ImitactError, match=r"seed 1, replay:3: the episode failed.*cramp"), cramped:
        cramped.evaluations(SETTINGS[:1], range(3))
    with evaluator(out=tmp_path) as sound:
        assert sound.evaluations(SETTINGS[:1], range(3))[0].episodes == 3


def test_a_killed_worker_of_a_tuning_names_its_job() -> None:
    with (
        pytest.raises(ImitactError, match=r"in seed 2, replay:3 with exit code -9"),
        evaluator(partial(Reacher, at=2, what="exit"), workers=1) as running,
    ):
        running.evaluations(SETTINGS[:1], [0, 2])


# Reports


def test_the_figure_shows_every_execution_and_is_deterministic(
    tmp_path: Path,
) -> None:
    found = raced(SimulatedEpisodes({"ensemble:0.01/10": 0.95}, falls=0.05))
    first = plot.draw(found, tmp_path).read_bytes()
    assert plot.draw(found, tmp_path).read_bytes() == first
    text = first.decode()
    assert text.lstrip().startswith("<?xml")
    for execution in GRID.at(0, 100):
        assert f">{execution.chunking}<" in text
    assert "delay 4 ticks" in text
    assert "ensemble:0.01/10 (chosen)" in text
    assert [p.name for p in tmp_path.iterdir()] == [plot.FILE_NAME]
    unconfirmed = raced(
        SimulatedEpisodes({}), race=RaceConfig(first_round=8, selection=16, confirmation=0)
    )
    assert "(chosen)" not in plot.draw(unconfirmed, tmp_path).read_text()


def test_the_report_has_the_rounds_of_each_execution_and_the_reason_of_the_choice(
    tmp_path: Path,
) -> None:
    found = raced(SimulatedEpisodes({"ensemble:0.01/10": 0.95, "replay:25": 0.9}, falls=0.05))
    values = json.loads(
        report.write(report.to_dict(found, GRID, RACE, {"env": "cube"}), tmp_path).read_text()
    )
    assert values["chosen"] == {"chunking": found.chosen.chunking, "delay_ticks": 0}
    assert [race["delay_ticks"] for race in values["heats"]] == [0, 4]
    last = values["heats"][0]["rounds"][-1]
    assert len(last) == 2
    assert last[0]["episodes"] == 64
    assert last[0]["seeds"] == [5000, 5063]
    assert len(last[0]["failed_seeds"]) == 64 - last[0]["successes"]
    assert values["heats"][0]["finalists"][0]["best_minus_it"]["difference"] == 0
    assert {c["seeds"][0] for c in values["confirmed"]} == {5064}
    text = "\n".join(report.report_lines(found, RACE))
    assert "delay 0 ticks, seeds 5000 to 5063:" in text
    assert "dropped after 8" in text
    assert "confirmation, seeds 5064 to 5095:" in text
    assert f"chosen:  {found.chosen} (" in text
    assert f"{found.chosen.chunking} minus {UNTUNED.chunking} on the same 32 seeds" in text


# The command


SMALL = {
    "--fade": "0",
    "--replay": "2 8", "--m": "0.01", "--every": "3", "--delays": "0 2", "--first-round": "2",
    "--finalists": "2", "--selection": "3", "--confirmation": "2", "--workers": "1",
}  # fmt: skip


def small(**changes: str) -> list[str]:
    """Return the options of a small tuning with some changed: `first_seed="7"` is --first-seed."""
    changed = {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [word for name, value in (SMALL | changed).items() for word in (name, *value.split())]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    seen = Accumulator(2)
    seen.add(draw.uniform(0, 1, (50, 2)))
    stats = {"state": seen.result(), "action": seen.result()}
    policy = TorchPolicy.create(dot_env.dot_spec(), stats, TINY_MODEL, seed=0, fingerprint="none")
    return policy.save(tmp_path_factory.mktemp("tune") / "policy")


@pytest.fixture
def policy(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "env_for_policy", lambda *_, **options: (dot_env.make_dot, {}))
    return shutil.copytree(saved, tmp_path / "policy")


def test_a_tuned_policy_is_evaluated_as_it_was_tuned(
    policy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = (policy / "model.safetensors").read_bytes()
    was = identity(policy)
    code, out, err = answer(capsys, "tune", policy, *small(delay_ticks="2"))
    assert code == 0, err
    assert "delay 0 ticks, round 1 of 2: 3 executions on 2 seeds" in err
    values = json.loads((tmp_path / "policy-tune" / "tune.json").read_text())
    chosen = Execution(**values["chosen"])
    assert chosen.delay_ticks == 2
    assert f"executes {chosen} from now on" in out
    assert "queries/s" in out
    assert (tmp_path / "policy-tune" / "tune.svg").is_file()
    assert TorchPolicy.load(policy).execution == chosen
    assert (policy / "model.safetensors").read_bytes() == weights
    assert identity(policy) == was == values["names"]["policy"]
    assert sorted(p.name for p in policy.iterdir()) == ["model.safetensors", "policy.json"]

    common = ["evaluate", policy, "--workers", "1", "--episodes", "2", "--out"]
    for name, more, expected in (
        ("own", [], chosen),
        ("other", ["--chunking", "replay:4"], Execution("replay:4")),
    ):
        code, out, err = answer(capsys, *common, tmp_path / name, *more)
        assert code == 0, err
        assert f", {expected}" in out
        plan = json.loads((tmp_path / name / "evaluation.json").read_text())["plan"]
        assert Execution(plan["chunking"], plan.get("delay_ticks", 0)) == expected


def test_options_override_the_execution_of_the_policy() -> None:
    own = Execution("ensemble:0.1/5", 2)
    assert evaluate_api.chosen_execution(None, None, None) == Execution("replay:50")
    assert evaluate_api.chosen_execution(None, None, own) == own
    assert evaluate_api.chosen_execution(None, 0, own) == Execution("ensemble:0.1/5")
    assert evaluate_api.chosen_execution("replay:4", None, own) == Execution("replay:4")
    assert evaluate_api.chosen_execution("replay:4", 1, own) == Execution("replay:4", 1)


def test_tuning_again_runs_no_episode_twice_and_more_seeds_run_only_those(
    policy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["tune", policy, "--out", tmp_path / "out", *small(), "--no-write"]
    code, out, err = answer(capsys, *argv)
    assert code == 0, err
    assert f"policy:  unchanged; imitact evaluate {policy} --chunking" in out
    assert TorchPolicy.load(policy).execution is None
    journal = tmp_path / "out" / JOURNAL
    before = journal.read_bytes()
    assert answer(capsys, *argv)[:2] == (0, out)
    assert journal.read_bytes() == before
    more = [tmp_path / "out", *small(confirmation="3"), "--no-write"]
    assert answer(capsys, "tune", policy, "--out", *more)[0] == 0
    assert journal.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delays": "8"}, "a chunk has 8 ticks"),
        ({"replay": "0"}, "replay is 0"),
        ({"first_seed": "1000"}, "would bias"),
        ({"selection": "1"}, "at least --first-round"),
        ({"workers": "-1"}, "workers is -1"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(
    changes: dict[str, str],
    message: str,
    policy: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    before = (policy / "policy.json").read_bytes()
    code, _, err = answer(capsys, "tune", policy, *small(**changes))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert (policy / "policy.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_an_exported_file_and_a_checkpoint_are_not_modified(
    policy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "policy.openvino"
    file.write_bytes(b"x")
    code, _, err = answer(capsys, "tune", file)
    assert code == 2
    assert "then export again" in err
    (tmp_path / "trainer.json").write_text("{}")
    code, _, err = answer(capsys, "tune", policy)
    assert code == 2
    assert "belongs to a checkpoint" in err


def test_a_missing_plotting_library_is_reported_before_anything_runs(
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "imitact.evaluation.tuning.plot")
    monkeypatch.delattr(sys.modules["imitact.evaluation.tuning"], "plot")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = answer(capsys, "tune", policy)
    assert code == 2
    assert "matplotlib is not installed; pip install" in err
    assert "[view]" in err
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_two_tunings_in_one_folder_are_refused(
    policy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with exclusive_writer(tmp_path / "out", "tuning"):
        code, _, err = answer(capsys, "tune", policy, "--out", tmp_path / "out", *small())
    assert code == 2
    assert "another tuning is writing" in err
