"""Tracking check: the delay and the offset between the state of a joint and its action.

Only joints whose motion their actions explain are judged: a joint that is hardly commanded, and is
pulled along by the others, has neither a delay nor an offset.

A leader arm whose calibration has drifted against its follower shows here and nowhere in the loss:
a network learns a wrong action as easily as a right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.grippers import is_gripper
from imitact.core.types import FloatArray, Spec, shown_unit
from imitact.core.words import counted
from imitact.quality.findings import KINDS, Finding
from imitact.quality.following import (
    Delay,
    Following,
    TrackingLimits,
    candidate_lags,
    measure_following,
)
from imitact.quality.motion import (
    MAD_TO_SIGMA,
    Floats,
    amount_text,
    joint_pairs,
)

_SURE_EPISODES = 3
"""Episodes from which on an offset of all can be an error: one or two may have had a load."""

_CLEAR_FIT = 0.98
"""R² from which on a state follows its action beyond doubt, in another unit or not."""


class TrackingCheck:
    """Collects what is measured of all episodes of a dataset, then compares it with the limits."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: TrackingLimits) -> None:
        self._spec, self._limits = spec, limits
        self._joints = joint_pairs(spec)
        self._scale = scale[1]
        self._lags = candidate_lags(spec.rate_hz, limits)
        self._episodes: dict[int, Following] = {}

    def add(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """Add an episode of finite values."""
        measured = measure_following(state, action, self._scale, self._spec, self._limits)
        self._episodes[index] = measured

    def findings(self) -> list[Finding]:
        found = [*self._not_compared()]
        if not self._episodes or not self._joints:
            return found
        judged: dict[int, dict[int, Delay]] = {}  # joint to episode to its delay
        has_positions = False
        for joint, (_, a) in enumerate(self._joints):
            name, apart = self._spec.action_names[a], self._max_difference(joint)
            if apart <= 1e-6 and self._has_moved(joint):
                text = "its action equals its state at the same tick, in every episode"
                found.append(Finding.of("action-is-state", text, part=name))
                has_positions = True
                continue
            positions = self._explained(joint, "positions")
            has_positions |= bool(positions)
            if judged_joint := positions or self._explained(joint, "steps"):
                judged[joint] = judged_joint
            if not positions or is_gripper(self._spec.action_names[a], self._spec.action_units[a]):
                continue
            gain = float(np.median([d.gain for d in positions.values()]))
            if not 1 / self._limits.gain <= gain <= self._limits.gain:
                text = f"its state moves {gain:.3g} times as far as its action, expected 1"
                found.append(Finding.of("tracking-gain", text, part=name, value=gain))
            elif 1 / self._limits.fit_gain <= gain <= self._limits.fit_gain:
                found += self._inspect_offsets(joint, a)
        found += self._inspect_delays(judged)
        kinds = ["swapped"] * (has_positions or not judged)
        kinds += ["swapped_steps"] * (not has_positions)
        for kind in kinds:
            found += self._inspect_swaps(kind, judged)
        return _merged_joints(found)

    def _not_compared(self) -> Iterator[Finding]:
        """A note that lists the actions without a state of the same joint."""
        paired = {a for _, a in self._joints}
        names = [name for a, name in enumerate(self._spec.action_names) if a not in paired]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            text = (
                f"no state has the name and unit of {'any action' if not paired else shown}; they "
                "were not compared with a state"
            )
            yield Finding.of("not-compared", text)

    def _max_difference(self, joint: int) -> float:
        return max(float(each.max_difference[joint]) for each in self._episodes.values())

    def _has_moved(self, joint: int) -> bool:
        return any(each.excited[joint] for each in self._episodes.values())

    def _explained(self, joint: int, kind: str) -> dict[int, Delay]:
        """Delays of the episodes in which the action explains the motion of a joint.

        They are none where it does not in half of the episodes in which it is commanded.
        """
        limits = self._limits
        delays = {
            index: delay
            for index, each in self._episodes.items()
            if (delay := getattr(each, kind)[joint]) is not None
        }
        if not delays:
            return {}
        fit, correlation, gain = (
            float(np.median([getattr(d, field) for d in delays.values()]))
            for field in ("fit", "correlation", "gain")
        )
        low = limits.min_fit
        if kind == "positions" and not 1 / limits.fit_gain <= gain <= limits.fit_gain:
            low = _CLEAR_FIT
        if fit < low or correlation < limits.min_correlation:
            return {}
        return {
            index: d
            for index, d in delays.items()
            if d.fit >= limits.min_fit and d.correlation >= limits.min_correlation
        }

    # --- delays ---

    def _inspect_delays(self, judged: dict[int, dict[int, Delay]]) -> Iterator[Finding]:
        rate_hz, limits = self._spec.rate_hz, self._limits
        usual: dict[int, float] = {}
        leads: dict[int, bool] = {}
        for joint, delays in judged.items():
            # The median over episodes: one jump could dominate a correlation over all of them.
            usual[joint] = float(np.median([d.ticks for d in delays.values()]))
            leads[joint] = sum(map(self._leads, delays.values())) > len(delays) / 2
        most_lead = sum(leads.values()) > len(leads) / 2
        for joint, delays in judged.items():
            name = self._spec.action_names[self._joints[joint][1]]
            usual_s = usual[joint] / rate_hz
            of = {"part": name, "value": usual_s, "unit": "s"}
            if leads[joint]:
                text = (
                    f"its state moves {-usual[joint]:.1f} ticks before its action does"
                    f"{self._evidence(joint, delays)}"
                )
                is_clear = np.median([d.fit for d in delays.values()]) >= _CLEAR_FIT
                severity = "error" if most_lead or is_clear else "warning"
                yield Finding.of("action-late", text, severity=severity, **of)
            elif usual_s > limits.lag_s and (
                sum(self._lags_behind(d) for d in delays.values()) > len(delays) / 2
            ):
                text = (
                    f"its state follows its action {usual_s:.3f} s late "
                    f"({usual[joint]:.1f} ticks), expected at most {limits.lag_s:g} s"
                    f"{self._evidence(joint, delays)}"
                )
                yield Finding.of("tracking-lag", text, **of)
        yield from self._inspect_shifts(judged, usual, most_lead)

    def _inspect_shifts(
        self, judged: dict[int, dict[int, Delay]], usual: dict[int, float], most_lead: bool
    ) -> Iterator[Finding]:
        """Find episodes in which all joints together follow later or earlier than usual."""
        apart: dict[int, list[tuple[float, float]]] = {}  # episode to difference and weight
        for joint, delays in judged.items():
            off = {index: d.ticks - usual[joint] for index, d in delays.items()}
            variance = (MAD_TO_SIGMA * float(np.median(np.abs([*off.values()])))) ** 2
            for index, ticks in off.items():  # a quarter of a tick is how well one is measured
                apart.setdefault(index, []).append((ticks, 1 / (variance + 0.0625)))
        shifts = {
            index: float(np.average([ticks for ticks, _ in own], weights=[w for _, w in own]))
            for index, own in apart.items()
        }
        if not shifts:
            return
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(list(shifts.values()))))
        least = max(1.5, self._limits.lag_spread_s * self._spec.rate_hz, 6 * sigma)
        for index, shift in shifts.items():
            own = {joint: d[index] for joint, d in judged.items() if index in d}
            leading = [joint for joint, delay in own.items() if self._leads(delay)]
            near = {joint: np.abs(self._lags - usual[joint]) <= 1 for joint in own}
            clear = [j for j, d in own.items() if self._explains_better(d, near[j], 0.8)]
            differs = abs(shift) > least and 2 * len(clear) > len(own)
            is_early = not most_lead and (
                2 * len(leading) > len(own) or bool(leading and differs and shift < 0)
            )
            if not (differs or is_early):
                continue
            joint = max(own, key=lambda j: abs(own[j].ticks - usual[j]))
            others = f"; over {counted(len(own), 'joint')} the difference is {shift:.1f}"
            text = (
                f"its state follows its action by {own[joint].ticks:.1f} ticks, in the other "
                f"episodes by {usual[joint]:.1f}{others if len(own) > 1 else ''}"
                f"{self._evidence(joint, {index: own[joint]})}"
            )
            of = {
                "part": self._spec.action_names[self._joints[joint][1]],
                "value": shift / self._spec.rate_hz,
                "unit": "s",
            }
            kind = "action-late" if is_early else "lag-differs"
            yield Finding.of(kind, text, index, remedy=KINDS["lag-differs"].remedy, **of)

    def _evidence(self, joint: int, delays: dict[int, Delay]) -> str:
        """How far the action moves and how well it explains the motion, in words."""
        a = self._joints[joint][1]
        fit, moved = (
            float(np.median([getattr(d, field) for d in delays.values()]))
            for field in ("fit", "travel")
        )
        return (
            f" (an action that moves by {self._amount(moved, a)} explains {fit:.0%} of its motion)"
        )

    def _leads(self, delay: Delay) -> bool:
        """Whether the state clearly moves before its action."""
        return delay.ticks <= -0.5 and self._explains_better(delay, self._lags >= 0)

    def _lags_behind(self, delay: Delay) -> bool:
        """Whether every delay in range explains the speeds less well.

        A small margin is enough: a slow servo smooths its command, so that no delay explains the
        speeds much better than the next one.
        """
        in_range = (self._lags >= 0) & (self._lags <= self._limits.lag_s * self._spec.rate_hz)
        return self._explains_better(delay, in_range, 0.95)

    def _explains_better(
        self, delay: Delay, others: NDArray[np.bool_], max_ratio: float | None = None
    ) -> bool:
        """Whether the best delay leaves less unexplained than any of `others`, a mask (L,)."""
        # If even a wrong delay leaves nothing unexplained, as in one exponential approach, every
        # delay fits and none can be measured.
        least = float(delay.unexplained[others].min(initial=1.0))
        max_ratio = self._limits.max_unexplained_ratio if max_ratio is None else max_ratio
        return least > 0.001 and 1 - delay.correlation**2 <= max_ratio * least

    # --- joints in another order ---

    def _inspect_swaps(self, kind: str, judged: dict[int, dict[int, Delay]]) -> Iterator[Finding]:
        places: dict[tuple[int, ...], list[int]] = {}
        for index, each in self._episodes.items():
            for cycle in getattr(each, kind):
                places.setdefault(cycle, []).append(index)
        for cycle, where in places.items():
            own = sum(self._follow_their_own(each, cycle) for each in self._episodes.values())
            names = [self._spec.action_names[self._joints[joint][1]] for joint in cycle]
            text = (
                f"the states of {', '.join(names)} follow the actions of "
                f"{', '.join([*names[1:], names[0]])}"
            )
            moved = sum(bool(each.excited[[*cycle]].all()) for each in self._episodes.values())
            if len(where) > max(own, moved / 2) and not {*cycle} & {*judged}:
                yield Finding.of("joints-swapped", text, part=names[0])
            elif {*cycle} <= {*judged}:
                for index in where:
                    yield Finding.of("joints-swapped", text, index, part=names[0])

    def _follow_their_own(self, each: Following, joints: Sequence[int]) -> bool:
        """Whether all these joints follow their own actions in an episode."""
        limits = self._limits
        positions = all(
            d is not None
            and d.fit >= limits.min_fit
            and 1 / limits.fit_gain <= d.gain <= limits.fit_gain
            for d in (each.positions[joint] for joint in joints)
        )
        steps = [each.steps[joint] for joint in joints]
        return positions or all(d is not None and d.fit >= limits.min_fit for d in steps)

    # --- offsets ---

    def _inspect_offsets(self, joint: int, a: int) -> list[Finding]:
        column = np.array([each.offset[joint] for each in self._episodes.values()])
        known = np.isfinite(column)
        offsets, numbers = column[known], np.array([*self._episodes])[known]
        if not len(offsets):
            return []
        limits = self._limits
        usual = float(np.median(offsets))
        found = []
        if abs(usual) > limits.offset_rad:
            text = (
                f"its settled state is off its action by {self._amount(usual, a)} (median of "
                f"{counted(len(offsets), 'episode')}), expected at most "
                f"{self._amount(limits.offset_rad, a)}"
            )
            of = self._fields(a, usual)
            if len(offsets) < _SURE_EPISODES:
                of["severity"] = "warning"
            found.append(Finding.of("tracking-offset", text, **of))
        drift = self._drift(a, offsets, numbers)
        if drift:
            explained = drift.value is not None and abs(usual * self._scale[a]) <= abs(drift.value)
            return [drift] if explained else [*found, drift]
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(offsets - usual)))
        for index, offset in zip(numbers, offsets, strict=True):
            difference = float(offset) - usual
            if len(offsets) >= 5 and abs(difference) > max(2 * limits.offset_rad, 6 * sigma):
                text = (
                    f"its settled state is off its action by {self._amount(float(offset), a)}, "
                    f"in the other episodes by {self._amount(usual, a)}"
                )
                of = self._fields(a, difference)
                found.append(Finding.of("offset-differs", text, int(index), **of))
        return found

    def _drift(self, a: int, offsets: Floats, numbers: NDArray[np.int64]) -> Finding | None:
        """Find an offset that changes over the episodes, gradually or in one step."""
        if len(offsets) < 8:
            return None
        slope = theil_sen_slope(numbers.astype(np.float64), offsets)
        first, last = int(numbers[0]), int(numbers[-1])
        drift = slope * float(last - first)
        place, step = _largest_step(offsets)
        is_sudden = abs(step) > abs(drift)
        size = step if is_sudden else drift
        if abs(size) <= self._limits.offset_rad:
            return None
        if is_sudden:
            parts = (offsets[:place], offsets[place:])
            rest = np.concatenate([part - np.median(part) for part in parts])
        else:
            line = slope * numbers
            rest = offsets - line - np.median(offsets - line)
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(rest)))
        if abs(size) <= 4 * sigma:
            return None
        episode = int(numbers[place]) if is_sudden else None
        verb, when = ("moves", f"{episode} on") if is_sudden else ("drifts", f"{first} to {last}")
        text = (
            f"its settled state {verb} by {self._amount(size, a)} against its action from episode "
            f"{when}, expected at most {self._amount(self._limits.offset_rad, a)}"
        )
        return Finding.of("tracking-drift", text, episode, **self._fields(a, size))

    def _fields(self, a: int, offset: float) -> dict[str, Any]:
        """Severity, joint and value, in the unit of the joint, of a finding about an offset."""
        # Where its travel stands for 1 rad, the sag of a soft arm is much for a joint that moves
        # little: three tenths of the travel of the joint of that unit that travels farthest.
        unit = self._spec.action_units[a]
        alike = [self._scale[b] for _, b in self._joints if self._spec.action_units[b] == unit]
        factor = 1.0 if unit == "rad" else 1.5 * float(max(alike) / self._scale[a])
        limit = self._limits.error_offset_rad * factor
        return {
            "severity": "error" if abs(offset) > limit else "warning",
            "part": self._spec.action_names[a],
            "value": offset * float(self._scale[a]),
            "unit": shown_unit(unit),
        }

    def _amount(self, amount: float, a: int) -> str:
        return amount_text(amount, float(self._scale[a]), self._spec.action_units[a])


