"""Ticks of a run as arrays: a run log is read without trust, as columns of numbers.

Legend for shapes: T ticks, A action dimensions, S state dimensions, C cameras. Times are in s since
the first tick; NaN stands for what was not there.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.run_log import RUN, TICKS, read_ticks
from imitact.core.errors import DamagedFile, ImitactError
from imitact.core.types import Camera, Spec

MAX_TICKS = 500_000
"""Ticks of a log that are read: 2.8 h at 50 Hz. An hour of two arms takes 15 s and 0.3 GB."""

_SENT_WITHIN = 500
"""Rows before a row among which the tick is searched whose command it says was sent."""


@dataclass(frozen=True)
class RunTicks:
    """All ticks of a run.

    Attributes:
        time_s: (T,) when each was due.
        tick: (T,) their numbers, which begin anew where the control of the robot did.
        phase: (T,) number of the phase, from 1; 0 between phases.
        skipped: (T,) ticks lost right before each.
        late_s: (T,) how late each began.
        state: (T, S) measured.
        asked: (T, A) what the source asked for.
        action: (T, A) what was commanded.
        sent: (T, A) what the hardware got of that command.
        sent_at_s: (T,) when it got it.
        state_age_s: (T,) how old the state was.
        frame_ages_s: (T, C) how old the frames were.
        leader_age_s: (T,) how old the leader's reading was.
        stage: (T,) of the safety filter that acted; 0 where the asked action passed.
        held: (T,) 1 where the robot was held.
        hold: (T,) why nothing was asked, a number of `Hold`.
        engaged: (T,) 1 where a person had the command, -1 where there is no leader.
        answer_s: (T,) how long the answer that arrived took.
        seam: (T,) jump to the chunk that arrived, in legal steps.
        words: of the ticks that have some, by row.
        joints: of the ticks at which the safety filter acted, by row.
        is_cut: whether the log is longer than `MAX_TICKS`.
    """

    time_s: NDArray[np.float64]
    tick: NDArray[np.int64]
    phase: NDArray[np.int64]
    skipped: NDArray[np.int64]
    late_s: NDArray[np.float64]
    state: NDArray[np.float32]
    asked: NDArray[np.float32]
    action: NDArray[np.float32]
    sent: NDArray[np.float32]
    sent_at_s: NDArray[np.float64]
    state_age_s: NDArray[np.float64]
    frame_ages_s: NDArray[np.float64]
    leader_age_s: NDArray[np.float64]
    stage: NDArray[np.int64]
    held: NDArray[np.int64]
    hold: NDArray[np.int64]
    engaged: NDArray[np.int64]
    answer_s: NDArray[np.float64]
    seam: NDArray[np.float64]
    words: Mapping[int, str]
    joints: Mapping[int, str]
    is_cut: bool

    def __len__(self) -> int:
        return len(self.time_s)


_NUMBERS = {
    "time_s": "t", "late_s": "late", "sent_at_s": "sent_at", "state_age_s": "state_age",
    "leader_age_s": "leader_age", "answer_s": "answer_s", "seam": "seam",
}  # fmt: skip
"""Columns of one number or null, and their names in a row."""

_WHOLE = {"tick": 0, "phase": 0, "skipped": 0, "stage": 0, "held": 0, "hold": 0, "engaged": -1}
"""Columns of whole numbers, and what stands for a missing one."""


def read_spec(about: Mapping[str, Any], folder: Path) -> Spec:
    """Return the Spec of the robot, of what run.json says.

    Raises:
        DamagedFile: there is none.
    """
    values = about["spec"]
    names = ("state_names", "action_names", "state_units", "action_units")
    try:
        lists: dict[str, Any] = {name: tuple(map(str, values[name])) for name in names}
        cameras = tuple(Camera(str(c["name"]), c["height"], c["width"]) for c in values["cameras"])
        return Spec(cameras=cameras, rate_hz=float(values["rate_hz"]), **lists)
    except (ImitactError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{folder / RUN}: its spec cannot be read: {error!r}") from error


def load_ticks(folder: Path, spec: Spec, limit: int = MAX_TICKS) -> RunTicks:
    """Read the ticks of a run log.

    Raises:
        DamagedFile: a row is no tick of such a robot.
    """
    sizes = {"state": len(spec.state_names), "action": len(spec.action_names)}
    sizes |= {"asked": sizes["action"], "sent": sizes["action"], "frame_ages": len(spec.cameras)}
    lists: dict[str, array[Any]] = {name: array("d") for name in _NUMBERS}
    lists |= {name: array("q") for name in (*_WHOLE, "sent_tick")}
    lists |= {name: array("f") for name in sizes}
    words: dict[int, str] = {}
    joints: dict[int, str] = {}
    is_cut = False
    for number, row in enumerate(read_ticks(folder, limit + 1)):
        if number == limit:
            is_cut = True
            break
        try:
            for name, key in _NUMBERS.items():
                lists[name].append(_number(row.get(key)))
            for name, missing in _WHOLE.items():
                lists[name].append(_whole(row.get(name, missing)))
            lists["sent_tick"].append(_whole(row.get("sent_tick", -1)))
            for name, size in sizes.items():
                values = row.get(name, row["action"] if name == "asked" else None)
                lists[name].extend(_vector(values, size, name))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            why = str(error) if type(error) is ValueError else f"a value is missing: {error}"
            raise DamagedFile(f"{folder / TICKS}, line {number + 1} is no tick: {why}") from None
        if isinstance(row.get("words"), str) and row["words"]:
            words[number] = row["words"]
        if isinstance(row.get("joint"), str) and row["joint"]:
            joints[number] = row["joint"]
    count = len(lists["time_s"])
    columns: dict[str, Any] = {name: np.array(values) for name, values in lists.items()}
    for name, size in sizes.items():
        columns[name] = columns[name].reshape(count, size)
    if np.isnan(columns["time_s"]).any():
        raise DamagedFile(f"{folder / TICKS}: a tick has no time t")
    columns["frame_ages_s"] = columns.pop("frame_ages").astype(np.float64)
    columns["sent"], columns["sent_at_s"] = _at_their_ticks(
        lists["tick"], columns.pop("sent_tick"), columns["sent"], columns["sent_at_s"]
    )
    return RunTicks(**columns, words=words, joints=joints, is_cut=is_cut)


def _at_their_ticks(
    ticks: Sequence[int],
    sent_ticks: NDArray[np.int64],
    newest: NDArray[np.float32],
    newest_s: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return what was sent, and when, in the row of the tick that commanded it.

    A row says what reached the hardware last, which an earlier tick had commanded.
    """
    sent, sent_at_s = np.full_like(newest, np.nan), np.full_like(newest_s, np.nan)
    for row, tick in enumerate(sent_ticks.tolist()):
        if tick < 0:
            continue
        for before in range(row - 1, max(-1, row - _SENT_WITHIN), -1):
            if ticks[before] == tick:
                sent[before], sent_at_s[before] = newest[row], newest_s[row]
            if ticks[before] <= tick:
                break
    return sent, sent_at_s


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 53:
        raise ValueError(f"{str(value)[:40]!r} is no whole number")
    return value


def _vector(values: Any, size: int, name: str) -> list[float]:
    if values is None:
        return [float("nan")] * size
    if not isinstance(values, list) or len(values) != size:
        raise ValueError(f"{name} is no list of {size} numbers")
    return [_number(value) for value in values]
