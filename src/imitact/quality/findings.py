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

Fix = Literal["", "drop", "trim", "rewrite"]
"""What `fix.py` does about it: leave the episode out, cut the ticks off, write the right value that
the reader has found, or nothing."""

CONTRACT = "contract"
"""Kind of a finding about a policy or an environment, which `part` names."""

DROP = "Leave the episode out or record it again"


@dataclass(frozen=True)
class Kind:
    """Defaults of the findings of one kind."""

    severity: Severity
    remedy: str
    fix: Fix = ""


_SLOW_BUS = "The bus or its host is slow, or the computer busy: `imitact robot check` measures both"

KINDS = {
    "damaged-file": Kind("error", "Copy the dataset again from its origin", "drop"),
    "video-offset": Kind("error", "`imitact check DATASET --fix OUT` repairs it", "rewrite"),
    "left-out": Kind("note", "Nothing to do if this is as intended"),
    "not-finite": Kind("error", DROP, "drop"),
    "too-short": Kind("error", DROP, "drop"),
    "time-stamps": Kind(
        "error",
        "Frames are found by these times. If the video has one frame for each tick, allow so much "
        "with --read.tolerance-s, and --fix writes times of tick / rate; else leave the episode "
        "out",
        "drop",
    ),
    "frame-times": Kind(
        "warning",
        "Nothing to do for imitact, which takes the nearest frame; LeRobot refuses it: give "
        "its tolerance_s so much, or record the video at the rate of the dataset",
    ),
    "constant-dimension": Kind(
        "warning",
        "A policy learns nothing from it; leave it out if it is not part of the robot, else check "
        "its sensor",
    ),
    "idle-head": Kind("warning", "Cut these ticks", "trim"),
    "idle-tail": Kind("warning", "Cut these ticks", "trim"),
    "no-motion": Kind(
        "warning", "Leave the episode out: it teaches the policy to stand still", "drop"
    ),
    "frozen-joint": Kind("error", f"Check the sensor and its bus. {DROP}", "drop"),
    "state-dropout": Kind("error", f"The sensors stopped. {DROP}", "drop"),
    "jump": Kind(
        "error",
        "A sensor or its bus failed for a tick, a counter ran over, or several recordings were "
        f"joined. {DROP}",
        "drop",
    ),
    "stuck-joint": Kind("warning", "The joint was blocked, or its sensor stopped; watch the video"),
    "action-is-state": Kind(
        "warning",
        "Such actions are where the arm was, not what it was commanded: record the commands, or "
        "take the next tick's state",
    ),
    "action-late": Kind(
        "error",
        "Actions were stored late against states: shift them, or record again with the action that "
        "was commanded at the tick of the state",
        "drop",
    ),
    "tracking-lag": Kind(
        "warning", "Look for a slow controller, smoothed commands or states that are read late"
    ),
    "lag-differs": Kind(
        "warning", f"Ticks were lost, or actions and states were paired wrongly. {DROP}"
    ),
    "joints-swapped": Kind(
        "error",
        "The order of the joints differs between state and action: bring them into the same order; "
        "on a robot with two arms, left and right are swapped between leaders and followers",
        "drop",
    ),
    "not-compared": Kind(
        "note",
        "Give a state and its action the same name and unit, or as many states as actions, to have "
        "them compared",
    ),
    "tracking-gain": Kind(
        "warning",
        "Are the two in different units or scales? Such actions can be learned, but their offset "
        "cannot be checked",
    ),
    "tracking-offset": Kind(
        "warning",
        "Calibrate leader and follower against each other, and check the load of the arm; a fixed "
        "copy cannot know which of the two is right",
    ),
    "offset-differs": Kind("warning", f"Was the arm calibrated, bumped or loaded before? {DROP}"),
    "tracking-drift": Kind(
        "warning",
        "The calibration of leader and follower drifted during recording: calibrate, then record "
        "the later episodes again",
    ),
    "ticks-skipped": Kind(
        "warning",
        "The computer was too busy for the control rate: record with fewer cameras, smaller frames "
        "or a lower rate. Training leaves the episode out unless --train.marked is given",
    ),
    "robot-held": Kind(
        "warning",
        "In a hold the robot does not follow. Training leaves the episode out unless "
        "--train.marked is given; cut the hold off, or record the episode again",
    ),
    "recording-fault": Kind(
        "warning",
        "Watch the episode. Training leaves it out unless --train.marked is given",
    ),
    "command-late": Kind("warning", _SLOW_BUS),
    "state-old": Kind("warning", _SLOW_BUS),
    "frame-old": Kind(
        "warning",
        "The camera is slow, shares a USB hub, or lowers its rate in the dark; a policy must be "
        "run with frames as old",
    ),
    "clock-backwards": Kind("warning", "A device has another clock, or rows are out of order"),
    "actions-changed": Kind(
        "warning",
        "What was asked for goes beyond the limits of the robot: lead more slowly, join a policy's "
        "chunks smoothly (--chunking replay:N~F), or allow more in robot.toml",
    ),
    "sent-differs": Kind(
        "warning",
        "Something beside the safety filter changes commands, such as max_relative_target of a "
        "LeRobot robot: turn it off",
    ),
    "duplicate": Kind(
        "warning",
        "Leave one of the two out: it counts double in training, and invalidates validation if the "
        "two are split",
        "drop",
    ),
    "outlier-length": Kind("warning", "Watch it: was the demonstration interrupted?"),
    "outlier-motion": Kind("warning", "Watch it: was the demonstration interrupted?"),
    "outlier-start": Kind("note", "Watch its beginning: was the arm in its start position?"),
    "video-unreadable": Kind(
        "error", "Copy the file again from its source, or leave the episode out", "drop"
    ),
    "video-lag": Kind(
        "warning",
        "A policy must be run with the same delay: measure it on the robot, or record the joints "
        "at the time of the frame",
    ),
    "video-out-of-step": Kind(
        "error", f"Frames were lost, or this is the video of another episode. {DROP}", "drop"
    ),
    "video-frozen": Kind("error", f"The camera stopped. {DROP}", "drop"),
    "video-still": Kind("warning", "Does the camera see the robot? Leave it out or record again"),
    "blank-frames": Kind("error", f"Check the camera and its cable. {DROP}", "drop"),
}
"""All kinds that a dataset can have; docs/checking.md explains each."""


