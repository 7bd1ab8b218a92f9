"""Chunking: replay and temporal ensemble execute the predictions of the paper, late or not."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.execution import Execution, parse
from imitact.core.temporal_ensemble import Ensemble


def run(chunking, chunks, ticks):
    """Feed chunks[t] at each tick that wants one; return the actions and the queried ticks."""
    chunking.reset()
    actions, queried = [], []
    for tick in range(ticks):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick])
            queried.append(tick)
        actions.append(chunking.next())
    return np.stack(actions), queried


def papers_ensemble(chunks, ticks, m):
    """The released code's all_time_actions table, (T, T + K, A), without its zero test."""
    k, a = chunks[0].shape
    table = np.full((ticks, ticks + k, a), np.nan)
    actions = []
    for tick in range(ticks):
        table[tick, tick : tick + k] = chunks[tick]
        column = table[:, tick]
        predictions = column[~np.isnan(column).any(axis=1)]
        weights = np.exp(-m * np.arange(len(predictions)))
        weights = weights / weights.sum()
        actions.append((predictions * weights[:, None]).sum(axis=0))
    return np.stack(actions)


def random_chunks(ticks, k, a, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, a)) for _ in range(ticks)]


@given(st.integers(1, 12), st.integers(1, 30), st.floats(-0.5, 0.5), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_the_ensemble_equals_the_table_of_the_paper(k, ticks, m, seed):
    chunks = random_chunks(ticks, k, 3, seed)
    actions, queried = run(Ensemble(m), chunks, ticks)
    assert queried == list(range(ticks))
    np.testing.assert_allclose(actions, papers_ensemble(chunks, ticks, m), rtol=1e-12, atol=1e-12)


def test_the_oldest_prediction_weighs_most_when_m_is_positive():
    ensemble = Ensemble(0.5)
    ensemble.feed(np.array([[0.0], [1.0]]))
    ensemble.next()
    ensemble.feed(np.array([[0.0], [9.0]]))
    assert ensemble.next()[0] == pytest.approx(1.0 / (1.0 + np.exp(-0.5)))


def test_a_zero_action_counts_like_any_other():
    chunks = [np.full((2, 1), 2.0), np.zeros((2, 1))]
    actions, _ = run(Ensemble(0.0), chunks, 2)
    assert actions[1, 0] == pytest.approx(1.0)


def test_a_chunk_does_not_count_beyond_its_last_tick():
    chunks = [np.full((2, 1), 100.0), np.zeros((2, 1)), np.zeros((2, 1))]
    actions, _ = run(Ensemble(0.0), chunks, 3)
    assert actions[2, 0] == 0.0


@pytest.mark.parametrize("every", [1, 3, 5, 9])
def test_the_ensemble_holds_no_more_chunks_than_can_be_live(every):
    k = 9
    ensemble = Ensemble(0.01, every)
    for tick in range(200):
        if ensemble.wants_chunk:
            ensemble.feed(np.full((k, 2), float(tick)))
        assert len(ensemble._live) <= -(-k // every)
        ensemble.next()


@pytest.mark.parametrize("delay", [0, 3])
def test_replay_holds_one_chunk(delay):
    replay = Replay(4, delay)
    for tick in range(100):
        if replay.wants_chunk:
            replay.feed(np.full((20, 2), float(tick)))
        assert len(replay._live) <= 1
        replay.next()


def test_a_query_every_n_ticks_averages_the_predictions_of_those_ticks_alone():
    chunks = random_chunks(8, 6, 2)
    actions, queried = run(Ensemble(0.1, every=3), chunks, 8)
    assert queried == [0, 3, 6]
    np.testing.assert_allclose(actions[2], chunks[0][2])
    weights = np.exp(-0.1 * np.arange(2))
    np.testing.assert_allclose(
        actions[4], (weights[0] * chunks[0][4] + weights[1] * chunks[3][1]) / weights.sum()
    )


def test_the_policy_is_queried_again_when_a_short_chunk_runs_out():
    _, queried = run(Ensemble(0.0, every=5), random_chunks(8, 3, 1), 8)
    assert queried[:3] == [0, 3, 5]


@pytest.mark.parametrize(("m", "born"), [(-1000.0, 30), (-1e308, 30), (1e308, 11)])
def test_no_m_can_overflow_the_weights(m, born):
    chunks = random_chunks(40, 20, 1)
    actions, _ = run(Ensemble(m), chunks, 40)
    np.testing.assert_allclose(actions[30], chunks[born][30 - born])


def test_replay_executes_n_of_k_actions_then_queries_again():
    chunks = random_chunks(10, 5, 2)
    actions, queried = run(Replay(3), chunks, 10)
    assert queried == [0, 3, 6, 9]
    np.testing.assert_array_equal(actions[4], chunks[3][1])


def test_replay_of_more_than_k_actions_executes_the_whole_chunk():
    _, queried = run(Replay(100), random_chunks(10, 4, 1), 10)
    assert queried == [0, 4, 8]


def test_with_one_tick_chunks_replay_and_ensemble_are_equal():
    chunks = random_chunks(6, 1, 3)
    np.testing.assert_allclose(run(Replay(1), chunks, 6)[0], run(Ensemble(0.01), chunks, 6)[0])


def test_a_chunk_that_is_changed_after_it_was_fed_changes_no_action():
    chunk = np.ones((2, 1))
    for chunking in (Replay(2), Ensemble(0.0)):
        chunking.feed(chunk)
        chunk[:] = 7.0
        assert chunking.next()[0] == 1.0
        chunk[:] = 1.0


def test_reset_drops_the_chunks_of_the_episode_before():
    for chunking in (Replay(4), Ensemble(0.0)):
        chunking.feed(np.full((4, 1), 5.0))
        chunking.next()
        chunking.reset()
        assert chunking.wants_chunk
        chunking.feed(np.zeros((4, 1)))
        assert chunking.next()[0] == 0.0


def test_a_chunk_that_is_not_finite_never_reaches_an_arm():
    chunk = np.zeros((3, 2))
    chunk[1, 1] = np.nan
    for chunking in (Replay(2), Ensemble(0.0)):
        with pytest.raises(NotFinite, match="row 1, dimension 1"):
            chunking.feed(chunk)


def test_an_action_without_a_chunk_is_refused():
    for chunking in (Replay(2), Ensemble(0.0)):
        with pytest.raises(ImitactError, match="feed a chunk"):
            chunking.next()


@pytest.mark.parametrize(
    "text",
    ["replay:50", "replay:25~10", "replay:25~3", "replay:25~10,0", "replay:9~0,4", "ensemble:0.01",
     "ensemble:-0.1", "ensemble:0/5"],
)  # fmt: skip
def test_a_setting_is_parsed_back_to_the_same_text(text):
    assert parse(parse(text).text).text == parse(text).text == text


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)  # a busy machine may pause anything
def test_every_m_is_parsed_back_to_its_last_bit(m):
    assert parse(Ensemble(m).text)._m == m


@pytest.mark.parametrize(
    "text",
    ["", "replay", "replay:0", "replay:-1", "replay:1.5", "replay:5~", "replay:5~-1",
     "replay:5~1.5",
     "replay:5~3,", "replay:5,3", "replay:5~1234567890", "ensemble:0.1~5", "ensemble:nan",
     "ensemble:1/0", "mean:3"],
)  # fmt: skip
def test_an_invalid_setting_is_refused(text):
    with pytest.raises(BadInput):
        parse(text)


def test_a_chunk_of_another_width_is_refused():
    ensemble = Ensemble(0.0)
    ensemble.feed(np.zeros((3, 2)))
    ensemble.next()
    with pytest.raises(BadInput, match="3 action dimensions"):
        ensemble.feed(np.zeros((3, 3)))
    with pytest.raises(BadInput, match="shape"):
        Replay(3).feed(np.zeros(3))


# Late answers


def numbered(ticks, k):
    """Chunks whose values are 1000 times the tick of their query, plus the row."""
    return [1000.0 * t + np.arange(k, dtype=float)[:, None] for t in range(ticks)]


def run_late(chunking, chunks, ticks):
    """Like `run`; a tick in which the robot waits has the action None."""
    chunking.reset()
    actions, queried = [], []
    for tick in range(ticks):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick])
            queried.append(tick)
        action = chunking.next()
        actions.append(None if action is None else float(action[0]))
    return actions, queried


