"""Recording manifest: meta/imitact.json, with the settings, seeds and failures of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.datasets.lerobot import layout
from imitact.datasets.lerobot.layout import IMITACT, INFO, read_json
from imitact.recording.episode import SeedResult
from imitact.storage.checksum import with_checksum
from imitact.storage.lock import WRITER

FORMAT = 2
"""Format 1 has no checksum, and its dataset has none either; an imitact that knows only format 1
must not continue such a recording, because it would write no checksums."""

SESSION_FORMAT = 3
"""Of the manifest of a person's episodes (`session_manifest.py`)."""

STAGING = ".staging"
"""Folder for unfinished files in the folder of a recording."""

_FORMATS = (1, FORMAT)


@dataclass(frozen=True)
class Demonstration:
    """A saved episode: what the expert varied, by name, in the expert's own units, and the first
    tick whose reward reached each stage."""

    seed: int
    variation: Mapping[str, float]
    first_ticks: Mapping[int, int]


@dataclass(frozen=True)
class FailedSeed:
    """A seed whose episode was not saved: the highest stage that it reached, and the error that
    ended it early; empty where it ran to its end."""

    seed: int
    stage: int
    error: str = ""


@dataclass(frozen=True)
class RecordingReport:
    """What a recording has saved so far, and which seeds failed.

    Attributes:
        stages: meaning of the rewards 0, 1, 2, ...; empty where rewards are not stages.
        demonstrations: the saved episodes, in the order of the dataset.
        failures: the seeds that were tried and not saved.
    """

    path: Path
    stages: tuple[str, ...]
    demonstrations: tuple[Demonstration, ...]
    failures: tuple[FailedSeed, ...]

    @property
    def saved(self) -> int:
        """Number of episodes in the dataset."""
        return len(self.demonstrations)

    @property
    def failed(self) -> int:
        """Number of seeds that were tried and not saved."""
        return len(self.failures)

    def first_ticks(self, stage: int) -> NDArray[np.int64]:
        """First tick at which each demonstration reached `stage`, of those that reached it."""
        ticks = [d.first_ticks[stage] for d in self.demonstrations if stage in d.first_ticks]
        return np.array(ticks, dtype=np.int64)

    def deviations(self) -> dict[str, float]:
        """Standard deviation over the demonstrations of each value that the expert varied."""
        values: dict[str, list[float]] = {}
        for demonstration in self.demonstrations:
            for name, value in demonstration.variation.items():
                values.setdefault(name, []).append(value)
        return {name: float(np.std(column)) for name, column in values.items()}


