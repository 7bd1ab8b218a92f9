"""Figure on the temporal ensemble: weights of the predictions, and smoothness of the commands.

The weights are read from imitact's Ensemble: the chunk of query q is 1 in column q and 0 elsewhere,
so the averaged action equals the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concepts.style import BLUE, FAINT, GREEN, ORANGE, label, panels
from imitact.core.chunking import Replay
from imitact.core.temporal_ensemble import Ensemble

K = 100
RATE_HZ = 50.0
TICKS = 200

Rows = NDArray[np.float64]


def weights(m: float) -> Rows:
    """Return the weights of the K live predictions, (K,), oldest first, K queries after a start."""
    ensemble = Ensemble(m)
    for query in range(K - 1):
        ensemble.feed(np.eye(K)[[query] * K])
        ensemble.next()
    ensemble.feed(np.eye(K)[[K - 1] * K])
    return _next(ensemble)


def path() -> Rows:
    """Return the intended movement in rad, (TICKS + K,)."""
    t = np.arange(TICKS + K) / RATE_HZ
    return 0.6 * np.sin(1.1 * t) + 0.2 * np.sin(2.9 * t)


def predictions() -> Rows:
    """Return chunks, (TICKS, K): the movement with an error per query that grows over the chunk."""
    rng = np.random.default_rng(3)
    ahead = np.lib.stride_tricks.sliding_window_view(path(), K)[:TICKS]
    return ahead + rng.normal(0.0, 0.3, (TICKS, 1)) * np.arange(K) / K


def run(chunking: Replay | Ensemble) -> Rows:
    """Return the commands, (TICKS,)."""
    commands, chunks = [], predictions()
    for tick in range(TICKS):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick][:, None])
        commands.append(_next(chunking)[0])
    return np.array(commands)


def _next(chunking: Replay | Ensemble) -> Rows:
    action = chunking.next()
    assert action is not None
    return action


def largest_jump(commands: Rows) -> float:
    """Return the largest change from tick to tick beyond that of the movement itself, rad."""
    return float(np.abs(np.diff(commands) - np.diff(path()[:TICKS])).max())


def draw() -> str:
    """Draw weights over age for three m (left), and one movement replayed and averaged (right)."""
    age_s = np.arange(K - 1, -1, -1) / RATE_HZ
    seconds = np.arange(TICKS) / RATE_HZ
    with panels(2) as ((left, right), svg):
        for m, colour in ((0.01, BLUE), (0.1, GREEN), (-0.1, ORANGE)):
            left.plot(age_s, 100 * weights(m), color=colour)
        label(left, 1.84, 5.2, "m = 0.1: favours old", GREEN, ha="right")
        label(left, 0.16, 8.6, "m = −0.1: favours new", ORANGE)
        label(left, 1.0, 1.9, "m = 0.01: nearly a plain mean", BLUE, ha="center")
        left.set(xlabel="age of the prediction, s", ylabel="weight, %", xlim=(0, 2), ylim=(0, 10.5))
        left.set_title("weights of the predictions", y=1.02)
        ways = ((Replay(50), ORANGE), (Ensemble(0.01, 10), BLUE))
        right.plot(seconds, path()[:TICKS], color=FAINT, linewidth=0.9)
        for chunking, colour in ways:
            commands = run(chunking)
            right.plot(seconds, commands, color=colour, linewidth=1.4)
            place = (0.05, 0.98) if isinstance(chunking, Replay) else (0.05, 0.83)
            text = f"{chunking.text}: jumps of up to {largest_jump(commands):.2f} rad"
            label(right, *place, text, colour, va="top", transform=right.transAxes)
        label(right, 0.05, 0.06, "the intended movement", FAINT, transform=right.transAxes)
        right.set(xlabel="time, s", ylabel="command, rad", xlim=(0, 4), ylim=(-1.0, 1.75))
        right.set_title("the same predictions, executed two ways", y=1.02)
    return svg[0]
