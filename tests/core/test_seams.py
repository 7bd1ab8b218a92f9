"""Seams: with `replay:N~F` a chunk begins where the one before would have gone on."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput
from imitact.core.execution import Execution, parse
from imitact.core.executor import ActionExecutor
from imitact.core.types import Camera, Spec

K = 40


def drawn(count, seed=0, width=2, k=K):
    """Chunks that agree in nothing."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, width)) for _ in range(count)]


def answered(chunking, chunks, delays, skips=()):
    """Run with answers after so many ticks; return the actions, and those at each takeover beside
    what would have been executed there without the answer."""
    chunking.reset()
    actions, takeovers, queries, due = [], [], 0, 0

    def take():
        if chunking.asked_tick is None or tick < due:
            return None
        before = copy.deepcopy(chunking)
        chunking.feed(chunks[chunking.asked_tick], chunking.asked_tick)
        return before if before._live else None

    for tick in range(len(chunks)):
        if tick in skips:
            continue
        chunking.skip_to(tick)
        before = take()
        if chunking.wants_chunk:
            chunking.ask(tick)
            due = tick + delays[queries]
            queries += 1
            before = before or take()
        action = chunking.next()
        actions.append(action)
        if before is not None:
            takeovers.append((before.next(), action))
    return actions, takeovers


@given(
    st.integers(1, 50),
    st.integers(1, 30),
    st.lists(st.integers(0, 12), min_size=120, max_size=120),
    st.sets(st.integers(1, 119), max_size=15),
)
@settings(max_examples=80, deadline=None)
def test_an_answer_changes_nothing_at_the_tick_at_which_it_takes_over(n, fade, delays, skips):
    """Whenever it comes, and however much of an earlier shift is left."""
    chunking = Replay(n, 12, fade, fade)
    _, takeovers = answered(chunking, drawn(120, n), delays, skips)
    assert takeovers or n > 40
    for before, action in takeovers:
        np.testing.assert_allclose(action, before, atol=1e-12)


@given(st.integers(1, 40), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_after_f_ticks_the_actions_are_those_of_the_chunk(n, delay):
    chunks = drawn(120, n)
    fade = max(1, n // 2)
    joined, _ = answered(Replay(n, delay, fade, fade), chunks, [delay] * 120)
    chunking, live, since = Replay(n, delay, fade, fade), None, 0
    for tick, action in enumerate(joined):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick])
        if chunking._live and chunking._live[-1] is not live:
            live, since = chunking._live[-1], chunking._executed
        row = chunking._executed - live[0] if live else 0
        past = chunking._executed - since
        chunking.next()
        if action is not None and past > fade:
            np.testing.assert_array_equal(action, live[1][row])


def test_the_shift_fades_as_a_raised_cosine():
    chunking = Replay(5, 0, 4, 4)
    chunking.feed(np.zeros((20, 1)))
    for _ in range(5):
        chunking.next()
    chunking.feed(np.ones((20, 1)))
    left = [1 - float(chunking.next()[0]) for _ in range(5)]
    np.testing.assert_allclose(left, [(1 + np.cos(np.pi * k / 5)) / 2 for k in range(5)])
    chunking.feed(np.ones((20, 1)))
    assert chunking.next()[0] == 1.0


def test_a_fade_of_zero_executes_the_chunks_to_the_bit():
    chunks = drawn(60)
    plain, joined = Replay(7), Replay(7, 0, 0, 0)
    for chunk in chunks:
        for chunking in (plain, joined):
            if chunking.wants_chunk:
                chunking.feed(chunk)
        np.testing.assert_array_equal(plain.next(), joined.next())


@pytest.mark.parametrize("delay", [0, 5])
def test_a_whole_chunk_is_replaced_before_its_last_row(delay):
    chunking = Replay(10, delay, 3)
    asked = []
    for tick in range(40):
        if chunking.wants_chunk:
            asked.append(tick)
            chunking.feed(np.full((10, 1), float(len(asked))))
        chunking.next()
    # The first chunk begins after the wait; one row of each is left for the join.
    assert asked[:2] == [0, 9]


