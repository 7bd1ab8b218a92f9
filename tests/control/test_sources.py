"""Sources: rows by time, late answers, takeovers without a jump, replays that wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imitact.control.async_inference import DelayedInference
from imitact.control.contract import Controls, Hold
from imitact.control.control_loop import ControlLoop
from imitact.control.engagement import Engagement
from imitact.control.sources import (
    Answer,
    EpisodeSource,
    InterventionSource,
    LeaderSource,
    PolicySource,
)
from imitact.core.answer_delay import delayed_by, episode_delays
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, NotFinite, SpecMismatch
from imitact.core.execution import Execution, parse
from imitact.core.executor import ActionExecutor
from imitact.core.robot import Reading
from imitact.core.types import Observation
from tests.support.control import (
    ARM,
    RATE_HZ,
    LateClock,
    LinePolicy,
    ObedientRobot,
    PassThrough,
    moment,
)

STEP = 0.01


class Puppet:
    """A leader whose pose, deadman, age and fault a test sets."""

    action_names, action_units = ARM.action_names, ARM.action_units

    def __init__(self, clock=None) -> None:
        self.clock = clock
        self.pose = np.zeros(2)
        self.engaged: bool | None = False
        self.age_s = 0.0
        self.why = ""
        self.now_s = 0.0

    def reading(self) -> Reading | None:
        if np.isinf(self.age_s):
            return None
        now_s = self.now_s if self.clock is None else self.clock.now_s()
        return Reading(self.pose.copy(), now_s - self.age_s, now_s, 1, self.engaged)

    def fault(self) -> str:
        return self.why


def run(source, ticks, late_s=None, at_tick=None):
    """Run a source; `at_tick(tick, robot, safety)` is called before each tick."""
    clock = LateClock(late_s or {})
    robot, safety, records = ObedientRobot(clock), PassThrough(), []
    if isinstance(source, LeaderSource | InterventionSource):
        leader = source._leader
        getattr(leader, "_leader", leader).clock = clock
    for tick in range(ticks):
        if at_tick:
            clock.call_at(tick / RATE_HZ - 1e-9, lambda tick=tick: at_tick(tick, robot, safety))
    outcome = ControlLoop(robot, source, safety, clock, RATE_HZ, records.append).run(
        np.zeros(2), ticks
    )
    assert not outcome.faults
    return records


def policy_source(delays, chunking="replay:10", policy=None, seed=None):
    inference = DelayedInference(policy or LinePolicy(), delayed_by(delays, seed), RATE_HZ)
    return PolicySource(inference, parse(chunking), RATE_HZ)


class Wave(LinePolicy):
    """A policy whose chunk depends on its state, and on no clock."""

    def chunk(self, observation):
        self.queries += 1
        phase = np.arange(self.k)[:, None] / 7 + observation.state
        return np.sin(phase)


# A policy


@pytest.mark.parametrize("chunking", ["replay:1", "replay:10", "replay:20", "ensemble:0.1/3"])
@pytest.mark.parametrize("delay", [0, 1, 6])
def test_the_loop_commands_what_an_executor_with_the_same_delay_commands(chunking, delay):
    """One code serves simulated delays and a robot: the rows are the same to the bit."""
    policy = Wave()
    executor = ActionExecutor(policy, parse(chunking, delay))
    state, wanted = np.zeros(2), []
    for _ in range(80):
        state = executor.act(Observation(state))
        wanted.append(state)
    source = policy_source([delay], policy=Wave(), chunking=chunking)
    source._chunking.delay_ticks = delay  # as expected
    commands = np.stack([record.action for record in run(source, 80)])
    assert commands.tobytes() == np.stack(wanted).tobytes()


@pytest.mark.parametrize("chunking", ["replay:10", "replay:20~5", "ensemble:0.1/3"])
@pytest.mark.parametrize("delay", ["0..1", "3..9", "0..30"])
def test_the_loop_commands_what_an_executor_with_the_same_drawn_delays_commands(chunking, delay):
    execution, seed = Execution(chunking, delay), 5
    executor = ActionExecutor(Wave(), execution, observed=ARM)
    executor.reset(seed)
    state, wanted = np.zeros(2), []
    for _ in range(300):
        state = executor.act(Observation(state))
        wanted.append(state)
    inference = DelayedInference(Wave(), episode_delays(delay, seed), RATE_HZ)
    source = PolicySource(inference, execution.new(), RATE_HZ)
    commands = np.stack([record.action for record in run(source, 300)])
    assert commands.tobytes() == np.stack(wanted).tobytes()


def test_a_robot_waits_for_the_first_answer_by_name():
    records = run(policy_source([7]), 10)
    assert [r.hold for r in records] == [Hold.ANSWER_LATE] * 7 + [Hold.NONE] * 3
    assert "first answer is awaited since 120 ms" in records[6].words
    assert [r.query for r in records] == [1] + [0] * 9
    assert records[7].answered_tick == 0
    assert records[7].answer_s == pytest.approx(0.14)
    np.testing.assert_allclose(records[7].action, STEP)  # row 0


def test_a_late_answer_holds_once_the_rows_have_run_out_and_then_goes_on_without_a_jump():
    source = policy_source([0, 0, 0, 9], chunking="replay:20")
    records = run(source, 100)
    commands = np.stack([record.action[0] for record in records])
    late = [record.tick for record in records if record.hold]
    assert len(late) == 9
    assert late == list(range(60, 69))
    assert "the policy's answer is late: asked" in records[60].words
    assert np.abs(np.diff(commands)).max() <= STEP + 1e-9
    assert np.all(commands[60:69] == commands[59])


def test_answers_drawn_anew_meet_the_end_of_the_rows_once_their_times_are_known():
    source = policy_source(range(16), chunking="replay:20", policy=LinePolicy(k=50), seed=1)
    records = run(source, 3000)
    late = [r.tick for r in records if r.hold]
    assert source._chunking.delay_ticks in (14, 15)
    assert len([tick for tick in late if tick > 500]) == 0


def test_rows_go_by_time_over_skipped_ticks():
    records = run(policy_source([0], chunking="replay:20"), 15, late_s={5: 0.05})
    by_tick = {record.tick: record.action[0] for record in records}
    assert sorted(by_tick) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14]
    assert by_tick[7] == pytest.approx(8 * STEP)


def test_after_a_short_hold_the_rows_go_on_where_they_stopped():
    def at_tick(tick, robot, safety):
        robot.silent = "a servo is hot" if 5 <= tick < 9 else None

    records = run(policy_source([0], chunking="replay:20"), 15, at_tick=at_tick)
    commands = np.array([record.action[0] for record in records])
    np.testing.assert_allclose(commands[4:11], STEP * np.array([5, 5, 5, 5, 5, 6, 7]))
    assert sum(record.query for record in records) == 1


def test_after_a_long_hold_the_policy_is_asked_anew():
    policy = LinePolicy(k=60)

    def at_tick(tick, robot, safety):
        robot.silent = "a servo is hot" if 5 <= tick < 40 else None
        if tick == 40:
            robot.state = np.array([1.0, 1.0])  # moved by a person

    records = run(policy_source([3], chunking="replay:50", policy=policy), 60, at_tick=at_tick)
    assert [r.tick for r in records if r.query] == [0, 40]
    assert records[42].hold is Hold.ANSWER_LATE
    np.testing.assert_allclose(records[43].action, 1.0 + STEP)


def test_where_the_safety_filter_holds_for_long_no_chunk_runs_ahead_of_the_robot():
    def at_tick(tick, robot, safety):
        safety.holds = 10 <= tick < 200

    policy = LinePolicy(k=100)
    records = run(policy_source([2], chunking="replay:100", policy=policy), 220, at_tick=at_tick)
    held_at = records[199].action[0]
    ahead = max(abs(r.asked[0] - held_at) for r in records[60:210] if not r.hold)
    assert ahead <= 30 * STEP
    assert not records[205].hold


def test_a_policy_slower_than_half_a_second_is_waited_for_and_asked_once():
    records = run(policy_source([60], policy=LinePolicy(k=100)), 70)
    assert [r.tick for r in records if r.query] == [0]
    assert not records[60].hold


class Refuses(LinePolicy):
    def __init__(self, at=(2, 3)) -> None:
        super().__init__()
        self.at = at

    def chunk(self, observation):
        chunk = super().chunk(observation)
        if self.queries in self.at:
            raise NotFinite("the state is NaN in elbow")
        return chunk


def test_an_error_of_the_policy_holds_by_name_and_is_asked_again():
    records = run(policy_source([0], policy=Refuses()), 20)
    failed = [r for r in records if r.hold]
    assert [(r.tick, r.hold) for r in failed] == [
        (10, Hold.POLICY_FAILED),
        (11, Hold.POLICY_FAILED),
    ]
    assert "the policy failed: the state is NaN in elbow" in failed[0].words
    assert not records[12].hold


@pytest.mark.parametrize(
    "bad", [np.full((5, 2), np.nan), np.zeros((5, 3)), np.zeros(3), np.zeros((0, 2))]
)
def test_a_chunk_that_is_not_finite_or_of_another_size_never_reaches_the_robot(bad):
    class Bad(LinePolicy):
        def chunk(self, observation):
            return super().chunk(observation) if self.queries == 0 else self.count(bad)

        def count(self, chunk):
            self.queries += 1
            return chunk

    records = run(policy_source([0], policy=Bad()), 30)
    assert {r.hold for r in records[10:]} == {Hold.POLICY_FAILED}
    assert all(np.all(np.isfinite(r.action)) for r in records)


class Dying:
    """An inference whose process ends."""

    def __init__(self, inner) -> None:
        self.inner, self.dead = inner, ""
        self.begin, self.ask, self.answer = inner.begin, inner.ask, inner.answer
        self.trouble = inner.trouble

    def fault(self) -> str:
        return self.dead


def test_the_death_of_the_policy_holds_at_once_although_rows_are_left():
    dying = Dying(DelayedInference(LinePolicy(k=50), delayed_by([0]), RATE_HZ))

    def at_tick(tick, robot, safety):
        dying.dead = "the process of runs/act has ended" if tick >= 8 else ""

    records = run(PolicySource(dying, Replay(50), RATE_HZ), 20, at_tick=at_tick)
    assert [r.hold for r in records[8:]] == [Hold.POLICY_FAILED] * 12
    assert records[8].words == "the process of runs/act has ended"


def test_a_seam_is_the_jump_from_the_last_command_in_steps_that_are_allowed():
    class Jumps(LinePolicy):
        def chunk(self, observation):
            return super().chunk(observation) + (0.5 if self.queries == 2 else 0.0)

    inference = DelayedInference(Jumps(), delayed_by([0]), RATE_HZ)
    source = PolicySource(inference, Replay(10), RATE_HZ, step=np.array([0.1, 1.0]))
    records = run(source, 15)
    assert records[10].seam == pytest.approx(5.1)
    assert np.isnan(records[11].seam)


def test_the_times_of_a_warm_up_are_expected_from_the_start():
    source = policy_source([6], chunking="replay:20")
    for time_s in (2.0, 0.11, 0.12):
        source.answer_times.add(time_s)
    records = run(source, 50)
    assert [r.tick for r in records if r.query] == [0, 20, 34, 48]
    assert [r.tick for r in records if r.hold] == list(range(6))


def test_an_answer_to_a_query_that_was_given_up_is_ignored():
    class Stale(Dying):
        def __init__(self) -> None:
            super().__init__(DelayedInference(LinePolicy(), delayed_by([0]), RATE_HZ))
            self.answer = lambda now_s: Answer(-5, np.full((9, 2), 99.0), 0.1)

    records = run(PolicySource(Stale(), Replay(5), RATE_HZ), 10)
    assert {r.hold for r in records} == {Hold.ANSWER_LATE}


# An episode


def test_a_replay_commands_every_row_at_its_time_and_ends():
    actions = np.arange(20.0)[:, None].repeat(2, 1)
    records = run(EpisodeSource(actions), 100)
    assert [r.action[0] for r in records[:20]] == list(range(20))
    assert len(records) == 21
    assert records[20].words == "the episode has ended"


@pytest.mark.parametrize("by", ["the loop", "the safety filter"])
def test_a_replay_waits_while_the_robot_is_held(by):
    def at_tick(tick, robot, safety):
        held = 5 <= tick < 8
        if by == "the loop":
            robot.silent = "hot" if held else None
        else:
            safety.holds = held

    actions = np.arange(20.0)[:, None].repeat(2, 1)
    records = run(EpisodeSource(actions), 100, at_tick=at_tick)
    assert [r.action[0] for r in records[:12]] == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8]
    assert records[22].action[0] == 19.0


def test_an_episode_that_cannot_be_commanded_is_refused():
    for bad in (np.zeros((0, 2)), np.zeros(3), np.full((3, 2), np.inf)):
        with pytest.raises(BadInput, match="finite actions"):
            EpisodeSource(bad)


# A leader


def leader_source(approach="ramp"):
    puppet = Puppet()
    engagement = Engagement(ARM.action_names, ARM.action_units, RATE_HZ, approach=approach)
    return LeaderSource(puppet, ARM, engagement), puppet


def test_a_robot_follows_its_leader_only_while_the_deadman_is_held():
    source, puppet = leader_source()

    def at_tick(tick, robot, safety):
        puppet.engaged = 5 <= tick < 15
        puppet.pose = np.full(2, tick * 0.001)

    records = run(source, 20, at_tick=at_tick)
    assert [r.engaged for r in records] == [0] * 5 + [1] * 10 + [0] * 5
    assert [r.hold for r in records[:5]] == [Hold.NOT_ENGAGED] * 5
    assert records[14].action[0] == pytest.approx(0.014)
    assert records[19].action[0] == records[14].action[0]
    assert records[10].leader_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age_s": 0.11}, "the leader's reading is 110 ms old; at most 100 ms"),
        ({"age_s": np.inf}, "given no reading yet"),
        ({"why": "the pedal was pulled out"}, "the pedal was pulled out"),
        ({"pose": np.array([np.nan, 0.0])}, "not finite"),
    ],
)
def test_a_leader_that_is_old_lost_or_broken_holds_and_must_be_engaged_anew(change, words):
    source, puppet = leader_source("wait")
    good = {"age_s": 0.0, "why": "", "pose": np.zeros(2)}

    def at_tick(tick, robot, safety):
        puppet.engaged = True
        for name in change:
            setattr(puppet, name, change[name] if 5 <= tick < 8 else good[name])
        if tick >= 8:
            puppet.pose = np.ones(2)  # it was moved meanwhile

    records = run(source, 12, at_tick=at_tick)
    assert [r.hold for r in records] == (
        [Hold.NONE] * 5 + [Hold.LEADER_OLD] * 3 + [Hold.NOT_ENGAGED] * 4
    )
    assert words in records[5].words
    assert "waist +57 degrees" in records[8].words


class Bus:
    """A leader that is read at its own times: every 9 to 12 ms, with readings up to 8 ms old."""

    action_names, action_units = ARM.action_names, ARM.action_units

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.begin_s = np.cumsum(rng.uniform(0.009, 0.012, 400))
        self.end_s = self.begin_s + rng.uniform(0.002, 0.008, 400)
        self.now_s = 0.0

    @staticmethod
    def pose(time_s: float) -> np.ndarray:
        return np.array([0.3 * np.sin(4 * time_s), 0.0])

    def reading(self) -> Reading | None:
        number = int(np.searchsorted(self.end_s, self.now_s, side="right"))
        if not number:
            return None
        begin_s, end_s = self.begin_s[number - 1], self.end_s[number - 1]
        return Reading(self.pose((begin_s + end_s) / 2), begin_s, end_s, number, True)

    def fault(self) -> str:
        return ""


def followed(lag_s: float) -> tuple[np.ndarray, np.ndarray]:
    """What is asked while a bus is followed, and at which times."""
    bus = Bus()
    engagement = Engagement(ARM.action_names, ARM.action_units, RATE_HZ, approach="ramp")
    source = LeaderSource(bus, ARM, engagement, lag_s=lag_s)
    asked, times, command = [], [], np.zeros(2)
    for tick in range(180):
        bus.now_s = tick / RATE_HZ + 0.03
        found = source.action(replace(moment(tick), now_s=bus.now_s, command=command))
        if found.action is not None:
            command = found.action
            asked.append(command[0])
            times.append(bus.now_s)
    return np.array(asked)[60:], np.array(times)[60:]  # after the ramp to the leader


def test_a_leader_that_is_read_at_its_own_times_is_followed_evenly():
    lag_s = 1 / RATE_HZ
    asked, times = followed(lag_s)
    even = np.array([Bus.pose(time_s - lag_s)[0] for time_s in times])
    assert np.abs(asked - even).max() < 0.001  # the arc over 30 ms between two readings
    asked, times = followed(0.0)  # what the jitter of the readings is without
    newest = np.array([Bus.pose(time_s - 0.01)[0] for time_s in times])
    assert np.abs(asked - newest).max() > 0.003


def test_a_leader_without_a_deadman_follows_by_a_key_and_never_without_one():
    source, puppet = leader_source()
    puppet.engaged = None
    assert source.action(moment()).hold is Hold.NOT_ENGAGED
    assert "no deadman" in source.action(moment()).words
    assert source.action(moment(controls=Controls(deadman=True))).engaged
    puppet.engaged = False
    assert not source.action(moment(controls=Controls(deadman=True))).engaged


def test_a_leader_of_another_robot_is_refused():
    _, puppet = leader_source()
    engagement = Engagement(ARM.action_names, ARM.action_units, RATE_HZ)
    for other in (
        replace(ARM, action_names=("elbow", "waist")),
        replace(ARM, action_units=("deg", "deg")),
    ):
        with pytest.raises(SpecMismatch, match="the leader gives waist"):
            LeaderSource(puppet, other, engagement)


# Taking over


def intervention(delay=2, approach="wait"):
    leader, puppet = leader_source(approach)
    policy = policy_source([delay], policy=LinePolicy(k=40), chunking="replay:20")
    return InterventionSource(policy, leader, RATE_HZ), puppet


def test_a_person_takes_over_and_hands_back_without_a_jump_and_those_ticks_are_marked():
    source, puppet = intervention()

    def at_tick(tick, robot, safety):
        puppet.engaged = 20 <= tick < 50
        if tick <= 20:
            puppet.pose = robot.state + 0.05  # within the tolerance
        else:
            puppet.pose = puppet.pose - 0.004

    records = run(source, 100, at_tick=at_tick)
    commands = np.array([r.action for r in records])
    assert [r.engaged for r in records] == [0] * 20 + [1] * 30 + [0] * 50
    assert not any(r.hold for r in records[20:50])
    assert commands[49, 0] < commands[25, 0]  # where the person went
    assert np.abs(np.diff(commands, axis=0)).max() <= 1.05 * STEP
    assert next(r.tick for r in records if r.query and r.tick >= 50) == 50
    assert not any(r.hold for r in records[53:])


def test_while_the_leader_is_elsewhere_a_person_who_takes_over_stops_the_policy():
    source, puppet = intervention()

    def at_tick(tick, robot, safety):
        puppet.engaged, puppet.pose = tick >= 20, np.full(2, 2.0)

    records = run(source, 40, at_tick=at_tick)
    assert {r.hold for r in records[20:]} == {Hold.NOT_ENGAGED}
    assert {r.engaged for r in records[20:]} == {1}


def test_a_leader_that_is_lost_while_it_has_the_command_gives_it_to_nobody():
    source, puppet = intervention()

    def at_tick(tick, robot, safety):
        puppet.engaged, puppet.pose = tick >= 20, robot.state.copy()
        puppet.why = "unplugged" if tick >= 30 else ""

    records = run(source, 60, at_tick=at_tick)
    assert {r.hold for r in records[20:30]} == {Hold.NONE}
    assert {r.hold for r in records[30:]} == {Hold.LEADER_OLD}


def test_a_leader_that_was_never_there_does_not_stop_the_policy():
    source, puppet = intervention()
    puppet.age_s = np.inf
    records = run(source, 30)
    assert not any(r.hold for r in records[2:])


def test_the_jump_of_a_policy_after_a_takeover_fades():
    """A policy that asks for a far pose after the person has let go."""

    class Far(LinePolicy):
        def chunk(self, observation):
            self.queries += 1
            return np.full((40, 2), 1.0) if self.queries > 1 else np.zeros((40, 2))

    leader, puppet = leader_source("wait")
    source = InterventionSource(policy_source([0], policy=Far()), leader, RATE_HZ)

    def at_tick(tick, robot, safety):
        puppet.engaged = 5 <= tick < 8

    records = run(source, 60, at_tick=at_tick)
    commands = np.array([r.action[0] for r in records])
    assert np.abs(np.diff(commands)).max() <= 1 / 25 + 1e-9
    assert commands[-1] == 1.0
