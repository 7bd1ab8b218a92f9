"""Live Rerun: what a run posts arrives with its times; a slow or dead viewer costs the run nothing.

Most tests send to a stand-in of Rerun's SDK; one starts the real process and reads its file back.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.hold import Hold
from imitact.recording.tick_record import RecordReader
from imitact.viewer import rerun_live
from imitact.viewer.rerun_live import LiveRerun, RunSender, send_run
from tests.support.tick_stream import JOINTS, PATIENCE_S, SPEC, TickStream, record_of


@dataclass
class FakeRecording:
    """Keeps what is sent, by path: (tick, time in s, value)."""

    rows: dict[str, list[tuple[int, float, Any]]] = field(default_factory=dict)
    at: dict[str, Any] = field(default_factory=dict)
    is_flushed: bool = False

    def send_columns(self, path: str, indexes: list[Any], columns: Any) -> None:
        ticks, times = (index[1] for index in indexes)
        self.rows.setdefault(path, []).extend(zip(ticks, times, columns, strict=True))

    def set_time(self, name: str, *, sequence: Any = None, duration: Any = None) -> None:
        self.at[name] = duration if sequence is None else sequence

    def log(self, path: str, value: Any) -> None:
        self.rows.setdefault(path, []).append((self.at.get("tick", -1), self.at["time"], value))

    def flush(self, **_: object) -> None:
        self.is_flushed = True

    def disconnect(self) -> None:
        assert self.is_flushed


def time_column(name: str, sequence: Any = None, duration: Any = None) -> tuple[str, list[Any]]:
    return name, np.asarray(duration if sequence is None else sequence).tolist()


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> FakeRecording:
    """A recording of a stand-in of Rerun's SDK."""
    fake = SimpleNamespace(
        TimeColumn=time_column,
        Scalars=SimpleNamespace(columns=lambda scalars: np.asarray(scalars).tolist()),
        TextLog=lambda text, level: (text, level),
        TextLogLevel=SimpleNamespace(WARN="WARN", INFO="INFO"),
        Image=lambda frame: SimpleNamespace(compress=lambda jpeg_quality: frame),
        new_entity_path="/".join,
    )
    monkeypatch.setitem(sys.modules, "rerun", fake)  # type: ignore[arg-type]
    return FakeRecording()


def test_what_was_asked_commanded_sent_and_measured_stands_at_its_tick_and_time(
    recording: FakeRecording,
):
    sender = RunSender(recording, SPEC)
    records = [record_of(tick) for tick in range(10, 20)]
    sender.send_ticks(records[:4])
    sender.send_ticks([])
    sender.send_ticks(records[4:])
    for number, joint in enumerate(JOINTS):
        for what, attribute in (("asked", "asked"), ("commanded", "action"), ("measured", "state")):
            found = recording.rows[f"joint/{joint}/{what}"]
            assert [tick for tick, _, _ in found] == list(range(10, 20))
            assert [at for _, at, _ in found] == pytest.approx([n / 50 for n in range(10)])
            expected = [getattr(record, attribute)[number] for record in records]
            assert [value for _, _, value in found] == pytest.approx(expected)
        sent = recording.rows[f"joint/{joint}/sent"]
        assert [tick for tick, _, _ in sent] == list(range(9, 19))
        assert sent[0][1] == pytest.approx(-0.016)
    late = [value for _, _, value in recording.rows["timing/lateness_ms"]]
    assert late == pytest.approx([0.5] * 10, abs=1e-6)


def test_what_was_not_there_is_left_out_and_words_are_sent_where_they_change(
    recording: FakeRecording,
):
    nothing = np.full(3, np.nan)
    held: dict[str, Any] = {"hold": Hold.ANSWER_LATE, "held": 1, "asked": nothing}
    records = [
        record_of(0),
        *(record_of(tick, words=f"no answer for 0.{tick} s", **held) for tick in (1, 2, 3)),
        record_of(4),
        record_of(5, words="no answer", **held),
    ]
    sender = RunSender(recording, SPEC)
    for record in records:
        sender.send_ticks([record])
    assert [tick for tick, _, _ in recording.rows["joint/elbow/asked"]] == [0, 4]
    assert "timing/answer_ms" not in recording.rows
    assert [(tick, value) for tick, _, value in recording.rows["words"]] == [
        (1, ("no answer for 0.1 s", "WARN")),
        (5, ("no answer", "WARN")),
    ]


@dataclass
class Parent:
    """The pipe to a command that goes after some rounds."""

    rounds: int
    lines: list[str] = field(default_factory=list)

    @property
    def parent_is_gone(self) -> bool:
        return self.rounds < 0

    def next_order(self, timeout_s: float) -> None:
        self.rounds -= 1

    def ready(self) -> None: ...

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_slow_viewer_misses_ticks_and_says_how_many(
    recording: FakeRecording, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rerun_live, "open_live", lambda file, name: recording)
    monkeypatch.setattr(rerun_live, "parse_target", lambda text: None)
    monkeypatch.setattr(rerun_live.os, "nice", lambda by: 0)
    stream, parent = TickStream(), Parent(0)
    reader = RecordReader(stream.records, stream.form)
    for _ in range(stream.records.slots + 30):  # more than the mailbox keeps
        stream.post()
    send_run(parent, "spawn", SPEC, reader, stream.frames)  # type: ignore[arg-type]
    shown = [tick for tick, _, _ in recording.rows["joint/waist/measured"]]
    assert shown[-1] == stream.tick - 1
    assert parent.lines == [
        f"Rerun is slow: {stream.tick - len(shown)} ticks so far are missing in it, not in the log"
    ]
    (frame,) = recording.rows["camera/top"]
    assert frame[2].shape == (16, 24, 3)
    assert recording.is_flushed


def test_the_process_writes_a_file_that_rerun_reads(tmp_path: Path):
    chunk = pytest.importorskip("rerun.chunk")
    stream, file, lines = TickStream(), tmp_path / "run.rrd", []
    reader = RecordReader(stream.records, stream.form)
    live = LiveRerun(str(file), SPEC, reader, stream.frames, lines.append)
    live.start()
    for _ in range(50):  # while it starts
        stream.post()
    live.close(PATIENCE_S)
    ticks = [
        batch.column("tick").to_pylist()
        for batch in (
            part.to_record_batch()
            for part in chunk.RrdReader(file).stream()
            if part.entity_path.strip("/") == "joint/elbow/commanded"
        )
    ]
    assert [tick for part in ticks for tick in part] == list(range(50))
    assert lines == []


def test_a_sender_that_hangs_or_dies_is_said_once_and_waits_for_nothing(tmp_path: Path):
    pytest.importorskip("rerun")
    stream, lines = TickStream(), []
    reader = RecordReader(stream.records, stream.form)
    live = LiveRerun(str(tmp_path / "run.rrd"), SPEC, reader, {}, lines.append)
    live.start()
    pid = live._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for _ in range(200):
        stream.post()  # nobody waits for it
    live.watch()
    assert lines == []
    live.close(0.05)
    assert lines == ["Rerun took no more within 0.05 s; the rest was not sent"]
    live.watch()
    live.watch()
    assert len(lines) == 2
    assert "SIGKILL" in lines[1]
    assert "the run goes on" in lines[1]


def test_another_target_is_refused_before_anything_starts():
    stream = TickStream()
    reader = RecordReader(stream.records, stream.form)
    with pytest.raises(BadInput, match=r"ends in \.rrd"):
        LiveRerun("file.mp4", SPEC, reader, {})
