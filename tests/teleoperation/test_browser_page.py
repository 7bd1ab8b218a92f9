"""The page of virtual leaders in a real browser: engaged only while a person holds a deadman.

Needs Chromium (Debian: apt-get install chromium; IMITACT_CHROMIUM names another one) and the extra
"sim"; without them all tests here are skipped. Whether a robot follows is asked of `LeaderSource`
at times after the newest message, so that no test depends on how busy the computer is;
benchmarks/browser_leader.py measures the times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import browser
import numpy as np
import pytest

from imitact.control.engagement import Engagement
from imitact.control.sources import LeaderSource
from imitact.core.clock import WallClock
from imitact.core.hold import Hold
from imitact.core.robot import Reading
from imitact.robots.timed_frames import frame_mailbox
from imitact.teleoperation.browser import BrowserPage, browser_leader
from tests.support.control import RATE_HZ, SPEC, ObedientRobot, moment

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium (Debian: apt-get install chromium)"
)
PATIENCE_S = 60.0
START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5] * 2)


@pytest.fixture(scope="module")
def program() -> Iterator[browser.Browser]:
    assert PROGRAM
    with browser.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def served() -> Iterator[BrowserPage]:
    pytest.importorskip("mink")
    robot = ObedientRobot(WallClock(), SPEC)
    robot.state[:] = START
    frames = frame_mailbox(4, 6)
    frames.post(np.full((4, 6, 3), (250, 20, 20), np.uint8), 0.0)
    with browser_leader(robot, frames={"top": frames}) as page:
        yield page


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


@dataclass
class Tab:
    """A tab with the page, and the leader behind it."""

    page: browser.Page
    target: str
    served: BrowserPage

    def __call__(self, expression: str) -> Any:
        return self.page(expression)

    def reading(self) -> Reading:
        reading = self.served.leader.reading()
        assert reading is not None
        return reading

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        is_held = kind != "mouseReleased"
        self.page.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
            buttons=int(is_held), clickCount=1, **more,
        )  # fmt: skip

    def middle(self, selector: str) -> tuple[float, float]:
        box = self(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        return box[0], box[1]

    def press(self, selector: str = ".hand .pad") -> tuple[float, float]:
        """Press the mouse there, and wait until the leader is engaged."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y)
        self.is_engaged()
        return x, y

    def is_engaged(self) -> None:
        until(lambda: self.reading().engaged)

    def is_free(self) -> None:
        until(lambda: not self.reading().engaged)

    def close(self) -> None:
        self.page._browser.call("Target.closeTarget", targetId=self.target)


def open_tab(program: browser.Browser, served: BrowserPage) -> Tab:
    target = program.call("Target.createTarget", url="about:blank")["targetId"]
    session = program.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = browser.Page(program, session)
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=1200, height=1000, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    page.call("Page.navigate", url=served.url)
    program.wait("Page.loadEventFired", session)
    return Tab(page, target, served)


@pytest.fixture
def tab(program: browser.Browser, served: BrowserPage) -> Iterator[Tab]:
    until(lambda: "no page" in served.leader.fault())
    tab = open_tab(program, served)
    tab.page.until("document.querySelectorAll('.pad').length === 2")
    accepted = served.leader.accepted
    until(lambda: served.leader.accepted > accepted + 2)
    try:
        yield tab
        assert tab.page.errors == []
        assert served.leader.ignored == 0
    finally:
        tab.close()


def follows_until_100_ms_after(reading: Reading) -> bool:
    """Return whether a robot follows 99 ms after the message, and is held after 101 ms."""

    class Frozen:
        action_names, action_units = SPEC.action_names, SPEC.action_units
        reading = staticmethod(lambda: reading)
        fault = staticmethod(lambda: "")

    source = LeaderSource(Frozen(), SPEC, Engagement(SPEC.action_names, SPEC.action_units, RATE_HZ))
    at = [
        source.action(replace(moment(), now_s=reading.begin_s + after_s, command=START))
        for after_s in (0.099, 0.101)
    ]
    return at[0].engaged is True and at[1].hold is Hold.LEADER_OLD


def test_a_pad_that_is_held_moves_its_hand_and_engages_until_it_is_let_go(tab: Tab):
    assert not tab.reading().engaged
    x, y = tab.press(".hand:nth-child(2) .pad")
    for step in range(1, 6):
        tab.mouse("mouseMoved", x - 8 * step, y)
    until(lambda: np.abs(tab.reading().values - START).max() > 0.05)
    np.testing.assert_array_equal(tab.reading().values[:7], START[:7])
    tab.page.until("document.querySelector('#state').textContent === 'engaged'")
    tab.mouse("mouseReleased", x - 40, y)
    tab.is_free()
    np.testing.assert_array_equal(tab.reading().values, START, "it is where the robot is")


def test_space_engages_and_a_click_on_a_slider_moves_nothing(tab: Tab):
    tab.page.call("Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space")
    tab.is_engaged()
    x, y = tab.middle("#joints .slider:nth-child(2) .track")  # the left shoulder
    tab.mouse("mousePressed", x + 20, y)
    first = tab.served.leader.accepted
    until(lambda: tab.served.leader.accepted > first + 3)
    np.testing.assert_array_equal(tab.reading().values, START)
    tab.mouse("mouseMoved", x + 45, y)
    until(lambda: tab.reading().values[1] > START[1] + 0.1)
    tab.mouse("mouseReleased", x + 45, y)
    assert tab.reading().engaged, "Space is still held"
    tab.page.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space")
    tab.is_free()


