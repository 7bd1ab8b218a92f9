"""Run section: what a robot was asked, told and sent, and what it did, for the page.

A run log is read as docs/formats.md describes it, also that of a run that was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.run_log import read_about
from imitact.control.run_statistics import Percentiles
from imitact.control.safety_filter import Stage
from imitact.core.errors import DamagedFile
from imitact.core.hold import Hold
from imitact.core.types import Spec, with_unit
from imitact.viewer.page import Blobs
from imitact.viewer.run_ticks import RunTicks, load_ticks, read_spec

MAX_CURVE_BYTES = 9_000_000
"""States and commands of a page: 40,000 ticks of two arms; of more, every second or third is shown.
"""

MAX_SPANS = 1000
"""Holds, acts of the safety filter and interventions that are marked, of each kind: the longest."""

MAX_DOTS = 4000
"""Answers and seams that are shown: the largest."""

_SERIES = ("asked", "action", "sent", "state")
_CALM = {Hold.NONE, Hold.WAITING, Hold.NOT_ENGAGED, Hold.STOPPED}
"""Holds that are part of an ordinary run."""


def run_section(folder: Path, blobs: Blobs) -> dict[str, Any]:
    """Return the section of a run; `blobs` takes its curves.

    Raises:
        DamagedFile: it is no run log, or has no tick.
    """
    about = read_about(folder)
    spec = read_spec(about, folder)
    ticks = load_ticks(folder, spec)
    if not len(ticks):
        raise DamagedFile(f"{folder}: the log has no tick; the run ended before its first")
    settings = about.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    phases = _phases(ticks, about.get("summary"))
    spans = {
        "hold": list(_spans(ticks, ticks.hold, _hold_name, calm=0)),
        "filter": list(_spans(ticks, _acts(ticks), _stage_name, calm=0)),
        "person": list(_spans(ticks, (ticks.engaged == 1).astype(int), _person_name, calm=0)),
    }
    held_s = float(np.count_nonzero(ticks.held) / spec.rate_hz)
    return {
        "kind": "run",
        "path": str(folder),
        "badge": f"held {_seconds(held_s)}" if held_s >= 0.05 else "",
        "verb": str(settings.get("verb", "run")),
        "rate_hz": spec.rate_hz,
        "facts": _facts(ticks, settings),
        "summary": _summary(ticks, spec, spans, phases, about.get("summary")),
        "phases": phases,
        "spans": {kind: _longest(found) for kind, found in spans.items()},
        "not_marked": sum(max(0, len(found) - MAX_SPANS) for found in spans.values()),
        "skips": _dots(ticks.time_s, np.where(ticks.skipped > 0, ticks.skipped, np.nan)),
        "seams": _dots(ticks.time_s, ticks.seam),
        "answers": _dots(ticks.time_s, 1e3 * ticks.answer_s),
        "is_cut": ticks.is_cut,
        **_curves(ticks, spec, blobs),
    }


def _curves(ticks: RunTicks, spec: Spec, blobs: Blobs) -> dict[str, Any]:
    """Return the names of the curves' bytes; a long run has fewer points than ticks."""
    size = 4 * sum(getattr(ticks, name).shape[1] for name in _SERIES)
    every = max(1, -(-len(ticks) * size // MAX_CURVE_BYTES))
    ages = {"state": ticks.state_age_s}
    ages |= {f"camera {c.name}": ticks.frame_ages_s[:, i] for i, c in enumerate(spec.cameras)}
    if not np.isnan(ticks.leader_age_s).all():
        ages["leader"] = ticks.leader_age_s
    return {
        "every": every,
        "points": len(ticks.time_s[::every]),
        "x": _blob(blobs, ticks.time_s[::every]),
        "ticks": _blob(blobs, ticks.tick[::every]),
        "series": {name: _blob(blobs, getattr(ticks, name)[::every]) for name in _SERIES},
        "action": {"names": list(spec.action_names), "units": list(spec.action_units)},
        "state": {"names": list(spec.state_names), "units": list(spec.state_units)},
        "late_ms": _blob(blobs, 1e3 * _largest(ticks.late_s, every)),
        "ages_ms": {name: _blob(blobs, 1e3 * _largest(age, every)) for name, age in ages.items()},
    }


def _blob(blobs: Blobs, values: NDArray[Any]) -> str:
    return blobs.add(np.ascontiguousarray(values, "<f4").tobytes())


def _largest(values: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """Return the largest of each `every` values; NaN where all are."""
    padded = np.full(-(-len(values) // every) * every, np.nan)
    padded[: len(values)] = values
    blocks = np.where(np.isnan(padded), -np.inf, padded).reshape(-1, every).max(axis=1)
    return np.where(np.isneginf(blocks), np.nan, blocks)


def _acts(ticks: RunTicks) -> NDArray[np.int64]:
    """Return the stages that acted; 0 where they only carry out a hold that has its own reason."""
    carried_out = np.isin(ticks.stage, (Stage.NOT_ASKED, Stage.AGE)) & (ticks.hold > 0)
    return np.where(carried_out, 0, ticks.stage)


def _spans(
    ticks: RunTicks, values: NDArray[np.int64], name: Any, *, calm: int
) -> Iterator[dict[str, Any]]:
    """Yield where a value is the same over some ticks, but for the calm one."""
    changes = np.flatnonzero(np.diff(values)) + 1
    begins = np.concatenate([[0], changes])
    ends = np.concatenate([changes, [len(values)]])
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if values[begin] == calm:
            continue
        rows = range(begin, end)
        joints = Counter(ticks.joints[row] for row in rows if row in ticks.joints)
        yield {
            "from": round(float(ticks.time_s[begin]), 4),
            "to": round(float(ticks.time_s[end] if end < len(values) else ticks.time_s[-1]), 4),
            "ticks": end - begin,
            "name": name(int(values[begin])),
            "number": int(values[begin]),
            "words": next((ticks.words[row] for row in rows if row in ticks.words), ""),
            "joint": joints.most_common(1)[0][0] if joints else "",
        }


def _longest(spans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = sorted(spans, key=lambda span: -span["ticks"])[:MAX_SPANS]
    return sorted(kept, key=lambda span: span["from"])


def _dots(time_s: NDArray[np.float64], values: NDArray[np.float64]) -> list[list[float]]:
    """Return [time, value] of the values that are there, the largest where there are many."""
    rows = np.flatnonzero(np.isfinite(values))
    rows = np.sort(rows[np.argsort(-values[rows], kind="stable")[:MAX_DOTS]])
    return [[round(float(time_s[r]), 4), float(f"{values[r]:.5g}")] for r in rows]


def _phases(ticks: RunTicks, summary: Any) -> list[dict[str, Any]]:
    """Return the phases that ran, with their names and why they ended, where the log has them."""
    known: dict[int, Mapping[str, Any]] = {}
    listed = summary.get("phases") if isinstance(summary, dict) else None
    for phase in listed if isinstance(listed, list) else []:
        if isinstance(phase, dict) and isinstance(phase.get("number"), int):
            known[phase["number"]] = phase
    spans = _spans(ticks, ticks.phase, lambda number: f"phase {number}", calm=0)
    return [
        {
            **{key: span[key] for key in ("from", "to", "ticks", "number")},
            "name": str(known.get(span["number"], {}).get("name") or span["name"]),
            "ended": str(known.get(span["number"], {}).get("ended") or ""),
        }
        for span in spans
    ]


def _facts(ticks: RunTicks, settings: Mapping[str, Any]) -> list[list[str]]:
    late, answers = Percentiles.of(ticks.late_s.tolist()), ticks.answer_s
    answers = answers[~np.isnan(answers)]
    facts = [
        ["ticks", f"{len(ticks):,}"],
        ["skipped", f"{int(ticks.skipped.sum()):,}"],
        ["late, p50", _milliseconds(late.p50_s)],
        ["late, p99", _milliseconds(late.p99_s)],
        ["late, most", _milliseconds(late.max_s)],
    ]
    if len(answers):
        took = Percentiles.of(answers[1:].tolist())  # the first is a warm-up
        facts += [
            ["answers", f"{len(answers):,}"],
            ["answer, p50", _milliseconds(took.p50_s)],
            ["answer, p99", _milliseconds(took.p99_s)],
        ]
    shown = ("at", "robot", "policy", "execution", "shadow", "leader", "data", "episode", "task")
    return facts + [
        [name, str(settings[name])] for name in shown if settings.get(name) not in (None, "", False)
    ]


def _summary(
    ticks: RunTicks,
    spec: Spec,
    spans: Mapping[str, Sequence[Mapping[str, Any]]],
    phases: Sequence[Mapping[str, Any]],
    summary: Any,
) -> list[dict[str, Any]]:
    """Return how the run went in sentences, each with its severity and the time to look at."""
    rate_hz, last_s = spec.rate_hz, float(ticks.time_s[-1])
    lost = int(ticks.skipped.sum())
    skipped = f"{_ticks(lost) if lost else 'none'} skipped"
    text = f"It lasted {_seconds(last_s + 1 / rate_hz)}: {_ticks(len(ticks))} at {rate_hz:g} Hz, "
    worst_s = ticks.time_s[int(np.argmax(ticks.skipped))] if lost else 0.0
    lines = [_line(f"{text}{skipped}.", "warning" if lost else "", worst_s)]
    lines.append(_how_it_ended(summary, phases, last_s))
    lines += _held(spans["hold"], rate_hz)
    lines += _filtered(spans["filter"], len(ticks))
    late = Percentiles.of(ticks.late_s.tolist())
    if not np.isnan(ticks.late_s).all():
        text = (
            f"Ticks began {_milliseconds(late.p50_s)} late at the median, "
            f"{_milliseconds(late.p99_s)} at p99 and {_milliseconds(late.max_s)} at most."
        )
        lines.append(_line(text, "", ticks.time_s[int(np.nanargmax(ticks.late_s))]))
    if not np.isnan(ticks.seam).all():
        at = int(np.nanargmax(ticks.seam))
        text = f"The largest seam between two chunks is {ticks.seam[at]:.3g} legal steps."
        lines.append(_line(text, "warning" if ticks.seam[at] > 1 else "", ticks.time_s[at]))
    person = spans["person"]
    if person:
        time = _seconds(sum(span["ticks"] for span in person) / rate_hz)
        lines.append(
            _line(f"A person had the command {_times(len(person))}, for {time}.", "", _at(person))
        )
    return lines + _followed_worst(ticks, spec)


def _how_it_ended(
    summary: Any, phases: Sequence[Mapping[str, Any]], last_s: float
) -> dict[str, Any]:
    if not isinstance(summary, dict):
        return _line(
            "The log has no end: the run is still going on, or its process was killed.",
            "warning",
            last_s,
        )
    ended = [phase for phase in phases if phase["ended"]]
    if not ended:
        return _line("It ended in order.", "", last_s)
    return _line(f"It ended: {ended[-1]['ended']} (in {ended[-1]['name']}).", "", last_s)


def _held(spans: Sequence[Mapping[str, Any]], rate_hz: float) -> list[dict[str, Any]]:
    lines = []
    for name, found in _by_name(spans):
        if found[0]["number"] == Hold.WAITING:
            continue  # between phases
        time = _seconds(sum(span["ticks"] for span in found) / rate_hz)
        longest = max(found, key=lambda span: span["ticks"])
        words = f" ({longest['words']})" if longest["words"] else ""
        is_calm = found[0]["number"] in _CALM
        text = f"Held {_times(len(found))}, for {time}: {name}{words}."
        lines.append(_line(text, "" if is_calm else "error", longest["from"]))
    return lines or [_line("Nothing held the robot.", "", 0)]


def _filtered(spans: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    lines = []
    for name, found in _by_name(spans):
        ticks = sum(span["ticks"] for span in found)
        joints: Counter[str] = Counter()
        for span in found:
            if span["joint"]:
                joints[span["joint"]] += span["ticks"]
        where = f", most at {joints.most_common(1)[0][0]}" if joints else ""
        longest = max(found, key=lambda span: span["ticks"])
        words = f" ({longest['words']})" if longest["words"] else ""
        text = (
            f"The safety filter acted at {_ticks(ticks)} ({100 * ticks / count:.2g} %), stage "
            f"{name}{where}{words}."
        )
        is_mild = found[0]["number"] in (Stage.RANGE, Stage.MOTION, Stage.STALL)
        lines.append(_line(text, "warning" if is_mild else "error", longest["from"]))
    return lines or [_line("The safety filter passed every action.", "", 0)]


def _followed_worst(ticks: RunTicks, spec: Spec) -> list[dict[str, Any]]:
    """Return for each unit the joint that was farthest from its command, by the 99th percentile."""
    pairs: dict[str, list[tuple[float, int, str]]] = {}
    for column, (name, unit) in enumerate(zip(spec.action_names, spec.action_units, strict=True)):
        if name not in spec.state_names:
            continue
        gap = ticks.state[:, spec.state_names.index(name)] - ticks.action[:, column]
        gap = np.abs(np.where(np.isfinite(gap), gap, -1.0))
        if (gap >= 0).any():
            pairs.setdefault(unit, []).append(
                (float(np.percentile(gap, 99)), int(np.argmax(gap)), name)
            )
    lines = []
    for unit, found in pairs.items():
        p99, at, name = max(found)
        apart = with_unit(f"{p99:.3g}", unit)
        text = f"{name} was farthest from its command: {apart} at p99."
        lines.append({**_line(text, "", ticks.time_s[at]), "joint": name})
    return lines


def _by_name(
    spans: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield the spans of each name, those that took longest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for span in spans:
        found.setdefault(span["name"], []).append(span)
    yield from sorted(found.items(), key=lambda item: -sum(span["ticks"] for span in item[1]))


def _line(text: str, severity: str, at_s: float) -> dict[str, Any]:
    return {"text": text, "severity": severity, "at": round(float(at_s), 4)}


def _at(spans: Sequence[Mapping[str, Any]]) -> float:
    return spans[0]["from"]


def _hold_name(number: int) -> str:
    return _enum_name(Hold, number)


def _stage_name(number: int) -> str:
    return "filter failed" if number < 0 else _enum_name(Stage, number)


def _person_name(number: int) -> str:
    return "a person has the command"


def _enum_name(kind: type[Hold] | type[Stage], number: int) -> str:
    try:
        return kind(number).name.lower().replace("_", " ")
    except ValueError:
        return f"number {number}"  # of a later version


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _ticks(count: int) -> str:
    return f"{count:,} tick" + "s" * (count != 1)


def _seconds(time_s: float) -> str:
    if time_s < 100:
        return f"{time_s:.3g} s"
    minutes, seconds = divmod(round(time_s), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _milliseconds(time_s: float) -> str:
    return "–" if time_s != time_s else f"{1e3 * time_s:.3g} ms"