def live_predictions(queried, actions, delay, tick, k):
    """The chunks that are live at a tick, oldest first, as (tick of the query, row)."""
    moved = [0]
    for action in actions:
        moved.append(moved[-1] + (action is not None))
    arrived = [t for t in queried if t + delay <= tick]
    rows = [(t, moved[tick] - moved[t]) for t in arrived]
    return [(t, row) for t, row in rows if row < k]


late_settings = st.one_of(
    st.builds(lambda n, d: (Replay(n, d), None, d), st.integers(1, 15), st.integers(0, 12)),
    st.builds(
        lambda m, e, d: (Ensemble(m, e, d), m, d),
        st.floats(-0.5, 0.5), st.integers(1, 15), st.integers(0, 12),
    ),
)  # fmt: skip


@given(late_settings, st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_an_action_is_made_of_the_chunks_that_have_arrived_each_at_its_own_row(setting, k):
    chunking, m, delay = setting
    actions, queried = run_late(chunking, numbered(60, k), 60)
    for tick, action in enumerate(actions):
        live = live_predictions(queried, actions, delay, tick, k)
        if action is None:
            assert live == []
            continue
        predictions = np.array([1000 * t + row for t, row in live], dtype=float)
        if m is None:
            assert action == predictions[-1]
        else:
            weights = np.exp(-m * np.arange(len(predictions)))
            assert action == pytest.approx(weights @ predictions / weights.sum(), rel=1e-9)


@given(late_settings, st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_there_is_one_query_at_a_time(setting, k):
    chunking, _, delay = setting
    _, queried = run_late(chunking, numbered(60, k), 60)
    assert queried[0] == 0
    assert all(later - earlier >= max(delay, 1) for earlier, later in pairwise(queried))


@given(late_settings, st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_with_long_enough_chunks_a_robot_waits_only_at_the_start(setting, k):
    chunking, _, delay = setting
    actions, _ = run_late(chunking, numbered(90, k), 90)
    assert actions[:delay] == [None] * delay
    if k >= 2 * delay:
        assert None not in actions[delay:]
    else:  # and it never waits longer than the delay
        gaps = "".join("." if a is None else "x" for a in actions).split("x")
        assert max(map(len, gaps)) <= delay


def test_the_first_chunk_begins_at_row_0_after_the_wait_and_the_next_at_row_d():
    actions, queried = run_late(Replay(10, delay_ticks=3), numbered(30, 20), 30)
    assert queried == [0, 13, 23]
    assert actions[:3] == [None] * 3
    assert actions[3:13] == [float(row) for row in range(10)]
    assert actions[13:16] == [10.0, 11.0, 12.0]  # the earlier chunk is executed meanwhile
    assert actions[16:19] == [13003.0, 13004.0, 13005.0]


def test_the_policy_is_queried_before_the_chunk_runs_out():
    for chunking in (Replay(20, 3), Ensemble(0.0, 20, 3)):
        actions, queried = run_late(chunking, numbered(40, 10), 40)
        assert queried[:2] == [0, 10]  # 7 rows executed, 3 left for the time of the answer
        assert actions[12:14] == [9.0, 10003.0]


def test_a_policy_is_not_queried_more_often_than_it_answers():
    for chunking in (Replay(4, 6), Ensemble(0.0, 4, 6)):
        _, queried = run_late(chunking, numbered(60, 30), 60)
        assert queried[:2] == [0, 10]  # 4 ticks after the first action, which waited 6
        assert set(np.diff(queried[1:])) == {6}


def test_a_late_prediction_is_weighted_by_the_age_of_its_observation():
    m = 0.5
    actions, queried = run_late(Ensemble(m, every=4, delay_ticks=2), numbered(20, 12), 20)
    assert queried[:3] == [0, 6, 10]  # 4 and 8 ticks after the first action
    assert actions[7] == 5.0  # queried, not arrived yet
    old, new = 6.0, 6002.0
    assert actions[8] == pytest.approx((old + np.exp(-m) * new) / (1 + np.exp(-m)))


def test_a_chunk_as_short_as_its_delay_is_executed_whole_between_waits():
    actions, queried = run_late(Replay(9, delay_ticks=4), numbered(20, 3), 20)
    assert queried == [0, 7, 14]
    assert actions[4:7] == [0.0, 1.0, 2.0]
    assert actions[7:11] == [None] * 4
    assert actions[11:14] == [7000.0, 7001.0, 7002.0]


def test_a_delay_below_zero_is_refused():
    for make in (
        lambda: Replay(3, -1),
        lambda: Ensemble(0.0, 1, -1),
        lambda: parse("replay:3", -1),
    ):
        with pytest.raises(BadInput, match="delay_ticks is -1; expected at least 0"):
            make()


def test_equal_executions_are_spelled_alike_and_name_their_delay():
    assert Execution("ensemble:.010/1", 3) == Execution("ensemble:0.01", 3)
    assert str(Execution("ensemble:0.01/5")) == "ensemble:0.01/5"
    assert str(Execution("replay:50", 1)) == "replay:50 with a delay of 1 tick"
    assert str(Execution("replay:50", 3)) == "replay:50 with a delay of 3 ticks"
    with pytest.raises(BadInput, match="not known"):
        Execution("replay")


def test_numbers_of_any_length_are_refused_at_once():
    for text in ("replay:" + "9" * 10_000, "ensemble:1/" + "9" * 10_000, "ensemble:1e999"):
        with pytest.raises(BadInput):
            parse(text)


# Queries and answers by tick


def run_answered(chunking, chunks, delays, skips=()):
    """Query by `ask`, answer by `feed(chunk, asked_tick)` after a delay drawn for each query.

    Returns:
        The action of each tick that was not skipped, and the ticks of the queries.
    """
    chunking.reset()
    actions, queried, due = {}, [], 0

    def take():
        if chunking.asked_tick is not None and tick >= due:
            chunking.feed(chunks[chunking.asked_tick], chunking.asked_tick)

    for tick in range(len(chunks)):
        if tick in skips:
            continue
        chunking.skip_to(tick)
        take()
        if chunking.wants_chunk:
            chunking.ask(tick)
            queried.append(tick)
            due = tick + delays[len(queried) - 1]
            take()
        action = chunking.next()
        actions[tick] = None if action is None else float(action[0])
    return actions, queried


@given(late_settings, st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_an_answer_that_comes_after_the_simulated_delay_is_executed_like_the_simulated_one(
    setting, k
):
    chunking, _, delay = setting
    simulated = run_late(chunking, numbered(60, k), 60)
    actions, queried = run_answered(chunking, numbered(60, k), [delay] * 60)
    assert (list(actions.values()), queried) == simulated


@given(
    st.lists(st.integers(0, 15), min_size=120, max_size=120),
    st.sets(st.integers(1, 119), max_size=20),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_each_row_is_executed_at_its_own_tick_whatever_is_late_or_skipped(delays, skips, n):
    """Rows move on by the ticks that passed, less those in which the robot waited."""
    actions, queried = run_answered(Replay(n, 15), numbered(120, 80), delays, skips)
    first = min(tick for tick, action in actions.items() if action is not None)
    assert set(queried) <= set(actions)
    for tick, action in actions.items():
        assert (action is None) == (tick < first)  # 80 rows outlast every skip and delay
        if action is not None:
            asked, row = divmod(int(action), 1000)
            assert row == (tick - first if asked == 0 else tick - asked)


def test_a_late_answer_drops_the_rows_of_the_ticks_since_its_query():
    chunking = Replay(6)
    chunking.ask(0)
    chunking.feed(numbered(1, 10)[0], 0)
    executed = [float(chunking.next()[0]) for _ in range(3)]
    chunking.ask(3)
    executed += [float(chunking.next()[0]) for _ in range(4)]
    chunking.feed(np.full((10, 1), 500.0) + np.arange(10)[:, None], 3)
    assert executed == [0, 1, 2, 3, 4, 5, 6]
    assert chunking.next()[0] == 504.0


def test_skipped_ticks_consume_rows_and_held_ones_do_not():
    chunking = Replay(20)
    chunking.feed(np.arange(20.0)[:, None])
    assert chunking.next()[0] == 0.0
    chunking.skip_to(4)
    assert chunking.next()[0] == 4.0
    chunking.wait()
    chunking.wait()
    assert chunking.tick == 7
    assert chunking.next()[0] == 5.0


def test_an_answer_whose_rows_have_all_passed_is_dropped_whole():
    chunking = Replay(4)
    chunking.feed(np.arange(9.0)[:, None])
    chunking.skip_to(4)
    chunking.ask(4)
    chunking.skip_to(8)
    chunking.feed(np.full((3, 1), 99.0), 4)
    assert chunking.wants_chunk
    chunking.ask(8)
    assert chunking.next()[0] == 8.0


def test_a_query_that_is_taken_back_is_due_again_at_once():
    chunking = Replay(4)
    chunking.feed(np.arange(9.0)[:, None])
    chunking.skip_to(4)
    chunking.ask(4)
    chunking.drop_query()
    assert chunking.asked_tick is None
    assert chunking.wants_chunk
    chunking.wait()
    assert chunking.wants_chunk


def test_an_answer_to_no_open_query_is_refused():
    chunking = Replay(4)
    with pytest.raises(ImitactError, match="none is open"):
        chunking.feed(np.zeros((3, 1)), 0)
    chunking.ask(0)
    with pytest.raises(ImitactError, match="that of 0 is open"):
        chunking.feed(np.zeros((3, 1)), 5)
    with pytest.raises(ImitactError, match="not answered yet"):
        chunking.ask(0)
    chunking.reset()
    with pytest.raises(ImitactError, match="the turn of tick 0"):
        chunking.ask(2)
