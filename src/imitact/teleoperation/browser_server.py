"""Browser server: the page of virtual leaders, its messages and its pictures, at 127.0.0.1.

Host, origin and token of every request are checked, and one page is connected at a time. Requests
that are refused say no more than their status.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import html
import json
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from http import HTTPStatus
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers, MultipleValuesError
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from imitact.control.parking import first_command
from imitact.core.errors import ImitactError, library_words
from imitact.datasets.images import jpeg
from imitact.parallel.child_process import ParentPipe
from imitact.teleoperation.browser_boxes import ADDRESS, ServerConfig
from imitact.teleoperation.goals import Goal, joint_ranges, known_hands, load_kinematics
from imitact.teleoperation.page_messages import MAX_BYTES, PageInput, PageLead, PageMessages

HEARTBEAT_S = 0.05
STATE_S = 0.1
"""Between two messages to the page about the robot's state, s."""

SILENT_S = 5.0
"""Time without an accepted message after which a page is closed, s, so that another may connect. A
browser runs the timers of a hidden tab once a second."""

OTHER_PAGE, SILENT_PAGE = 4409, 4408
"""Codes with which a connection is closed; 4000 to 4999 are free for applications (RFC 6455)."""


def serve_page(pipe: ParentPipe, config: ServerConfig, listening: socket.socket) -> None:
    """Serve the page until the parent closes its pipe or has gone; the target of a process."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # refused requests are no news
    asyncio.run(PageServer(config).run(pipe, listening))


class PageServer:
    """The server of one page."""

    def __init__(self, config: ServerConfig) -> None:
        """Load the page, and the kinematics of its hands."""
        self._config, self._boxes, self._clock = config, config.boxes, config.clock
        spec = config.robot.spec
        self._lower, self._upper = joint_ranges(spec.action_names, spec.action_units, config.limits)
        hands = known_hands(spec.action_names, spec.action_units)
        self._goal = Goal(hands, load_kinematics(hands))
        self._cameras = tuple(config.frames)
        self._page: ServerConnection | None = None
        self._counts: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._newest: PageInput | None = None
        self._engaged = False
        self._pose: NDArray[np.float64] | None = None
        self._seen = 0
        self._robot_words = ""

    async def run(self, pipe: ParentPipe, listening: socket.socket) -> None:
        """Serve on a socket that listens."""
        self._host = f"{ADDRESS}:{listening.getsockname()[1]}"
        self._answer = _page_response(self._host, self._config.title)
        async with serve(
            self._connected,
            sock=listening,
            process_request=self._admit,
            max_size=MAX_BYTES,
            compression=None,
            server_header=None,
            ping_interval=None,  # a frozen page still answers pings; its messages are its life
            open_timeout=10,
            close_timeout=1,
        ) as server:
            self._beat()
            pipe.ready()
            while pipe.next_order(0) is None and not pipe.parent_is_gone:
                self._beat()
                await asyncio.sleep(HEARTBEAT_S)
            await _close(server)

    def _beat(self) -> None:
        values = [
            float(self._page is not None),
            float(self._counts["accepted"]),
            float(self._ignored),
            float(self._counts["stops"]),
        ]
        self._boxes.life.post(np.array(values), self._clock.now_s())

    @property
    def _ignored(self) -> int:
        return sum(self._counts.values()) - self._counts["accepted"] - self._counts["stops"]

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the page, None to open a connection, or why a request is refused."""
        url = urlsplit(request.path)
        try:
            host = request.headers.get("Host", "")
            origin = request.headers.get("Origin")
        except MultipleValuesError:
            return _plain(HTTPStatus.FORBIDDEN)
        is_page = url.path == "/"
        tokens = parse_qs(url.query).get("token", [])
        if (
            host != self._host  # another name for this address is a page of somebody else
            or (
                origin != f"http://{host}"
                if not is_page
                else origin not in (None, f"http://{host}")
            )
            or len(tokens) != 1
            or not hmac.compare_digest(tokens[0].encode(), self._config.token.encode())
        ):
            return _plain(HTTPStatus.FORBIDDEN)
        if is_page:
            return self._answer
        return None if url.path == "/leader" else _plain(HTTPStatus.NOT_FOUND)

    async def _connected(self, page: ServerConnection) -> None:
        """Serve a connection; only one at a time."""
        if self._page is not None:
            await page.close(OTHER_PAGE, "another page leads already")
            return
        self._page, self._newest, self._seen = page, None, 0
        self._engaged = False
        self._accepted_s = self._clock.now_s()
        messages = PageMessages(len(self._goal.hands), self._lower, self._upper)
        self._beat()
        tasks = [
            asyncio.create_task(_guarded(work, page))
            for work in (self._lead(), self._tell(page), self._show(page), self._watch(page))
        ]
        try:
            await page.send(json.dumps(self._hello()))
            async for data in page:
                self._take(messages, data)
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._counts["too large"] += 1
        finally:
            for task in tasks:
                task.cancel()
            self._page = None
            self._release()
            self._beat()

    def _take(self, messages: PageMessages, data: str | bytes) -> None:
        now_s = self._clock.now_s()
        before = messages.refused.copy()
        found = messages.take(data, now_s)
        self._counts += messages.refused - before
        if found is None:
            return
        self._counts["accepted"] += 1
        self._counts["stops"] += found.stop
        self._accepted_s, self._seen, self._newest = now_s, found.seen, found
        self._wake.set()

    async def _lead(self) -> None:
        """Post a goal for the newest message; those that came meanwhile are overtaken."""
        lead = PageLead(self._goal, self._own_pose)
        while True:
            await self._wake.wait()
            self._wake.clear()
            message = self._newest
            if message is None:
                continue
            pose, self._engaged = lead.update(message)
            if pose is not None:
                self._pose = pose
                self._post(message.sent_s)

    def _post(self, sent_s: float) -> None:
        assert self._pose is not None
        values = np.append(self._pose, float(self._engaged))
        self._boxes.goal.post(values, sent_s, self._clock.now_s())

    def _release(self) -> None:
        """Let go: the page has gone."""
        self._engaged = False
        if self._pose is not None:
            self._post(self._clock.now_s())

    def _own_pose(self) -> NDArray[np.float64] | None:
        try:
            return first_command(self._config.robot)
        except ImitactError as error:
            self._robot_words = library_words(error)
            return None

    async def _watch(self, page: ServerConnection) -> None:
        """Close a page that says nothing any more."""
        while self._clock.now_s() - self._accepted_s < SILENT_S:
            await asyncio.sleep(SILENT_S / 10)
        await page.close(SILENT_PAGE, "the page was silent")

    def _hello(self) -> dict[str, object]:
        spec = self._config.robot.spec
        return {
            "names": spec.action_names,
            "units": spec.action_units,
            "lower": self._lower.tolist(),
            "upper": self._upper.tolist(),
            "hands": [
                {"side": hand.side, "gripper": hand.gripper, "joints": hand.joints}
                for hand in self._goal.hands
            ],
            "cameras": self._cameras,
        }

    async def _tell(self, page: ServerConnection) -> None:
        """Tell the page the robot's pose and what is said about it."""
        while True:
            pose = self._pose if self._engaged else self._own_pose()
            state = {
                "pose": None if pose is None else pose.tolist(),
                "engaged": self._engaged,
                "words": self._boxes.read_words() if pose is not None else self._robot_words,
                "out": self._goal.out_of_reach if self._engaged else (),
                "ignored": self._ignored,
            }
            await page.send(json.dumps(state))
            await asyncio.sleep(STATE_S)

    async def _show(self, page: ServerConnection) -> None:
        """Send pictures, as one byte with the camera's number and a JPEG.

        The next round begins once the page has shown the last one, so that none queue up.
        """
        shown = dict.fromkeys(self._cameras, 0)
        sent = 0
        while self._cameras:
            await asyncio.sleep(1 / self._config.picture_rate_hz)
            if self._seen < sent:
                continue
            for number, camera in enumerate(self._cameras):
                mail = self._config.frames[camera].read()
                if mail is None or mail.sequence == shown[camera]:
                    continue
                shown[camera] = mail.sequence
                picture = await asyncio.to_thread(jpeg, mail.values)
                await page.send(bytes([number]) + picture)
                sent += 1


