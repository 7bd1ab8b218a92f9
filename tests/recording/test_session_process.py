"""Recorder process: the same episodes as in one process, losses named, and its death."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from imitact.core import tick_columns as columns
from imitact.core.errors import BadInput, RobotError
from imitact.core.hold import Hold
from imitact.datasets.open import open_dataset
from imitact.recording.session import RecordingSession, TooShort
from imitact.recording.session_process import RecorderPlan, RecorderProcess
from tests.support.tick_stream import (
    CAMERAS,
    LOSSLESS,
    SPEC,
    TASK,
    TickStream,
    frame_number,
    frame_of,
    frames_of,
    record_of,
    sent_at,
    state_at,
    wait_for,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three episodes of one recorder: a plain one, one with lost frames and a note, one after."""
    out = tmp_path_factory.mktemp("recorder") / "data"
    stream = TickStream()
    facts = []
    with stream.recorder(out) as recorder:
        for _ in range(3):  # before the episode
            stream.post()
        recorder.begin()
        stream.play(recorder, 12)
        stream.post(hold=Hold.WAITING, phase=0)  # it says that the last command was sent
        stream.post(hold=Hold.WAITING, phase=0)
        facts.append(recorder.keep())
        recorder.begin()
        stream.play(recorder, 4)
        recorder.drop()
        recorder.begin()
        stream.play(recorder, 6)
        os.kill(recorder.pid, signal.SIGSTOP)
        for _ in range(30):  # 15 frames; the mailbox keeps 8
            recorder.add(stream.post())
        recorder.mark("the cube fell")
        os.kill(recorder.pid, signal.SIGCONT)
        wait_for(lambda: recorder.status.rows == 36, recorder)
        facts.append(recorder.keep())
        recorder.begin()
        with pytest.raises(TooShort, match="no tick"):
            recorder.keep()
        recorder.begin()
        stream.play(recorder, 1)
        with pytest.raises(TooShort, match="has 1 tick, expected at least 2"):
            recorder.keep()
        recorder.begin()
        stream.play(recorder, 3)
        facts.append(recorder.keep())
        assert recorder.episodes == 3
    return out, facts


def test_a_recorder_writes_the_ticks_that_it_was_given_with_frames_of_their_numbers(recorded):
    out, facts = recorded
    assert facts[0] == {"ticks": 12, "engaged": 12}
    dataset = open_dataset(out)
    episode = dataset.episode(0)
    ticks = range(3, 15)
    wanted = np.stack([sent_at(tick) for tick in ticks]).astype(np.float32)
    np.testing.assert_array_equal(episode.action, wanted)
    state = np.stack([state_at(tick) for tick in ticks]).astype(np.float32)
    np.testing.assert_array_equal(episode.state, state)
    for camera in CAMERAS:
        shown = [int(frame[0, 0, 0]) for frame in episode.frames(camera.name)]
        assert shown == [frame_number(tick) for tick in ticks]
    values = episode.extra_values([*dataset.extra_columns])
    assert np.isfinite(values[columns.SENT]).all()


def test_the_same_ticks_give_the_same_episode_in_one_process(recorded, tmp_path):
    out, facts = recorded
    with RecordingSession(tmp_path / "data", SPEC, TASK, video=LOSSLESS) as session:
        session.begin()
        for tick in range(3, 15):
            session.add(record_of(tick), frames_of)
        session.learn(record_of(15))
        assert session.keep().to_json() == facts[0]
    for folder in ("data", "videos"):
        names = sorted(p.relative_to(tmp_path / "data") for p in (tmp_path / "data").glob(
            f"{folder}/**/file-000.*"
        ))  # fmt: skip
        assert names
        for name in names:
            assert (tmp_path / "data" / name).read_bytes() == (out / name).read_bytes()


def test_a_frame_that_was_overwritten_is_a_named_fault_and_never_another_frame(recorded):
    out, facts = recorded
    lost = facts[1]["lost_frames"]
    assert lost.keys() == {"top", "wrist"}
    assert 1 <= lost["top"] <= 30
    assert f"{lost['top']} frames of camera top were overwritten" in facts[1]["faults"][0]
    assert facts[1]["notes"] == [(35, "the cube fell")] or facts[1]["notes"] == (
        (35, "the cube fell"),
    )
    assert len(facts[1]["marked"]) == 3
    dataset = open_dataset(out)
    episode = dataset.episode(1)
    captured_s = episode.extra_values([columns.captured("top")])[columns.captured("top")]
    due_s = episode.extra_values([columns.DUE])[columns.DUE]
    first = 3 + 12 + 2 + 4
    first_due_s = 100.0 + first / 50
    assert first_due_s + due_s[0] == first_due_s
    for row, frame in enumerate(episode.frames("top")):
        shown = int(frame[0, 0, 0])
        np.testing.assert_array_equal(frame, frame_of(CAMERAS[0], shown))
        found = frames_of("top", shown)
        assert found is not None
        # The time in the column is that of the frame that is shown, whichever it is.
        assert captured_s[row] + first_due_s == pytest.approx(found.captured_s, abs=1e-4)


def test_an_episode_after_a_bad_one_is_sound(recorded):
    _, facts = recorded
    assert facts[2]["ticks"] == 3
    assert "marked" not in facts[2]


def test_the_death_of_a_recorder_is_named_and_costs_no_finished_episode(tmp_path):
    stream = TickStream()
    with stream.recorder(tmp_path / "data") as recorder:
        recorder.begin()
        stream.play(recorder, 3)
        recorder.keep()
        recorder.begin()
        stream.play(recorder, 2)
        os.kill(recorder.pid, signal.SIGKILL)
        wait_for(lambda: recorder.death())
        assert recorder.death() == "the recorder was killed by SIGKILL"
        with pytest.raises(RobotError, match="the recorder was killed by SIGKILL"):
            recorder.keep()
    assert open_dataset(tmp_path / "data").lengths == (3,)


def test_a_recording_of_another_robot_is_refused_before_a_process_starts(recorded):
    out, _ = recorded
    plan = RecorderPlan(out, SPEC, "another task", TickStream().frames, LOSSLESS)
    with pytest.raises(BadInput, match='task was "wave", is now "another task"'):
        RecorderProcess(plan)
    with pytest.raises(BadInput, match="camera top has no mailbox"):
        RecorderProcess(RecorderPlan(out, SPEC, TASK, {}, LOSSLESS))
