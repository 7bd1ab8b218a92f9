"""Virtual session: a robot session on a virtual clock, in one process, as fast as it goes."""

from __future__ import annotations

import contextlib

from imitact.api.robot_session import RobotSession
from imitact.control.contract import Controls
from imitact.control.control_loop import ControlLoop
from imitact.control.parking import first_command
from imitact.core.words import counted
from imitact.recording.tick_record import TickRecord


class VirtualSession(RobotSession):
    """A session on a virtual clock, in this process."""

    _count = 0
    _is_closed = False
    _error: Exception | None = None

    def start(self) -> None:
        self.setup.start()
        self.setup.enable()

    def run_phase(self, name: str, seconds: float | None = None) -> str:
        ticks = None if seconds is None else max(1, round(seconds * self.rate_hz))
        self._finish_words, self.phase = None, name
        self._count += 1
        self._loop = loop = ControlLoop(
            self.robot,
            self._plan.phases[name],
            self._plan.safety,
            self.setup.clock,
            self.rate_hz,
            self._on_tick,
            self._controls,
            age_bounds=self._plan.age_bounds,
            controls_s=self._plan.controls_s,
        )
        with self._logged(self._count, name) as words:
            outcome = loop.run(first_command(self.robot), ticks)
            self.phase = ""
            if self._error is not None:
                raise self._error
            for fault, count in outcome.faults.items():
                self.on_line(f"{fault} ({counted(count, 'time')})")
            words.append(self._finish_words or outcome.words or "the time is over")
            return words[-1]

    def _controls(self) -> Controls:
        return Controls(self.stopped, self._finish_words is not None, self.deadman)

    def _on_tick(self, record: TickRecord) -> None:
        record.phase = 0 if self._loop.is_braking else self._count
        try:
            self._take(record, lambda camera, sequence: self.robot.frame(camera))
            self._on_poll(self)
        except Exception as error:  # the loop would go on
            self._error = self._error or error
            self.finish()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.ExitStack() as endings:
            endings.callback(self._end_log)
            if self.recorder is not None:
                endings.callback(self.recorder.close)
            endings.callback(self.setup.close)
