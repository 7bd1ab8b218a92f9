"""What moves in an episode, and what should have: idle ends, and states that stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality.findings import Finding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MotionLimits:
    """When something counts as moving. Lengths are in rad for a joint in rad and in 1 for a
    normalised gripper; for other units, in parts of how far the value usually goes in an episode.
    """

    still_rad: float = 0.02
    """A joint has moved once it is this far from where it began; above an encoder's noise of two or
    three counts (0.0015 rad each), below any movement that matters."""

    idle_head_s: float = 0.5
    """Seconds without movement at the start that a demonstration may have; a policy that has seen
    long ones stands still at the start, and nothing ends that."""

    idle_tail_s: float = 5.0
    """Seconds without movement at the end; holding what was reached is worth learning (scripted
    demonstrations of one fixed length do so for 2 to 5 s), the rest is the same sample again."""

    keep_head_s: float = 0.2
    """Seconds that trimming leaves before the first movement."""

    keep_tail_s: float = 1.0
    """Seconds that trimming leaves after the last movement."""

    frozen_rad: float = 0.1
    """An action must move this far before its state is expected to; less, friction may hold."""

    frozen_part: float = 0.02
    """A state that moves by less than this part of what its action moves is frozen."""

    dropout_s: float = 0.3
    """Seconds for which all states may repeat to the bit while actions move; sensors that answer
    never do, but for a few ticks before a movement shows."""

    stuck_s: float = 1.0
    """Seconds for which one state may repeat to the bit while its action moves twice
    `frozen_rad`."""


def scales(spec: Spec, travels: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[Floats, Floats]:
    """What counts as 1 rad, for each state and each action dimension, (S,) and (A,).

    travels: of each episode how far each state and each action goes, (S,) and (A,).

    1 for joints in rad and grippers in 1; for other units the median over episodes of how far the
    value goes, since degrees, metres and unknown units have no limits of their own here. 1 where
    it never moves.
    """
    both = []
    for units, column in ((spec.state_units, 0), (spec.action_units, 1)):
        typical = np.ones(len(units))
        if travels and units:
            went = np.stack([t[column] for t in travels]).astype(np.float64)
            typical = np.median(went, axis=0)
            typical = np.where(typical > 0, typical, went.max(axis=0))
            typical = np.where(typical > 0, typical, 1.0)
        both.append(np.where([unit in ("rad", "1") for unit in units], 1.0, typical))
    return both[0], both[1]


def pairs(spec: Spec) -> list[tuple[int, int]]:
    """(state, action) dimensions that are the same joint: of one name, or, where a dataset names
    none, of one number. None where sizes or names do not tell."""
    states = {_stem(name): at for at, name in enumerate(spec.state_names)}
    return [
        (states[_stem(name)], at)
        for at, name in enumerate(spec.action_names)
        if _stem(name) in states
        and (_stem(name) == name or spec.state_size == spec.action_size)
        and spec.state_units[states[_stem(name)]] == spec.action_units[at]
    ]


def _stem(name: str) -> str:
    """`state_3` and `action_3`, as the reader numbers what has no name, are both "3"."""
    for prefix in ("state_", "action_"):
        if name.startswith(prefix) and name.removeprefix(prefix).isdigit():
            return name.removeprefix(prefix)
    return name


def is_gripper(spec: Spec, action: int) -> bool:
    """A gripper's action goes beyond what it holds, on purpose: its state need not follow."""
    return spec.action_units[action] == "1" or "gripper" in spec.action_names[action].lower()


def travel(rows: FloatArray) -> Floats:
    """How far each dimension of (T, D) goes: its largest value less its smallest, (D,)."""
    return np.ptp(rows.astype(np.float64), axis=0)


def idle_ends(
    state: FloatArray, action: FloatArray, scale: tuple[Floats, Floats], still_rad: float
) -> tuple[int, int]:
    """(first, stop): the ticks between the first and the last movement of any state or action.

    `first` is the first tick that is not where tick 0 was, `stop` the one after the last that is
    not where the last tick is; (T, 0) where nothing moves.
    """
    rows = np.concatenate([state / scale[0], action / scale[1]], axis=1)
    away = np.abs(rows - rows[0]).max(axis=1) > still_rad
    left = np.abs(rows - rows[-1]).max(axis=1) > still_rad
    first = int(np.argmax(away)) if away.any() else len(rows)
    stop = len(rows) - int(np.argmax(left[::-1])) if left.any() else 0
    return first, stop


def inspect_motion(
    index: int,
    state: FloatArray,
    action: FloatArray,
    scale: tuple[Floats, Floats],
    spec: Spec,
    limits: MotionLimits,
) -> list[Finding]:
    """Of one episode of finite numbers: idle head and tail, frozen joints, a state that dropped
    out.

    scale: what counts as 1 rad, from `scales`.
    """
    found = _idle(index, state, action, scale, spec.rate_hz, limits)
    frozen, moved = [], travel(action) / scale[1]
    for s, a in pairs(spec):
        if moved[a] < limits.frozen_rad:
            continue
        followed = float(travel(state)[s] / scale[1][a])
        if followed < limits.frozen_part * moved[a]:
            frozen.append(s)
            found.append(
                Finding(
                    "frozen-joint",
                    "error",
                    f"its state moves by {_said(followed, scale[1][a], spec.state_units[s])} while "
                    f"its action moves by {_said(moved[a], scale[1][a], spec.action_units[a])}",
                    "Look at the sensor and its bus; leave the episode out or record it again",
                    index,
                    (0, len(state)),
                    spec.state_names[s],
                    value=followed,
                    unit=_unit(spec.state_units[s]),
                    fix="drop",
                )
            )
    found += _dropouts(index, state, action, scale, spec, limits, set(frozen))
    return found


