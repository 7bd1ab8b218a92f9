"""Recorder process: a recording session in a process of its own, which encodes and writes.

It reads the records of the control loop and the frames of the cameras from their mailboxes. The
process that orders it says up to which tick it has looked, so that both have the same episodes.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput, ImitactError, RobotError, library_words
from imitact.core.robot import TimedFrame
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.datasets.video_config import VideoConfig
from imitact.parallel.child_process import ChildProcess, ParentPipe, ProcessOwner
from imitact.parallel.mailbox import Mailbox
from imitact.recording.camera_track import FrameAt
from imitact.recording.session import RecordingSession, TooShort, continued
from imitact.recording.tick_record import RecordReader, TickFormat, TickRecord

START_TIMEOUT_S = 60.0
"""Time for Python and the imports on a busy computer, s."""

KEEP_TIMEOUT_S = 600.0
"""Time to finish and write an episode on a slow disk, s."""

SETTLE_S = 0.3
"""Time that the last command of an episode may take until a record says that it was sent, s."""

_TOO_SHORT = "too short"
"""Key of the answer to an episode that is not kept."""

_IDLE_RECORDS = 100
"""Records that are kept while no episode runs: 2 s at 50 Hz, before which the order to begin must
arrive."""


@dataclass(frozen=True)
class RecorderPlan:
    """What a recorder records, and where to.

    Attributes:
        out: folder of the dataset; `RecordingSession` has the rules.
        spec: of the robot.
        task: instruction stored with the episodes.
        cameras: mailbox of each camera of the Spec, (H, W, 3), whose first time is that of the
            capture.
        video: how frames are compressed.
        stages: names of the safety filter's stages, for the manifest.
    """

    out: Path
    spec: Spec
    task: str
    cameras: Mapping[str, Mailbox]
    video: VideoConfig = field(default_factory=VideoConfig)
    stages: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RecorderStatus:
    """How a recorder is doing.

    Attributes:
        episodes: finished ones of the dataset.
        rows: of the episode that runs.
        lag_s: time by which encoding is behind the newest tick, s.
        lost_frames: of the episode, overwritten before they could be copied.
    """

    episodes: int = 0
    rows: int = 0
    lag_s: float = 0.0
    lost_frames: int = 0


class RecorderProcess(ProcessOwner):
    """The ordering side, used like a `RecordingSession`.

    Attributes:
        on_wait: called many times a second while `keep` waits for the process, so that a robot
            session goes on saying what the person wants.
    """

    def __init__(
        self, plan: RecorderPlan, on_line: Callable[[str], object] = lambda line: None
    ) -> None:
        """Prepare; `start` starts the process.

        Args:
            plan: what is recorded.
            on_line: receives its lines.

        Raises:
            BadInput: the folder cannot be recorded into; `RecordingSession` has the rules.
        """
        super().__init__(ChildProcess("the recorder", run_recorder, on_line=on_line))
        self._plan = plan
        manifest = continued(plan.out, plan.spec, plan.task, plan.video, plan.stages)
        if missing := [c.name for c in plan.spec.cameras if c.name not in plan.cameras]:
            raise BadInput(f"camera {missing[0]} has no mailbox to record its frames from")
        self._finished = len(manifest.episodes)
        self.on_wait: Callable[[], object] = lambda: None
        self._through, self._status = Mailbox.create((1,)), Mailbox.create((4,))
        self._begins = self._is_active = False
        self._last_s = 0.0

    @property
    def status(self) -> RecorderStatus:
        """How it is doing."""
        mail = self._status.read()
        if mail is None:
            return RecorderStatus(self._finished)
        episodes, rows, lag_s, lost = mail.values.tolist()
        return RecorderStatus(int(episodes), int(rows), lag_s, int(lost))

    @property
    def episodes(self) -> int:
        """Number of finished episodes in the dataset."""
        return self.status.episodes

    def start(self, records: Mailbox, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the process and open the dataset.

        Args:
            records: packed records of the control loop (`TickFormat.mailbox`).
            timeout_s: for Python and the imports.

        Raises:
            RobotError: it failed, with the cause.
        """
        self._process.arguments = (self._plan, records, self._through, self._status)
        self._process.start(timeout_s)

    def begin(self) -> None:
        """Begin an episode with the next tick that is added; one not kept is dropped."""
        self.drop()
        self._begins = True

    def add(self, record: TickRecord, frames: FrameAt | None = None) -> None:
        """Let the process take a tick, which it reads for itself; `frames` is not used.

        Raises:
            RobotError: the process has ended.
        """
        self._last_s = record.due_s
        if self._begins:
            self._process.order("begin", (record.due_s, record.phase))
            self._begins, self._is_active = False, True
        self._through.post(np.array([record.due_s]))

    def mark(self, text: str) -> None:
        """Note something about the newest row."""
        self._process.order("mark", (self._last_s, text))

    def keep(self) -> dict[str, Any]:
        """Write the episode; return what the manifest says about it, as plain JSON.

        Raises:
            TooShort: it has too few ticks; it is dropped.
            RobotError: it was not written, with the cause; or the process has ended.
        """
        if not self._is_active:
            self._begins = False
            raise TooShort("the episode has no tick; it is not kept")
        self._is_active = False
        about = self._process.ask(
            "keep", self._last_s, timeout_s=KEEP_TIMEOUT_S, on_wait=self.on_wait
        )
        if _TOO_SHORT in about:
            raise TooShort(about[_TOO_SHORT])
        return about

    def drop(self) -> None:
        """Forget the episode."""
        if self._is_active:
            self._process.order("drop")
        self._begins = self._is_active = False

    def redo(self) -> None:
        """Forget the episode and begin it again."""
        self.begin()

    def close(self) -> None:
        """End the process; an episode that was not kept is dropped."""
        if self._process.is_alive:
            # Finished episodes are whole however it ends.
            with contextlib.suppress(RobotError):
                self._process.ask("close", timeout_s=START_TIMEOUT_S)
                self._process.join(START_TIMEOUT_S)
        super().close()


