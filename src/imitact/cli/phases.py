"""The phases of a long job: which are done, and how long each has taken over all interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.json_file import read_json_object

STORE_EVERY_S = 5.0
"""A killed process forgets at most so many seconds of the time that a phase has taken."""


_ANEW = "Remove it to go on; finished work is kept, the times begin anew"


class Phases:
    """Kept in a JSON file, whole at any moment.

    settings: plain JSON values that make the job what it is; a file of another job is refused.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        self._settings = json.loads(json.dumps(settings))
        self._wall_s: dict[str, float] = {}
        self._done: list[str] = []
        self._running: str | None = None
        self._since = 0.0
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            kept = verified(read_json_object(self._path), self._path, required=False, advice=_ANEW)
            then, wall_s, done = kept["settings"], kept["wall_s"], kept["done"]
            wall_s = {str(name): float(seconds) for name, seconds in wall_s.items()}
            done = [str(name) for name in done]
        except (ValueError, KeyError, TypeError, AttributeError, DamagedFile) as error:
            raise DamagedFile(
                f"{self._path} does not tell the phases of a job: {error!r}. {_ANEW}"
            ) from error
        if then != self._settings:
            was, now = _flat(then), _flat(self._settings)
            unlike = [
                f"{name} was {was.get(name)!r}, is {now.get(name)!r}"
                for name in sorted(was.keys() | now.keys())
                if was.get(name) != now.get(name)
            ]
            raise BadInput(
                f"{self._path.parent} holds a run with other settings: {'; '.join(unlike)}. "
                "Give those to go on with it, or another folder"
            )
        self._wall_s, self._done = wall_s, done

    @property
    def wall_s(self) -> dict[str, float]:
        """Seconds by phase, in the order in which they began."""
        return dict(self._wall_s)

    def done(self, name: str) -> bool:
        """Whether that phase was finished, now or before an interruption."""
        return name in self._done

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Its time counts whatever ends it; it is done if nothing was raised."""
        self._wall_s.setdefault(name, 0.0)
        self._running, self._since = name, self._clock()
        try:
            yield
            self._done.append(name)
        finally:
            self._count()
            self._running = None
            self._store()

    def still_running(self) -> None:
        """Called now and then within a phase, so that a kill loses little of its time."""
        if self._running and self._clock() - self._since >= STORE_EVERY_S:
            self._count()
            self._store()

    def _count(self) -> None:
        assert self._running
        now = self._clock()
        self._wall_s[self._running] += now - self._since
        self._since = now

    def _store(self) -> None:
        make_folder(self._path.parent)
        kept = {"settings": self._settings, "wall_s": self._wall_s, "done": self._done}
        write_json(self._path, with_checksum(kept), staging=self._path.parent)


def _flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """{"train": {"steps": 1}} as {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{under}{name}.")
        else:
            flat[under + name] = value
    return flat
