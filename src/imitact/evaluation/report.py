"""Evaluation reports: one line, a table, and evaluation.json, which is checked when it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.version import __version__
from imitact.core.words import counted
from imitact.evaluation import results
from imitact.evaluation.confidence_intervals import Paired
from imitact.evaluation.results import Evaluation, describe_seeds
from imitact.evaluation.trainings import Trainings, difference_of, over_trainings
from imitact.storage.atomic import write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.json_file import read_json_object

FORMAT = 2
"""Format number of evaluation.json; raised whenever an older file could be misread. The interval
of format 1 is Wilson's."""

FILE_NAME = "evaluation.json"


def summary_line(evaluation: Evaluation) -> str:
    """Return the result in one line.

    As in "94 of 100 (95 % interval 87.4 to 97.8), cap 400 ticks, seeds 1000 to 1099, replay:50".
    """
    low, high = evaluation.interval
    return (
        f"{evaluation.successes} of {evaluation.episodes} "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), "
        f"cap {counted(evaluation.step_cap, 'tick')}, {describe_seeds(evaluation.seeds)}, "
        f"{evaluation.execution}"
    )


def paired_line(comparison: Paired, a: str = "A", b: str = "B") -> str:
    """Return the comparison of two policies, named `a` and `b`, in one line."""
    low, high = comparison.interval
    return (
        f"{a} minus {b} on the same {counted(comparison.episodes, 'seed')}: "
        f"{100 * comparison.difference:+.1f} points "
        f"({100 * comparison.confidence:g} % interval {100 * low:+.1f} to {100 * high:+.1f}); "
        f"only {a} succeeds on {comparison.only_a}, only {b} on {comparison.only_b} "
        f"(exact McNemar p = {comparison.p_value:.3g})"
    )


