"""Phases of a long job: which are done, and the time each took, summed across restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imitact.core.errors import DamagedFile
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.json_file import read_json_object
from imitact.storage.settings_diff import check_same_settings, plain_json

STORE_EVERY_S = 5.0
"""Longest time of a phase, in s, that is lost when the process is killed."""

_ADVICE = "Remove it to continue; finished work is kept, the times start at 0"


class Phases:
    """Finished phases and their times, kept in a JSON file that is whole at any moment."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the JSON file, if there is one; the file of a job with other settings is refused.

        `settings` are plain JSON values; `clock` returns the time in s.
        """
        self._path = path
        self._clock = clock
        self._settings = plain_json(settings)
        self._wall_s: dict[str, float] = {}
        self._done: list[str] = []
        self._running: str | None = None
        self._since_s = 0.0
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            kept = verified(
                read_json_object(self._path), self._path, required=False, advice=_ADVICE
            )
            then, wall_s, done = kept["settings"], kept["wall_s"], kept["done"]
            wall_s = {str(name): float(seconds) for name, seconds in wall_s.items()}
            done = [str(name) for name in done]
        except (ValueError, KeyError, TypeError, AttributeError, DamagedFile) as error:
            raise DamagedFile(
                f"{self._path} does not hold the phases of a job: {error}. {_ADVICE}"
            ) from error
        check_same_settings(then, self._settings, self._path.parent)
        self._wall_s, self._done = wall_s, done

    @property
    def wall_s(self) -> dict[str, float]:
        """Seconds by phase, in the order in which the phases started."""
        return dict(self._wall_s)

    def done(self, name: str) -> bool:
        """Return whether a phase is finished, in this run or an earlier one."""
        return name in self._done

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Run a phase: its time counts whatever ends it; it is finished if nothing was raised."""
        self._wall_s.setdefault(name, 0.0)
        self._running, self._since_s = name, self._clock()
        try:
            yield
            self._done.append(name)
        finally:
            self._count()
            self._running = None
            self._store()

    def still_running(self) -> None:
        """Store the time of the running phase, at most every few seconds."""
        if self._running and self._clock() - self._since_s >= STORE_EVERY_S:
            self._count()
            self._store()

    def _count(self) -> None:
        assert self._running
        now = self._clock()
        self._wall_s[self._running] += now - self._since_s
        self._since_s = now

    def _store(self) -> None:
        make_folder(self._path.parent)
        kept = {"settings": self._settings, "wall_s": self._wall_s, "done": self._done}
        write_json(self._path, with_checksum(kept), staging=self._path.parent)
