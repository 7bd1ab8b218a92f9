"""Inference thread: questions that wait are answered together, in the order in which they came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from imitact.core.camera_view import View
from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.types import Observation
from imitact.serving.inference import InferenceThread
from imitact.serving.messages import Answer, Question
from tests.support.served import SPEC, StatePolicy

FRAME = np.zeros((24, 32, 3), np.uint8)


class Together(StatePolicy):
    """Notes how many questions it is asked at once; refuses a state of -1."""

    views = {"top": View(12, 16)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []
        self.first = threading.Event()

    def chunk(self, observation: Observation) -> Any:
        frames = {"top": self.views["top"].apply(observation.frames["top"])}
        return self.chunks_seen([Observation(observation.state, frames)])[0]

    def chunks_seen(self, observations: Sequence[Observation]) -> Any:
        self.first.set()
        self.gate.wait()
        self.counts.append(len(observations))
        assert {each.frames["top"].shape for each in observations} == {(12, 16, 3)}
        if any(each.state[0] == -1 for each in observations):
            raise NotFinite("a state of -1")
        return np.stack([np.tile(np.float32(each.state), (5, 1)) for each in observations])


def ask(policy: Together, batch: int, states: Sequence[float], is_seen: bool) -> list[Any]:
    """Ask while the policy answers the first; return the answers or their errors."""
    inference = InferenceThread(lambda: policy, batch)
    inference.start()
    frame = policy.views["top"].apply(FRAME) if is_seen else FRAME

    async def main() -> list[Any]:
        policy.gate.clear()
        questions = [
            Question(Observation(np.array([x, 0.0]), {"top": frame}), is_seen, number)
            for number, x in enumerate(states)
        ]
        tasks = [asyncio.create_task(inference.answer(question)) for question in questions]
        await asyncio.to_thread(policy.first.wait, 10)
        await asyncio.sleep(0.01)
        policy.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    try:
        return asyncio.run(main())
    finally:
        inference.stop()


@pytest.mark.parametrize("is_seen", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_questions_that_wait_are_answered_together(batch: int, is_seen: bool):
    policy = Together()
    found = ask(policy, batch, range(6), is_seen)
    assert [answer.number for answer in found] == [*range(6)]
    assert [answer.chunk[0, 0] for answer in found] == [*range(6)]
    assert sum(policy.counts) == 6
    assert max(policy.counts) <= batch
    assert batch == 1 or max(policy.counts) > 1


def test_one_question_that_is_refused_does_not_cost_the_others_their_answers():
    found = ask(Together(), 8, [1, 2, -1, 4, 5], True)
    assert [isinstance(one, Answer) for one in found] == [True, True, False, True, True]
    assert str(found[2]) == "a state of -1"


def test_the_question_of_a_client_that_has_gone_is_not_computed():
    async def main(inference: InferenceThread) -> None:
        seen = Question(Observation(np.zeros(2), {"top": FRAME}), False, 1)
        with pytest.raises(ImitactError, match="the client has gone"):
            await inference.answer(seen, lambda: False)
        assert (await inference.answer(seen, lambda: True)).number == 1

    policy = Together()
    inference = InferenceThread(lambda: policy)
    inference.start()
    asyncio.run(main(inference))
    inference.stop()
    assert policy.counts == [1]


def test_a_policy_that_answers_fewer_than_asked_is_asked_one_by_one():
    class Short(Together):
        def chunks_seen(self, observations: Sequence[Observation]) -> Any:
            return super().chunks_seen(observations)[:1]

    found = ask(Short(), 8, range(4), True)
    assert [answer.chunk[0, 0] for answer in found] == [*range(4)]


def test_a_policy_that_cannot_be_loaded_says_why():
    def load() -> Any:
        raise BadInput("this file is of another policy")

    with pytest.raises(BadInput, match="of another policy"):
        InferenceThread(load).start()


def test_a_defect_is_an_error_of_its_question():
    async def main(inference: InferenceThread) -> None:
        bad = Question(Observation(np.array([666.0, 0.0]), {"top": FRAME}), False, 1)
        with pytest.raises(ImitactError, match="ZeroDivisionError: a defect of the policy"):
            await inference.answer(bad)

    inference = InferenceThread(StatePolicy)
    inference.start()
    assert inference.policy is not None
    assert inference.policy.spec == SPEC
    asyncio.run(main(inference))
    inference.stop()
    assert not inference.is_alive