def side_by_side(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return lines for evaluations on the same seeds: a table, then their paired differences.

    Two are compared as A minus B. Of more, each is compared with the one that succeeds most often
    (the first of several); which one that is depends on these seeds, as the last line says.
    """
    names = [*evaluations]
    lines = [*table([*evaluations.values()], names).splitlines(), ""]
    best = max(names, key=lambda name: evaluations[name].successes)
    first = names[0] if len(names) == 2 else best
    for name in names:
        if name != first:
            difference = results.compare(evaluations[first], evaluations[name])
            lines.append(paired_line(difference, first, name))
    if len(names) > 2:
        lines.append(
            f"{best} is the best of {len(names)} on these seeds, which favours it: its rate on "
            "other seeds (--first-seed) is the one to report"
        )
    return lines


DIFFERENCE = 0.02
"""Difference of success for which the report says how many trainings would settle it."""


def trainings_lines(name: str, trainings: Trainings) -> list[str]:
    """Return what several trainings of one setting show of it, in three lines."""
    counts = " ".join(
        f"{k}/{n}" for k, n in zip(trainings.successes, trainings.episodes, strict=True)
    )
    of = counted(trainings.count, "training")
    lines = [
        f"{name}: {100 * trainings.rate:.1f} % over {of} "
        f"({100 * trainings.confidence:g} % interval {percent(trainings.interval)}): {counts}",
        f"  noise: {100 * trainings.between:.1f} points between trainings, "
        f"{100 * trainings.within:.1f} from the episodes of each",
    ]
    needed = trainings.needed(DIFFERENCE)
    settled = (
        "no number of trainings that anybody runs settles"
        if needed is None
        else f"about {counted(needed, 'training')} a side settle"
    )
    return [*lines, f"  {settled} a difference of {100 * DIFFERENCE:g} points with this noise"]


def trainings_against(a: Mapping[str, Evaluation], b: Mapping[str, Evaluation]) -> list[str]:
    """Return what the trainings of one setting show, and those of another beside it, if any.

    Args:
        a: the evaluations of the trainings of a setting, by name; at least two.
        b: of another setting, at least two; empty for none.
    """
    sides = {"A": _over(a), "B": _over(b)} if b else {"": _over(a)}
    lines = [
        line for name, side in sides.items() for line in trainings_lines(name or "success", side)
    ]
    if b:
        found = difference_of(sides["A"], sides["B"])
        low, high = found.interval
        lines.append(
            f"A minus B over trainings: {100 * found.difference:+.1f} points "
            f"({100 * found.confidence:g} % interval {100 * low:+.1f} to {100 * high:+.1f})"
        )
    return lines


def _over(evaluations: Mapping[str, Evaluation]) -> Trainings:
    found = [*evaluations.values()]
    return over_trainings([e.successes for e in found], [e.episodes for e in found])


def table(evaluations: Sequence[Evaluation], names: Sequence[str] = ()) -> str:
    """Return a plain-text table with one column per evaluation, under its name if there are names.

    Refuses an empty sequence, and evaluations whose stages differ.
    """
    if not evaluations:
        raise BadInput("there is no evaluation to show")
    stages = evaluations[0].env_info.stages
    for other in evaluations[1:]:
        if other.env_info.stages != stages:
            raise BadInput(
                "evaluations of different environments cannot share a table: stages "
                f"{', '.join(stages) or 'none'} and {', '.join(other.env_info.stages) or 'none'}"
            )
    rows: list[list[str]] = [["", *names]] if names else []

    def add(name: str, cell: Callable[[Evaluation], str]) -> None:
        rows.append([name, *map(cell, evaluations)])

    add("chunking", lambda e: e.execution.chunking)
    if any(e.execution.delay_ticks for e in evaluations):
        add("delay, ticks", lambda e: str(e.execution.delay_ticks))
    add("success", lambda e: f"{e.successes} of {e.episodes}")
    add("95 % interval", lambda e: percent(e.interval))
    add("seeds", lambda e: describe_seeds(e.seeds).removeprefix("seeds "))
    add("step cap, ticks", lambda e: str(e.step_cap))
    add("held at the end", lambda e: or_dash(e.held, "d"))
    for stage, name in list(enumerate(stages))[1:]:
        add(f"reward {stage} or more: {name}", lambda e, stage=stage: str(e.reached[stage]))
    add("success at tick, mean", lambda e: or_dash(e.mean_success_tick, ".0f"))
    add("return, mean", lambda e: f"{e.mean_reward_sum:.1f}")
    add("jerk, rad/s^3, mean", lambda e: or_dash(e.mean_jerk_rad_s3, ",.1f"))
    add("queries per episode", lambda e: f"{sum(r.queries for r in e.rows) / e.episodes:.1f}")
    add("wall time, s", lambda e: f"{e.wall_s:.0f}")
    return "\n".join(aligned(rows))


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Align columns of text: those of `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        shown = (c.ljust(width) if at in left else c.rjust(width) for at, (c, width) in cells)
        lines.append("  ".join(shown).rstrip())
    return lines


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON values; rates are between 0 and 1, units are in the names."""
    plan = evaluation.plan.to_json()
    delay_ticks = evaluation.execution.delay_ticks
    values = {
        "format": FORMAT,
        "successes": evaluation.successes,
        "episodes": evaluation.episodes,
        "interval": evaluation.interval,
        "confidence": 0.95,
        "step_cap": evaluation.step_cap,
        "seeds": evaluation.seeds,
        "chunking": evaluation.execution.chunking,
        **({"delay_ticks": delay_ticks} if delay_ticks else {}),
        "stop_on_success": evaluation.plan.stop_on_success,
        "held": evaluation.held,
        "stages": evaluation.env_info.stages,
        "reached": evaluation.reached,
        "mean_reward_sum": evaluation.mean_reward_sum,
        "mean_jerk_rad_s3": evaluation.mean_jerk_rad_s3,
        "mean_success_tick": evaluation.mean_success_tick,
        "names": plan["names"],
        "workers": evaluation.workers,
        "wall_s": evaluation.wall_s,
        "plan": plan,
        "world": evaluation.env_info,
        "rows": evaluation.rows,
    }
    return msgspec.json.decode(msgspec.json.encode(values))


def from_dict(values: dict[str, Any], where: str = "evaluation") -> Evaluation:
    """Read what `to_dict` returned, from the file that `where` names in errors.

    DamagedFile for another format, or a figure that does not follow from the rows.
    """
    if values.get("format") not in (1, FORMAT):
        raise DamagedFile(
            f"{where}: format is {values.get('format')}, expected 1 or {FORMAT}; use the version "
            f"of imitact that wrote it (this is {__version__})"
        )
    try:
        evaluation = Evaluation(
            plan=results.EvaluationPlan.from_json(values["plan"]),
            env_info=msgspec.convert(values["world"], results.EnvInfo),
            rows=msgspec.convert(values["rows"], tuple[results.EpisodeRow, ...]),
            workers=int(values["workers"]),
            wall_s=float(values["wall_s"]),
        )
        computed = to_dict(evaluation)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedFile(f"{where}: not an evaluation ({error!r})") from error
    if tuple(row.seed for row in evaluation.rows) != evaluation.seeds:
        raise DamagedFile(f"{where}: its rows are not those of its seeds")
    other = {"format", "interval"} if values["format"] == 1 else set()
    differing = sorted(
        key for key in {*values, *computed} - other if values.get(key) != computed.get(key)
    )
    if differing:
        raise DamagedFile(f"{where}: {', '.join(differing)} does not follow from its rows")
    return evaluation


def write(evaluation: Evaluation, out: Path) -> Path:
    """Write out/evaluation.json atomically; return its path."""
    path = out / FILE_NAME
    write_json(path, with_checksum(to_dict(evaluation)))
    return path


def read(path: Path) -> Evaluation:
    """Read what `write` wrote, given the file or its folder."""
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise BadInput(f"{path} is missing; give the output folder of an evaluation")
    values = verified(read_json_object(path), path, required=False)  # older files: no checksum
    return from_dict(values, str(path))


def reward_differences(a: Evaluation, b: Evaluation) -> list[str]:
    """Return the first tick at which the rewards of each seed differ, one line per seed.

    Refuses evaluations of different seeds or step caps.
    """
    results.compare(a, b)  # refuses what cannot be compared
    by_seed = {row.seed: row for row in b.rows}
    lines = []
    for row in a.rows:
        rewards = row.reward_each_tick(), by_seed[row.seed].reward_each_tick()
        for tick, pair in enumerate(zip_longest(*rewards)):
            if pair[0] != pair[1]:
                shown = ["none (it had ended)" if r is None else f"{r:g}" for r in pair]
                lines.append(f"seed {row.seed}, tick {tick}: {shown[0]} against {shown[1]}")
                break
    return lines


def percent(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
