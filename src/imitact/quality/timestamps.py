"""Whether the numbers of one episode are numbers, and come at the times they should."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.datasets.video import exact_rate
from imitact.quality.findings import Finding

_DROP = "Leave the episode out or record it again"


@dataclass(frozen=True)
class TickLimits:
    """What the numbers of an episode must keep to."""

    tolerance_s: float = 1e-4
    """How far a time stamp may be from its tick's time, s; LeRobot's own tolerance, beyond which no
    frame is found for the tick."""

    shortest_ticks: int = 2
    """Fewer ticks than these show no movement."""


def inspect_ticks(
    index: int,
    state: FloatArray,
    action: FloatArray,
    times_s: NDArray[np.float64] | None,
    spec: Spec,
    limits: TickLimits,
) -> list[Finding]:
    """Of one episode: values that are not finite, time stamps off their schedule, no length.

    state, action: (T, S) and (T, A).
    times_s:       (T,) as the dataset tells them; None where it tells none.
    """
    found: list[Finding] = []
    for what, rows, names in (
        ("state", state, spec.state_names),
        ("action", action, spec.action_names),
    ):
        bad = ~np.isfinite(rows)
        for column in np.flatnonzero(bad.any(axis=0)):
            ticks = np.flatnonzero(bad[:, column])
            first = int(ticks[0])
            found.append(
                Finding(
                    "not-finite",
                    "error",
                    f"{what} is {rows[first, column]} at {len(ticks)} of {len(rows)} ticks",
                    _DROP,
                    index,
                    (first, int(ticks[-1]) + 1),
                    names[column],
                    fix="drop",
                )
            )
    if len(state) < limits.shortest_ticks:
        found.append(
            Finding(
                "too-short",
                "error",
                f"it has {len(state)} ticks, expected at least {limits.shortest_ticks}",
                _DROP,
                index,
                value=float(len(state)),
                unit="ticks",
                fix="drop",
            )
        )
    if times_s is not None and len(times_s):
        found += _times(index, times_s, spec.rate_hz, limits.tolerance_s)
    return found


def _times(
    index: int, times_s: NDArray[np.float64], rate_hz: float, tolerance_s: float
) -> list[Finding]:
    """At most one finding: the first tick that is off its schedule tells of all later ones."""
    due_s = np.arange(len(times_s)) / float(exact_rate(rate_hz))
    # They are stored as float32: late in a long episode that is coarser than the tolerance.
    allowed_s = tolerance_s + np.spacing(due_s.astype(np.float32))
    off = ~(np.abs(times_s - due_s) <= allowed_s)
    if not off.any():
        return []
    tick = int(np.argmax(off))
    came_s, wanted_s = float(times_s[tick]), float(due_s[tick])
    what = f"its time stamp is {came_s:.6f} s, expected {wanted_s:.6f} s at {rate_hz:g} Hz"
    if tick and came_s <= times_s[tick - 1]:
        what = f"its time stamp is {came_s:.6f} s, not after the tick before it"
    return [
        Finding(
            "time-stamps",
            "error",
            f"{what} ({int(off.sum())} of {len(times_s)} ticks are off)",
            f"Frames are found by these times. {_DROP}",
            index,
            (tick, tick + 1),
            value=came_s - wanted_s,
            unit="s",
            fix="drop",
        )
    ]