def _idle(
    index: int,
    state: FloatArray,
    action: FloatArray,
    scale: tuple[Floats, Floats],
    rate_hz: float,
    limits: MotionLimits,
) -> list[Finding]:
    length = len(state)
    first, stop = idle_ends(state, action, scale, limits.still_rad)
    if first == length:
        return [
            Finding(
                "no-motion",
                "warning",
                f"no state and no action leaves its place in {length} ticks",
                "Leave the episode out: it teaches to stand still",
                index,
                (0, length),
                fix="drop",
            )
        ]
    found = []
    ends = (
        ("idle-head", first, limits.idle_head_s, limits.keep_head_s, "before the first movement"),
        ("idle-tail", length - stop, limits.idle_tail_s, limits.keep_tail_s, "after the last"),
    )
    for kind, idle, allowed_s, keep_s, words in ends:
        keep = round(keep_s * rate_hz)
        cut = idle - keep
        if idle / rate_hz > allowed_s and cut > 0:
            head = kind == "idle-head"
            found.append(
                Finding(
                    kind,
                    "warning",
                    f"{idle / rate_hz:.2f} s {words}, expected at most {allowed_s:g} s",
                    f"Cut these ticks off; {keep_s:g} s stay",
                    index,
                    (0, cut) if head else (stop + keep, length),
                    value=idle / rate_hz,
                    unit="s",
                    fix="trim",
                )
            )
    return found


def _dropouts(
    index: int,
    state: FloatArray,
    action: FloatArray,
    scale: tuple[Floats, Floats],
    spec: Spec,
    limits: MotionLimits,
    frozen: set[int],
) -> list[Finding]:
    """Stretches in which states repeat to the bit while their actions move."""
    found: list[Finding] = []
    same = state[1:] == state[:-1]
    joints = [(s, a) for s, a in pairs(spec) if s not in frozen]
    if len(frozen) == state.shape[1] or not joints:
        return found
    everything = same.all(axis=1)
    least = max(2, round(limits.dropout_s * spec.rate_hz))
    whole = []
    for first, stop in _runs(everything, least):
        went = [float(travel(action[first:stop, a : a + 1])[0] / scale[1][a]) for _, a in joints]
        if max(went) >= limits.frozen_rad:
            whole.append((first, stop))
            a = joints[int(np.argmax(went))][1]
            found.append(
                Finding(
                    "state-dropout",
                    "error",
                    f"all states repeat for {(stop - first) / spec.rate_hz:.2f} s while "
                    f"{spec.action_names[a]} is commanded to move by "
                    f"{_said(max(went), scale[1][a], spec.action_units[a])}",
                    "The readings stopped; leave the episode out or record it again",
                    index,
                    (first, stop),
                    value=(stop - first) / spec.rate_hz,
                    unit="s",
                    fix="drop",
                )
            )
    least = max(2, round(limits.stuck_s * spec.rate_hz))
    for s, a in joints:
        if is_gripper(spec, a):
            continue
        for first, stop in _runs(same[:, s], least):
            if any(first < end and start < stop for start, end in whole):
                continue
            went = float(travel(action[first:stop, a : a + 1])[0] / scale[1][a])
            if went >= 2 * limits.frozen_rad:
                found.append(
                    Finding(
                        "stuck-joint",
                        "warning",
                        f"its state repeats for {(stop - first) / spec.rate_hz:.2f} s while its "
                        f"action moves by {_said(went, scale[1][a], spec.action_units[a])}",
                        "Something held the joint, or its readings stopped; look at the video",
                        index,
                        (first, stop),
                        spec.state_names[s],
                        value=went,
                        unit=_unit(spec.action_units[a]),
                    )
                )
    return found


def _runs(same: NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    """(first, stop) ticks of the stretches of at least so many equal ticks; same[t] says that
    tick t + 1 equals tick t."""
    edges = np.diff(np.concatenate([[False], same, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(s), int(e) + 1) for s, e in zip(starts, ends, strict=True) if e + 1 - s >= least]


def constant_dimensions(
    spec: Spec, lowest: tuple[FloatArray, FloatArray], highest: tuple[FloatArray, FloatArray]
) -> list[Finding]:
    """Dimensions that have one value in the whole dataset.

    lowest, highest: over all ticks of all episodes, state (S,) and action (A,).
    """
    still = [high - low <= 1e-6 * np.maximum(1.0, np.abs(high)) for low, high in
             zip(lowest, highest, strict=True)]  # fmt: skip
    partner = {("state", s): ("action", a) for s, a in pairs(spec)}
    partner |= {a: s for s, a in partner.items()}
    constant = {
        (what, int(at))
        for what, flags in zip(("state", "action"), still, strict=True)
        for at in np.flatnonzero(flags)
    }
    found = []
    for what, at in sorted(constant, key=lambda key: (key[0] == "action", key[1])):
        name = (spec.state_names if what == "state" else spec.action_names)[at]
        value = float((lowest[0] if what == "state" else lowest[1])[at])
        alone = partner.get((what, at)) not in constant
        found.append(
            Finding(
                "constant-dimension",
                "warning" if alone else "note",
                f"{what} is {value:.6g} at every tick of every episode"
                + ("" if alone else ", and so is the other side of the joint"),
                "A policy learns nothing of it; leave it out if it is not part of the robot, "
                "look at its sensor if it is",
                part=name,
                value=value,
                unit=_unit((spec.state_units if what == "state" else spec.action_units)[at]),
            )
        )
    return found


def _unit(unit: str) -> str:
    return "" if unit in ("1", "unknown") else unit


def _said(amount: float, scale: float, unit: str) -> str:
    """In the value's own unit: limits are in rad, or in what counts as 1 rad."""
    return f"{amount * scale:.3g} {_unit(unit)}".strip()