def test_chunks_of_one_tick_are_executed_as_they_are():
    chunking = Replay(1, 0, 5)
    for value in (1.0, 2.0, 3.0):
        chunking.feed(np.array([[value]]))
        assert chunking.next()[0] == value


def test_a_chunk_after_a_wait_is_not_shifted():
    chunking = Replay(3, 0, 5)
    chunking.feed(np.zeros((3, 1)))
    chunking.skip_to(3)  # all rows have passed: nothing tells where they would have gone on
    chunking.ask(3)
    chunking.feed(np.ones((3, 1)), 3)
    assert chunking.next()[0] == 1.0


def test_reset_forgets_the_shift():
    chunking = Replay(2, 0, 9)
    for value in (0.0, 0.0, 5.0):
        if chunking.wants_chunk:
            chunking.feed(np.full((9, 1), value))
        chunking.next()
    chunking.reset()
    chunking.feed(np.full((9, 1), 5.0))
    assert chunking.next()[0] == 5.0


def spec(names, units):
    return Spec(names, names, units, units, (Camera("top", 4, 4),), 50.0)


NAMES, UNITS = ("left_waist", "left_gripper", "tip"), ("rad", "1", "1")


def test_the_shift_of_a_gripper_fades_within_five_ticks_or_its_own():
    for text, ticks in (("replay:5~10", 5), ("replay:5~10,2", 2), ("replay:5~10,0", 0)):
        chunking = parse(text, spec=spec(NAMES, UNITS))
        chunking.feed(np.zeros((30, 3)))
        for _ in range(5):
            chunking.next()
        chunking.feed(np.ones((30, 3)))
        rows = np.stack([chunking.next() for _ in range(5)])
        assert np.all(rows[:, 0] < 1)
        for gripper in (1, 2):
            assert np.sum(rows[:, gripper] < 1) == min(ticks + 1 if ticks else 0, 5)


def test_robots_side_by_side_are_joined_as_one():
    chunks = drawn(30, width=3)
    one, two = (parse("replay:5~10", spec=spec(NAMES, UNITS)) for _ in range(2))
    for chunk in chunks:
        if one.wants_chunk:
            one.feed(chunk)
            two.feed(np.hstack([chunk, chunk]))
        np.testing.assert_array_equal(np.tile(one.next(), 2), two.next())


def test_chunks_of_another_robot_are_refused():
    chunking = parse("replay:1~3", spec=spec(NAMES, UNITS))
    with pytest.raises(BadInput, match="4 action dimensions"):
        chunking.feed(np.zeros((9, 4)))


class Still:
    """A policy whose answers are the number of the query."""

    spec = spec(NAMES, UNITS)

    def __init__(self):
        self.count = 0

    def reset(self, seed):
        self.count = 0

    def chunk(self, observation):
        self.count += 1
        return np.full((20, 3), float(self.count))


def test_the_executor_knows_the_grippers_of_its_policy():
    executor = ActionExecutor(Still(), "replay:2~8,1")
    rows = np.stack([executor.act(None) for _ in range(4)])
    assert rows[2, 0] == pytest.approx(1.0)  # where the chunk before would have gone on
    assert rows[3, 0] < 1.1
    np.testing.assert_allclose(rows[3, 1:], 1.5)  # a gripper is half-way after one tick of two


def test_a_replay_that_is_cut_to_the_chunk_keeps_its_fade():
    assert Execution("replay:200~10").within(50).chunking == "replay:50~10"
    assert Execution("replay:20~10,2").within(50).chunking == "replay:20~10,2"


def test_a_fade_below_zero_is_refused():
    with pytest.raises(BadInput, match="at least 0"):
        Replay(5, 0, -1)
