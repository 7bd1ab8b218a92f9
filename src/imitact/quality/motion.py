"""Motion check: idle ends of episodes, frozen joints, and states that stop being updated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.grippers import is_gripper
from imitact.core.ranges import Length, Ranged, Seconds, Share
from imitact.core.types import UNKNOWN_UNIT, FloatArray, Spec, same_unit, shown_unit, with_unit
from imitact.core.words import counted
from imitact.quality.findings import Finding

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviation per median absolute deviation of normally distributed values."""


@dataclass(frozen=True)
class MotionLimits(Ranged):
    """Limits for movement. Lengths are in rad for joints in rad and in 1 for normalized grippers;
    for other units, they are a fraction of the usual travel in an episode."""

    still_rad: Length = 0.02
    """Distance within which a joint counts as still: more than the noise of an encoder (two or
    three counts of 0.0015 rad), less than any purposeful movement."""

    idle_head_s: Seconds = 0.5
    """Longest standstill at the start, s; a policy that learns longer ones may never leave the
    start."""

    idle_tail_s: Seconds = 5.0
    """Longest standstill at the end, s; scripted demonstrations of a fixed length hold their goal
    for 2 to 5 s, and more repeats the same sample."""

    keep_head_s: Seconds = 0.2
    """Standstill that trimming keeps before the first movement, s."""

    keep_tail_s: Seconds = 1.0
    """Standstill that trimming keeps after the last movement, s."""

    frozen_rad: Length = 0.1
    """Travel of an action from which on its state must follow; friction may hold less."""

    frozen_fraction: Share = 0.02
    """A state is frozen if its travel is a smaller fraction of the travel of its action."""

    dropout_s: Seconds = 0.3
    """Longest time that all states may repeat exactly while actions move, s; working sensors
    repeat for a few ticks at most."""

    stuck_s: Seconds = 1.0
    """Longest time that one state may repeat exactly while its action moves twice `frozen_rad`,
    s."""


