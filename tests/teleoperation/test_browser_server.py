"""Server of the page: who may connect, one page at a time, and what happens when one goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from imitact.core.clock import WallClock
from imitact.core.errors import BadInput
from imitact.core.types import Spec
from imitact.teleoperation.browser import BrowserPage, browser_leader
from imitact.teleoperation.browser_server import OTHER_PAGE
from tests.support.control import ARM, ObedientRobot
from tests.support.page_says import message

PATIENCE_S = 30.0
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def page() -> Iterator[BrowserPage]:
    robot = ObedientRobot(WallClock(), ARM)
    robot.state[:] = [0.25, -0.25]
    urls: list[str] = []
    with browser_leader(robot, title="arm <1>", on_url=urls.append) as page:
        assert urls == [page.url]
        yield page


def until(condition, what: str = "") -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def opened(page: BrowserPage) -> Iterator[ClientConnection]:
    """Connect as the page does, once the page before has gone."""
    until(lambda: "no page" in page.leader.fault())
    url = urlsplit(page.url)
    origin = f"http://{url.netloc}"
    address = f"ws://{url.netloc}/leader?{url.query}"
    with connect(address, origin=origin, open_timeout=PATIENCE_S) as client:
        assert json.loads(client.recv(PATIENCE_S))["names"] == ["waist", "elbow"]
        yield client


def answer(page: BrowserPage, path: str, **headers: str) -> http.client.HTTPResponse:
    """Send a request with these headers; the token is that of the page where it says TOKEN."""
    url = urlsplit(page.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=PATIENCE_S)
    connection.request(
        "GET", path.replace("TOKEN", url.query.removeprefix("token=")), headers=headers
    )
    return connection.getresponse()


def test_the_page_is_one_file_that_may_load_nothing_else(page):
    response = answer(page, "/?token=TOKEN")
    text = response.read().decode()
    assert response.status == 200
    assert "<h1>arm &lt;1&gt;</h1>" in text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert f"connect-src ws://{urlsplit(page.url).netloc};" in policy
    assert response.headers["Cache-Control"] == "no-store"
    assert urlsplit(page.url).query not in text, "the token is in the address alone"


@pytest.mark.parametrize("path", ["/", "/leader"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("?token=", {}),
        ("?token=TOKEN&token=TOKEN", {}),
        ("?token=TOKENx", {}),
        ("?token=%ff%00", {}),
        ("?token=TOKEN", {"Origin": "http://evil.example"}),
        ("?token=TOKEN", {"Origin": "null"}),
        ("?token=TOKEN", {"Origin": "https://{host}"}),
        ("?token=TOKEN", {"Host": "evil.example"}),
        ("?token=TOKEN", {"Host": "127.0.0.1"}),
        ("?token=TOKEN", {"Host": "evil.example", "Origin": "http://evil.example"}),
    ],
)
def test_another_token_origin_or_host_is_refused(page, path, query, headers):
    host = urlsplit(page.url).netloc
    given = {"Origin": f"http://{host}", **headers}
    given = {name: value.format(host=host) for name, value in given.items()}
    if path == "/leader":
        given |= UPGRADE
    response = answer(page, path + query, **given)
    assert response.status == 403
    assert response.read() == b"403 Forbidden\n"


def test_a_connection_without_an_origin_is_no_browser(page):
    assert answer(page, "/leader?token=TOKEN", **UPGRADE).status == 403
    assert answer(page, "/other?token=TOKEN", Origin=page.url.split("/?")[0]).status == 404


def test_the_goal_is_posted_and_let_go_when_the_page_goes(page):
    with opened(page) as client:
        until(lambda: page.leader.fault() == "")
        client.send(message(1, 0))
        client.send(message(2, 1))
        client.send(message(3, 1, joints=[None, 0.5]))

        def leads() -> bool:
            reading = page.leader.reading()
            return reading.engaged and reading.values.tolist() == [0.25, 0.5]

        until(lambda: page.leader.reading() is not None)
        until(leads, "it is engaged")
    until(lambda: not page.leader.reading().engaged, "it is let go")
    until(lambda: "no page" in page.leader.fault())


def test_a_second_page_is_refused_and_the_first_leads_on(page):
    url = urlsplit(page.url)
    with opened(page) as client:
        with connect(
            f"ws://{url.netloc}/leader?{url.query}", origin=f"http://{url.netloc}"
        ) as second:
            with pytest.raises(ConnectionClosed):
                second.recv(PATIENCE_S)
            assert second.close_code == OTHER_PAGE
        client.send(message(1, 0))
        client.send(message(2, 1))
        until(lambda: (found := page.leader.reading()) is not None and found.engaged)


def test_garbage_is_counted_and_leads_nothing(page):
    before = page.leader.ignored
    with opened(page) as client:
        for data in ("{}", b"\x00\xff", message(1, 0), message(1, 1), message(2, 1, joints=[9, 9])):
            client.send(data)
        until(lambda: page.leader.ignored == before + 4)
        assert not page.leader.reading().engaged


def test_a_page_that_sends_too_much_is_closed_and_let_go(page):
    before = page.leader.ignored
    with opened(page) as client:
        client.send(message(1, 0))
        client.send(message(2, 1))
        until(lambda: page.leader.reading().engaged)
        client.send(message(3, 1) + " " * 4096)
        with contextlib.suppress(ConnectionClosed):
            while client.recv(PATIENCE_S):
                pass
        assert client.close_code == 1009
    until(lambda: page.leader.ignored == before + 1)
    assert not page.leader.reading().engaged


def test_stop_and_the_words_of_the_robot_reach_the_other_side(page):
    before = page.leader.stops
    page.leader.show("held: the deadman is not held " + "é" * 400)
    with opened(page) as client:
        client.send(message(1, 0, stop=True))
        until(lambda: page.leader.stops == before + 1)
        state = json.loads(client.recv(PATIENCE_S))
        while "names" in state:
            state = json.loads(client.recv(PATIENCE_S))
        assert state["words"].startswith("held: the deadman is not held é")
        np.testing.assert_allclose(state["pose"], [0.25, -0.25])
        assert not state["engaged"]


def test_a_port_that_is_taken_and_a_unit_without_a_range_are_refused_by_name(page):
    port = urlsplit(page.url).port
    robot = ObedientRobot(WallClock(), ARM)
    with pytest.raises(BadInput, match=f"cannot be served at 127.0.0.1:{port}"):
        browser_leader(robot, port=port)
    furlongs = Spec(("lift",), ("lift",), ("furlong",), ("furlong",), (), 50.0)
    with pytest.raises(BadInput, match='lift is in "furlong", whose range is not known'):
        browser_leader(ObedientRobot(WallClock(), furlongs))


def test_a_server_that_is_killed_is_named(page):  # the last test: it ends the server
    with opened(page):
        os.kill(page.pid, signal.SIGKILL)
        until(page.death)
        assert page.death() == "the server of the browser leader was killed by SIGKILL"
        until(lambda: "no sign of life" in page.leader.fault())
