"""Findings: what a check found, with severity, place and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imitact.core.errors import BadInput

Severity = Literal["error", "warning", "note"]
"""An error spoils a policy or stops its training, a warning may make it worse, a note is for
information."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Fix = Literal["", "drop", "trim"]
"""What `fix.py` does about it: leave the episode out, cut the ticks off, or nothing."""

CONTRACT = "contract"
"""Kind of a finding about a policy or an environment, which `part` names."""


@dataclass(frozen=True)
class Finding:
    """One defect, or possible defect.

    Attributes:
        kind: identifier from docs/checking.md.
        severity: how bad it is.
        what: what was found and what was expected, with units.
        remedy: what to do about it.
        episode: its episode; None where it concerns the dataset.
        ticks: first tick and the one after the last; None where it concerns the whole episode.
        part: joint or camera; empty where it concerns no single one.
        value: number that was compared with a limit, in `unit`; None where there is none.
        unit: unit of `value`.
        fix: what a fixed copy does about it.
    """

    kind: str
    severity: Severity
    what: str
    remedy: str
    episode: int | None = None
    ticks: tuple[int, int] | None = None
    part: str = ""
    value: float | None = None
    unit: str = ""
    fix: Fix = ""

    @property
    def where(self) -> str:
        """Place in words: "episode 3, ticks 10 to 24, left_waist", or "all episodes"."""
        if self.kind == CONTRACT:
            return self.part
        words = ["all episodes" if self.episode is None else f"episode {self.episode}"]
        if self.ticks is not None:
            first, stop = self.ticks
            last = stop - 1
            words.append(f"tick {first}" if last <= first else f"ticks {first} to {last}")
        if self.part:
            words.append(self.part)
        return ", ".join(words)

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        return f"{self.severity}: {self.where}: {self.what}. {self.remedy}. [{self.kind}]"

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return {**asdict(self), "ticks": list(self.ticks) if self.ticks else None}


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, worst first, then by kind, episode and tick."""
    return sorted(
        findings,
        key=lambda f: (
            SEVERITIES.index(f.severity),
            f.kind,
            -1 if f.episode is None else f.episode,
            f.ticks or (0, 0),
        ),
    )


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are errors."""
    return [f for f in findings if f.severity == "error"]


def summary(findings: Sequence[Finding]) -> str:
    """Counts in words: "3 errors in 2 episodes, 1 warning", or "nothing found"."""
    counts = []
    for severity in SEVERITIES:
        some = [f for f in findings if f.severity == severity]
        if some:
            count = f"{len(some)} {severity}{'s' if len(some) > 1 else ''}"
            episodes = len({f.episode for f in some} - {None})
            within = f" in {episodes} episode{'s' if episodes > 1 else ''}" if episodes else ""
            counts.append(count + within)
    return ", ".join(counts) or "nothing found"


def refuse_errors(findings: Sequence[Finding], path: object, override: str) -> None:
    """Raise BadInput where there are errors, with the first of them.

    Args:
        findings: what was found.
        path: the dataset.
        override: how to proceed regardless; ends the message.
    """
    found = errors(by_severity(findings))
    if found:
        first = found[0]
        raise BadInput(
            f"{path} has {summary(found)}, the first: {first.where}: {first.what}. "
            f"`imitact check {path}` lists all of them with remedies, and its --fix OUT writes a "
            f"copy without those that can be left out; {override}"
        )
