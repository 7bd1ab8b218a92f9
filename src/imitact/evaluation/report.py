"""An evaluation as a line, a table or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.version import __version__
from imitact.evaluation.results import Evaluation, EvaluationPlan, Row, World, compare, spell
from imitact.evaluation.statistics import Paired
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.json_file import read_json_object

FORMAT = 1
"""Changes whenever an older file could be misread."""

NAME = "evaluation.json"


def summary_line(evaluation: Evaluation) -> str:
    """ "94 of 100 (95 % interval 87.5 to 97.2), cap 400 ticks, seeds 1000 to 1099, replay:50"."""
    low, high = evaluation.interval
    return (
        f"{evaluation.successes} of {evaluation.episodes} "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), "
        f"cap {evaluation.step_cap} ticks, {spell(evaluation.seeds)}, {evaluation.execution}"
    )


def paired_line(comparison: Paired, a: str = "A", b: str = "B") -> str:
    """Two policies on the same seeds, in one line; `a` and `b` are what to call them."""
    low, high = comparison.interval
    return (
        f"{a} minus {b} on the same {comparison.episodes} seeds: "
        f"{100 * comparison.difference:+.1f} points "
        f"({100 * comparison.confidence:g} % interval {100 * low:+.1f} to {100 * high:+.1f}); "
        f"only {a} succeeds on {comparison.only_a}, only {b} on {comparison.only_b} "
        f"(exact McNemar p = {comparison.p_value:.3g})"
    )


def table(evaluations: Sequence[Evaluation]) -> str:
    """Evaluations side by side, a column each, as plain text.

    Refuses none at all, and evaluations whose stages differ.
    """
    if not evaluations:
        raise BadInput("there is no evaluation to show")
    stages = evaluations[0].world.stages
    for other in evaluations[1:]:
        if other.world.stages != stages:
            raise BadInput(
                f"evaluations of different worlds do not share a table: stages {list(stages)} "
                f"and {list(other.world.stages)}"
            )
    rows: list[tuple[str, list[str]]] = [
        ("chunking", [e.chunking for e in evaluations]),
        *_delays(evaluations),
        ("success", [f"{e.successes} of {e.episodes}" for e in evaluations]),
        ("95 % interval", [_percent(e.interval) for e in evaluations]),
        ("seeds", [spell(e.seeds).removeprefix("seeds ") for e in evaluations]),
        ("step cap, ticks", [str(e.step_cap) for e in evaluations]),
        ("held at the end", [_or_dash(e.held, "d") for e in evaluations]),
    ]
    for stage, words in enumerate(stages):
        if stage:
            rows.append(
                (f"reward {stage} or more: {words}", [str(e.reached[stage]) for e in evaluations])
            )
    rows += [
        ("success at tick, mean", [_or_dash(e.mean_success_tick, ".0f") for e in evaluations]),
        ("return, mean", [f"{e.mean_reward_sum:.1f}" for e in evaluations]),
        ("jerk, rad/s^3, mean", [_or_dash(e.mean_jerk_rad_s3, ",.1f") for e in evaluations]),
        (
            "queries an episode",
            [f"{sum(r.queries for r in e.rows) / e.episodes:.1f}" for e in evaluations],
        ),
        ("wall time, s", [f"{e.wall_s:.0f}" for e in evaluations]),
    ]
    head = max(len(name) for name, _ in rows)
    widths = [max(len(cells[at]) for _, cells in rows) for at in range(len(evaluations))]
    lines = []
    for name, cells in rows:
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{name.ljust(head)}  {shown}".rstrip())
    return "\n".join(lines)


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, as plain JSON values; rates are between 0 and 1, units are in the names."""
    plan = evaluation.plan.told()
    delay = evaluation.plan.delay_ticks
    return _plain(
        {
            "format": FORMAT,
            "successes": evaluation.successes,
            "episodes": evaluation.episodes,
            "interval": evaluation.interval,
            "confidence": 0.95,
            "step_cap": evaluation.step_cap,
            "seeds": evaluation.seeds,
            "chunking": evaluation.chunking,
            **({"delay_ticks": delay} if delay else {}),
            "stop_on_success": evaluation.plan.stop_on_success,
            "held": evaluation.held,
            "stages": evaluation.world.stages,
            "reached": evaluation.reached,
            "mean_reward_sum": evaluation.mean_reward_sum,
            "mean_jerk_rad_s3": evaluation.mean_jerk_rad_s3,
            "mean_success_tick": evaluation.mean_success_tick,
            "names": plan["names"],
            "workers": evaluation.workers,
            "wall_s": evaluation.wall_s,
            "plan": plan,
            "world": asdict(evaluation.world),
            "rows": [asdict(row) for row in evaluation.rows],
        }
    )


def from_dict(data: dict[str, Any], where: str = "evaluation") -> Evaluation:
    """What `to_dict` wrote. Refuses other formats, and figures that do not follow from the rows."""
    if data.get("format") != FORMAT:
        raise DamagedFile(
            f"{where}: format is {data.get('format')!r}, expected {FORMAT}; use the version of "
            f"imitact that wrote it (this is {__version__})"
        )
    try:
        evaluation = Evaluation(
            plan=msgspec.convert(data["plan"], EvaluationPlan),
            world=msgspec.convert(data["world"], World),
            rows=tuple(msgspec.convert(data["rows"], list[Row])),
            workers=int(data["workers"]),
            wall_s=float(data["wall_s"]),
        )
        again = to_dict(evaluation)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedFile(f"{where}: is not an evaluation ({error!r})") from error
    if tuple(row.seed for row in evaluation.rows) != evaluation.seeds:
        raise DamagedFile(f"{where}: its rows are not of the seeds it names")
    differ = sorted(key for key in {*data, *again} if data.get(key) != again.get(key))
    if differ:
        raise DamagedFile(f"{where}: {', '.join(differ)} does not follow from the rows beside it")
    return evaluation


def write(evaluation: Evaluation, out: Path) -> Path:
    """Write out/evaluation.json, whole or not at all; returns its path."""
    make_folder(out)
    path = out / NAME
    write_json(path, with_checksum(to_dict(evaluation)), staging=out)
    return path


def read(path: Path) -> Evaluation:
    """What `write` wrote, from the file or the folder that holds it."""
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        raise BadInput(f"{path} is missing; give the output folder of an evaluation")
    data = verified(read_json_object(path), path, required=False)  # older files have no checksum
    return from_dict(data, str(path))


def same_rewards(a: Evaluation, b: Evaluation) -> list[str]:
    """Where two evaluations differ in their rewards; empty if equal tick for tick.

    One line a seed, naming the first tick. Refuses evaluations of different seeds or caps.
    """
    compare(a, b)  # refuses what cannot be compared
    by_seed = {row.seed: row for row in b.rows}
    lines = []
    for row in a.rows:
        ours, theirs = row.reward_each_tick(), by_seed[row.seed].reward_each_tick()
        if ours == theirs:
            continue
        pairs = zip(ours, theirs, strict=False)
        at = next((t for t, (x, y) in enumerate(pairs) if x != y), min(len(ours), len(theirs)))
        shown = [f"{r[at]:g}" if at < len(r) else "none (it had ended)" for r in (ours, theirs)]
        lines.append(f"seed {row.seed}, tick {at}: {shown[0]} against {shown[1]}")
    return lines


def _delays(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """The row of simulated delays, where there is one."""
    delays = [e.plan.delay_ticks for e in evaluations]
    return [("delay, ticks", [str(delay) for delay in delays])] if any(delays) else []


def _plain(value: Any) -> Any:
    """Tuples as lists: what comes back from JSON equals what went in."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _percent(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
