"""Safety filter: legal streams pass to the bit, hostile ones stay within the limits, every stage
acts, and a hold keeps the last command."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from imitact.control.contract import Ages, Asked, Controls, Safety, Verdict
from imitact.control.control_loop import ControlLoop
from imitact.control.motion_limits import MotionLimits
from imitact.control.safety_filter import (
    ALL_STAGES,
    SafetyBounds,
    SafetyFilter,
    Stage,
)
from imitact.control.servo_watch import FollowingBounds
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.joint_limits import DemonstratedLimits, combined_limits, demonstrated_limits
from imitact.core.robot import Reading, ServoHealth
from imitact.core.types import Spec
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.registry import make_expert
from imitact.robots.aloha_hardware import robot_limits
from imitact.robots.config import ArmConfig, RobotConfig
from tests.support.control import ARM, Counting, ObedientRobot
from tests.support.safety import (
    FRESH,
    RATE_HZ,
    HostileStream,
    Shares,
    aloha_limits,
    pair_limits,
    reading,
)

ROUNDING = 1 + 1e-7
SPEC = Spec(("waist", "gripper"), ("waist", "gripper"), ("rad",) * 2, ("rad",) * 2, (), RATE_HZ)


OPEN = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 1.0] * 2)
"""ALOHA at its start, with open grippers."""


def small(stages=ALL_STAGES, **changes):
    """Return a filter of two joints that begins at 0."""
    found = SafetyFilter(pair_limits(), RATE_HZ, stages=stages, **changes)
    found.begin(np.zeros(2))
    return found


def asked_for(safety, values, *, state=None, ages=FRESH, health=None):
    """Ask for each of the values in turn; return the verdicts."""
    return [
        safety.check(
            None if value is None else np.array(value, np.float64),
            None if state is None else reading(state),
            ages,
            health or {},
        )
        for value in values
    ]


def ramp(ticks, step=0.001):
    return [np.full(2, step * tick) for tick in range(1, ticks + 1)]


# -- each stage --------------------------------------------------------------------------------
# Each scenario returns whether the robot is safe in what the stage is for.


def shape(stages):
    """An action of one joint moves none."""
    verdict = small(stages).check(np.array([0.0001]), None, FRESH, {})
    return verdict.held and not verdict.action.any() and verdict.stage is Stage.SHAPE


def finite(stages):
    """A NaN for one joint stops all."""
    return asked_for(small(stages), [[np.nan, 0.0001]])[0].held


def plausible(stages):
    """Degrees where rad are expected stop the robot, and it does not go on by itself."""
    safety = small(stages)
    asked_for(safety, [[-55.0, 0.0]])
    return asked_for(safety, [[0.0001, 0.0]])[0].stopped


def in_range(stages):
    """A goal out of range is cut to it and reached, and the verdict says so."""
    verdict = asked_for(small(stages), [[1.05, 0.0]] * 100)[-1]
    return verdict.stage is Stage.RANGE and verdict.action[0] == 1.0


class _Wall:
    """What a joint hits beyond 0.5."""

    def refusal(self, now, *later):
        return "the arm and the wall would touch" if any(p[0] > 0.5 for p in later) else ""


def collision(stages):
    """The arm stops before the wall."""
    safety = small(stages, collisions=_Wall())
    verdicts = asked_for(safety, [[0.02 * tick, 0.0] for tick in range(50)])
    return max(v.action[0] for v in verdicts) <= 0.5 and verdicts[-1].held


def motion(stages):
    """A jump becomes a motion within the limits."""
    safety = small(stages)
    shares = Shares(MotionLimits(pair_limits(), RATE_HZ), np.zeros(2))
    for verdict in asked_for(safety, [[0.9, 0.0]] * 100):
        shares.add(verdict.action)
    return shares.worst <= ROUNDING


def stall(stages):
    """The goal of a gripper that holds something stays near to where it is."""
    safety = small(stages)
    verdicts = asked_for(safety, [[0.0, -0.9]] * 100, state=[0.0, -0.1])
    return verdicts[-1].action[1] >= -0.1 - 0.5 - 1e-9 and not verdicts[-1].held


def lag(stages):
    """A joint that is blocked is not pressed on."""
    safety = small(stages)
    verdicts = asked_for(safety, [[0.01 * tick, 0.0] for tick in range(90)], state=[0.0, 0.0])
    return verdicts[-1].held and verdicts[-1].action[0] < 0.6


def health(stages):
    """A hot servo holds the robot."""
    hot = {"waist": ServoHealth(0.0, temperature_c=75.0)}
    return asked_for(small(stages), ramp(10), health=hot)[-1].held


def age(stages):
    """A state that is 61 ms old holds the robot."""
    return asked_for(small(stages), ramp(10), ages=Ages(0.061, {}))[-1].held


SCENARIOS = {
    Stage.SHAPE: shape,
    Stage.FINITE: finite,
    Stage.PLAUSIBLE: plausible,
    Stage.RANGE: in_range,
    Stage.COLLISION: collision,
    Stage.MOTION: motion,
    Stage.STALL: stall,
    Stage.LAG: lag,
    Stage.HEALTH: health,
    Stage.AGE: age,
}


@pytest.mark.parametrize("stage", SCENARIOS, ids=lambda stage: stage.name)
def test_each_stage_protects_from_what_it_is_for_and_no_other_does_instead(stage):
    scenario = SCENARIOS[stage]
    assert scenario(ALL_STAGES)
    assert not scenario(ALL_STAGES - {stage})


def test_every_stage_that_checks_has_a_scenario():
    always = {Stage.PASSED, Stage.NOT_ASKED, Stage.HELD, Stage.FAILED}
    assert set(SCENARIOS) == set(Stage) - always


def test_the_numbers_of_the_stages_stay_what_recordings_have():
    assert [(stage.name, int(stage)) for stage in Stage] == [
        ("PASSED", 0), ("SHAPE", 1), ("FINITE", 2), ("PLAUSIBLE", 3), ("RANGE", 4),
        ("COLLISION", 5), ("MOTION", 6), ("STALL", 7), ("LAG", 8), ("HEALTH", 9), ("AGE", 10),
        ("NOT_ASKED", 11), ("HELD", 12), ("FAILED", 13),
    ]  # fmt: skip


# -- passing and catching up -------------------------------------------------------------------


def smooth(ticks=300, size=2, dtype=np.float64):
    """Return a stream within the limits of its own demonstration, (T, A)."""
    t = np.arange(ticks)[:, None] / RATE_HZ
    return (0.4 * np.sin(2 * t + np.arange(size)) - 0.4 * np.sin(np.arange(size))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_legal_stream_passes_to_the_bit(dtype):
    stream = smooth(dtype=dtype)
    limits = demonstrated_limits([stream], ("waist", "elbow"), ("rad", "rad"), RATE_HZ)
    safety = SafetyFilter(limits, RATE_HZ)
    safety.begin(stream[0])
    for row in stream:
        verdict = safety.check(row, None, FRESH, {})
        assert verdict.stage is Stage.PASSED
        assert (verdict.held, verdict.joint, verdict.words) == (False, "", "")
        assert verdict.action.dtype == np.float64
        assert np.array_equal(verdict.action, row)


def test_a_jump_is_caught_up_without_overshoot_and_then_passes_again():
    safety = small()
    goal = np.array([0.8, 0.0])
    verdicts = asked_for(safety, [goal] * 60)
    way = np.array([verdict.action[0] for verdict in verdicts])
    assert way.max() <= 0.8
    assert np.all(np.diff(way) >= 0)
    last = max(tick for tick, verdict in enumerate(verdicts) if verdict.stage)
    assert last < 40
    assert np.array_equal(verdicts[-1].action, goal)
    assert verdicts[0].stage is Stage.MOTION
    assert verdicts[0].joint == "waist"
    assert "waist was asked to step by 0.8 rad" in verdicts[0].words
    assert not any(verdict.held for verdict in verdicts)


def test_a_seam_in_a_moving_stream_is_caught_up_on_the_way():
    stream = smooth()
    limits = demonstrated_limits([stream], ("waist", "elbow"), ("rad", "rad"), RATE_HZ)
    stream[100:] += 0.03
    safety = SafetyFilter(limits, RATE_HZ)
    safety.begin(stream[0])
    off = np.array([safety.check(row, None, FRESH, {}).action - row for row in stream])
    late = np.flatnonzero(np.abs(off).max(1) > 0)
    assert late.min() == 100
    assert late.max() < 130
    assert np.abs(off).max() <= 0.0301  # never further off than the seam itself


def test_a_joint_that_catches_up_leaves_the_others_alone():
    safety = small()
    stream = smooth()
    for tick in range(60):
        row = stream[tick] * 0.2 + np.array([0.5, 0.0])
        verdict = safety.check(row, None, FRESH, {})
        assert verdict.action[1] == row[1]


@pytest.mark.parametrize("seed", range(2))
def test_no_stream_gets_past_the_filter_beyond_any_limit(seed):
    limits = aloha_limits()
    safety = SafetyFilter(limits, RATE_HZ, stages=ALL_STAGES - {Stage.PLAUSIBLE})
    law = MotionLimits(limits, RATE_HZ)
    start = (limits.lower + limits.upper) / 2
    safety.begin(start)
    stream = HostileStream(law, np.random.default_rng(seed), (14,), each_ticks=29)
    shares, seen = Shares(law, start), set()
    for tick in range(1500):
        verdict = safety.check(stream.asked(tick, safety.motion), None, FRESH, {})
        shares.add(verdict.action)
        seen.add(verdict.stage)
    assert shares.worst <= ROUNDING
    assert shares.beyond <= 0.0
    assert {Stage.PASSED, Stage.FINITE, Stage.RANGE, Stage.MOTION} <= seen
    assert Stage.FAILED not in seen


# -- holds -------------------------------------------------------------------------------------


def test_a_hold_brakes_within_the_limits_and_keeps_the_last_command_not_the_measured_joints():
    safety = small()
    shares = Shares(MotionLimits(pair_limits(), RATE_HZ), np.zeros(2))
    moving = asked_for(safety, [[0.0005 * tick**2, 0.0] for tick in range(20)])
    held = asked_for(safety, [None] * 50, state=[0.05, 0.05])
    for verdict in (*moving, *held):
        shares.add(verdict.action)
    assert shares.worst <= ROUNDING
    assert all(verdict.held and verdict.stage is Stage.NOT_ASKED for verdict in held)
    assert held[0].action[0] > moving[-1].action[0]  # it brakes, it does not stop dead
    assert all(np.array_equal(held[20].action, verdict.action) for verdict in held[20:])


def test_after_a_hold_the_asked_action_is_reached_within_the_limits():
    safety = small()
    shares = Shares(MotionLimits(pair_limits(), RATE_HZ), np.zeros(2))
    verdicts = asked_for(safety, [*ramp(50, 0.01), *[None] * 5, *[[0.2, 0.2]] * 60])
    for verdict in verdicts:
        shares.add(verdict.action)
    assert shares.worst <= ROUNDING
    assert verdicts[-1].action.tolist() == [0.2, 0.2]


def test_a_hold_by_name_lasts_until_it_is_resumed():
    safety = small()
    safety.hold("the pedal was let go")
    first, second = asked_for(safety, ramp(2))
    assert (first.stage, first.words) == (Stage.HELD, "the pedal was let go")
    assert second.held
    assert second.stopped
    safety.resume()
    (after,) = asked_for(safety, [[0.0001, 0.0]])
    assert after.stage is Stage.PASSED


def test_a_wrong_unit_stops_until_it_is_resumed_and_says_so():
    safety = small()
    (first,) = asked_for(safety, [[-55.0, 66.0]])
    assert (first.stage, first.stopped, first.joint) == (Stage.PLAUSIBLE, True, "gripper")
    assert "2 of 2 joints were asked to be far out of range" in first.words
    assert "right unit" in first.words
    assert all(verdict.stage is Stage.PLAUSIBLE for verdict in asked_for(safety, ramp(5)))
    safety.resume()
    assert asked_for(safety, [[0.0001, 0.0]])[0].stage is Stage.PASSED


def test_one_joint_a_little_out_of_range_is_cut_and_half_of_them_are_implausible():
    limits = aloha_limits()
    safety = SafetyFilter(limits, RATE_HZ)
    safety.begin(np.zeros(14))
    asked = np.zeros(14)
    asked[0] = 1.3 * limits.upper[0]
    assert safety.check(asked, None, FRESH, {}).stage is Stage.RANGE
    asked[:6] = 1.3 * limits.upper[0]
    assert safety.check(asked, None, FRESH, {}).stage is Stage.RANGE
    asked[:7] = 1.3 * limits.upper[0]
    assert safety.check(asked, None, FRESH, {}).stage is Stage.PLAUSIBLE


def test_a_robot_that_was_placed_outside_of_its_range_goes_back_and_is_not_stopped():
    safety = small()
    safety.begin(np.array([2.5, -2.0]))  # more than twice as far out as the range reaches
    way = [[2.5 - 0.005 * tick, -2.0 + 0.004 * tick] for tick in range(400)]
    verdicts = asked_for(safety, way)
    assert not any(verdict.held for verdict in verdicts)
    assert verdicts[-1].action.tolist() == way[-1]


def test_a_joint_that_is_left_where_it_is_outside_of_its_range_is_not_called_cut():
    safety = small()
    safety.begin(np.array([0.1, -2.0]))
    (verdict,) = asked_for(safety, [[0.1, -2.0]])
    assert (verdict.stage, verdict.joint) == (Stage.PASSED, "")
    safety.begin(np.array([0.1, -2.0]))
    (verdict,) = asked_for(safety, [[0.1, -2.001]])
    assert (verdict.stage, verdict.joint) == (Stage.RANGE, safety._names[1])


def test_a_joint_that_hardly_moved_in_the_demonstrations_is_cut_and_not_taken_for_a_wrong_unit():
    safety = SafetyFilter(pair_limits(lower=-0.01, upper=0.01), RATE_HZ)
    assert asked_for(safety, [[0.1, 0.0]])[0].stage is Stage.RANGE
    assert asked_for(safety, [[5.7, 0.0]])[0].stage is Stage.PLAUSIBLE  # 0.1 rad in degrees


def test_a_long_hold_says_that_the_robot_should_be_parked():
    safety = small(bounds=SafetyBounds(hold_s=1.0, strained_hold_s=0.5))
    verdicts = asked_for(safety, [None] * 60)
    assert [verdict.should_park for verdict in verdicts].index(True) == 50
    assert "should be parked" in verdicts[-1].words
    assert not asked_for(safety, [[0.0, 0.0]])[0].should_park
    hot = {"waist": ServoHealth(0.0, errors=("overload",))}
    verdicts = asked_for(safety, ramp(60), health=hot)
    assert [verdict.should_park for verdict in verdicts].index(True) == 25
    assert verdicts[0].stage is Stage.HEALTH
    assert "overload" in verdicts[0].words


def test_a_share_has_no_unit_behind_its_number():
    safety = SafetyFilter(aloha_limits(), RATE_HZ)
    safety.begin(OPEN)
    asked = OPEN.copy()
    asked[6] = 1.125
    (verdict,) = asked_for(safety, [asked])
    assert "left_arm_gripper 1.125, allowed 0 to 1" in verdict.words


def test_the_first_stage_that_acts_is_named():
    safety = small()
    (verdict,) = asked_for(safety, [[1.05, 0.0]])  # out of range, and too fast
    assert verdict.stage is Stage.RANGE
    assert "waist 1.05 rad, allowed -1 to 1" in verdict.words
    hot = {"waist": ServoHealth(0.0, temperature_c=75.0)}
    (verdict,) = asked_for(safety, [[1.05, 0.0]], health=hot, ages=Ages(1.0, {}))
    assert verdict.stage is Stage.HEALTH


@pytest.mark.parametrize(
    ("ages", "words"),
    [
        (Ages(None, {"top": 0.0}), "no state yet"),
        (Ages(0.061, {"top": 0.0}), "the state is 61 ms old; at most 60 ms"),
        (Ages(0.01, {"top": np.inf}), "camera top has given no picture yet"),
        (Ages(0.01, {"top": 0.101}), "the picture of camera top is 101 ms old; at most 100 ms"),
        (Ages(0.01, {"top": 0.0}, 0.101), "the leader's reading is 101 ms old"),
        (Ages(float("nan"), {"top": 0.0}), "the state is nan ms old"),
    ],
)
def test_what_is_too_old_holds(ages, words):
    safety = small()
    (verdict,) = asked_for(safety, [[0.0, 0.0]], ages=ages)
    assert verdict.stage is Stage.AGE
    assert words in verdict.words


# -- faults of others --------------------------------------------------------------------------


class _Broken:
    def refusal(self, now, *later):
        raise ZeroDivisionError("one by zero")


@pytest.mark.parametrize(
    "asked", ["text", object(), [[0.0, 0.0]], [], 0.0, [0.0, "a"], [0.0, None], np.zeros((2, 1))]
)
def test_whatever_is_asked_nothing_raises_and_the_robot_holds(asked):
    verdict = small().check(asked, None, FRESH, {})
    assert verdict.held
    assert verdict.stage in (Stage.SHAPE, Stage.FINITE)
    assert not verdict.action.any()


def test_a_fault_in_the_filter_brakes_within_the_limits():
    safety = small()
    shares = Shares(MotionLimits(pair_limits(), RATE_HZ), np.zeros(2))
    for verdict in asked_for(safety, [[0.0005 * tick**2, 0.0] for tick in range(20)]):
        shares.add(verdict.action)
    safety._collisions = _Broken()
    for verdict in asked_for(safety, [[0.2, 0.0]] * 20):
        shares.add(verdict.action)
        assert verdict.stage is Stage.FAILED
        assert "ZeroDivisionError: one by zero" in verdict.words
    assert shares.worst <= ROUNDING


def test_who_changes_the_action_of_a_verdict_or_of_a_question_changes_nothing():
    safety = small()
    row = np.array([0.0001, 0.0])
    verdict = safety.check(row, None, FRESH, {})
    verdict.action[:] = row[:] = 99.0
    assert safety.command.tolist() == [0.0001, 0.0]
    assert asked_for(safety, [None])[0].action.max() < 0.01


def test_readings_of_another_size_or_without_numbers_do_not_pass_unseen():
    safety = small()
    bad = Reading(np.array([np.nan, 0.0]), 0.0, 0.0, 1)
    verdict = safety.check(np.zeros(2), bad, FRESH, {})
    assert verdict.stage is Stage.LAG
    assert "waist was not measured as a number" in verdict.words
    short = Reading(np.zeros(1), 0.0, 0.0, 1)
    assert safety.check(np.zeros(2), short, FRESH, {}).held


def test_limits_of_another_robot_are_refused():
    other = replace(pair_limits(), names=("gripper", "waist"))
    with pytest.raises(SpecMismatch, match=r"limits are of gripper \(rad\), waist \(rad\)"):
        SafetyFilter(other, RATE_HZ, spec=SPEC)
    degrees = replace(pair_limits(), units=("deg", "rad"))
    with pytest.raises(SpecMismatch, match=r"waist \(deg\)"):
        SafetyFilter(degrees, RATE_HZ, spec=SPEC)
    SafetyFilter(pair_limits(), RATE_HZ, spec=SPEC)


def test_a_pose_that_is_none_is_refused_at_the_beginning():
    with pytest.raises(BadInput, match="finite"):
        small().begin(np.array([0.0, np.inf]))


def test_measured_joints_are_found_by_their_names():
    names = ("gripper", "elsewhere", "waist")
    spec = replace(SPEC, state_names=names, state_units=("rad",) * 3)
    bounds = SafetyBounds(following=FollowingBounds(lags={"rad": 0.3}))
    safety = SafetyFilter(pair_limits(), RATE_HZ, spec=spec, bounds=bounds)
    safety.begin(np.array([0.5, 0.0]))
    assert asked_for(safety, [[0.5, 0.0]], state=[0.0, 9.0, 0.4])[0].stage is Stage.PASSED
    (verdict,) = asked_for(safety, [[0.5, 0.0]], state=[0.0, 0.5, 0.1])
    assert (verdict.stage, verdict.joint) == (Stage.LAG, "waist")


def test_it_is_what_the_control_loop_expects():
    def as_loop_sees_it(safety: Safety) -> Verdict:
        safety.begin(np.zeros(2))
        return safety.check(np.zeros(2), None, FRESH, {}, why="")

    verdict = as_loop_sees_it(small())
    for member in ("action", "stage", "joint", "words", "held", "should_park"):
        assert hasattr(verdict, member)


def test_what_is_asked_during_a_stop_does_not_end_it():
    safety = small()
    safety.hold("the pedal was let go")
    for value in ([0.0, 0.0], [1.05, 0.0], [np.nan, 0.0], None, [-55.0, 66.0], [0.0, 0.0]):
        assert asked_for(safety, [value])[0].stage is Stage.HELD


@pytest.mark.parametrize(("task", "spread"), [("cube", 2.0), ("insertion", 1.0)])
def test_demonstrations_of_the_experts_pass_to_the_bit_with_the_joints_that_were_measured(
    task, spread
):
    """All 300 do (benchmarks/safety_episodes.py)."""
    env, expert = AlohaEnv(task), make_expert(task, spread)
    observation = env.reset(3)
    expert.reset(3)
    states, actions = [], []
    for _ in range(env.step_cap):
        states.append(np.array(observation.state, np.float64))
        actions.append(expert.chunk(observation)[0])
        observation = env.step(actions[-1]).observation
    learned = DemonstratedLimits(ALOHA_JOINTS, ALOHA_UNITS, RATE_HZ)
    learned.add(np.array(actions), np.array(states))
    closed = np.isin(np.arange(14), (6, 13))  # a gripper's range ends where it closes and opens
    limits = learned.limits()
    limits = replace(
        limits,
        lower=np.where(closed, np.maximum(limits.lower, 0.0), limits.lower),
        upper=np.where(closed, np.minimum(limits.upper, 1.0), limits.upper),
    )
    safety = SafetyFilter(limits, RATE_HZ, spec=env.spec)
    safety.begin(actions[0])
    for state, action in zip(states, actions, strict=True):
        verdict = safety.check(action, reading(state), FRESH, {})
        assert verdict.stage is Stage.PASSED, verdict.words
        assert np.array_equal(verdict.action, action)


def test_a_filter_that_is_sent_to_another_process_goes_on_as_it_would_have():
    safety = small()
    asked_for(safety, [[0.8, 0.1]] * 5)
    sent = pickle.loads(pickle.dumps(safety))  # noqa: S301 - its own bytes
    for one, other in zip(
        asked_for(safety, [[0.8, 0.1]] * 30), asked_for(sent, [[0.8, 0.1]] * 30), strict=True
    ):
        assert np.array_equal(one.action, other.action)
        assert one.stage is other.stage


def test_in_a_control_loop_every_command_keeps_the_limits_and_a_stop_waits_for_a_person():
    clock = VirtualClock()
    robot = ObedientRobot(clock)
    limits = replace(pair_limits(), names=ARM.action_names)
    shares = Shares(MotionLimits(limits, RATE_HZ), np.zeros(2))
    records = []

    class Jumping(Counting):
        def action(self, moment):
            if moment.tick == 100:
                return Asked(np.array([-55.0, 66.0]))
            return Asked(np.full(2, 0.8 if moment.tick // 25 % 2 else -0.8))

    def controls():
        return Controls(stop=130 <= clock.now_s() * RATE_HZ < 140)

    safety = SafetyFilter(limits, RATE_HZ, spec=ARM)
    loop = ControlLoop(robot, Jumping(), safety, clock, RATE_HZ, records.append, controls)
    loop.run(np.zeros(2), 200)
    for _, command in robot.commands:
        shares.add(command)
    assert 200 < len(robot.commands) < 220  # it brakes at the end
    assert safety.rests
    assert shares.worst <= ROUNDING
    stages = [record.stage for record in records]
    assert set(stages[100:140]) == {Stage.PLAUSIBLE}  # through the stop, which keeps its reason
    assert Stage.PLAUSIBLE not in stages[:100] + stages[140:]


def test_what_is_commanded_by_velocity_is_refused_because_a_hold_would_let_it_run_on():
    with pytest.raises(BadInput, match="gripper is commanded in m/s; a hold keeps the last"):
        SafetyFilter(replace(pair_limits(), units=("rad", "m/s")), RATE_HZ)


@pytest.mark.parametrize("closes_s", [0.06, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("beyond", [0.0, 0.3])
def test_a_hand_that_closes_and_opens_a_gripper_into_its_stops_passes_to_the_bit(closes_s, beyond):
    """ALOHA's leader in steps of its encoder; a step of 0.06 s is faster than fingers are."""
    arms = {side: ArmConfig(f"/dev/{side}", "vx300s") for side in ("left", "right")}
    own = robot_limits(RobotConfig("aloha", arms=arms))
    slow = demonstrated_limits([np.tile(OPEN, (3, 1))], own.names, own.units, RATE_HZ)
    closed = np.where(np.arange(14) % 7 == 6, 0.0, OPEN)
    demonstrated = slow.freed(own).reaching(OPEN, closed)
    limits = combined_limits({"robot": own, "demonstrations": demonstrated})
    safety = SafetyFilter(limits.limits, RATE_HZ)
    safety.begin(OPEN)
    share = np.clip(np.arange(0.0, 1.5, 1 / RATE_HZ) / closes_s, 0.0, 1.0)
    along = (1 + beyond) * share**3 * (10 - 15 * share + 6 * share**2)
    for gripper in np.clip([*(1 - along), *along], 0.0, 1.0):
        pose = OPEN.copy()
        pose[6] = round(gripper * 646) / 646
        verdict = safety.check(pose, None, FRESH, {})
        assert verdict.stage is Stage.PASSED
        assert np.array_equal(verdict.action, pose)
    assert safety.rests
