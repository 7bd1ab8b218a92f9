"""Recording session: a person's episodes while they happen, each of them whole or not at all.

The `action` of a row is what was sent; what was asked for stands beside it, with the times of all
that happened at the tick (`tick_columns.py`). A row is one tick; ticks that were skipped have none
and are counted. What makes an episode doubtful is named in the manifest (`session_manifest.py`).
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core import tick_columns as columns
from imitact.core.errors import BadInput
from imitact.core.hold import Hold
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.datasets.lerobot.layout import IMITACT
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.video_config import VideoConfig
from imitact.recording.camera_track import CameraTrack, FrameAt
from imitact.recording.manifest import STAGING, check_folder, spec_settings
from imitact.recording.session_manifest import (
    MAX_FAULTS,
    SessionEpisode,
    SessionManifest,
    reasons,
)
from imitact.recording.tick_record import TickFormat, TickRecord
from imitact.storage.atomic import disk_full_guard, make_folder
from imitact.storage.lock import exclusive_writer
from imitact.storage.settings_diff import check_same_settings, plain_json

MIN_TICKS = 2
"""Rows of the shortest episode; a shorter one shows no movement."""

_LEADERLESS = (Hold.NOT_ENGAGED, Hold.WAITING)
"""Holds that are cut off at the end of an episode: the person let go before deciding to keep it."""


class TooShort(BadInput):
    """An episode has too few ticks to be kept; it was dropped, and the session can go on."""


@dataclass(slots=True, eq=False)
class _Row:
    record: TickRecord
    state: NDArray[np.float64]
    state_s: tuple[float, float]
    frames_s: list[float]
    skipped: int
    sent: NDArray[np.float64] | None = None
    sent_s: float = math.nan


class RecordingSession:
    """Records episodes into a dataset; a context manager that drops an unfinished one.

    One episode at a time: `begin`, `add` at each tick, then `keep` or `drop`.
    """

    def __init__(
        self,
        out: Path | str,
        spec: Spec,
        task: str,
        *,
        video: VideoConfig | None = None,
        stages: Mapping[int, str] | None = None,
        threaded: bool = False,
    ) -> None:
        """Begin a recording in a new folder, or continue one of the same robot.

        Args:
            out: folder of the dataset; nobody else may write there until `close`.
            spec: of the robot.
            task: instruction stored with the episodes.
            video: how frames are compressed.
            stages: names of the safety filter's stages, for the manifest.
            threaded: whether a thread a camera encodes, so that `add` waits for none.

        Raises:
            BadInput: the folder holds something else, or a recording with other settings, each of
                which is named; or another process writes there.
        """
        self.out, self.spec = Path(out), spec
        self._form = TickFormat.of(spec)
        self._stages, self._threaded = dict(stages or {}), threaded
        self._video = video or VideoConfig()
        self._staging = self.out / STAGING
        with contextlib.ExitStack() as opening:
            opening.enter_context(exclusive_writer(self.out, "recording"))
            opening.enter_context(disk_full_guard(self.out))
            shutil.rmtree(self._staging, ignore_errors=True)
            self._manifest = continued(self.out, spec, task, self._video, self._stages)
            make_folder(self._staging)
            self._task = task
            self._open_writer()
            self._lock = opening.pop_all()
        self._is_active = False
        self.drop()

    def __enter__(self) -> RecordingSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def episodes(self) -> int:
        """Number of finished episodes in the dataset."""
        return self._writer.episodes

    @property
    def rows(self) -> int:
        """Number of rows of the episode that is being recorded."""
        return len(self._rows)

    @property
    def lost_frames(self) -> int:
        """Frames of the episode that were gone before they could be copied."""
        return sum(track.lost for track in self._tracks)

    @property
    def backlog(self) -> int:
        """Frames that wait for the slowest encoder."""
        return max((track.backlog for track in self._tracks), default=0)

    def begin(self) -> None:
        """Begin an episode; one that was not kept is dropped.

        Its first row is the first tick with a state, a frame of each camera and a command.
        """
        self.drop()
        make_folder(self._staging)
        for number, camera in enumerate(self.spec.cameras):
            path = self._staging / f"{number}.mp4"
            self._tracks.append(
                CameraTrack(path, camera, self.spec.rate_hz, self._video, threaded=self._threaded)
            )
        self._is_active = True

    def add(self, record: TickRecord, frames: FrameAt) -> None:
        """Take a tick, in order.

        Args:
            record: of the tick.
            frames: returns the frame of a camera by its number; None where it is gone.

        Raises:
            BadInput: no episode has begun.
            DiskFull: no room is left; the episode is to be dropped.
        """
        if not self._is_active:
            raise BadInput("a tick came before an episode was begun; call begin first")
        previous = self._rows[-1] if self._rows else None
        # Not a generator: every camera takes its frame.
        seen = [
            track.take(int(sequence), frames)
            for track, sequence in zip(self._tracks, record.frame_sequences, strict=True)
        ]
        state, state_s = np.array(record.state, np.float64), record.state_s
        if not np.all(np.isfinite(state)) or not np.all(np.isfinite(state_s)):
            if previous is not None:
                state, state_s = previous.state, previous.state_s
            else:
                seen.append(False)
        if previous is None and (record.held or record.hold or not all(seen)):
            self._waited += 1
            for track in self._tracks:
                track.lost = 0  # of no row
            return
        skipped = self._gap(record, previous)
        frames_s = [track.captured_s for track in self._tracks]
        is_leaderless = record.hold in _LEADERLESS
        for track in self._tracks:
            if is_leaderless and self._sure is None:
                track.hold_back()
            elif not is_leaderless and self._sure is not None:
                track.accept()
            track.add()
        if not is_leaderless:
            self._sure = None
        elif self._sure is None:
            self._sure = len(self._rows)
        self._rows.append(_Row(record, state, state_s, frames_s, skipped))
        self.learn(record)

    def learn(self, record: TickRecord) -> None:
        """Take from a record what was sent at an earlier tick of the episode, or at its own."""
        for row in reversed(self._rows[-20:]):
            if row.record.tick == record.sent_tick:
                # Ticks begin anew with each run, so the time must fit, too.
                if row.sent is None and record.sent_s >= row.record.start_s:
                    row.sent, row.sent_s = np.array(record.sent, np.float64), record.sent_s
                return

    def mark(self, text: str) -> None:
        """Note something about the newest row; the episode is left out of trainings by it.

        Raises:
            BadInput: no episode has begun.
        """
        if not self._is_active:
            raise BadInput("there is no episode to mark; it is marked while it is recorded")
        self._notes.append((max(0, len(self._rows) - 1), text))

    def note_fault(self, words: str) -> None:
        """Take note of what went wrong with the recording of the episode."""
        self._faults.append(words)

    def keep(self) -> SessionEpisode:
        """Write the episode; return what the manifest says about it.

        Raises:
            TooShort: it has fewer than `MIN_TICKS` rows; it is dropped.
            DiskFull: no room is left; it is dropped.
        """
        try:
            rows = self._rows[: self._sure]
            if len(rows) < MIN_TICKS:
                raise TooShort(
                    f"the episode has {counted(len(rows), 'tick')}, expected at least {MIN_TICKS}; "
                    f"{self._waited} were without state, frames or a command. It is not kept"
                )
            about = self._about(rows)
            with disk_full_guard(self.out):
                pixels = {track.camera.name: track.finish() for track in self._tracks}
                videos = {track.camera.name: track.path for track in self._tracks}
                manifest = self._manifest.plus(about)
                state, action, values = self._arrays(rows)
                try:
                    self._writer.append(
                        state, action, videos, pixels, manifest.to_json(), extra_values=values
                    )
                except BaseException:
                    self._open_writer()  # whose files of this episode are removed
                    raise
            self._manifest = manifest
            self._tracks = []
            return about
        finally:
            self.drop()

    def drop(self) -> None:
        """Forget the episode."""
        for track in self._tracks if self._is_active else ():
            with contextlib.suppress(Exception):
                track.abandon()
        self._is_active = False
        self._tracks: list[CameraTrack] = []
        self._rows: list[_Row] = []
        self._sure: int | None = None  # rows that stay if the episode ends here; None: all
        self._waited = 0
        self._notes: list[tuple[int, str]] = []
        self._faults: list[str] = []

    def redo(self) -> None:
        """Forget the episode and begin it again."""
        self.begin()

    def close(self) -> None:
        """Drop an unfinished episode, and let others write to the folder."""
        self.drop()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._lock.close()

    def _open_writer(self) -> None:
        self._writer = LeRobotWriter(
            self.out,
            self.spec,
            task=self._task,
            video=self._video,
            staging=self._staging,
            extra_columns=self._form.columns(),
        )

    def _gap(self, record: TickRecord, previous: _Row | None) -> int:
        """Return the ticks without a row between two rows."""
        if previous is None:
            return 0
        gap = max(0, record.tick - previous.record.tick - 1)
        if gap > record.skipped:
            self.note_fault(
                f"{counted(gap - record.skipped, 'tick')} before row {len(self._rows)} were lost "
                "between the control loop and the recorder"
            )
        return gap

    def _about(self, rows: list[_Row]) -> SessionEpisode:
        holds = Counter(row.record.hold.name.lower() for row in rows if row.record.hold)
        stages = Counter(row.record.stage for row in rows if row.record.stage)
        lost = {track.camera.name: track.lost for track in self._tracks if track.lost}
        faults = [
            f"{counted(count, 'frame')} of camera {name} were overwritten before they could be "
            "copied"
            for name, count in lost.items()
        ]
        faults += self._faults[:MAX_FAULTS]
        if len(self._faults) > MAX_FAULTS:
            faults.append(f"{len(self._faults) - MAX_FAULTS} more faults")
        about = SessionEpisode(
            ticks=len(rows),
            skipped=sum(row.skipped for row in rows),
            held=sum(bool(row.record.held or row.record.hold) for row in rows),
            holds=dict(holds),
            stages={self._stages.get(n, str(n)): count for n, count in sorted(stages.items())},
            engaged=sum(row.record.engaged == 1 for row in rows),
            unsent=sum(row.sent is None for row in rows),
            waited=self._waited,
            cut=len(self._rows) - len(rows),
            lost_frames=lost,
            faults=tuple(faults),
            notes=tuple((min(tick, len(rows) - 1), text) for tick, text in self._notes),
        )
        return replace(about, marked=reasons(about))

    def _arrays(
        self, rows: list[_Row]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Return state (T, S), action (T, A), and the values of the columns."""
        first_s = rows[0].record.due_s
        found = []
        for row in rows:
            record = replace(
                row.record, state_s=row.state_s, frames_s=row.frames_s, skipped=row.skipped
            )
            found.append(self._form.row(record, first_s, row.sent_s))
        values = {
            name: np.array([one[name] for one in found], column.dtype)
            for name, column in self._form.columns().items()
        }
        # A command that no record saw sent is as the loop gave it, before the driver's rounding.
        sent = [row.record.action if row.sent is None else row.sent for row in rows]
        state = np.array([row.state for row in rows], np.float32)
        return state, np.array(sent, np.float32), values


def continued(
    out: Path,
    spec: Spec,
    task: str,
    video: VideoConfig,
    stages: Mapping[int, str] | None = None,
) -> SessionManifest:
    """Return the manifest with which a recording begins or goes on; nothing is written.

    Raises:
        BadInput: the folder holds something else, or a recording with other settings.
    """
    taken = (columns.DUE, columns.STATE_READ, columns.SENT)
    for camera in spec.cameras:
        if (name := columns.captured(camera.name)) in taken:
            raise BadInput(
                f"no camera may be named {camera.name}: the column {name} has another meaning. "
                "Rename the camera"
            )
    settings = plain_json(
        {"task": task, "video": asdict(video), "stages": [], **spec_settings(spec)}
    )
    named = {"safety_stages": {str(number): name for number, name in (stages or {}).items()}}
    check_folder(out)
    if (out / IMITACT).is_file():
        manifest = SessionManifest.read(out)
        if manifest.episodes:
            check_same_settings(manifest.settings, settings, out, partial=True)
            return manifest
    return SessionManifest({**settings, **named})
