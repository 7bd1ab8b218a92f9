"""Session manifest: meta/imitact.json of a person's episodes, with what went wrong in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import BadInput
from imitact.core.words import counted
from imitact.datasets.lerobot import layout
from imitact.datasets.lerobot.layout import IMITACT, read_json
from imitact.recording.manifest import SESSION_FORMAT, check_listed
from imitact.storage.checksum import with_checksum

MAX_SKIPPED = 0.01
"""Share of ticks without a row above which an episode is marked."""

MAX_FAULTS = 20
"""Faults of an episode that are kept in words."""


@dataclass(frozen=True)
class SessionEpisode:
    """What the manifest says about an episode.

    Attributes:
        ticks: rows.
        skipped: ticks without a row, between the first and the last.
        held: rows at which the robot was held.
        holds: rows at which nothing was asked, by the reason.
        stages: rows by the stage of the safety filter that acted.
        engaged: rows at which a person had the command.
        unsent: rows whose command is not known to have been sent.
        waited: ticks before the first row, without state, frames or a command.
        cut: ticks after the last row, in which nobody led the robot.
        lost_frames: by camera, frames that were overwritten before they could be copied.
        faults: of the recording itself, in words.
        notes: of the person: the row, and the text.
        marked: why training leaves the episode out unless it is told to take it; empty where there
            is no reason.
    """

    ticks: int
    skipped: int = 0
    held: int = 0
    holds: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    engaged: int = 0
    unsent: int = 0
    waited: int = 0
    cut: int = 0
    lost_frames: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[tuple[int, str], ...] = ()
    marked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, without what is zero or empty."""
        return {n: value for n, value in asdict(self).items() if value or n == "ticks"}


def reasons(episode: SessionEpisode) -> tuple[str, ...]:
    """Return why an episode is marked, in words."""
    found = []
    if episode.skipped > MAX_SKIPPED * (episode.ticks + episode.skipped):
        share = episode.skipped / (episode.ticks + episode.skipped)
        found.append(f"{counted(episode.skipped, 'tick')} skipped ({share:.1%})")
    if episode.held:
        causes = ", ".join(f"{name} {count}" for name, count in episode.holds.items())
        found.append(
            f"held at {counted(episode.held, 'tick')}" + (f" ({causes})" if causes else "")
        )
    found += episode.faults
    found += [f"noted at tick {tick}: {text}" for tick, text in episode.notes]
    return tuple(found)


@dataclass(frozen=True)
class SessionManifest:
    """Contents of the file.

    Attributes:
        settings: what a continued recording must have, and `stages`, which is empty because rewards
            are none here.
        episodes: of the dataset, in order.
    """

    settings: Mapping[str, Any]
    episodes: tuple[SessionEpisode, ...] = ()

    @classmethod
    def read(cls, path: Path) -> SessionManifest:
        """Read the manifest of a dataset, limited to its finished episodes.

        Raises:
            BadInput: another kind of recording is there.
            DamagedFile: the file was altered.
        """
        saved, _ = layout.finished(path)
        file = path / IMITACT
        data = read_json(file)
        if data.get("format") != SESSION_FORMAT:
            raise BadInput(
                f"{path} was not recorded on a robot: {IMITACT} has format {data.get('format')}, "
                f"expected {SESSION_FORMAT}; record into another folder"
            )
        with layout.layout_errors_as_damage(file):
            settings = dict(data["settings"])
            episodes = msgspec.convert(data["episodes"], tuple[SessionEpisode, ...], strict=False)
        check_listed(path, len(episodes), saved)
        return cls(settings, episodes[:saved])

    def plus(self, episode: SessionEpisode) -> SessionManifest:
        """Return the manifest with one more episode."""
        return replace(self, episodes=(*self.episodes, episode))

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON with its checksum."""
        episodes = [episode.to_json() for episode in self.episodes]
        contents = {"format": SESSION_FORMAT, "settings": dict(self.settings)}
        return with_checksum({**contents, "episodes": episodes, "failed": []})
