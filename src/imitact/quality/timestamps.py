"""Time stamp check: finite values, episode length, and time stamps on schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.ranges import CountOrNone, Ranged, Seconds
from imitact.core.types import FloatArray, Spec
from imitact.core.words import counted
from imitact.datasets.video_config import exact_rate
from imitact.quality.findings import DROP, Finding


@dataclass(frozen=True)
class TickLimits(Ranged):
    """Limits for the values and time stamps of an episode."""

    tolerance_s: Seconds = 1e-4
    """Deviation of a time stamp from tick / rate, and of a frame from its time stamp, that is
    reported, s; LeRobot's tolerance, beyond
    which it finds no frame for the tick. imitact does, up to half a tick or --read.tolerance-s."""

    min_ticks: CountOrNone = 2
    """Shortest episode, in ticks; shorter ones show no movement."""


def inspect_ticks(
    index: int,
    state: FloatArray,
    action: FloatArray,
    times_s: NDArray[np.float64] | None,
    spec: Spec,
    limits: TickLimits,
    read_tolerance_s: float = 0.0,
) -> list[Finding]:
    """Find values that are not finite, time stamps off schedule, and too short an episode.

    State is (T, S), action (T, A), and times_s (T,), or None where the dataset stores no times.
    `read_tolerance_s` is that of the read options.
    """
    found: list[Finding] = []
    both = (("state", state, spec.state_names), ("action", action, spec.action_names))
    for what, rows, names in both:
        bad = ~np.isfinite(rows)
        for column in np.flatnonzero(bad.any(axis=0)):
            at = np.flatnonzero(bad[:, column])
            text = f"{what} is {rows[at[0], column]} at {len(at)} of {counted(len(rows), 'tick')}"
            ticks = (int(at[0]), int(at[-1]) + 1)
            found.append(Finding.of("not-finite", text, index, ticks=ticks, part=names[column]))
    if len(state) < limits.min_ticks:
        text = f"it has {counted(len(state), 'tick')}, expected at least {limits.min_ticks}"
        found.append(Finding.of("too-short", text, index, value=float(len(state)), unit="ticks"))
    if times_s is not None and len(times_s):
        harmless_s = max(read_tolerance_s, 0.5 / spec.rate_hz)
        found += _inspect_times(index, times_s, spec.rate_hz, limits.tolerance_s, harmless_s)
    return found


def inspect_frame_times(
    index: int, offsets_s: Mapping[str, NDArray[np.float64] | None], limits: TickLimits
) -> list[Finding]:
    """Find cameras whose frames lie off the time stamps of their ticks; nothing is decoded.

    `offsets_s` is `Episode.frame_offsets_s` of each camera, whose time stamps are on schedule.
    """
    found: list[Finding] = []
    for camera, by_tick_s in offsets_s.items():
        if by_tick_s is None:
            continue
        size_s = np.abs(by_tick_s)
        off = ~(size_s <= limits.tolerance_s)
        if not off.any():
            continue
        missing = np.isnan(by_tick_s)
        values: dict[str, Any] = {"part": camera, "unit": "s"}
        if missing.any():
            tick = int(np.argmax(missing))
            text = (
                f"the video has no frame at the time of {int(missing.sum())} of "
                f"{counted(len(off), 'tick')}"
            )
            values |= {"severity": "error", "remedy": DROP, "fix": "drop"}
        else:
            tick = int(np.argmax(off))
            values["value"] = float(by_tick_s[tick])
            text = (
                f"its frame is {by_tick_s[tick]:+.6f} s off its time stamp ({int(off.sum())} of "
                f"{counted(len(off), 'frame')} are off, by up to {size_s.max():.6f} s)"
            )
        found.append(Finding.of("frame-times", text, index, ticks=(tick, tick + 1), **values))
    return found


def _inspect_times(
    index: int,
    times_s: NDArray[np.float64],
    rate_hz: float,
    tolerance_s: float,
    harmless_s: float,
) -> list[Finding]:
    """Find the first tick off schedule; the later ones usually follow from it.

    Up to `harmless_s` off, every tick still has its frame.
    """
    expected_s = np.arange(len(times_s)) / float(exact_rate(rate_hz))
    # Stored as float32, whose spacing late in a long episode exceeds the tolerance.
    allowed_s = tolerance_s + np.spacing(expected_s.astype(np.float32))
    deviation_s = np.abs(times_s - expected_s)
    off = ~(deviation_s <= allowed_s)
    if not off.any():
        return []
    largest_s = float(deviation_s.max())
    is_harmless = largest_s <= harmless_s
    tick = int(
        np.argmax(off if is_harmless else ~(deviation_s <= np.maximum(allowed_s, harmless_s)))
    )
    time_s, due_s = float(times_s[tick]), float(expected_s[tick])
    what = f"its time stamp is {time_s:.6f} s, expected {due_s:.6f} s at {rate_hz:g} Hz"
    if tick and time_s <= times_s[tick - 1]:
        what = f"its time stamp is {time_s:.6f} s, not after the tick before it"
    text = (
        f"{what} ({int(off.sum())} of {counted(len(times_s), 'tick')} are off, by up to "
        f"{largest_s:.6f} s)"
    )
    values: dict[str, Any] = {"ticks": (tick, tick + 1), "value": time_s - due_s, "unit": "s"}
    if is_harmless:
        remedy = (
            "Nothing to do: the nearest frame is taken. A copy by --fix has times of tick / rate"
        )
        values |= {"severity": "warning", "remedy": remedy, "fix": "rewrite"}
    return [Finding.of("time-stamps", text, index, **values)]