def run_recorder(
    parent: ParentPipe, plan: RecorderPlan, records: Mailbox, through: Mailbox, status: Mailbox
) -> None:
    """Record by the orders of the parent, until it has gone."""
    with RecordingSession(
        plan.out, plan.spec, plan.task, video=plan.video, stages=plan.stages, threaded=True
    ) as session:
        _Recording(parent, plan, session, records, through, status).run()


class _Recording:
    """The process's side."""

    def __init__(
        self,
        parent: ParentPipe,
        plan: RecorderPlan,
        session: RecordingSession,
        records: Mailbox,
        through: Mailbox,
        status: Mailbox,
    ) -> None:
        self._parent, self._session, self._cameras = parent, session, plan.cameras
        self._reader = RecordReader(records, TickFormat.of(plan.spec))
        self._through, self._status = through, status
        self._rate_hz = plan.spec.rate_hz
        self._new: deque[TickRecord] = deque()  # not taken yet
        self._phase: int | None = None  # of the episode that runs
        self._taken_s = 0.0
        self._failure = ""
        self._lost = 0

    def run(self) -> None:
        self._post_status()
        self._parent.ready()
        while not self._parent.parent_is_gone:
            order = self._parent.next_order(0.004)
            self._read()
            if order is not None:
                number, name, argument = order
                if name == "close":
                    self._session.drop()
                    self._parent.answer(number, True, None)
                    return
                self._obey(number, name, argument)
            self._take(self._newest_through())
            self._post_status()

    def _obey(self, number: int, name: str, argument: Any) -> None:
        if name == "begin":
            first_s, self._phase = argument
            self._failure = ""
            self._session.begin()
            while self._new and self._new[0].due_s < first_s:
                self._new.popleft()
            return
        if name == "mark":
            due_s, text = argument
            self._take(due_s)
            if self._phase is not None:
                self._session.mark(text)
            return
        if name == "drop":
            self._session.drop()
            self._phase = None
            return
        assert name == "keep", name
        try:
            self._take(argument)
            if self._failure:
                raise RobotError(self._failure)
            self._settle(argument)
            about = self._session.keep()
        except TooShort as error:
            self._parent.answer(number, True, {_TOO_SHORT: library_words(error)})
        except ImitactError as error:
            self._parent.answer(number, False, library_words(error))
        else:
            self._post_status()
            self._parent.answer(number, True, about.to_json())
        finally:
            self._session.drop()
            self._phase = None

    def _read(self) -> None:
        """Read the records that are there; without an episode only the newest are kept."""
        self._new.extend(self._reader.new())
        if self._phase is None:
            while len(self._new) > _IDLE_RECORDS:
                self._new.popleft()
        elif self._reader.lost > self._lost:
            lost = self._reader.lost - self._lost
            self._session.note_fault(
                f"{counted(lost, 'tick')} were overwritten before they could be read"
            )
        self._lost = self._reader.lost

    def _take(self, through_s: float) -> None:
        """Give the session the ticks up to a time."""
        while self._phase is not None and self._new and self._new[0].due_s <= through_s:
            record = self._new.popleft()
            self._taken_s = record.due_s
            if record.phase != self._phase or self._failure:
                continue
            try:
                self._session.add(record, self._frame)
            except ImitactError as error:  # a full disk
                self._failure = library_words(error)
                self._parent.line(f"the episode cannot be recorded: {self._failure}")
            self._read()

    def _settle(self, last_s: float) -> None:
        """Wait for the record that says when the last command was sent; learn from it."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            self._read()
            later = [record for record in self._new if record.due_s > last_s]
            for record in later[:5]:
                self._session.learn(record)
            if len(later) >= 2 or time.monotonic() > deadline_s:
                return
            time.sleep(0.005)

    def _frame(self, camera: str, sequence: int) -> TimedFrame | None:
        mail = self._cameras[camera].read(sequence)
        return None if mail is None else TimedFrame(mail.values, float(mail.times[0]), sequence)

    def _newest_through(self) -> float:
        mail = self._through.read()
        return -np.inf if mail is None else float(mail.values[0])

    def _post_status(self) -> None:
        session, lag_s = self._session, 0.0
        if self._phase is not None and session.rows:
            lag_s = max(0.0, self._newest_through() - self._taken_s)
            lag_s += session.backlog / self._rate_hz
        self._status.post(np.array([session.episodes, session.rows, lag_s, session.lost_frames]))
