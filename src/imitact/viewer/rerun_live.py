"""Live Rerun: the ticks of a run on a robot, sent to a Rerun viewer or a file as they happen."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imitact.core.types import Spec
from imitact.parallel.worker_pool import inherited_environment
from imitact.recording.tick_record import TickRecord
from imitact.viewer.rerun_export import parse_target


class LiveRerun:
    """Sends records; a context manager that ends the recording.

    What was asked, commanded and measured stands beside each other by joint, on the timelines
    "tick" and "time".
    """

    def __init__(self, target: str, spec: Spec) -> None:
        """Open the target.

        Args:
            target: a file that ends in .rrd, or "spawn" for a new viewer.
            spec: of the robot.

        Raises:
            BadInput: another target, or Rerun is not installed.
        """
        file = parse_target(target)
        import rerun as rr

        self._rr, self._spec = rr, spec
        self._recording: Any = rr.RecordingStream("imitact_run")
        self._newest: tuple[int, float] | None = None
        if file is None:
            with inherited_environment({"CI": os.environ.get("CI") or "true"}):
                self._recording.spawn()
        else:
            self._recording.save(file)

    def __enter__(self) -> LiveRerun:
        return self

    def __exit__(self, *error: object) -> None:
        self._recording.flush()
        self._recording.disconnect()

    def show(self, record: TickRecord | None) -> None:
        """Send the newest record, once."""
        if record is None or self._newest == (record.tick, record.due_s):
            return
        self._newest = record.tick, record.due_s
        self._recording.set_time("tick", sequence=record.tick)
        self._recording.set_time("time", duration=record.due_s)
        for what, names, values in (
            ("asked", self._spec.action_names, record.asked),
            ("commanded", self._spec.action_names, record.action),
            ("measured", self._spec.state_names, record.state),
        ):
            for name, value in zip(names, values, strict=True):
                if np.isfinite(value):
                    self._log([name, what], float(value))
        self._log(["lateness_ms"], 1e3 * (record.start_s - record.due_s))
        self._log(["safety_stage"], float(record.stage))
        if record.words:
            path = self._rr.new_entity_path(["words"])
            self._recording.log(path, self._rr.TextLog(record.words))

    def _log(self, path: list[str], value: float) -> None:
        self._recording.log(self._rr.new_entity_path(path), self._rr.Scalars(value))