_DELAY_KINDS = {"action-late", "action-is-state", "tracking-lag", "lag-differs"}


def _merged_joints(findings: Sequence[Finding]) -> list[Finding]:
    """Merge the delays of several joints into that of the worst joint, which lists the others."""
    groups: dict[tuple[str, int | None], list[Finding]] = {}
    others = []
    for finding in findings:
        if finding.kind in _DELAY_KINDS:
            groups.setdefault((finding.kind, finding.episode), []).append(finding)
        else:
            others.append(finding)
    merged = []
    for group in groups.values():
        worst = max(group, key=lambda f: abs(f.value or 0.0))
        joints = [f.part for f in group if f is not worst]
        also = f"; the same for {', '.join(joints)}" if joints else ""
        merged.append(replace(worst, what=worst.what + also))
    return [*merged, *others]


def theil_sen_slope(x: Floats, y: Floats) -> float:
    """Median slope over all pairs of points, robust to nearly a third of outliers.

    Of more than 300 points, 300 evenly spaced ones are used.
    """
    if len(x) > 300:
        kept = np.round(np.linspace(0, len(x) - 1, 300)).astype(int)
        x, y = x[kept], y[kept]
    first, second = np.triu_indices(len(x), 1)
    dx, dy = x[second] - x[first], y[second] - y[first]
    return float(np.median(dy[dx != 0] / dx[dx != 0]))


def _largest_step(values: Floats) -> tuple[int, float]:
    """The step function that fits best: its place, before values[place], and its height.

    At least three values are on either side, so that a single outlier is not a step.
    """
    best, place, height = -1.0, 0, 0.0
    for at in np.unique(np.round(np.linspace(3, len(values) - 3, 300)).astype(int)):
        before, after = values[:at], values[at:]
        weight = len(before) * len(after) / len(values)
        if (fit := weight * float(after.mean() - before.mean()) ** 2) > best:
            best, place = fit, int(at)
            height = float(np.median(after) - np.median(before))
    return place, height