@dataclass(frozen=True)
class Manifest:
    """Contents of meta/imitact.json: what LeRobot's own files have no place for."""

    settings: Mapping[str, Any]
    demonstrations: tuple[Demonstration, ...] = ()
    failures: tuple[FailedSeed, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the manifest of a dataset, limited to its finished episodes."""
        saved, _ = layout.finished(path)
        file = path / IMITACT
        data = read_json(file)
        if data.get("format") == SESSION_FORMAT:
            raise BadInput(
                f"{path} holds episodes of a robot (imitact record --robot), not demonstrations of "
                "an expert in an environment; record into another folder"
            )
        if data.get("format") not in _FORMATS:
            raise BadInput(
                f"{file} has format {data.get('format')}, this imitact reads "
                f"{' and '.join(map(str, _FORMATS))}; use the version that recorded it, or record "
                "into another folder"
            )
        with layout.layout_errors_as_damage(file):
            if origin := data["settings"].get("conversion"):
                raise BadInput(
                    f"{path} was converted from {origin.get('from')}, not recorded by imitact; "
                    "record into another folder"
                )
            demonstrations = msgspec.convert(
                data["episodes"], list[Demonstration], str_keys=True, strict=False
            )
            failures = [
                FailedSeed(int(f["seed"]), int(f["stage"]), str(f.get("trouble", "")))
                for f in data["failed"]
            ]
            settings = dict(data["settings"])
            settings["stages"] = [str(stage) for stage in settings["stages"]]
        check_listed(path, len(demonstrations), saved)
        return cls(settings, tuple(demonstrations[:saved]), tuple(failures))

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON with its checksum."""
        episodes = [vars(demonstration) for demonstration in self.demonstrations]
        failed = [
            {"seed": f.seed, "stage": f.stage, **({"trouble": f.error} if f.error else {})}
            for f in self.failures
        ]
        contents = {"format": FORMAT, "settings": self.settings}
        return with_checksum({**contents, "episodes": episodes, "failed": failed})

    def plus(self, result: SeedResult) -> Manifest:
        """The manifest with one more seed."""
        if not result.success:
            failure = FailedSeed(result.seed, result.stage, result.error)
            return replace(self, failures=(*self.failures, failure))
        saved = Demonstration(result.seed, result.variation, result.first_ticks)
        return replace(self, demonstrations=(*self.demonstrations, saved))

    @property
    def tried_seeds(self) -> set[int]:
        """The seeds whose episode was saved or failed."""
        return {d.seed for d in self.demonstrations} | {f.seed for f in self.failures}

    def report(self, path: Path) -> RecordingReport:
        """The report of the recording in `path`."""
        stages = tuple(self.settings["stages"])
        return RecordingReport(path, stages, self.demonstrations, self.failures)


def recorded_in(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a dataset was recorded, from its `facts`, as plain JSON.

    "env" is the name of the environment, and "gym" its settings if it is Gymnasium's. Empty for
    cube, which `imitact evaluate` takes without being told, and for datasets that do not say it.
    """
    settings = facts.get("settings")
    extra = settings.get("extra") if isinstance(settings, Mapping) else None
    if not isinstance(extra, Mapping) or extra.get("env", "cube") == "cube":
        return {}
    return {key: extra[key] for key in ("env", "gym") if key in extra}


def read_report(path: Path | str) -> RecordingReport:
    """Read the report of a dataset that imitact recorded."""
    path = Path(path)
    if not (path / IMITACT).is_file():
        raise BadInput(f"{path} was not recorded by imitact: it has no {IMITACT}")
    return Manifest.read(path).report(path)


def is_recording(path: Path) -> bool:
    """Whether imitact recorded the dataset at a path, so that recording can continue there."""
    if not (path / IMITACT).is_file():
        return False
    settings = read_json(path / IMITACT).get("settings")
    return isinstance(settings, dict) and "conversion" not in settings


def check_folder(out: Path) -> None:
    """Refuse a folder that has files and is not a recording of imitact."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; give a folder")
    if out.is_dir() and not (out / IMITACT).is_file():
        # A kill during the first write leaves folders without files.
        others = sorted(
            p.name for p in out.iterdir() if p.name not in (STAGING, WRITER) and _has_files(p)
        )
        if others:
            raise BadInput(
                f"{out} is not empty and not a recording of imitact (it has "
                f"{', '.join(others[:3])}); give a new folder"
            )


def _has_files(path: Path) -> bool:
    return not path.is_dir() or any(not p.is_dir() for p in path.rglob("*"))


def spec_settings(spec: Spec) -> dict[str, Any]:
    """Return what the manifest stores of a Spec, as plain JSON."""
    return {
        "rate_hz": spec.rate_hz,
        "names": {"state": list(spec.state_names), "action": list(spec.action_names)},
        "units": {"state": list(spec.state_units), "action": list(spec.action_units)},
        **({"environment_size": spec.environment_size} if spec.environment_size else {}),
        "cameras": [[c.name, c.height, c.width] for c in spec.cameras],
    }


def check_listed(path: Path, listed: int, saved: int) -> None:
    """Refuse a manifest that does not list the episodes of its dataset.

    Args:
        path: folder of the dataset.
        listed: episodes in the manifest. It is written before info.json: a kill between them leaves
            one episode too many.
        saved: episodes of the dataset.

    Raises:
        BadInput: another program has added episodes.
        DamagedFile: one of the two files was altered.
    """
    file = path / IMITACT
    if saved > listed:
        raise BadInput(
            f"{file} lists {counted(listed, 'episode')}, the dataset has {saved}: another program "
            "has added to it. It can be read, not recorded into"
        )
    if listed > saved + 1:
        raise DamagedFile(
            f"{file} lists {counted(listed, 'episode')}, {path / INFO} {saved}: one of the two was "
            "altered or lost. Copy the dataset again from its origin, or record into another folder"
        )
