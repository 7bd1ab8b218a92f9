"""Messages of the page: read without trust, as old as they are, and engaged while held only."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.engagement import Engagement
from imitact.control.parking import first_command
from imitact.control.sources import LeaderSource
from imitact.core import tick_columns as columns
from imitact.core.clock import VirtualClock
from imitact.core.hold import Hold
from imitact.datasets.open import open_dataset
from imitact.recording.session import RecordingSession
from imitact.robots.simulated import SimulatedRobot
from imitact.teleoperation.browser import BrowserLeader
from imitact.teleoperation.browser_boxes import LeaderBoxes
from imitact.teleoperation.goals import Goal
from imitact.teleoperation.page_messages import MAX_BYTES, PageLead, PageMessages
from tests.support import tiny_arm
from tests.support.control import ARM, RATE_HZ, ObedientRobot, PassThrough, moment
from tests.support.page_says import Person, message

HAND = [0.0] * 6


def reader(hands: int = 0) -> PageMessages:
    return PageMessages(hands, np.full(2, -1.0), np.full(2, 1.0))


def test_a_message_says_what_the_person_does():
    messages = reader(1)
    assert messages.take(message(1, 0, hands=[HAND]), 6.98)
    found = messages.take(message(2, 4, hands=[[0.1, 0, 0, 0, 0, 1]], joints=[None, 0.5]), 7.0)
    assert found is not None
    assert (found.sent_s, found.clutch, found.stop) == (pytest.approx(7.0), 4, False)
    np.testing.assert_array_equal(found.hands, [[0.1, 0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(found.joints, [np.nan, 0.5])


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("too large", message(2) + " " * MAX_BYTES),
        ("garbage", ""),
        ("garbage", b"\xff\x00\x80"),
        ("garbage", "[" * 4000),
        ("garbage", "null"),
        ("garbage", message(2, wish="more")),
        ("garbage", message(2).replace('"clutch": 1', '"clutch": "1"')),
        ("garbage", message(2).replace('"clutch": 1', '"clutch": true')),
        ("garbage", message(2).replace("2,", "2.5,", 1)),
        ("garbage", message(2, joints=[0.0])),
        ("garbage", message(2, hands=[HAND])),
        ("garbage", message(2, joints=["0", None])),
        ("garbage", message(2, joints=[float("nan"), None])),
        ("garbage", message(2, t=float("inf"))),
        ("garbage", message(2).replace("40.0", "1e999")),
        ("out of range", message(2, joints=[None, 1.01])),
        ("out of range", message(2, joints=[-1e300, None])),
        ("out of range", message(2, clutch=-1)),
        ("out of range", message(2, clutch=2**60)),
        ("out of range", message(2**60)),
        ("replayed", message(1)),
        ("replayed", message(-3)),
    ],
)
def test_a_message_that_is_not_as_expected_is_ignored_and_counted(why, data):
    messages = reader()
    assert messages.take(message(1), 0.0)
    assert messages.take(data, 0.02) is None
    assert messages.refused == {why: 1}
    assert messages.take(message(2), 0.02), "the next is taken"


@pytest.mark.parametrize("hand", [[2.1, 0, 0, 0, 0, 0], [0, 0, 0, 0, -6.3, 0], [0] * 5, [0] * 7])
def test_a_hand_that_no_arm_has_is_ignored(hand):
    messages = reader(1)
    assert messages.take(message(1, hands=[hand]), 0.0) is None
    assert messages.refused.total() == 1


def test_what_waited_in_a_queue_is_as_old_as_it_is():
    messages = reader()
    sent_s = [messages.take(message(n), 5.0 + 0.02 * n) for n in (1, 2, 3)]
    assert [found.sent_s for found in sent_s if found] == pytest.approx([5.02, 5.04, 5.06])
    late = [messages.take(message(n), 9.0) for n in (4, 5)]  # the server was stopped meanwhile
    assert [found.sent_s for found in late if found] == pytest.approx([5.08, 5.10], abs=0.01)


def test_clocks_that_drift_apart_make_no_message_old():
    messages = reader()
    for n in range(1, 50 * 3600, 50):  # an hour in which the page's clock loses half a second
        found = messages.take(message(n), 0.02 * n * (1 + 0.5 / 3600))
        assert found is not None
        assert 0.02 * n * (1 + 0.5 / 3600) - found.sent_s < 0.01


def test_a_clutch_that_closes_begins_where_the_robot_is_and_sets_only_what_is_set():
    own = np.array([0.1, 0.2])
    messages, lead = reader(), PageLead(Goal((), None), lambda: own)

    def say(n: int, clutch: int, *joints: float | None):
        found = messages.take(message(n, clutch, joints=joints or [None, None]), 0.02 * n)
        assert found is not None
        pose, engaged = lead.update(found)
        assert pose is not None
        return pose.tolist(), engaged

    assert say(1, 0) == ([0.1, 0.2], False)
    assert say(2, 1) == ([0.1, 0.2], True)
    assert say(3, 1, None, 0.6) == ([0.1, 0.6], True)
    own[:] = [0.1, 0.4]
    assert say(4, 1, None, 0.6) == ([0.1, 0.6], True)
    assert say(5, 0) == ([0.1, 0.4], False)
    assert say(6, 2) == ([0.1, 0.4], True)
    own[:] = [-0.5, -0.5]
    assert say(7, 3) == ([-0.5, -0.5], True), "the message in which it was open was overtaken"


def test_a_page_that_begins_with_a_closed_clutch_leads_only_once_it_was_open():
    messages, lead = reader(), PageLead(Goal((), None), lambda: np.zeros(2))

    def engaged(n: int, clutch: int) -> bool:
        found = messages.take(message(n, clutch), 0.02 * n)
        assert found is not None
        return lead.update(found)[1]

    assert [engaged(n, clutch) for n, clutch in enumerate((5, 5, 6, 0, 6), 1)] == [
        False, False, False, False, True,
    ]  # fmt: skip


def test_nothing_is_led_without_a_pose_of_the_robot():
    messages, lead = reader(), PageLead(Goal((), None), lambda: None)
    for n, clutch in ((1, 0), (2, 1), (3, 1)):
        found = messages.take(message(n, clutch), 0.02 * n)
        assert found is not None
        assert lead.update(found) == (None, False)


@pytest.fixture
def led():
    """A person, and what a control loop asks for at a time after the newest message."""
    clock = VirtualClock(100.0)
    robot, boxes = ObedientRobot(clock, ARM), LeaderBoxes.create(2)
    person = Person(robot, boxes, clock)
    leader = BrowserLeader(ARM, boxes, "here", clock)
    source = LeaderSource(leader, ARM, Engagement(ARM.action_names, ARM.action_units, RATE_HZ))

    def asked(after_s: float = 0.0):
        clock.wait_until(clock.now_s() + after_s)
        return source.action(moment(now_s=clock.now_s()))

    return person, asked


def test_a_robot_follows_until_100_ms_after_the_newest_message(led):
    person, asked = led
    person.say(0)
    assert asked().hold is Hold.NOT_ENGAGED
    person.say(1)
    assert asked().engaged
    assert asked(0.0999).engaged
    late = asked(0.0002)
    assert (late.action, late.engaged, late.hold) == (None, False, Hold.LEADER_OLD)
    assert "100 ms old" in late.words
    person.say(1)
    assert asked().engaged
    person.say(0)
    assert asked().hold is Hold.NOT_ENGAGED


@pytest.mark.parametrize("data", ["{}", message(1), message(9, joints=[9.0, 9.0]), "x" * 5000])
def test_ignored_messages_keep_no_robot_following(led, data):
    person, asked = led
    for clutch in (0, 1):
        person.say(clutch)
    for _ in range(5):
        assert asked(0.019).engaged
        person.say(1, data=data)
    assert asked(0.0051).hold is Hold.LEADER_OLD
    assert person.messages.refused.total() == 5


def test_a_server_that_died_or_has_no_page_is_named():
    clock, boxes = VirtualClock(5.0), LeaderBoxes.create(2)
    leader = BrowserLeader(ARM, boxes, "127.0.0.1:80", clock)
    assert "not served yet" in leader.fault()
    boxes.life.post(np.array([0.0, 0, 0, 0]), 5.0)
    assert leader.fault() == "no page of 127.0.0.1:80 is open in a browser"
    boxes.life.post(np.array([1.0, 7, 3, 1]), 5.0)
    assert leader.fault() == ""
    assert (leader.accepted, leader.ignored, leader.stops) == (7, 3, 1)
    clock.wait_until(6.1)
    assert "no sign of life since 1.1 s" in leader.fault()


def test_a_recorded_episode_is_what_was_commanded(tmp_path):
    spec, clock = tiny_arm.SPEC, VirtualClock()
    robot = SimulatedRobot(tiny_arm.TinyArm(), clock, seed=3)
    boxes = LeaderBoxes.create(spec.action_size)
    person = Person(robot, boxes, clock)
    goals = iter(np.linspace(0.0, 0.5, 400))

    def speak() -> None:
        now_s = clock.now_s()
        held = 0.35 < now_s < 1.95 or 2.5 < now_s < 4.0
        person.say(1 + (now_s > 2.2) if held else 0, [next(goals), None, 0.5, None, None])
        clock.call_at(now_s + 0.02, speak)

    speak()
    leader = BrowserLeader(spec, boxes, "here", clock)
    source = LeaderSource(
        leader, spec, Engagement(spec.action_names, spec.action_units, spec.rate_hz)
    )
    records = []

    def on_tick(record):
        records.append(record)
        session.add(record, lambda camera, number: robot.frame(camera))

    with RecordingSession(tmp_path / "data", spec, "lead") as session:
        session.begin()
        loop = ControlLoop(robot, source, PassThrough(), clock, spec.rate_hz, on_tick)
        outcome = loop.run(first_command(robot), 36)
        session.keep()
    assert not outcome.faults
    dataset = open_dataset(tmp_path / "data")
    episode = dataset.episode(0)
    first = next(place for place, record in enumerate(records) if record.engaged == 1)
    kept = records[first : first + len(episode.action)]
    np.testing.assert_array_equal(
        episode.action, np.stack([record.action for record in kept]).astype(np.float32)
    )
    engaged = episode.extra_values([columns.ENGAGED])[columns.ENGAGED]
    np.testing.assert_array_equal(engaged, [record.engaged == 1 for record in kept])
    assert 0 < np.mean(engaged) < 1
    assert np.ptp(episode.action[:, 0]) > 0.1
    assert np.ptp(episode.action[:, 1]) == 0
