"""Fault trial: what is seen while one fault happens on emulated servos, and what must hold of it.

`robot_faults` has the laws; its trials, and those of LeRobot's devices (`lerobot_faults`), share
what is here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imitact.control.safety_filter import Stage
from imitact.core.hold import Hold
from imitact.recording.tick_record import TickRecord

MOST_TICKS = 5
"""From the tick at which a fault could be known to the hold."""

STATE_TICKS = 3
"""Age of a state on which an action may pass, ticks."""


@dataclass(frozen=True)
class Evidence:
    """What is wrong and can be known, at one moment.

    Attributes:
        what: "read" where a driver's read failed; "error" where a servo's answers carry an alert or
            its register an error; "torque" where a driven servo has none; "heat"; "lag" where a
            joint is further from all commands of the last 0.3 s than the safety filter allows.
        where: bus, and servo if one.
    """

    what: str
    where: str


@dataclass
class Trial:
    """What became of one trial.

    Attributes:
        device: of `DEVICES`.
        seed: of everything random.
        kind: of the fault.
        fault: in words.
        ended: "held", "ridden out" where nothing was wrong for 5 ticks, or "no effect".
        reasons: of the holds during the run, by name.
        first_words: of the first hold.
        ticks: from the first evidence that lasted to the hold; None where there was none.
        after: "follows", or why it does not.
        parked: whether both arms got to rest.
        not_limp: joints that hear, and kept torque; must be empty.
        failures: laws that did not hold.
    """

    device: str
    seed: int
    kind: str
    fault: str
    ended: str = ""
    reasons: list[str] = field(default_factory=list)
    first_words: str = ""
    evidence: str = ""
    ticks: int | None = None
    after: str = ""
    parked: bool = False
    not_limp: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class FaultTrial:
    """What a trial has seen; a subclass runs it.

    Attributes:
        trial: what became of it.
        rate_hz: ticks per second.
        records: of all ticks.
        fault_s: when the fault began.
    """

    def __init__(self, trial: Trial, rate_hz: float, now_s: Callable[[], float]) -> None:
        self.trial, self.rate_hz, self.now_s = trial, rate_hz, now_s
        self.records: list[TickRecord] = []
        self.fault_s = float("inf")
        self.since: dict[Evidence, float] = {}
        self.lasted: list[tuple[float, float, Evidence]] = []

    def note(self, found: set[Evidence]) -> None:
        """Take what is wrong now."""
        now_s = self.now_s()
        for evidence in found - self.since.keys():
            self.since[evidence] = now_s
        for evidence in self.since.keys() - found:
            self.lasted.append((self.since.pop(evidence), now_s, evidence))

    def fail_with(self, error: BaseException) -> None:
        """Count what raised as a failure."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        self.trial.failures.append(f"{where} raised {type(error).__name__}: {error}")

    def judge(self) -> None:
        """Compare the holds with what could be known."""
        trial, records, end_s = self.trial, self.records, self.now_s()
        self.lasted += [(since, end_s, evidence) for evidence, since in self.since.items()]
        spans = sorted(self.lasted, key=lambda span: span[0])
        lasting = [one for one in spans if one[1] - one[0] > MOST_TICKS / self.rate_hz]
        for begin_s, until_s, evidence in lasting:
            ticks = [r for r in records if r.start_s >= begin_s]
            held = [number for number, r in enumerate(ticks) if r.held]
            if len(ticks) <= MOST_TICKS and not held:
                continue  # the run ended before
            name = f"{evidence.what} of {evidence.where}"
            if not held or held[0] > MOST_TICKS:
                lasted = f"lasted {until_s - begin_s:.2f} s"
                came = "no hold came" if not held else f"the hold came after {held[0]} ticks"
                trial.failures.append(f"{name} {lasted}, and {came}")
            elif trial.ticks is None or held[0] > trial.ticks:
                trial.ticks, trial.evidence = held[0], evidence.what
        self._judge_records()
        holds = [r for r in records if r.held and r.start_s >= self.fault_s]
        trial.reasons = sorted({_reason(r) for r in holds})
        trial.first_words = holds[0].words if holds else ""
        trial.ended = "held" if holds else "ridden out" if spans else "no effect"

    def _judge_records(self) -> None:
        trial = self.trial
        for record in self.records:
            age_s = record.start_s - record.state_s[0]
            if not record.held and not age_s <= STATE_TICKS / self.rate_hz + 1e-9:
                trial.failures.append(f"tick {record.tick} passed on a state {age_s:.3f} s old")
            if record.held and not record.words:
                trial.failures.append(f"tick {record.tick} was held without a word")


def _reason(record: TickRecord) -> str:
    if record.hold:
        return f"hold {Hold(record.hold).name.lower()}"
    return f"stage {Stage(record.stage).name.lower()}"
