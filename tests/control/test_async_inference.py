"""Asynchronous inference: a policy in its own process answers by mailbox, and dies by name."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from imitact.control.async_inference import DelayedInference, PolicyProcess
from imitact.control.sources import PolicySource
from imitact.core.answer_delay import delayed_by
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, ConnectionLost, NotFinite, RobotError
from imitact.core.robot import Reading, TimedFrame
from imitact.deploy.load_policy import StoredPolicy
from imitact.parallel.mailbox import Mailbox
from tests.support.control import SPEC, LinePolicy, moment

PATIENCE_S = 120.0


ODD = {
    20.0: np.ones((3, 1)),
    21.0: np.ones(14),
    22.0: np.ones((1, 3, 14)),
    23.0: np.array([["up"] * 14]),
    24.0: None,
    25.0: np.ones((6, 14)),
}
"""What is no chunk of 5 rows of 14 values, by the gray level that it answers."""


LOST, LOST_FOR_EVER = 240.0, 250.0
"""Gray levels at which nobody answers, the first until it was tried thirty times."""


class Sees(LinePolicy):
    """A policy whose chunk is the state plus the gray level of the picture."""

    def __init__(self) -> None:
        super().__init__(SPEC, k=5)
        self.episodes = self.tries = 0

    def reset(self, seed: int) -> None:
        self.episodes += 1

    def chunk(self, observation):
        level = float(observation.frames["top"][0, 0, 0])
        if level in (LOST, LOST_FOR_EVER):
            self.tries += 1
            time.sleep(0.01)
            if self.tries % 30 or level == LOST_FOR_EVER:
                raise ConnectionLost("ws://there does not answer (refused)")
        if level == 13.0:
            raise NotFinite("the state is bad luck")
        if level in ODD:
            return ODD[level]
        return np.tile(np.asarray(observation.state) + level, (3, 1)) + self.episodes / 1000


class Fails(LinePolicy):
    def chunk(self, observation):
        raise BadInput("this file is of another policy")


def stored() -> StoredPolicy:
    return StoredPolicy(Path("runs/act/policy"), SPEC, "", 5)


@pytest.fixture(scope="module")
def process():
    frames = Mailbox.create((4, 6, 3), "|u1", 4)
    with PolicyProcess(stored(), {"top": frames}, load=Sees) as process:
        process.start(PATIENCE_S)
        yield process, frames


def asked(process, frames, tick, level, now_s=None):
    """Query with a state of 1 and a picture of a gray level."""
    sequence = frames.post(np.full((4, 6, 3), level, np.uint8), 0.0)
    now_s = time.monotonic() if now_s is None else now_s
    timed = TimedFrame(np.zeros((4, 6, 3), np.uint8), now_s, sequence)
    process.inference.ask(
        moment(
            tick,
            now_s=now_s,
            reading=Reading(np.ones(14), now_s, now_s, 1),
            frames={"top": timed},
        )
    )


def answered(process):
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        answer = process.inference.answer(time.monotonic())
        if answer is not None:
            return answer
        assert process.inference.fault() == ""
        time.sleep(0.001)
    raise AssertionError("no answer")


def test_an_answer_is_to_the_state_and_the_picture_of_its_query(process):
    process, frames = process
    process.inference.begin()
    assert len(process.warm_up_s) == 3
    for tick, level in ((7, 3), (20, 200)):
        asked(process, frames, tick, level)
        answer = answered(process)
        assert answer.asked_tick == tick
        assert answer.failure == ""
        assert answer.chunk.shape == (3, 14)
        assert np.floor(answer.chunk[0, 0]) == level + 1
        assert 0 < answer.time_s < PATIENCE_S
    assert process.inference.answer(time.monotonic()) is None  # once


def test_each_episode_resets_the_policy(process):
    process, frames = process
    rests = []
    for _ in range(2):
        process.inference.begin()
        asked(process, frames, 0, 1)
        rests.append(answered(process).chunk[0, 0])
    assert rests[1] - rests[0] == pytest.approx(0.001)


def test_an_error_of_the_policy_is_an_answer_with_its_words_and_the_next_query_is_answered(process):
    process, frames = process
    process.inference.begin()
    asked(process, frames, 1, 13)
    answer = answered(process)
    assert answer.chunk is None
    assert answer.failure == "NotFinite: the state is bad luck"
    asked(process, frames, 2, 1)
    assert answered(process).failure == ""


@pytest.mark.parametrize("level", ODD)
def test_what_is_no_chunk_is_a_failure_and_never_spread_over_the_joints(process, level):
    process, frames = process
    process.inference.begin()
    asked(process, frames, 1, level)
    answer = answered(process)
    assert answer.chunk is None
    assert answer.failure
    in_this_process = DelayedInference(Sees(), delayed_by((0,)), 50.0)
    in_this_process.begin()
    picture = TimedFrame(np.full((4, 6, 3), level, np.uint8), 0.0, 1)
    reading = Reading(np.ones(14), 0.0, 0.0, 1)
    source = PolicySource(in_this_process, Replay(5), 50.0, ("top",))
    now = moment(0, now_s=0.0, reading=reading, frames={"top": picture})
    source.begin(now)
    if level != 25.0:  # of which the source takes the first rows
        assert source.action(now).action is None


def test_an_answer_to_a_query_that_was_given_up_is_dropped(process):
    process, frames = process
    process.inference.begin()
    asked(process, frames, 1, 1)
    process.inference.begin()
    asked(process, frames, 2, 2)
    assert answered(process).asked_tick == 2


def test_a_picture_that_was_overwritten_is_refused_not_replaced(process):
    process, frames = process
    process.inference.begin()
    timed = TimedFrame(np.zeros((4, 6, 3), np.uint8), 0.0, 1)
    for level in range(6):
        frames.post(np.full((4, 6, 3), level, np.uint8), 0.0)
    reading = Reading(np.ones(14), 0.0, 0.0, 1)
    process.inference.ask(moment(3, reading=reading, frames={"top": timed}))
    assert "frame 1 of camera top was overwritten" in answered(process).failure


def test_a_lost_connection_is_no_failure_and_the_same_query_is_answered_once_it_is_back(process):
    process, frames = process
    process.inference.begin()
    asked(process, frames, 3, LOST)
    deadline_s = time.monotonic() + PATIENCE_S
    while not (words := process.inference.trouble()) and time.monotonic() < deadline_s:
        assert process.inference.answer(time.monotonic()) is None
    assert words == "ws://there does not answer (refused)"
    for _ in range(9):  # its picture is overwritten meanwhile
        frames.post(np.zeros((4, 6, 3), np.uint8), 0.0)
    answer = answered(process)
    assert (answer.asked_tick, answer.failure) == (3, "")
    np.testing.assert_allclose(answer.chunk[0], 1 + LOST, atol=0.1)
    assert process.inference.trouble() == ""


def test_while_a_connection_is_lost_the_newest_query_is_tried(process):
    process, frames = process
    process.inference.begin()
    asked(process, frames, 3, LOST_FOR_EVER)
    deadline_s = time.monotonic() + PATIENCE_S
    while not process.inference.trouble() and time.monotonic() < deadline_s:
        process.inference.answer(time.monotonic())
    asked(process, frames, 9, 7.0)
    answer = answered(process)
    assert answer.asked_tick == 9
    np.testing.assert_allclose(answer.chunk[0], 8.0, atol=0.1)


def test_the_words_of_a_lost_connection_are_those_of_the_hold():
    class Lost(DelayedInference):
        def trouble(self) -> str:
            return "ws://there does not answer (refused)"

    lost = Lost(LinePolicy(SPEC), delayed_by([1000]), 50.0)
    source = PolicySource(lost, Replay(5), 50.0)
    reading = Reading(np.ones(14), 0.0, 0.0, 1)
    source.begin(moment(0, now_s=0.0, reading=reading))
    source.action(moment(0, now_s=0.0, reading=reading))
    held = source.action(moment(1, now_s=0.34, reading=reading))
    assert held.words == "no answer since 340 ms: ws://there does not answer (refused)"


def test_the_death_of_the_process_is_known_without_a_query(process):
    """The last test of the module's process: it is killed."""
    process, _ = process
    assert process.inference.fault() == ""
    os.kill(process.pid, signal.SIGKILL)
    deadline_s = time.monotonic() + PATIENCE_S
    while not process.inference.fault() and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert process.inference.fault() == "the process of the policy runs/act/policy has ended"
    while not process.death() and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert process.death() == "the policy runs/act/policy was killed by SIGKILL"


def test_a_policy_that_cannot_be_loaded_says_why_before_anything_moves():
    frames = Mailbox.create((4, 6, 3), "|u1", 4)
    process = PolicyProcess(stored(), {"top": frames}, load=partial(Fails, SPEC))
    with process, pytest.raises(RobotError, match="this file is of another policy"):
        process.start(PATIENCE_S)


def test_a_policy_whose_camera_the_robot_lacks_is_refused():
    with pytest.raises(BadInput, match="sees the cameras top, which the robot does not have"):
        PolicyProcess(stored(), {"front": Mailbox.create((4, 6, 3), "|u1")}, load=Sees)
