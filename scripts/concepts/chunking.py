"""Figure on action chunks: demonstrations with a pause, imitated with chunks of several lengths.

A one-dimensional task: positions move from 0 to 1 and pause for about half a second near the
middle, as people pause before a grasp. The imitator looks up what followed at similar positions and
predicts the median, tick by tick: the optimum of the L1 loss that ACT trains with. imitact's own
rollout and Replay run it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concepts.style import BLUE, FAINT, ORANGE, label, panels
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
    """Return positions in m, (TICKS,): to the middle, a pause of 0.4 to 0.7 s, on to the end."""
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
    """An environment of one point that moves to its command, starts near 0 and succeeds near 1."""

    spec, step_cap, stages = SPEC, TICKS, ()

    def reset(self, seed: int) -> Observation:
        self.rng = np.random.default_rng([seed, 1])
        self.x = self.rng.normal(0.0, 0.005)
        return self.observe()

    def step(self, action: FloatArray) -> StepResult:
        self.spec.check_action(action)
        self.x = float(action[0])
        return StepResult(self.observe(), 0.0, self.x > 0.97)

    def observe(self) -> Observation:
        """Return the measured position, with noise of half a millimetre."""
        return Observation(np.array([self.x + self.rng.normal(0.0, 0.0005)]))

    def close(self) -> None:
        pass


class Imitator:
    """A policy that predicts the median of what followed at the nearest demonstrated positions."""

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
    """Return the commands of an episode with whole chunks of k ticks, and whether it succeeded."""
    policy = Imitator(k, demonstrations)
    ticks = list(rollout(policy, Line(), seed=seed, chunking=Replay(k)))
    return np.array([t.action[0] for t in ticks]), any(t.success for t in ticks)


def draw() -> str:
    """Draw one episode for K = 1 and K = 50 (left), and the number of successes over K (right)."""
    rng = np.random.default_rng(0)
    shown = [demonstration(rng) for _ in range(DEMONSTRATIONS)]
    reached = [sum(run(k, seed, shown)[1] for seed in SEEDS) for k in CHUNKS]
    seconds = np.arange(TICKS) / RATE_HZ
    with panels(2) as ((left, right), svg):
        for path in shown[:12]:
            left.plot(seconds, path, color=FAINT, linewidth=0.7, alpha=0.6)
        for k, colour in ((50, BLUE), (1, ORANGE)):
            left.plot(seconds, run(k, 0, shown)[0], color=colour)
        label(left, 2.15, 0.42, "K = 1 never moves on", ORANGE)
        label(left, 1.15, 0.84, "K = 50", BLUE)
        label(left, 2.35, 0.84, "demonstrations", FAINT)
        left.set(xlabel="time, s", ylabel="position, m", ylim=(-0.05, 1.15), xlim=(0, 4))
        left.set_title("demonstrations with a pause", y=1.02)
        places = np.arange(len(CHUNKS))
        bars = right.bar(places, reached, width=0.7, color=BLUE)
        bars[0].set_color(ORANGE)
        for place, count in zip(places, reached, strict=True):
            label(right, float(place), count + 0.6, str(count), ha="center")
        right.set_xticks(places, [str(k) for k in CHUNKS])
        right.set(xlabel="K, ticks of 20 ms", ylabel=f"successes of {len(SEEDS)}", ylim=(0, 34))
        right.set_title("success by chunk length", y=1.02)
    return svg[0]
