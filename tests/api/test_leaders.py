"""Leaders by name: the page's "Stop" stops the robot, and a key of the terminal moves it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.api import leaders
from imitact.control.engagement import Engagement
from imitact.control.sources import LeaderSource
from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput
from imitact.robots.setup import SimulatedSetup
from imitact.robots.simulated import SimulatedRobot
from imitact.teleoperation import browser
from tests.support.control import moment
from tests.support.tiny_arm import SPEC, TinyArm


@pytest.fixture
def setup() -> SimulatedSetup:
    clock = VirtualClock(5.0)
    return SimulatedSetup(SimulatedRobot(TinyArm(), clock, seed=3), clock)


def test_the_page_shows_what_the_robot_does_and_its_stop_stops_the_robot(monkeypatch):
    shown: list[str] = []
    page = SimpleNamespace(leader=SimpleNamespace(stops=0, show=shown.append), close=None)
    monkeypatch.setattr(browser, "browser_leader", lambda robot, **options: page)
    monkeypatch.setattr(leaders, "HostSetup", SimpleNamespace)
    robot = SimpleNamespace(spec=SPEC, frame_boxes={})
    setup: Any = SimpleNamespace(robot=robot, limits=None, host=SimpleNamespace(robot=robot))
    chosen = leaders.choose_leader("browser", setup, "", 0)
    session: Any = SimpleNamespace(statistics=SimpleNamespace(newest=None), stopped=False)
    chosen.poll(session)
    session.statistics.newest = SimpleNamespace(words="the deadman is not held")
    chosen.poll(session)
    assert shown == ["", "the deadman is not held"]
    assert not session.stopped
    page.leader.stops = 1
    chosen.poll(session)
    assert session.stopped
    session.stopped = False  # taken back in the terminal
    chosen.poll(session)
    assert not session.stopped


def test_a_browser_leads_no_robot_on_a_virtual_clock(setup):
    with pytest.raises(BadInput, match="leads robots in real time"):
        leaders.choose_leader("browser", setup, "", 0)


def test_the_first_step_of_a_key_is_not_kept_as_a_difference(setup):
    chosen = leaders.choose_leader("keyboard", setup, "", 0)
    engagement = Engagement(
        SPEC.action_names, SPEC.action_units, SPEC.rate_hz, approach=chosen.approach
    )
    source = LeaderSource(chosen.leader, SPEC, engagement)
    reading = setup.robot.reading()
    assert reading is not None
    command = reading.values
    chosen.press("=")
    for tick in range(3):
        now = replace(moment(tick), now_s=setup.clock.now_s(), command=command)
        command = source.action(now).action
    np.testing.assert_allclose(command - reading.values, [0.02, 0, 0, 0, 0], atol=1e-9)
