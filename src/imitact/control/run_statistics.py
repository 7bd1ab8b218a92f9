"""Run statistics: lateness, ages, holds and acts of the safety filter, from the ticks."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imitact.control.contract import Hold
from imitact.recording.tick_record import TickRecord

WINDOW = 500
"""Ticks of which the newest percentiles are shown: 10 s at 50 Hz."""


@dataclass(frozen=True)
class Percentiles:
    """Median, 99th percentile and largest of some times, s; NaN where there are none."""

    p50_s: float = math.nan
    p99_s: float = math.nan
    max_s: float = math.nan

    @classmethod
    def of(cls, times_s: Sequence[float]) -> Percentiles:
        """Return those of some times; NaN among them is left out."""
        found = sorted(time_s for time_s in times_s if time_s == time_s)
        if not found:
            return cls()
        p50, p99 = (found[math.ceil(share * len(found)) - 1] for share in (0.5, 0.99))
        return cls(p50, p99, found[-1])

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(v) else round(v, 6) for name, v in vars(self).items()}


@dataclass(frozen=True)
class Acts:
    """What one stage of the safety filter did.

    Attributes:
        ticks: at which it acted.
        words: of its newest act.
        joint: of its newest act.
    """

    ticks: int = 0
    words: str = ""
    joint: str = ""


@dataclass
class RunStatistics:
    """What happened in a run so far.

    Attributes:
        cameras: names, in the order of a record's frames.
        ticks: executed.
        skipped: lost.
        holds: executed ticks by the reason of their hold.
        acts: by stage of the safety filter, those that acted.
        newest: the newest record.
        largest_seam: jump to a new chunk, as in `Asked`.
        engaged: ticks in which a person had the command.
    """

    cameras: tuple[str, ...] = ()
    ticks: int = 0
    skipped: int = 0
    holds: Counter[Hold] = field(default_factory=Counter)
    acts: dict[int, Acts] = field(default_factory=dict)
    newest: TickRecord | None = None
    largest_seam: float = 0.0
    engaged: int = 0
    _words: dict[Hold, str] = field(default_factory=dict)  # of the newest hold of each reason
    _late_s: list[float] = field(default_factory=list)
    _recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _answers_s: list[float] = field(default_factory=list)
    _ages_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, record: TickRecord) -> None:
        """Take the record of a tick."""
        self.newest = record
        self.ticks, self.skipped = self.ticks + 1, self.skipped + record.skipped
        self.engaged += record.engaged == 1
        if record.hold:
            self.holds[record.hold] += 1
            self._words[record.hold] = record.words or self._words.get(record.hold, "")
        if record.stage:
            before = self.acts.get(record.stage, Acts())
            words = record.words or before.words
            self.acts[record.stage] = Acts(before.ticks + 1, words, record.joint)
        late_s = record.start_s - record.due_s
        self._late_s.append(late_s)
        self._recent_s.append(late_s)
        if record.answered_tick >= 0:
            self._answers_s.append(record.answer_s)
        if not math.isnan(record.seam):
            self.largest_seam = max(record.seam, self.largest_seam)
        for name, age_s in self.ages_s.items():
            self._ages_s.setdefault(name, []).append(age_s)

    @property
    def ages_s(self) -> dict[str, float]:
        """How old state, frames and leader were at the newest tick, s; NaN where there was none."""
        record = self.newest
        if record is None:
            return {}
        now_s = record.start_s
        ages = {"state": now_s - record.state_s[0]}
        for camera, captured_s in zip(self.cameras, record.frames_s, strict=True):
            ages[f"camera {camera}"] = now_s - float(captured_s)
        if record.engaged >= 0:
            ages["leader"] = now_s - record.leader_s
        return ages

    @property
    def recent_lateness(self) -> Percentiles:
        """Of the last `WINDOW` ticks."""
        return Percentiles.of(self._recent_s)

    @property
    def lateness(self) -> Percentiles:
        """Of all ticks."""
        return Percentiles.of(self._late_s)

    @property
    def answers(self) -> Percentiles:
        """Of the answer times of a policy, the first left out (`AnswerTimes`)."""
        return Percentiles.of(self._answers_s[1:])

    def to_json(self, stage_names: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Return all as plain JSON."""
        names = stage_names or {}
        return {
            "ticks": self.ticks,
            "skipped": self.skipped,
            "lateness": self.lateness.to_json(),
            "ages": {name: Percentiles.of(ages).to_json() for name, ages in self._ages_s.items()},
            "holds": {hold.name.lower(): count for hold, count in self.holds.items()},
            "hold_words": {hold.name.lower(): words for hold, words in self._words.items()},
            "safety": {names.get(s, str(s)): acts.ticks for s, acts in sorted(self.acts.items())},
            "safety_words": {names.get(s, str(s)): acts.words for s, acts in self.acts.items()},
            "answers": {"count": len(self._answers_s), **self.answers.to_json()},
            "largest_seam": round(self.largest_seam, 3),
            "engaged": self.engaged,
        }
