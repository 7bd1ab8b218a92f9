"""A tuning as tables, lines or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imitact.core.chunking import Execution
from imitact.core.version import __version__
from imitact.evaluation.report import paired_line
from imitact.evaluation.results import Evaluation, spell
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.race import UNTUNED, Heat, Race, Tuning
from imitact.evaluation.tuning.selection import AS_LOW, CLOSE
from imitact.storage.atomic import make_folder, write_json

FORMAT = 1
"""Changes whenever an older file could be misread."""

NAME = "tune.json"


def lines(tuning: Tuning, race: Race) -> list[str]:
    """All of it for a reader: the race at each delay, the confirmation, what was chosen."""
    told: list[str] = []
    for heat in tuning.heats:
        told += [f"delay {_ticks(heat.delay_ticks)}, {spell(race.selection_seeds)}:"]
        told += [*_columns(_race_rows(heat)), ""]
    if tuning.confirmed:
        told += [f"confirmation, {spell(race.confirmation_seeds)}:"]
        told += [*_columns(_confirmation_rows(tuning)), ""]
    for heat in tuning.heats:
        if heat.delay_ticks == tuning.chosen.delay_ticks:
            told.append(_why(heat))
    if tuning.gain and tuning.chosen.chunking != UNTUNED.chunking:
        told.append(paired_line(tuning.gain, tuning.chosen.chunking, UNTUNED.chunking))
    return told


def _why(heat: Heat) -> str:
    """How the rule came to its setting."""
    choice = heat.choice
    chosen, best = choice.chosen, choice.best
    others = len(choice.equals) - 1
    if chosen is best:
        reason = "the most successes" + (
            f", and the smoothest or rarest asking of {others + 1} not shown to differ"
            if others
            else ""
        )
    else:
        reason = (
            f"not shown to succeed less than {best.chunking} ({best.successes} against "
            f"{chosen.successes} of {chosen.episodes}), and smoother or asking less often"
        )
    return f"chosen:  {chosen.execution} ({reason})"


def _race_rows(heat: Heat) -> list[list[str]]:
    choice = heat.choice
    equal = {id(evaluation) for evaluation in choice.equals}
    rows = [["setting", "success", "95 % interval", "jerk, rad/s^3", "queries/s", ""]]
    for evaluation in heat.furthest:
        fate = f"dropped after {evaluation.episodes}"
        if evaluation in heat.rounds[-1]:
            fate = "equal to the best" if id(evaluation) in equal else "shown or counted as lower"
        if evaluation is choice.best:
            fate = "best"
        if evaluation is choice.chosen:
            fate = "best, chosen" if choice.chosen is choice.best else "equal, chosen"
        rows.append([evaluation.chunking, *_figures(evaluation), fate])
    return rows


def _confirmation_rows(tuning: Tuning) -> list[list[str]]:
    rows = [["setting", "delay", "success", "95 % interval", "jerk, rad/s^3", "queries/s"]]
    for evaluation in tuning.confirmed:
        delay = str(evaluation.plan.delay_ticks)
        rows.append([evaluation.chunking, delay, *_figures(evaluation)])
    return rows


def _figures(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval
    jerk = evaluation.mean_jerk_rad_s3
    return [
        f"{evaluation.successes} of {evaluation.episodes}",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        "-" if jerk is None else f"{jerk:,.1f}",
        f"{evaluation.queries_per_s:.2f}",
    ]


def _columns(rows: list[list[str]]) -> list[str]:
    """Rows under each other: words to the left, figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    told = []
    for row in rows:
        cells = [
            cell.ljust(width) if at in (0, 5) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        told.append(f"  {'  '.join(cells)}".rstrip())
    return told


def _ticks(count: int) -> str:
    return f"{count} tick" if count == 1 else f"{count} ticks"


def to_dict(tuning: Tuning, grid: Grid, race: Race, names: Mapping[str, str]) -> dict[str, Any]:
    """Everything, as plain JSON values; rates are between 0 and 1, units are in the names."""
    return {
        "format": FORMAT,
        "imitact": __version__,
        "names": dict(names),
        "grid": asdict(grid),
        "race": asdict(race),
        "rule": {"close": CLOSE, "as_low": AS_LOW, "confidence": 0.95},
        "chosen": asdict(tuning.chosen),
        "heats": [_heat(heat) for heat in tuning.heats],
        "confirmed": [_told(evaluation) for evaluation in tuning.confirmed],
        "gain": asdict(tuning.gain) if tuning.gain else None,
    }


def _heat(heat: Heat) -> dict[str, Any]:
    choice = heat.choice
    return {
        "delay_ticks": heat.delay_ticks,
        "rounds": [[_told(evaluation) for evaluation in each] for each in heat.rounds],
        "best": choice.best.chunking,
        "chosen": choice.chosen.chunking,
        "finalists": [
            {"chunking": evaluation.chunking, "best_minus_it": asdict(difference), "equal": equal}
            for evaluation, difference, equal in choice.others
        ],
    }


def _told(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "chunking": evaluation.chunking,
        "delay_ticks": evaluation.plan.delay_ticks,
        "successes": evaluation.successes,
        "episodes": evaluation.episodes,
        "interval": list(evaluation.interval),
        "seeds": [evaluation.seeds[0], evaluation.seeds[-1]],
        "step_cap": evaluation.step_cap,
        "mean_jerk_rad_s3": evaluation.mean_jerk_rad_s3,
        "queries_per_s": evaluation.queries_per_s,
        "failed_seeds": [row.seed for row in evaluation.rows if not row.success],
    }


def write(told: Mapping[str, Any], out: Path) -> Path:
    """Write out/tune.json, whole or not at all; returns its path."""
    make_folder(out)
    write_json(out / NAME, dict(told), staging=out)
    return out / NAME


def setting(chosen: Execution) -> str:
    """As options of `imitact evaluate`."""
    delay = f" --delay {chosen.delay_ticks}" if chosen.delay_ticks else ""
    return f"--chunking {chosen.chunking}{delay}"
