"""Robot findings: what a check of a robot found, with what was expected and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from imitact.quality.findings import SEVERITIES, Severity


@dataclass(frozen=True)
class RobotFinding:
    """One thing that is, or may be, wrong with a robot.

    Attributes:
        name: identifier from docs/robot.md, such as "drive-mode".
        severity: an error must be mended before the robot moves, a warning makes it worse or
            slower, a note is for information.
        where: arm, joint or camera, in words.
        came: what was found, with units.
        expected: what was expected; empty where nothing is wrong.
        remedy: what to do.
    """

    name: str
    severity: Severity
    where: str
    came: str
    expected: str = ""
    remedy: str = ""

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        expected = f", expected {self.expected}" if self.expected else ""
        remedy = f" {self.remedy}." if self.remedy else ""
        return f"{self.severity}: {self.where}: {self.came}{expected}.{remedy} [{self.name}]"

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return asdict(self)


def failure(name: str, where: str, error: Exception | str) -> RobotFinding:
    """Return the finding of an error of a driver."""
    return RobotFinding(name, "error", where, words_at(where, error))


def words_at(where: str, error: Exception | str) -> str:
    """Return the words of an error that stand behind its place, which is not named twice.

    `left follower (/dev/x): waist did not answer.` at "left follower" is
    `/dev/x: waist did not answer`.
    """
    words = str(error).rstrip(".").removeprefix(f"{where}: ")
    port, end, rest = words.removeprefix(f"{where} (").partition("): ")
    return f"{port}: {rest}" if end and words.startswith(f"{where} (") else words


def worst_first(findings: Iterable[RobotFinding]) -> list[RobotFinding]:
    """Sort findings by severity; those of one severity stay in the order of the check."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
