"""What is wrong with a dataset, as findings: how bad, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imitact.core.errors import BadInput

Severity = Literal["error", "warning", "note"]
"""An error spoils a policy or stops its training, a warning may make it worse, and a note is worth
knowing."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Fix = Literal["", "drop", "trim"]
"""What a copy may do about it without guessing: leave the episode out, cut the ticks off; or
nothing."""


CONTRACT = "contract"
"""The kind of what is found in a policy or an environment, whose place is its `part`."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    kind:    its name, as docs/checking.md has it.
    what:    what came and what was expected, in words, with units.
    remedy:  what to do about it.
    episode: where; None where it is the dataset's.
    ticks:   the first, and the one after the last; None where it is all of the episode.
    part:    the joint or camera; "" where it is none alone.
    value:   the number that was compared with a limit, in `unit`; None where there is none.
    fix:     what a copy may do about it.
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
        """ "episode 3, ticks 10 to 24, left_waist", or "all episodes"."""
        words = ["all episodes" if self.episode is None else f"episode {self.episode}"]
        if self.kind == CONTRACT:
            return self.part
        if self.ticks is not None:
            first, stop = self.ticks
            last = stop - 1
            words.append(f"tick {first}" if last <= first else f"ticks {first} to {last}")
        if self.part:
            words.append(self.part)
        return ", ".join(words)

    @property
    def line(self) -> str:
        """All of it for a reader."""
        return f"{self.severity}: {self.where}: {self.what}. {self.remedy}. [{self.kind}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        told = asdict(self)
        return {**told, "ticks": list(self.ticks) if self.ticks else None}


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; equally bad ones by kind, then by episode and tick."""
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
    """Those that are errors."""
    return [f for f in findings if f.severity == "error"]


def tally(findings: Sequence[Finding]) -> str:
    """ "3 errors in 2 episodes, 1 warning"; "nothing found" where there is none."""
    told = []
    for severity in SEVERITIES:
        some = [f for f in findings if f.severity == severity]
        if some:
            count = f"{len(some)} {severity}{'s' if len(some) > 1 else ''}"
            episodes = len({f.episode for f in some} - {None})
            within = f" in {episodes} episode{'s' if episodes > 1 else ''}" if episodes else ""
            told.append(count + within)
    return ", ".join(told) or "nothing found"


def refuse_errors(findings: Sequence[Finding], path: object, anyway: str) -> None:
    """Raise BadInput where there are errors, naming the first.

    anyway: how to go on regardless, in words.
    """
    wrong = errors(in_order(findings))
    if wrong:
        first = wrong[0]
        raise BadInput(
            f"{path} has {tally(wrong)}, the first: {first.where}: {first.what}. "
            f"`imitact check {path}` tells all of them, with remedies, and its --fix OUT writes a "
            f"copy without those that can be left out; {anyway}"
        )