async def _guarded(work: Coroutine[Any, Any, None], page: ServerConnection) -> None:
    """Do work for a page; close the page where it fails, so that it does not seem to lead."""
    try:
        await work
    except ConnectionClosed:
        pass
    except Exception as error:
        words = f"{type(error).__name__}: {library_words(error)}"
        await page.close(CloseCode.INTERNAL_ERROR, words.encode()[:120].decode(errors="ignore"))


async def _close(server: Server) -> None:
    server.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), 1.0)


def _plain(status: HTTPStatus) -> Response:
    body = f"{status.value} {status.phrase}\n".encode()
    return Response(status.value, status.phrase, _headers("text/plain", body), body)


def _headers(kind: str, body: bytes, policy: str = "default-src 'none'") -> Headers:
    return Headers(
        {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
    )


def _page_response(host: str, title: str) -> Response:
    """Return the page, whose policy allows its own script, style and connection only."""
    script, style = _web_file("leader.js"), _web_file("leader.css")
    page = Template(_web_file("leader.html")).substitute(
        title=html.escape(title), style=style, script=script
    )
    body = page.encode()
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        f"connect-src ws://{host}; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Response(200, "OK", _headers("text/html", body, policy), body)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _web_file(name: str) -> str:
    web = resources.files("imitact.teleoperation").joinpath("web", name)
    return web.read_text(encoding="utf-8")