def scales(spec: Spec, travels: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[Floats, Floats]:
    """Return the amount that corresponds to 1 rad in each state (S,) and action (A,) dimension.

    It is 1 for joints in rad and grippers in 1. For other units, which have no limits of their
    own, it is the median over `travels`, the travel of each state and action in every episode; 1
    where the value never moves. A joint that hardly moves counts with a third of what the others
    of its unit usually travel, so that its noise is not taken for motion.
    """
    both = []
    for units, column in ((spec.state_units, 0), (spec.action_units, 1)):
        usual = np.ones(len(units))
        if travels and units:
            by_episode = np.stack([t[column] for t in travels]).astype(np.float64)
            usual = np.median(by_episode, axis=0)
            usual = np.where(usual > 0, usual, by_episode.max(axis=0))
            for unit in set(units):
                alike = np.array([each == unit for each in units])
                moving = usual[alike & (usual > 0)]
                floor = np.median(moving) / 3 if len(moving) else 1.0
                usual = np.where(alike, np.maximum(usual, floor), usual)
        both.append(np.where([unit in ("rad", "1") for unit in units], 1.0, usual))
    return both[0], both[1]


def joint_pairs(spec: Spec) -> list[tuple[int, int]]:
    """(state, action) dimensions of the same joint, matched by name and unit.

    Where no name agrees, and there are as many states as actions, they are matched by number.
    """
    robot = spec.state_size - spec.environment_size
    states = {_stem(name): at for at, name in enumerate(spec.state_names[:robot])}
    named = [
        (states[_stem(name)], at)
        for at, name in enumerate(spec.action_names)
        if _stem(name) in states and (_stem(name) == name or robot == spec.action_size)
    ]
    if not named and robot == spec.action_size:
        named = [(at, at) for at in range(spec.action_size)]
    return [(s, a) for s, a in named if same_unit(spec.state_units[s], spec.action_units[a])]


def _stem(name: str) -> str:
    """ "3" for both `state_3` and `action_3`, the reader's names of unnamed dimensions."""
    found = re.fullmatch(r"(?:state|action)_(\d+)", name)
    return found[1] if found else name


def travel(rows: FloatArray) -> Floats:
    """Travel of each dimension of (T, D): its range, (D,)."""
    return np.ptp(rows.astype(np.float64), axis=0)


def aligned(one: Floats, other: Floats, lag: int) -> tuple[Floats, Floats]:
    """Return one[t] and other[t + lag] for every t at which both exist."""
    if lag >= 0:
        return one[: len(one) - lag], other[lag:]
    return one[-lag:], other[:lag]


def idle_ends(
    state: FloatArray, action: FloatArray, scale: tuple[Floats, Floats], still_rad: float
) -> tuple[int, int]:
    """Return (first, stop) of the ticks with movement of any state or action; (T, 0) if none.

    `first` is the first tick that is away from the position of tick 0, `stop` the one after the
    last that is away from the final position.
    """
    rows = np.concatenate([state / scale[0], action / scale[1]], axis=1)
    has_left = np.abs(rows - rows[0]).max(axis=1) > still_rad
    is_away = np.abs(rows - rows[-1]).max(axis=1) > still_rad
    first = int(np.argmax(has_left)) if has_left.any() else len(rows)
    stop = len(rows) - int(np.argmax(is_away[::-1])) if is_away.any() else 0
    return first, stop


def inspect_motion(
    index: int,
    state: FloatArray,
    action: FloatArray,
    scale: tuple[Floats, Floats],
    usual: Floats,
    spec: Spec,
    limits: MotionLimits,
    lag_s: float,
) -> list[Finding]:
    """Find idle ends, frozen joints and state dropouts in an episode of finite values.

    Args:
        index: of the episode.
        state: (T, S).
        action: (T, A).
        scale: the amounts that correspond to 1 rad (`scales`).
        usual: travel of each state in the median episode, (S,).
        spec: of the dataset.
        limits: the limits.
        lag_s: longest time by which the state of a working arm may follow its action, s.
    """
    idle = idle_ends(state, action, scale, limits.still_rad)
    found = [*_inspect_ends(index, len(state), idle, spec.rate_hz, limits)]
    joints: list[tuple[int, int]] = []  # those that are not frozen
    moved = travel(action) / scale[1]
    for s, a in joint_pairs(spec):
        followed = float(travel(state)[s] / scale[1][a])
        # Without a unit, an action may be a step or a speed: its state is then small by nature, and
        # counts as frozen only if it moves less than in the other episodes.
        is_less = spec.state_units[s] not in ("1", UNKNOWN_UNIT) or (
            followed * scale[1][a] < 0.1 * usual[s]
        )
        if not (
            is_less
            and moved[a] >= limits.frozen_rad
            and followed < limits.frozen_fraction * moved[a]
        ):
            joints.append((s, a))
            continue
        text = (
            f"its state moves by {amount_text(followed, scale[1][a], spec.state_units[s])}, "
            f"its action by {amount_text(moved[a], scale[1][a], spec.action_units[a])}"
        )
        place: dict[str, Any] = {"ticks": (0, len(state)), "part": spec.state_names[s]}
        unit = shown_unit(spec.state_units[s])
        found.append(
            Finding.of(
                "frozen-joint", text, index, value=followed * float(scale[1][a]), unit=unit, **place
            )
        )
    return [
        *found,
        *_inspect_dropouts(index, state, action, scale[1], spec, limits, joints, lag_s),
    ]


def _inspect_ends(
    index: int, length: int, moving: tuple[int, int], rate_hz: float, limits: MotionLimits
) -> Iterator[Finding]:
    first, stop = moving
    if first == length:
        text = f"no state and no action moves in {counted(length, 'tick')}"
        yield Finding.of("no-motion", text, index, ticks=(0, length))
        return
    for kind, which, idle, allowed_s, keep_s in (
        ("idle-head", "before the first", first, limits.idle_head_s, limits.keep_head_s),
        ("idle-tail", "after the last", length - stop, limits.idle_tail_s, limits.keep_tail_s),
    ):
        idle_s, cut = idle / rate_hz, idle - round(keep_s * rate_hz)
        if idle_s > allowed_s and cut > 0:
            ticks = (0, cut) if kind == "idle-head" else (length - cut, length)
            text = (
                f"it stands still for {idle_s:.2f} s {which} movement, expected at most "
                f"{allowed_s:g} s"
            )
            remedy = f"Cut these ticks; keep {keep_s:g} s"
            yield Finding.of(kind, text, index, remedy=remedy, ticks=ticks, value=idle_s, unit="s")


def _inspect_dropouts(
    index: int,
    state: FloatArray,
    action: FloatArray,
    scale: Floats,
    spec: Spec,
    limits: MotionLimits,
    joints: Sequence[tuple[int, int]],
    lag_s: float,
) -> Iterator[Finding]:
    """Find stretches in which states repeat exactly while the actions of `joints` move."""
    if not joints:
        return
    scaled = action.astype(np.float64) / scale
    lags = range(round(lag_s * spec.rate_hz) + 1)
    robot = state[:, : spec.state_size - spec.environment_size]
    same = robot[1:] == robot[:-1]
    dropouts = []
    for first, stop in _repeats(same.all(axis=1), limits.dropout_s * spec.rate_hz):
        moved = _commanded_travel(scaled, first, stop, lags)
        a = max((a for _, a in joints), key=lambda a: moved[a])
        if moved[a] >= limits.frozen_rad:
            dropouts.append((first, stop))
            seconds = (stop - first) / spec.rate_hz
            text = (
                f"all states repeat for {seconds:.2f} s while {spec.action_names[a]} is commanded "
                f"to move by {amount_text(moved[a], scale[a], spec.action_units[a])}"
            )
            ticks = (first, stop)
            yield Finding.of("state-dropout", text, index, ticks=ticks, value=seconds, unit="s")
    for s, a in joints:
        if is_gripper(spec.action_names[a], spec.action_units[a]):
            continue
        for first, stop in _repeats(same[:, s], limits.stuck_s * spec.rate_hz):
            if any(first < end and start < stop for start, end in dropouts):
                continue
            moved_rad = float(_commanded_travel(scaled[:, a : a + 1], first, stop, lags)[0])
            if moved_rad >= 2 * limits.frozen_rad:
                text = (
                    f"its state repeats for {(stop - first) / spec.rate_hz:.2f} s while its "
                    f"action moves by {amount_text(moved_rad, scale[a], spec.action_units[a])}"
                )
                place = {"ticks": (first, stop), "part": spec.state_names[s]}
                unit, value = shown_unit(spec.action_units[a]), moved_rad * float(scale[a])
                yield Finding.of("stuck-joint", text, index, value=value, unit=unit, **place)


def _commanded_travel(action: Floats, first: int, stop: int, lags: Sequence[int]) -> Floats:
    """Travel that the states of ticks `first` to `stop` should have had, (A,).

    States follow their actions with an unknown delay: the least travel over `lags` ticks counts.
    An arm that stands still and is then commanded briskly repeats its state until the delay is
    over; with that delay, nothing was commanded.
    """
    if stop <= lags[-1]:  # nothing was commanded early enough
        return np.zeros(action.shape[1])
    return np.min([travel(action[max(0, first - lag) : stop - lag]) for lag in lags], axis=0)


def _repeats(same: NDArray[np.bool_], ticks: float) -> list[tuple[int, int]]:
    """(first, stop) of stretches of about `ticks` equal ticks or more, and of at least two.

    same[t] is whether tick t + 1 equals tick t.
    """
    least = max(2, round(ticks))
    return [(first, stop + 1) for first, stop in true_runs(same) if stop + 1 - first >= least]


def true_runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, stop) of each stretch of True."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def constant_dimensions(
    spec: Spec, lowest: tuple[FloatArray, FloatArray], highest: tuple[FloatArray, FloatArray]
) -> Iterator[Finding]:
    """Find dimensions with a single value, from the extremes of states (S,) and actions (A,)."""
    partner = {(0, s): (1, a) for s, a in joint_pairs(spec)}
    partner |= {a: s for s, a in partner.items()}
    constant = {
        (part, int(dimension))
        for part, (low, high) in enumerate(zip(lowest, highest, strict=True))
        for dimension in np.flatnonzero(high - low <= 1e-6 * np.maximum(1.0, np.abs(high)))
    }
    for part, dimension in sorted(constant):
        names = (spec.state_names, spec.action_names)[part]
        units = (spec.state_units, spec.action_units)[part]
        value = float(lowest[part][dimension])
        is_whole_joint = partner.get((part, dimension)) in constant
        text = f"{('state', 'action')[part]} is {value:.6g} at every tick of every episode"
        if is_whole_joint:
            text += f", and so is the {('action', 'state')[part]} of the joint"
        severity = "note" if is_whole_joint else "warning"
        of = {"part": names[dimension], "value": value, "unit": shown_unit(units[dimension])}
        yield Finding.of("constant-dimension", text, severity=severity, **of)


def amount_text(amount: float, scale: float, unit: str) -> str:
    """A scaled amount in words, in its own unit."""
    return with_unit(f"{amount * scale:.3g}", unit)
