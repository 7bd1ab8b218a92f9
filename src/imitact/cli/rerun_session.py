"""Rerun of a session: sends a session on a robot to Rerun while it runs, or its log afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.api.robot_session import RobotSession
    from imitact.viewer.rerun_live import LiveRerun


class RerunSession:
    """Sends one session; a context manager that ends it.

    On the wall clock a process reads the session's mailboxes and sends; the control loop knows
    nothing of it. A session on a virtual clock is faster than any viewer: its log is sent at the
    end.
    """

    def __init__(self, target: str, on_line: Callable[[str], object]) -> None:
        """Prepare; nothing is sent.

        Args:
            target: a file that ends in .rrd, "spawn" for a new viewer, or "" for nothing.
            on_line: receives what is wrong.

        Raises:
            BadInput: another target, or Rerun is not installed.
        """
        if target:
            if target != "spawn":
                check_output(target, option="--rerun", is_file=True, starts=b"RRF")
            from imitact.viewer.rerun_export import parse_target

            parse_target(target)  # refused before anything is started
        self._target, self._on_line = target, on_line
        self._live: LiveRerun | None = None
        self._is_virtual = False

    def __enter__(self) -> RerunSession:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.close()

    def poll(self, session: RobotSession) -> None:
        """Start at the first poll of a session, and watch the sender; never raises."""
        if not self._target or self._is_virtual:
            return
        if self._live is not None:
            self._live.watch()
            return
        from imitact.api.live_session import LiveSession
        from imitact.api.session_parts import frame_boxes
        from imitact.viewer.rerun_live import LiveRerun

        if not isinstance(session, LiveSession):
            self._is_virtual = True
            return
        self._live = LiveRerun(
            self._target,
            session.robot.spec,
            session.reader(),
            frame_boxes(session.setup),
            self._on_line,
        )
        try:
            self._live.start()
        except OSError as error:
            self._on_line(f"nothing is sent to Rerun: {error}")

    def send_log(self, log: Path | None) -> None:
        """Send the log of a session that was on a virtual clock, once it has ended."""
        if not self._is_virtual or log is None:
            return
        from imitact.viewer import rerun_export
        from imitact.viewer.page import Blobs
        from imitact.viewer.runs import run_section

        blobs = Blobs()
        section = {**run_section(log, blobs), "name": log.name}
        target = rerun_export.parse_target(self._target)
        rerun_export.send_sections(target, str(log), [section], blobs)
