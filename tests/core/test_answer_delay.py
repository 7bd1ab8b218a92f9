"""Answer delays: fixed and drawn, as text and as an estimate."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from imitact.core.answer_delay import (
    AnswerTimes,
    delay_bounds,
    delay_words,
    delayed_by,
    episode_delays,
)
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.executor import ActionExecutor
from imitact.core.types import FloatArray, Observation, Spec
from imitact.evaluation.results import EvaluationPlan
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.successive_halving import RaceConfig


def test_delays_are_drawn_the_same_for_the_same_seed():
    one, other = delayed_by(range(16), 3), delayed_by(range(16), 3)
    drawn = [next(one) for _ in range(1000)]
    assert drawn == [next(other) for _ in range(1000)]
    assert set(drawn) == set(range(16))
    turn = delayed_by([1, 2])
    assert [next(turn) for _ in range(4)] == [1, 2, 1, 2]
    for bad in ((), (-1,)):
        with pytest.raises(BadInput, match="at least one number of ticks"):
            next(delayed_by(bad))


def test_the_expected_time_of_an_answer_is_the_95th_percentile_without_the_first():
    times = AnswerTimes()
    assert times.expected_ticks(50.0) is None
    times.add(5.0)
    assert times.p95_s is None
    for n in range(1, 21):
        times.add(n / 100)
    assert times.p95_s == 0.19
    assert times.expected_ticks(50.0) == 10
    for _ in range(50):
        times.add(0.02)
    assert times.expected_ticks(50.0) == 1  # 1 tick, however it was rounded


def test_a_delay_is_a_number_of_ticks_or_a_range_that_is_drawn_from():
    assert delay_bounds(0) == (0, 0)
    assert delay_bounds("3..9") == (3, 9)
    assert [delay_words(delay) for delay in (1, 4, "3..9")] == ["1 tick", "4 ticks", "3 to 9 ticks"]
    assert str(Execution("replay:25~10", "3..9")) == "replay:25~10 with a delay of 3 to 9 ticks"
    assert next(episode_delays(4, seed=1)) == 4
    delays = episode_delays("3..9", seed=1)
    assert {next(delays) for _ in range(200)} == set(range(3, 10))


BAD = ("", "3", "03..9", "9..3", "3..3", "3..", "-1..3", "3...9", "0..10001", "a")


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_range_of_delays_is_refused_with_what_was_expected(bad: str):
    with pytest.raises(
        BadInput, match=r'delay_ticks is ".*"; expected a number of ticks, or 3\.\.9'
    ):
        Execution("replay:25", bad)
    with pytest.raises(BadInput, match="--delay-ticks is "):
        RaceConfig(delay_ticks=bad)
    with pytest.raises(BadInput, match="--delays is "):
        Grid(delays=(0, bad))


def test_a_drawn_delay_is_written_and_read_as_it_was_given():
    plan = EvaluationPlan((1000,), Execution("replay:25", "3..9"))
    stored = msgspec.json.decode(msgspec.json.encode(plan.to_json()))
    assert stored["delay_ticks"] == "3..9"
    assert EvaluationPlan.from_json(stored) == plan


SPEC = Spec(("t",), ("t",), ("s",), ("s",), (), 50.0)


class Numbered:
    """A policy whose row k, asked at tick t, is t + k: the tick at which it belongs."""

    spec = SPEC

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reset(self, seed: int) -> None:
        self.asked.clear()

    def chunk(self, observation: Observation) -> FloatArray:
        self.asked.append(int(observation.state[0]))
        return observation.state[0] + np.arange(60.0)[:, None]


@pytest.mark.parametrize("chunking", ["replay:10", "replay:25~10", "ensemble:0.01/5"])
@pytest.mark.parametrize("delay", ["0..1", "3..9", "0..20"])
def test_each_row_is_executed_at_its_own_tick_however_late_its_chunk_came(
    chunking: str, delay: str
):
    policy = Numbered()
    executor = ActionExecutor(policy, Execution(chunking, delay))
    low, high = delay_bounds(delay)
    found = []
    for _ in range(2):
        executor.reset(7)
        actions = [float(executor(Observation(np.array([float(tick)])))[0]) for tick in range(300)]
        wait = actions.count(0.0) - 1  # its row 0 is 0, too
        assert low <= wait <= high  # the first answer; the joints are held meanwhile
        # The first chunk begins at its row 0 after the wait, and has passed at tick 100.
        np.testing.assert_allclose(actions[100:], np.arange(100.0, 300.0))
        found.append((actions, tuple(policy.asked)))
    assert found[0] == found[1]  # drawn from the seed of the episode alone
    executor.reset(8)
    other = [float(executor(Observation(np.array([float(tick)])))[0]) for tick in range(300)]
    assert delay == "0..1" or (other, tuple(policy.asked)) != found[0]


def test_the_chunking_expects_the_time_within_which_most_answers_came():
    policy = Numbered()
    executor = ActionExecutor(policy, Execution("replay:60", "0..20"))
    executor.reset(3)
    assert executor._chunking.delay_ticks == 20  # at first the longest
    delays, times, expected = episode_delays("0..20", seed=3), AnswerTimes(), 20
    arrives: dict[int, int] = {}
    for tick in range(400):
        executor(Observation(np.array([float(tick)])))
        if policy.asked[-1] == tick:
            delay = next(delays)
            arrives[tick + delay] = delay
        if tick in arrives:
            times.add(arrives[tick] / SPEC.rate_hz)
            expected = times.expected_ticks(SPEC.rate_hz) or expected
        assert executor._chunking.delay_ticks == expected
    assert expected < 20
    executor.reset(3)
    assert executor._chunking.delay_ticks == 20