def test_both_hands_are_led_by_two_fingers_and_each_is_a_deadman(tab: Tab):
    points = [
        dict(zip("xy", tab.middle(f".hand:nth-child({n}) .pad"), strict=True)) for n in (1, 2)
    ]

    def touch(kind: str, fingers: list[dict[str, float]]) -> None:
        tab.page.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    both = [{**point, "id": n} for n, point in enumerate(points)]
    touch("touchStart", both[:1])
    touch("touchStart", both)
    tab.is_engaged()
    touch("touchMove", [{**finger, "y": finger["y"] - 40} for finger in both])
    arms = [slice(0, 6), slice(7, 13)]
    until(lambda: all(np.abs(tab.reading().values - START)[arm].max() > 0.02 for arm in arms))
    touch("touchEnd", both[:1])
    first = tab.served.leader.accepted
    until(lambda: tab.served.leader.accepted > first + 3)
    assert tab.reading().engaged, "one finger is left"
    touch("touchEnd", [])
    tab.is_free()


PAD = """(() => {
    const button = (value) => ({ value, pressed: value > 0 });
    const buttons = [...Array(16)].map(() => button(0));
    window.pad = { connected: true, axes: [0, 0, 0, 0], buttons };
    navigator.getGamepads = () => [null, window.pad];
    document.hasFocus = () => true;
    window.press = (number, value) => (window.pad.buttons[number] = button(value));
})()"""


def test_a_gamepad_engages_by_its_bumper_and_moves_by_its_stick(tab: Tab):
    tab(PAD)
    tab("window.pad.axes[1] = -1")
    first = tab.served.leader.accepted
    until(lambda: tab.served.leader.accepted > first + 3)
    assert not tab.reading().engaged, "a stick alone moves nothing"
    tab("press(4, 1); press(6, 1)")
    tab.is_engaged()
    until(lambda: tab.reading().values[6] < 0.4 and np.abs(tab.reading().values - START)[0] > 0.01)
    np.testing.assert_array_equal(tab.reading().values[7:], START[7:])
    tab("press(4, 0)")
    tab.is_free()


@pytest.mark.parametrize(
    "loss",
    [
        "dispatchEvent(new Event('blur'))",
        "dispatchEvent(new Event('pagehide'))",
        "document.querySelector('.pad').dispatchEvent(new PointerEvent('pointercancel',"
        "{bubbles: true, pointerId: 1}))",
        "document.querySelector('#stop').click()",
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))",
    ],
    ids=["blur", "pagehide", "pointercancel", "stop", "hidden"],
)
def test_a_page_that_loses_the_person_lets_go_and_the_pointer_does_not_engage_again(
    tab: Tab, loss: str
):
    x, y = tab.press()
    tab(loss)
    tab.is_free()
    tab.mouse("mouseMoved", x + 30, y)
    first = tab.served.leader.accepted
    until(lambda: tab.served.leader.accepted > first + 3)
    assert not tab.reading().engaged


def test_another_window_in_front_lets_go(tab: Tab, program: browser.Browser):
    tab.press()
    other = program.call("Target.createTarget", url="about:blank")["targetId"]
    program.call("Target.activateTarget", targetId=other)
    try:
        tab.is_free()
    finally:
        program.call("Target.closeTarget", targetId=other)


def test_a_page_that_is_closed_lets_go(tab: Tab):
    tab.press()
    tab.page.call("Page.navigate", url="about:blank")
    tab.is_free()
    until(lambda: "no page" in tab.served.leader.fault())


def test_a_page_that_is_loaded_again_under_a_held_pointer_does_not_lead(tab: Tab):
    tab.press()
    tab.page.call("Page.reload")
    tab.is_free()
    tab.page.until("document.querySelectorAll('.pad').length === 2")
    first = tab.served.leader.accepted
    until(lambda: tab.served.leader.accepted > first + 3)
    assert not tab.reading().engaged


def test_a_robot_is_held_100_ms_after_the_newest_message_of_a_frozen_page(tab: Tab):
    tab.press()
    tab.page.call("Debugger.enable")
    tab.page.call("Debugger.pause")
    newest = tab.reading().sequence

    def is_silent() -> bool:
        nonlocal newest
        before, newest = newest, tab.reading().sequence
        time.sleep(0.3)
        return newest == before

    until(is_silent)
    frozen = tab.reading()
    assert frozen.engaged, "the page could not let go"
    assert follows_until_100_ms_after(frozen)
    tab.page.call("Debugger.resume")
    tab.page.call("Debugger.disable")
    until(lambda: tab.reading().sequence > newest)


def test_a_second_tab_is_refused_and_says_so(tab: Tab, program: browser.Browser):
    second = open_tab(program, tab.served)
    try:
        second.page.until(
            "document.querySelector('#state').textContent === 'another page leads already'"
        )
        x, y = 200.0, 300.0
        second.mouse("mousePressed", x, y)
        first = tab.served.leader.accepted
        until(lambda: tab.served.leader.accepted > first + 3)
        assert not tab.reading().engaged
    finally:
        second.close()


def test_the_picture_of_a_camera_is_shown(tab: Tab):
    tab.page.until("document.querySelector('#cameras canvas').dataset.shown > 0")
    color = tab(
        "[...document.querySelector('canvas').getContext('2d').getImageData(3, 2, 1, 1).data]"
    )
    np.testing.assert_allclose(color, [250, 20, 20, 255], atol=12)
    assert all(url.startswith(("http://127.0.0.1", "ws://127.0.0.1")) for url in tab.page.requests)
