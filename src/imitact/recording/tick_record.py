"""Tick record: all that happened at one tick, its packed form for a mailbox, and its columns.

Legend for shapes: A action dimensions, S state dimensions, C cameras. Times are in s on one
`Clock`; NaN stands for what was not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core import tick_columns as columns
from imitact.core.hold import Hold
from imitact.core.types import ExtraColumn, Spec
from imitact.parallel.mailbox import Mailbox

RECORD_SLOTS = 512
"""Records that a mailbox keeps: 10 s at 50 Hz, within which a recorder must read them."""

_JOINT_BYTES, _WORDS_BYTES = 40, 200


@dataclass(slots=True, eq=False)
class TickRecord:
    """One tick of the control loop.

    Attributes:
        tick: from 0; skipped ticks are missing.
        phase: of a conductor, from 1; 0 between phases.
        skipped: ticks lost right before this one.
        due_s: when the tick was due.
        start_s: when it began; the difference is its lateness.
        state: (S,) measured.
        state_s: (2,) begin and end of that read.
        state_sequence: number of the read; equal numbers are the same read.
        frames_s: (C,) when the newest frame of each camera was captured.
        frame_sequences: (C,) their numbers, 0 before the first.
        asked: (A,) what the source asked for.
        action: (A,) what was commanded.
        commanded_s: when it was given to the robot.
        stage: of the safety filter that acted, 0 where the asked action passed; -1 where the
            filter itself failed.
        joint: at which it acted.
        held: 1 where the robot was held, by the loop, the source or the safety filter.
        hold: why nothing was asked.
        words: why, for people: of the hold, else of the safety filter.
        should_park: 1 where the safety filter says that the robot was held for too long.
        engaged: 1 where a person has the command, 0 where not, -1 where there is no leader.
        leader_s: when the leader's reading began.
        query: 1 where a policy was queried at this tick.
        answered_tick: tick of the query whose chunk arrived now, else -1.
        answer_s: how long that answer took.
        seam: jump to that chunk, as in `Asked`.
        sent: (A,) the newest command that is known to have reached the hardware, as sent.
        sent_tick: the tick of that command, earlier than this one; -1 before the first.
        sent_s: when it was sent.
    """

    tick: int
    phase: int
    skipped: int
    due_s: float
    start_s: float
    state: NDArray[np.float64]
    state_s: tuple[float, float]
    state_sequence: int
    frames_s: Sequence[float]
    frame_sequences: Sequence[int]
    asked: NDArray[np.float64]
    action: NDArray[np.float64]
    commanded_s: float
    stage: int
    joint: str
    held: int
    hold: Hold
    words: str
    should_park: int
    engaged: int
    leader_s: float
    query: int
    answered_tick: int
    answer_s: float
    seam: float
    sent: NDArray[np.float64]
    sent_tick: int
    sent_s: float


_FIELDS = tuple(field.name for field in fields(TickRecord))


@dataclass(frozen=True)
class TickFormat:
    """The fixed-size form of the records of one robot.

    Attributes:
        state_names: the S states.
        action_names: the A actions.
        cameras: the C cameras, in the order of `frames_s`.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: tuple[str, ...]

    @classmethod
    def of(cls, spec: Spec) -> TickFormat:
        """Return the form for a robot of this Spec."""
        return cls(spec.state_names, spec.action_names, tuple(c.name for c in spec.cameras))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """A structured type whose fields are those of `TickRecord`."""
        kinds = {
            "state": ("<f8", (len(self.state_names),)),
            "state_s": ("<f8", (2,)),
            "frames_s": ("<f8", (len(self.cameras),)),
            "frame_sequences": ("<i8", (len(self.cameras),)),
            **{name: ("<f8", (len(self.action_names),)) for name in ("asked", "action", "sent")},
            "joint": (f"S{_JOINT_BYTES}", ()),
            "words": (f"S{_WORDS_BYTES}", ()),
        }
        whole = (
            "tick", "phase", "skipped", "state_sequence", "stage", "hold", "should_park", "engaged",
            "query", "answered_tick", "sent_tick",
        )  # fmt: skip
        kinds |= dict.fromkeys(whole, ("<i8", ()))
        return np.dtype([(name, *kinds.get(name, ("<f8", ()))) for name in _FIELDS])

    def mailbox(self, slots: int = RECORD_SLOTS) -> Mailbox:
        """Return a new mailbox for packed records; readers take every number in turn."""
        return Mailbox.create((self.dtype.itemsize,), "|u1", slots)

    def pack(self, record: TickRecord) -> NDArray[np.uint8]:
        """Return the record as bytes, for `Mailbox.post`; long texts are cut."""
        values = [getattr(record, name) for name in _FIELDS]
        for number, size in ((_JOINT, _JOINT_BYTES), (_WORDS, _WORDS_BYTES)):
            values[number] = values[number].encode()[:size]
        return np.array([tuple(values)], self.dtype).view(np.uint8)

    def unpack(self, packed: NDArray[np.uint8]) -> TickRecord:
        """Return the record that `pack` gave."""
        row = packed.view(self.dtype)[0]
        values: dict[str, Any] = {name: row[name] for name in _FIELDS}
        for name, value in values.items():
            if isinstance(value, bytes):
                values[name] = value.decode(errors="replace")
            elif not value.shape:
                values[name] = value.item()
        values["hold"] = Hold(values["hold"])
        values["state_s"] = tuple(values["state_s"].tolist())
        return TickRecord(**values)

    def columns(self) -> dict[str, ExtraColumn]:
        """Return the columns of a recording beside state, action and frames."""
        seconds, number = ExtraColumn("<f4", None), ExtraColumn("<i8", None)
        return {
            columns.ASKED: ExtraColumn("<f4", len(self.action_names)),
            columns.DUE: seconds,
            columns.STATE_READ: ExtraColumn("<f4", 2),
            **{columns.captured(camera): seconds for camera in self.cameras},
            columns.SENT: seconds,
            columns.STAGE: number,
            columns.HELD: number,
            columns.HOLD: number,
            columns.SKIPPED: number,
            columns.ENGAGED: number,
        }

    def row(self, record: TickRecord, first_s: float, sent_s: float) -> dict[str, Any]:
        """Return the values of `columns` for one tick.

        Args:
            record: of the tick.
            first_s: when the first tick of the episode was due.
            sent_s: when the command of this tick was sent, which a later record knows; NaN where
                no record says.
        """
        return {
            columns.ASKED: np.asarray(record.asked, np.float32),
            columns.DUE: record.due_s - first_s,
            columns.STATE_READ: np.asarray(record.state_s, np.float64) - first_s,
            **{
                columns.captured(camera): captured_s - first_s
                for camera, captured_s in zip(self.cameras, record.frames_s, strict=True)
            },
            columns.SENT: sent_s - first_s,
            columns.STAGE: record.stage,
            columns.HELD: record.held,
            columns.HOLD: int(record.hold),
            columns.SKIPPED: record.skipped,
            columns.ENGAGED: max(0, record.engaged),
        }


_JOINT, _WORDS = _FIELDS.index("joint"), _FIELDS.index("words")


class RecordReader:
    """Reads the records of a mailbox in turn, from the moment it is made.

    Attributes:
        lost: records that were overwritten before they were read.
    """

    def __init__(self, box: Mailbox, form: TickFormat) -> None:
        self._box, self._form = box, form
        self._taken = box.newest
        self.lost = 0

    def new(self) -> list[TickRecord]:
        """Return the records since the last call, oldest first."""
        records = []
        while self._taken < (newest := self._box.newest):
            self._taken += 1
            if newest - self._taken >= self._box.slots:
                gone = newest - self._taken - self._box.slots + 1
                self._taken, self.lost = self._taken + gone, self.lost + gone
            mail = self._box.read(self._taken)
            if mail is None:
                self.lost += 1
            else:
                records.append(self._form.unpack(mail.values))
        return records
