"""Control check: times, holds and acts of the safety filter in a recording of a robot.

They are read from the columns of ticks (`core/tick_columns.py`); a dataset without them has no
findings. What concerns most episodes is one finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core import tick_columns as columns
from imitact.core.hold import Hold
from imitact.core.ranges import Length, Ranged, Seconds, Share
from imitact.core.types import Dataset, Episode, with_unit
from imitact.core.words import counted
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class ControlLimits(Ranged):
    """Limits for the times of a control loop, and for what its safety filter changed."""

    lateness_ticks: Length = 1.5
    """Time from when a tick was due until its command was sent that 99 % of the ticks must keep,
    ticks; a host sends within one of its own periods."""

    state_age_ticks: Length = 2.0
    """Age of the state that 99 % of the ticks must keep, ticks; at 3 the control loop holds."""

    frame_age_s: Seconds = 0.1
    """Age of a frame that 99 % of the ticks must keep, s; where a policy looks at it, the control
    loop holds from there on. A camera at 30 frames/s has 0.03 to 0.08."""

    skipped: Share = 0.01
    """Largest share of ticks without a row, as in recording."""

    changed: Share = 0.05
    """Largest share of ticks whose action the safety filter changed."""

    rounding: Length = 0.005
    """Largest difference of the sent from the asked action where the safety filter passed it: rad,
    or a fraction of the usual travel of joints in other units. Servos round to 0.0015 rad."""


class ControlCheck:
    """Collects what the columns of each episode say, then compares it with the limits."""

    def __init__(self, dataset: Dataset, scale: Floats, limits: ControlLimits) -> None:
        """Prepare.

        Args:
            dataset: whose episodes are added.
            scale: (A,), of the actions: 1 in rad, else the usual travel.
            limits: beyond which something is a finding.
        """
        self._spec, self._limits = dataset.spec, limits
        self._tolerance = limits.rounding * np.asarray(scale, np.float64)
        known = dataset.extra_columns
        self._names = [name for name in known if columns.is_tick_column(name)]
        self._found: list[Finding] = []
        self._measured: dict[tuple[str, str], dict[int, Rows]] = {}  # kind and part, by episode
        self._episodes = 0

    def add(self, index: int, episode: Episode) -> None:
        """Add an episode.

        Raises:
            DamagedFile: its columns cannot be read.
        """
        if not self._names:
            return
        read = episode.extra_values(self._names)
        rows = {name: np.asarray(values, np.float64) for name, values in read.items()}
        self._episodes += 1
        self._found += _order(index, rows)
        self._found += self._counts(index, rows, episode.origin)
        self._found += self._sent(index, rows, np.asarray(episode.action, np.float64))
        due_s = rows.get(columns.DUE)
        if due_s is None:
            return
        if columns.SENT in rows:
            self._measure("command-late", "", index, rows[columns.SENT] - due_s)
        if columns.STATE_READ in rows:
            self._measure("state-old", "", index, due_s - rows[columns.STATE_READ][:, 0])
        for camera in self._spec.cameras:
            if (name := columns.captured(camera.name)) in rows:
                self._measure("frame-old", camera.name, index, due_s - rows[name])

    def findings(self) -> list[Finding]:
        """Return what was found in all episodes."""
        tick_s = 1 / self._spec.rate_hz
        limits: Mapping[str, tuple[float, str]] = {
            "command-late": (self._limits.lateness_ticks * tick_s, "commands were sent {} late"),
            "state-old": (self._limits.state_age_ticks * tick_s, "states were {} old"),
            "frame-old": (self._limits.frame_age_s, "frames were {} old"),
        }
        found = list(self._found)
        for (kind, part), measured in sorted(self._measured.items()):
            limit_s, words = limits[kind]
            beyond = {i: rows for i, rows in measured.items() if _p99(rows) > limit_s}
            chosen: dict[int | None, Rows] = {**beyond}
            if len(beyond) > self._episodes / 2:
                chosen = {None: np.concatenate([*measured.values()])}
            for index, rows in chosen.items():
                times = f"{_ms(np.percentile(rows, 50))} (p50) to {_ms(_p99(rows))} (p99)"
                text = f"{words.format(times)}, expected at most {_ms(limit_s)} (p99)"
                values = {"part": part, "value": _p99(rows), "unit": "s"}
                found.append(Finding.of(kind, text, index, **values))
        return found

    def _measure(self, kind: str, part: str, index: int, times_s: Rows) -> None:
        known = times_s[np.isfinite(times_s)]
        if len(known):
            self._measured.setdefault((kind, part), {})[index] = known

    def _counts(
        self, index: int, rows: Mapping[str, Rows], origin: Mapping[str, Any]
    ) -> list[Finding]:
        """Find skipped ticks, holds, and what else the recording marked."""
        found = []
        ticks = len(next(iter(rows.values())))
        skipped = int(rows[columns.SKIPPED].sum()) if columns.SKIPPED in rows else 0
        share = skipped / (ticks + skipped)
        if share > self._limits.skipped:
            where = np.flatnonzero(rows[columns.SKIPPED])
            text = (
                f"{counted(skipped, 'tick')} were skipped ({share:.1%}), expected at most "
                f"{self._limits.skipped:.0%}"
            )
            first = (int(where[0]), int(where[-1]) + 1)
            found.append(
                Finding.of("ticks-skipped", text, index, ticks=first, value=share, unit="")
            )
        held = rows.get(columns.HELD)
        if held is not None and held.any():
            at = np.flatnonzero(held)
            causes = Counter(
                _hold_name(number) for number in rows.get(columns.HOLD, np.zeros(ticks))[at]
            )
            named = ", ".join(f"{name} {count}" for name, count in causes.items())
            text = f"the robot was held at {counted(len(at), 'tick')} ({named})"
            span = (int(at[0]), int(at[-1]) + 1)
            found.append(
                Finding.of(
                    "robot-held", text, index, ticks=span, value=float(len(at)), unit="ticks"
                )
            )
        for words in (*_texts(origin.get("faults")), *_notes(origin.get("notes"))):
            found.append(Finding.of("recording-fault", words, index))
        return found

    def _sent(self, index: int, rows: Mapping[str, Rows], action: Rows) -> list[Finding]:
        """Compare what was asked for with what was sent."""
        asked, stage = rows.get(columns.ASKED), rows.get(columns.STAGE)
        if asked is None or stage is None:
            return []
        found = []
        asked = asked.reshape(action.shape)
        held = rows.get(columns.HELD, np.zeros(len(action))) != 0
        off = np.abs(action - asked)
        changed = (stage != 0) & ~held & np.isfinite(off).all(axis=1)
        share = float(changed.mean())
        if share > self._limits.changed:
            worst = _worst(off, changed, self._tolerance)
            name = self._spec.action_names[worst[1]]
            text = (
                f"the safety filter changed the action of {share:.0%} of the ticks, most at "
                f"{name}, by {with_unit(f'{off[worst]:.3g}', self._spec.action_units[worst[1]])}"
            )
            found.append(Finding.of("actions-changed", text, index, value=share))
        odd = (stage == 0) & ~held & (off > self._tolerance).any(axis=1)
        if odd.any():
            worst = _worst(off, odd, self._tolerance)
            name = self._spec.action_names[worst[1]]
            text = (
                f"{with_unit(f'{off[worst]:.3g}', self._spec.action_units[worst[1]])} lie between "
                "what was asked for and what was sent, though the safety filter passed it "
                f"({counted(odd.sum(), 'tick')})"
            )
            span = (worst[0], worst[0] + 1)
            found.append(
                Finding.of("sent-differs", text, index, ticks=span, part=name, value=off[worst])
            )
        return found


def _order(index: int, rows: Mapping[str, Rows]) -> list[Finding]:
    """Find clocks that run backwards."""
    found = []
    for name, values in rows.items():
        if not name.startswith("clock."):
            continue
        times_s = values if values.ndim == 1 else values[:, 0]
        known = np.flatnonzero(np.isfinite(times_s))
        steps_s = np.diff(times_s[known])
        if len(steps_s) and steps_s.min() < 0:
            row = int(known[np.argmin(steps_s) + 1])
            text = f"{name} goes back by {_ms(-steps_s.min())}"
            found.append(
                Finding.of("clock-backwards", text, index, ticks=(row, row + 1), part=name)
            )
    return found


def _worst(off: Rows, where: NDArray[np.bool_], tolerance: Rows) -> tuple[int, int]:
    """Return the row and the joint of the largest difference, among some rows."""
    ratio = np.where(where[:, None], np.nan_to_num(off / tolerance), -1.0)
    row, joint = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return int(row), int(joint)


def _hold_name(number: float) -> str:
    if not number:
        return "safety filter"
    try:
        return Hold(int(number)).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {int(number)}"


def _texts(value: object) -> Sequence[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _notes(value: object) -> Sequence[str]:
    notes = [each for each in value if isinstance(each, list)] if isinstance(value, list) else []
    return [f"noted at tick {each[0]}: {each[1]}" for each in notes if len(each) == 2]


def _p99(times_s: Rows) -> float:
    return float(np.percentile(times_s, 99))


def _ms(time_s: float | np.floating[Any]) -> str:
    return f"{float(time_s) * 1000:.0f} ms"
