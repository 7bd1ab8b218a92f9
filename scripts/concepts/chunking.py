"""Why chunks: a demonstrator who waits, imitated one action and many actions at a time.

A toy of one dimension, learned and run for real: positions go from 0 to 1, with a wait of about
half a second near the middle, as people wait before they grasp. The imitator has seen what
followed at similar positions and answers with the median of it, tick by tick: the best answer
under the L1 error that ACT trains with. It is run by imitact's own rollout and Replay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concepts.look import BLUE, FAINT, ORANGE, panels, say
from imitact.core.chunking import Replay
from imitact.core.rollout import rollout
from imitact.core.types import FloatArray, Observation, Spec, StepResult
from imitact.envs.experts.trajectories import minimum_jerk

RATE_HZ = 50.0
SPEC = Spec(("x",), ("x",), ("m",), ("m",), (), RATE_HZ)
TICKS = 200
DEMONSTRATIONS = 40
NEIGHBOURS = 60
CHUNKS = (1, 5, 10, 20, 30, 50, 100)
SEEDS = range(30)

Rows = NDArray[np.float64]


def demonstration(rng: np.random.Generator) -> Rows:
    """(TICKS,) positions, m: to the middle, a wait of 0.4 to 0.7 s, on to the end."""
    first, wait, second = rng.integers(35, 55), rng.integers(20, 35), rng.integers(35, 55)
    middle = rng.normal(0.5, 0.01)
    legs = [
        middle * minimum_jerk(np.arange(first) / first),
        np.full(wait, middle),
        middle + (1 - middle) * minimum_jerk(np.arange(second) / second),
    ]
    path = np.concatenate(legs)
    return np.concatenate([path, np.ones(TICKS - len(path))])


class Line:
    """A point that goes where it is told. It starts near 0 and has succeeded near 1."""

    spec, step_cap, stages = SPEC, TICKS, ()

    def reset(self, seed: int) -> Observation:
        self.rng = np.random.default_rng([seed, 1])
        self.x = self.rng.normal(0.0, 0.005)
        return self.look()

    def step(self, action: FloatArray) -> StepResult:
        self.spec.check_action(action)
        self.x = float(action[0])
        return StepResult(self.look(), 0.0, self.x > 0.97)

    def look(self) -> Observation:
        """Measured to half a millimetre."""
        return Observation(np.array([self.x + self.rng.normal(0.0, 0.0005)]))

    def close(self) -> None:
        pass


class Imitator:
    """What followed where the demonstrations were nearest: the median of it, tick by tick."""

    spec = SPEC

    def __init__(self, k: int, demonstrations: list[Rows]) -> None:
        rows = [np.concatenate([d, np.full(k, d[-1])]) for d in demonstrations]
        self.at = np.concatenate([d[:-k] for d in rows])
        ahead = [np.lib.stride_tricks.sliding_window_view(d[1:], k) for d in rows]
        self.ahead = np.concatenate(ahead)

    def reset(self, seed: int) -> None:
        pass

    def chunk(self, observation: Observation) -> Rows:
        away = np.abs(self.at - observation.state[0])
        nearest = np.argpartition(away, NEIGHBOURS)[:NEIGHBOURS]
        return np.median(self.ahead[nearest], axis=0)[:, None]


def run(k: int, seed: int, demonstrations: list[Rows]) -> tuple[Rows, bool]:
    """The commanded positions of an episode with chunks of k ticks, all executed."""
    policy = Imitator(k, demonstrations)
    ticks = list(rollout(policy, Line(), seed=seed, chunking=Replay(k)))
    return np.array([t.action[0] for t in ticks]), any(t.success for t in ticks)


def draw() -> str:
    """Left: one episode for K = 1 and K = 50. Right: how often the end is reached, by K."""
    rng = np.random.default_rng(0)
    shown = [demonstration(rng) for _ in range(DEMONSTRATIONS)]
    reached = [sum(run(k, seed, shown)[1] for seed in SEEDS) for k in CHUNKS]
    seconds = np.arange(TICKS) / RATE_HZ
    with panels(2) as ((left, right), svg):
        for path in shown[:12]:
            left.plot(seconds, path, color=FAINT, linewidth=0.7, alpha=0.6)
        for k, colour in ((50, BLUE), (1, ORANGE)):
            left.plot(seconds, run(k, 0, shown)[0], color=colour)
        say(left, 2.3, 0.42, "K = 1 waits for ever", ORANGE)
        say(left, 1.15, 0.84, "K = 50", BLUE)
        say(left, 2.35, 0.84, "demonstrations", FAINT)
        left.set(xlabel="time, s", ylabel="position, m", ylim=(-0.05, 1.15), xlim=(0, 4))
        left.set_title("a demonstrator who waits", y=1.02)
        places = np.arange(len(CHUNKS))
        bars = right.bar(places, reached, width=0.7, color=BLUE)
        bars[0].set_color(ORANGE)
        for place, count in zip(places, reached, strict=True):
            say(right, place, count + 0.6, str(count), ha="center")
        right.set_xticks(places, [str(k) for k in CHUNKS])
        right.set(xlabel="K, ticks of 20 ms", ylabel=f"of {len(SEEDS)} reach the end", ylim=(0, 34))
        right.set_title("success by chunk length", y=1.02)
    return svg[0]
