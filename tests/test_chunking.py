"""Laws of executing chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.chunking import Ensemble, Replay, parse
from imitact.contract import BadInput, ImitactError, NotFinite


def run(chunking, chunks, ticks):
    """Feed chunks[t] at each tick that wants one; returns the actions and the ticks asked."""
    chunking.reset()
    actions, asked = [], []
    for tick in range(ticks):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick])
            asked.append(tick)
        actions.append(chunking.next())
    return np.stack(actions), asked


def papers_ensemble(chunks, ticks, m):
    """The released code's all_time_actions table, (T, T + K, A), without its zero test."""
    k, a = chunks[0].shape
    table = np.full((ticks, ticks + k, a), np.nan)
    actions = []
    for tick in range(ticks):
        table[tick, tick : tick + k] = chunks[tick]
        column = table[:, tick]
        votes = column[~np.isnan(column).any(axis=1)]
        weights = np.exp(-m * np.arange(len(votes)))
        weights = weights / weights.sum()
        actions.append((votes * weights[:, None]).sum(axis=0))
    return np.stack(actions)


def random_chunks(ticks, k, a, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, a)) for _ in range(ticks)]


@given(st.integers(1, 12), st.integers(1, 30), st.floats(-0.5, 0.5), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_the_ensemble_is_the_papers_table_in_little_memory(k, ticks, m, seed):
    chunks = random_chunks(ticks, k, 3, seed)
    actions, asked = run(Ensemble(m), chunks, ticks)
    assert asked == list(range(ticks))
    np.testing.assert_allclose(actions, papers_ensemble(chunks, ticks, m), rtol=1e-12, atol=1e-12)


def test_the_oldest_prediction_weighs_most_when_m_is_positive():
    ensemble = Ensemble(0.5)
    ensemble.feed(np.array([[0.0], [1.0]]))
    ensemble.next()
    ensemble.feed(np.array([[0.0], [9.0]]))
    assert ensemble.next()[0] == pytest.approx(1.0 / (1.0 + np.exp(-0.5)))


def test_a_zero_action_is_a_vote_not_an_absence():
    chunks = [np.full((2, 1), 2.0), np.zeros((2, 1))]
    actions, _ = run(Ensemble(0.0), chunks, 2)
    assert actions[1, 0] == pytest.approx(1.0)


def test_a_chunk_stops_voting_when_its_last_tick_has_passed():
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


def test_a_query_every_n_ticks_averages_the_predictions_of_those_ticks_alone():
    chunks = random_chunks(8, 6, 2)
    actions, asked = run(Ensemble(0.1, every=3), chunks, 8)
    assert asked == [0, 3, 6]
    np.testing.assert_allclose(actions[2], chunks[0][2])
    weights = np.exp(-0.1 * np.arange(2))
    np.testing.assert_allclose(
        actions[4], (weights[0] * chunks[0][4] + weights[1] * chunks[3][1]) / weights.sum()
    )


def test_a_chunk_shorter_than_the_interval_is_asked_for_again_when_it_runs_out():
    _, asked = run(Ensemble(0.0, every=5), random_chunks(8, 3, 1), 8)
    assert asked[:3] == [0, 3, 5]


@pytest.mark.parametrize(("m", "born"), [(-1000.0, 30), (-1e308, 30), (1e308, 11)])
def test_no_m_can_overflow_the_weights(m, born):
    chunks = random_chunks(40, 20, 1)
    actions, _ = run(Ensemble(m), chunks, 40)
    np.testing.assert_allclose(actions[30], chunks[born][30 - born])


def test_replay_executes_n_of_k_then_asks_again():
    chunks = random_chunks(10, 5, 2)
    actions, asked = run(Replay(3), chunks, 10)
    assert asked == [0, 3, 6, 9]
    np.testing.assert_array_equal(actions[4], chunks[3][1])


def test_replay_of_more_than_there_is_executes_the_whole_chunk():
    _, asked = run(Replay(100), random_chunks(10, 4, 1), 10)
    assert asked == [0, 4, 8]


def test_one_tick_chunks_make_replay_and_ensemble_the_same():
    chunks = random_chunks(6, 1, 3)
    np.testing.assert_allclose(run(Replay(1), chunks, 6)[0], run(Ensemble(0.01), chunks, 6)[0])


def test_changing_a_chunk_after_it_was_fed_changes_nothing():
    chunk = np.ones((2, 1))
    for chunking in (Replay(2), Ensemble(0.0)):
        chunking.feed(chunk)
        chunk[:] = 7.0
        assert chunking.next()[0] == 1.0
        chunk[:] = 1.0


def test_reset_forgets_the_episode_before():
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


@pytest.mark.parametrize("text", ["replay:50", "ensemble:0.01", "ensemble:-0.1", "ensemble:0/5"])
def test_a_setting_is_read_back_as_it_was_written(text):
    assert parse(parse(text).text).text == parse(text).text == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_m_is_read_back_to_its_last_bit(m):
    assert parse(Ensemble(m).text)._m == m


@pytest.mark.parametrize(
    "text",
    ["", "replay", "replay:0", "replay:-1", "replay:1.5", "ensemble:nan", "ensemble:1/0", "mean:3"],
)
def test_a_setting_that_means_nothing_is_refused(text):
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
