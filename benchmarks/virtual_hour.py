"""Virtual hour: an hour of a run on the virtual clock, timed, twice the same bytes.

    python benchmarks/virtual_hour.py [--minutes 60] [--seed 0]
        [--write benchmarks/results/virtual_hour.json]

A robot of 14 joints at 50 Hz, whose readings are up to two ticks old, runs a policy whose answers
take 0 to 15 ticks, drawn for each query, through the safety filter. Now and then ticks are skipped,
the state is too old, or a person stops and goes on. Everything is drawn from the seed. The bytes
are those of the packed records, as a recorder gets them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.async_inference import DelayedInference
from imitact.control.contract import Controls
from imitact.control.control_loop import ControlLoop
from imitact.control.safety_filter import SafetyFilter, Stage
from imitact.control.sources import PolicySource
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.answer_delay import delayed_by
from imitact.core.clock import VirtualClock
from imitact.core.execution import parse
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, SentCommand, ServoHealth, TimedFrame
from imitact.core.types import FloatArray, Observation, Spec
from imitact.recording.tick_record import TickFormat, TickRecord

SPEC = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (), ALOHA_RATE_HZ)


def limits() -> JointLimits:
    """Return limits that the policy below keeps within its chunks, and not at their seams."""
    ones = np.ones(SPEC.action_size)
    return JointLimits(
        SPEC.action_names, SPEC.action_units, -3 * ones, 3 * ones, 3 * ones, 40 * ones, 1500 * ones
    )


class Clock(VirtualClock):
    """A virtual clock on a busy computer: one wait in 500 takes up to four periods longer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)

    def wait_until(self, due_s: float) -> None:
        super().wait_until(due_s)
        if self._rng.random() < 0.002:
            super().wait_until(self.now_s() + self._rng.uniform(0.0, 4 / SPEC.rate_hz))


class LaggingRobot:
    """14 joints that follow by a share of the difference; one reading in 200 is late."""

    spec = SPEC

    def __init__(self, clock: VirtualClock, seed: int) -> None:
        self._clock, self._rng = clock, np.random.default_rng(seed)
        self._state = np.zeros(SPEC.state_size)
        self._readings: deque[Reading] = deque(maxlen=8)
        self._sent: SentCommand | None = None
        self._count = 0

    def reading(self) -> Reading | None:
        late = self._rng.random() < 0.005
        age = int(self._rng.integers(4, 7)) if late else int(self._rng.integers(0, 2))
        return self._readings[-1 - min(age, len(self._readings) - 1)] if self._readings else None

    def command(self, action: FloatArray, tick: int) -> None:
        now_s = self._clock.now_s()
        self._state = self._state + 0.3 * (action - self._state)
        self._count += 1
        self._readings.append(Reading(self._state, now_s, now_s + 0.002, self._count))
        self._sent = SentCommand(tick, action, now_s + 0.001)

    def frame(self, camera: str) -> TimedFrame | None:
        return None

    def health(self) -> Mapping[str, ServoHealth]:
        return {}

    def sent(self) -> SentCommand | None:
        return self._sent

    def fault(self) -> str:
        return ""


class Waves:
    """A policy whose chunks of 100 ticks swing about the state."""

    spec = SPEC

    def reset(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def chunk(self, observation: Observation) -> NDArray[np.float64]:
        phase = np.arange(100)[:, None] * self._rng.uniform(0.01, 0.05, SPEC.action_size)
        return 0.9 * np.asarray(observation.state) + 0.3 * np.sin(phase)


def run(minutes: float, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the SHA-256 of all packed records, and what happened."""
    clock, rng = Clock(seed), np.random.default_rng(seed + 1)
    robot = LaggingRobot(clock, seed + 2)
    inference = DelayedInference(Waves(), delayed_by(range(16), seed + 3), SPEC.rate_hz, seed)
    source = PolicySource(inference, parse("replay:50"), SPEC.rate_hz)
    safety = SafetyFilter(limits(), SPEC.rate_hz, spec=SPEC)
    form, digest = TickFormat.of(SPEC), hashlib.sha256()
    seen: Counter[str] = Counter()
    stages: Counter[int] = Counter()
    stopped = 0

    def controls() -> Controls:
        nonlocal stopped
        stopped = max(0, stopped - 1) if rng.random() > 0.0005 else int(rng.integers(5, 100))
        return Controls(stop=stopped > 0)

    def on_tick(record: TickRecord) -> None:
        digest.update(form.pack(record))
        seen["queries"] += record.query
        stages[record.stage] += 1

    loop = ControlLoop(robot, source, safety, clock, SPEC.rate_hz, on_tick, controls)
    outcome = loop.run(np.zeros(SPEC.action_size), round(minutes * 60 * SPEC.rate_hz))
    return digest.hexdigest(), {
        "ticks": outcome.ticks,
        "skipped": outcome.skipped,
        "queries": seen["queries"],
        "holds": {hold.name.lower(): n for hold, n in sorted(outcome.holds.items())},
        "stages": {Stage(stage).name.lower(): n for stage, n in sorted(stages.items())},
        "faults": dict(outcome.faults),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    digests, times_s, facts = [], [], {}
    for _ in range(2):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        digest, facts = run(options.minutes, options.seed)
        digests.append(digest)
        times_s.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    result = {
        "minutes": options.minutes,
        **facts,
        "same bytes": digests[0] == digests[1],
        "sha256": digests[0],
        "wall s": [round(wall_s, 1) for wall_s, _ in times_s],
        "cpu s": [round(cpu_s, 1) for _, cpu_s in times_s],
    }
    print(json.dumps(result, indent=2))
    if options.write:
        options.write.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