@dataclass(frozen=True)
class Finding:
    """One defect, or possible defect.

    Attributes:
        kind: identifier from docs/checking.md.
        what: what was found and what was expected, with units.
        episode: its episode; None where it concerns the dataset.
        ticks: first tick and the one after the last; None where it concerns the whole episode.
        part: joint or camera; empty where it concerns no single one.
        value: number that was compared with a limit, in `unit`; None where there is none.
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

    @classmethod
    def of(cls, kind: str, what: str, episode: int | None = None, **values: Any) -> Finding:
        """Make a finding with the severity, remedy and fix of its kind; `values` may replace them.

        A dataset-wide finding has no fix.
        """
        common = {**vars(KINDS[kind])}
        if episode is None:
            common["fix"] = ""
        return cls(kind=kind, what=what, episode=episode, **{**common, **values})

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
        remedy = self.remedy if self.remedy.endswith((".", "?", "!")) else f"{self.remedy}."
        return f"{self.severity}: {self.where}: {self.what}. {remedy} [{self.kind}]"

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

    `override`, how to proceed regardless, ends the message.
    """
    found = errors(by_severity(findings))
    if found:
        first = found[0]
        raise BadInput(
            f"{path} has {summary(found)}, the first: {first.where}: {first.what}. "
            f"`imitact check {path}` lists all of them with remedies, and its --fix OUT writes a "
            f"copy without those that can be left out; {override}"
        )
