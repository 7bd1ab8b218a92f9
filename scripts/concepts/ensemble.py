"""The temporal ensemble: what each prediction weighs, and how steady the command becomes.

The weights are asked of imitact's Ensemble itself: the chunk of query q says 1 in column q and 0
elsewhere, so the action that comes out is the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concepts.look import BLUE, FAINT, GREEN, ORANGE, panels, say
from imitact.core.chunking import Ensemble, Replay

K = 100
RATE_HZ = 50.0
TICKS = 200

Rows = NDArray[np.float64]


def weights(m: float) -> Rows:
    """(K,) of the predictions that are live, oldest first, K queries after the start."""
    ensemble = Ensemble(m)
    for query in range(K - 1):
        ensemble.feed(np.eye(K)[[query] * K])
        ensemble.next()
    ensemble.feed(np.eye(K)[[K - 1] * K])
    return ensemble.next()


def path() -> Rows:
    """(TICKS + K,) a movement, rad."""
    t = np.arange(TICKS + K) / RATE_HZ
    return 0.6 * np.sin(1.1 * t) + 0.2 * np.sin(2.9 * t)


def predictions() -> Rows:
    """(TICKS, K): the movement, wrong otherwise at each query, and the more the further ahead."""
    rng = np.random.default_rng(3)
    ahead = np.lib.stride_tricks.sliding_window_view(path(), K)[:TICKS]
    return ahead + rng.normal(0.0, 0.3, (TICKS, 1)) * np.arange(K) / K


def run(chunking: Replay | Ensemble) -> Rows:
    """(TICKS,) what is commanded."""
    told, chunks = [], predictions()
    for tick in range(TICKS):
        if chunking.wants_chunk:
            chunking.feed(chunks[tick][:, None])
        told.append(chunking.next()[0])
    return np.array(told)


def largest_jump(commands: Rows) -> float:
    """Of the command from one tick to the next, beyond what the movement itself asks for, rad."""
    return float(np.abs(np.diff(commands) - np.diff(path()[:TICKS])).max())


def draw() -> str:
    """Left: weights by age for three m. Right: one movement, replayed and averaged."""
    age_s = np.arange(K - 1, -1, -1) / RATE_HZ
    seconds = np.arange(TICKS) / RATE_HZ
    with panels(2) as ((left, right), svg):
        for m, colour in ((0.01, BLUE), (0.1, GREEN), (-0.1, ORANGE)):
            left.plot(age_s, 100 * weights(m), color=colour)
        say(left, 1.84, 5.2, "m = 0.1: the past", GREEN, ha="right")
        say(left, 0.16, 8.6, "m = −0.1: the present", ORANGE)
        say(left, 1.0, 1.9, "m = 0.01: nearly a plain mean", BLUE, ha="center")
        left.set(xlabel="age of the prediction, s", ylabel="weight, %", xlim=(0, 2), ylim=(0, 10.5))
        left.set_title("what a prediction weighs", y=1.02)
        ways = ((Replay(50), ORANGE), (Ensemble(0.01, 10), BLUE))
        right.plot(seconds, path()[:TICKS], color=FAINT, linewidth=0.9)
        for chunking, colour in ways:
            told = run(chunking)
            right.plot(seconds, told, color=colour, linewidth=1.4)
            place = (0.05, 0.98) if isinstance(chunking, Replay) else (0.05, 0.83)
            text = f"{chunking.text}: jumps of up to {largest_jump(told):.2f} rad"
            say(right, *place, text, colour, va="top", transform=right.transAxes)
        say(right, 0.05, 0.06, "the movement meant", FAINT, transform=right.transAxes)
        right.set(xlabel="time, s", ylabel="command, rad", xlim=(0, 4), ylim=(-1.0, 1.75))
        right.set_title("the same predictions, executed two ways", y=1.02)
    return svg[0]
