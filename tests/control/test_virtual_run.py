"""Runs on the virtual clock: the same bytes each time, and the actions of a rollout."""

from __future__ import annotations

import numpy as np
import pytest
import virtual_hour

from imitact.control.async_inference import DelayedInference
from imitact.control.control_loop import BRAKE_S, ControlLoop
from imitact.control.parking import first_command
from imitact.control.sources import PolicySource
from imitact.core.answer_delay import delayed_by
from imitact.core.clock import VirtualClock
from imitact.core.execution import parse
from imitact.core.rollout import rollout
from imitact.robots.simulated import SimulatedRobot
from tests.support.control import PassThrough
from tests.support.tiny_arm import SPEC, TinyArm


def test_virtual_minutes_of_a_disturbed_run_have_the_same_bytes_each_time():
    digest, facts = virtual_hour.run(1.0, seed=0)
    assert virtual_hour.run(1.0, seed=0) == (digest, facts)
    assert virtual_hour.run(1.0, seed=6)[0] != digest
    assert not facts["faults"]
    assert 3000 <= facts["ticks"] + facts["skipped"] <= 3000 + BRAKE_S * 50
    assert facts["skipped"] > 0
    assert facts["stages"].keys() >= {"passed", "motion", "not_asked"}
    assert facts["holds"].keys() == {
        *("stopped", "no_state", "state_old", "answer_late", "waiting")
    }


class Looks:
    """A policy whose chunk depends on the state and on the gray level of a picture."""

    spec = SPEC

    def reset(self, seed: int) -> None: ...

    def chunk(self, observation):
        level = float(observation.frames["eye"][0, 0, 0])
        return np.sin(np.arange(12)[:, None] / 3 + observation.state + level / 100)


@pytest.mark.parametrize("chunking", ["replay:7", "ensemble:0.1/2"])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_a_run_on_a_simulated_robot_has_the_actions_of_a_rollout_with_the_same_delay(
    chunking, delay
):
    ticks = rollout(Looks(), TinyArm(), seed=3, chunking=parse(chunking, delay))
    wanted = np.stack([tick.action for tick in ticks])
    clock, records = VirtualClock(), []
    robot = SimulatedRobot(TinyArm(), clock, seed=3)
    inference = DelayedInference(Looks(), delayed_by([delay]), SPEC.rate_hz)
    source = PolicySource(inference, parse(chunking, delay), SPEC.rate_hz, ("eye",))
    loop = ControlLoop(robot, source, PassThrough(), clock, SPEC.rate_hz, records.append)
    outcome = loop.run(first_command(robot), TinyArm.step_cap)
    assert not outcome.faults
    assert np.stack([record.action for record in records]).tobytes() == wanted.tobytes()
