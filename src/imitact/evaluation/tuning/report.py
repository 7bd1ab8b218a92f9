"""Tuning report: the race, the confirmation and the choice as lines of text, and tune.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imitact.core.answer_delay import delay_words
from imitact.core.execution import Execution
from imitact.core.version import __version__
from imitact.evaluation.report import aligned, or_dash, paired_line, percent
from imitact.evaluation.results import Evaluation, describe_seeds
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.selection import JERK_TOLERANCE, MAX_LOSS
from imitact.evaluation.tuning.successive_halving import DelayRace, RaceConfig, Tuning
from imitact.storage.atomic import write_json

FORMAT = 2
"""Format number of tune.json; raised whenever an older file could be misread. The intervals of
format 1 are Wilson's."""

FILE_NAME = "tune.json"

_COLUMNS = ["success", "95 % interval", "jerk, rad/s^3", "queries/s"]


def report_lines(tuning: Tuning, race: RaceConfig) -> list[str]:
    """Return the report as text: the race at each delay, the confirmation, the choice."""
    lines: list[str] = []
    for each in tuning.races:
        seeds = describe_seeds(race.selection_seeds)
        lines += [f"delay {delay_words(each.delay_ticks)}, {seeds}:"]
        lines += [*_aligned(_race_rows(each)), ""]
    if tuning.confirmed:
        lines += [f"confirmation, {describe_seeds(race.confirmation_seeds)}:"]
        rows = [["chunking", "delay", *_COLUMNS]]
        for evaluation in tuning.confirmed:
            execution = evaluation.execution
            rows.append([execution.chunking, str(execution.delay_ticks), *_figures(evaluation)])
        lines += [*_aligned(rows), ""]
    delay_ticks = tuning.chosen.delay_ticks
    lines += [_reason(each) for each in tuning.races if each.delay_ticks == delay_ticks]
    if tuning.gain and tuning.chosen.chunking != tuning.untuned.chunking:
        lines.append(paired_line(tuning.gain, tuning.chosen.chunking, tuning.untuned.chunking))
    return lines


def _reason(race: DelayRace) -> str:
    """Say why the rule chose its execution."""
    choice = race.choice
    chosen, best = choice.chosen, choice.best
    equals = len(choice.equals)
    if chosen is not best:
        reason = (
            f"success not significantly lower than that of {best.execution.chunking} "
            f"({chosen.successes} against {best.successes} of {chosen.episodes}), "
            "with lower jerk or fewer queries"
        )
    elif equals > 1:
        reason = (
            "the most successes, and the lowest jerk or fewest queries of "
            f"{equals} that do not differ significantly"
        )
    else:
        reason = "the most successes"
    return f"chosen:  {chosen.execution} ({reason})"


def _race_rows(race: DelayRace) -> list[list[str]]:
    choice = race.choice
    equal = {id(evaluation) for evaluation in choice.equals}
    rows = [["chunking", *_COLUMNS, ""]]
    for evaluation in race.longest:
        result = f"dropped after {evaluation.episodes}"
        if evaluation in race.rounds[-1]:
            result = "equal to the best" if id(evaluation) in equal else "lower than the best"
        if evaluation is choice.best:
            result = "best"
        if evaluation is choice.chosen:
            result = "best, chosen" if choice.chosen is choice.best else "equal, chosen"
        rows.append([evaluation.execution.chunking, *_figures(evaluation), result])
    return rows


def _figures(evaluation: Evaluation) -> list[str]:
    return [
        f"{evaluation.successes} of {evaluation.episodes}",
        percent(evaluation.interval),
        or_dash(evaluation.mean_jerk_rad_s3, ",.1f"),
        f"{evaluation.queries_per_s:.2f}",
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows, left=(0, 5))]


def to_dict(
    tuning: Tuning, grid: Grid, race: RaceConfig, names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the tuning as JSON values; rates are between 0 and 1, units are in the names."""
    race_values = asdict(race)
    return {
        "format": FORMAT,
        "imitact": __version__,
        "names": dict(names),
        "grid": asdict(grid),
        "race": {"delay": race_values.pop("delay_ticks"), **race_values},
        "rule": {"close": MAX_LOSS, "as_low": JERK_TOLERANCE, "confidence": 0.95},
        "chosen": asdict(tuning.chosen),
        "heats": [_race_dict(each) for each in tuning.races],
        "confirmed": [_evaluation_dict(evaluation) for evaluation in tuning.confirmed],
        "gain": asdict(tuning.gain) if tuning.gain else None,
    }


def _race_dict(race: DelayRace) -> dict[str, Any]:
    choice = race.choice
    return {
        "delay_ticks": race.delay_ticks,
        "rounds": [[_evaluation_dict(evaluation) for evaluation in each] for each in race.rounds],
        "best": choice.best.execution.chunking,
        "chosen": choice.chosen.execution.chunking,
        "finalists": [
            {
                "chunking": evaluation.execution.chunking,
                "best_minus_it": asdict(difference),
                "equal": equal,
            }
            for evaluation, difference, equal in choice.candidates
        ],
    }


def _evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **asdict(evaluation.execution),
        "successes": evaluation.successes,
        "episodes": evaluation.episodes,
        "interval": list(evaluation.interval),
        "seeds": [evaluation.seeds[0], evaluation.seeds[-1]],
        "step_cap": evaluation.step_cap,
        "mean_jerk_rad_s3": evaluation.mean_jerk_rad_s3,
        "queries_per_s": evaluation.queries_per_s,
        "failed_seeds": evaluation.failed_seeds,
    }


def write(values: Mapping[str, Any], out: Path) -> Path:
    """Write out/tune.json atomically; return its path."""
    write_json(out / FILE_NAME, dict(values))
    return out / FILE_NAME


def evaluate_options(chosen: Execution) -> str:
    """Return an execution as options of `imitact evaluate`."""
    delay = f" --delay-ticks {chosen.delay_ticks}" if chosen.delay_ticks else ""
    return f"--chunking {chosen.chunking}{delay}"
