"""Policy server: WebSocket connections, their limits, a health page and counters.

Each connection has one question at a time. What a peer may do is limited: the time of its
handshake, the size of a message and its time, messages that are none, and answers that it does not
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, NegotiationError
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from imitact.core.errors import ImitactError, library_words
from imitact.serving.access import Access
from imitact.serving.inference import InferenceThread
from imitact.serving.messages import (
    PROTOCOL,
    Greeting,
    Question,
    read_openpi_question,
    read_question,
)

MAX_HANDSHAKES = 8
"""Connections that are not yet admitted, beyond one for each client that may come; one more closes
the oldest of them."""

HANDSHAKE_S = 5.0
MESSAGE_S = 10.0
"""Longest time from the first byte of a question to its last, s."""

IDLE_S = 600.0
"""Longest time without a question, s; a robot may stand between two episodes."""

SEND_S = 2.0
"""Longest time in which a peer must take an answer, s."""

CONTROL_BYTES = 1024
"""Bytes allowed between questions for pings and pongs."""

MAX_BAD = 10
"""Messages in a row that are no questions; then the connection is closed."""

WATCH_S = 0.5
"""Interval between checks for slow and idle connections, s."""

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A robot that lost its power gives its place free after 30 s (Linux)."""


@dataclass
class Counters:
    """What a server has done, for a monitor."""

    started_s: float = field(default_factory=time.monotonic)
    connections: int = 0
    refused: int = 0
    questions: int = 0
    answers: int = 0
    failures: int = 0
    bad_messages: int = 0
    closed_slow: int = 0
    queue_s: float = 0.0
    infer_s: float = 0.0

    def to_text(self, greeting: Greeting, clients: int, waiting: int) -> str:
        """Return the counters in Prometheus' text format, version 0.0.4."""
        gauges = {
            "clients": ("clients that are connected", clients),
            "waiting_questions": ("questions that wait for the policy", waiting),
            "uptime_seconds": ("time since the start", time.monotonic() - self.started_s),
        }
        totals = {
            "connections": ("clients that were admitted", self.connections),
            "refused": ("requests that were refused", self.refused),
            "questions": ("questions that came", self.questions),
            "answers": ("questions that were answered", self.answers),
            "failures": ("questions that the policy could not answer", self.failures),
            "bad_messages": ("messages that were no questions", self.bad_messages),
            "closed_slow": ("connections closed for being slow or idle", self.closed_slow),
            "queue_seconds": ("time for which answered questions waited", self.queue_s),
            "infer_seconds": ("time that the policy computed, by question", self.infer_s),
        }
        lines = [
            "# HELP imitact_policy the policy, by its identity",
            "# TYPE imitact_policy gauge",
            f'imitact_policy{{identity="{greeting.identity}"}} 1',
        ]
        for kind, end, values in (("gauge", "", gauges), ("counter", "_total", totals)):
            for name, (about, value) in values.items():
                full = f"imitact_{name}{end}"
                shown = f"{value:.6f}" if isinstance(value, float) else f"{value}"
                lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {shown}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class ServerConfig:
    """Who may ask a server, and over which kind of connection.

    Attributes:
        access: who may ask.
        max_clients: clients at once.
        names: the camera by openpi's name of it, where it differs.
        tls: certificate and key; None serves without encryption.
    """

    access: Access
    max_clients: int
    names: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None


class _Connection(ServerConnection):
    """A connection that knows when its question began."""

    owner: PolicyServer
    pending = 0
    pending_since_s: float | None = None
    asked_s = 0.0
    is_answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.asked_s = time.monotonic()
        with contextlib.suppress(AttributeError, OSError):
            connected = transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.pending += len(data)
        if self.pending > CONTROL_BYTES and self.pending_since_s is None:
            self.pending_since_s = time.monotonic()
        super().data_received(data)

    def expect_question(self) -> None:
        """Count bytes and time anew."""
        self.pending, self.pending_since_s = 0, None
        self.asked_s, self.is_answering = time.monotonic(), False

    def is_slow(self, now_s: float) -> bool:
        """Whether a question takes too long to come, or none comes."""
        if self.is_answering:
            return False  # what comes meanwhile waits
        since_s = self.pending_since_s
        return now_s - self.asked_s > IDLE_S or (
            since_s is not None and now_s - since_s > MESSAGE_S
        )


class PolicyServer:
    """Serves one policy until it is told to stop."""

    def __init__(
        self, greeting: Greeting, inference: InferenceThread, config: ServerConfig
    ) -> None:
        """Prepare; the inference thread has started."""
        self._greeting, self._inference, self._config = greeting, inference, config
        self._hello = greeting.to_bytes()
        self.counters = Counters()
        self._connections: set[_Connection] = set()
        self._handshakes: dict[_Connection, None] = {}  # oldest first

    async def run(
        self, listening: socket.socket, on_ready: Callable[[], object] = lambda: None
    ) -> None:
        """Serve on a socket that listens, until the task is cancelled."""

        class Connection(_Connection):
            owner = self

        async with serve(
            self._connected,  # type: ignore[arg-type]
            sock=listening,
            ssl=self._config.tls,
            create_connection=Connection,
            process_request=self._admit,  # type: ignore[arg-type]
            select_subprotocol=_subprotocol,
            max_size=self._greeting.max_bytes,
            max_queue=1,
            compression=None,
            server_header=None,
            ping_interval=None,  # a peer that answers pings may still drip; `_watch` closes it
            open_timeout=HANDSHAKE_S,
            close_timeout=1,
            logger=_quiet_logger(),
        ):
            on_ready()
            await self._watch()

    def opened(self, connection: _Connection) -> None:
        """Count a connection that is not yet admitted.

        Clients with a token are admitted within milliseconds, so that of too many the oldest is one
        that sends nothing.
        """
        if len(self._handshakes) >= MAX_HANDSHAKES + self._config.max_clients:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            self.counters.refused += 1
            oldest.transport.abort()
        self._handshakes[connection] = None

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        self._handshakes.pop(connection, None)
        self._connections.discard(connection)

    def _admit(self, connection: _Connection, request: Request) -> Response | None:
        """Return None to open a connection, a page, or why a request is refused."""
        url, headers, access = urlsplit(request.path), request.headers, self._config.access
        host, origin = headers.get_all("Host"), headers.get_all("Origin")
        if url.path == "/healthz" and access.may_see_health(host, origin):
            is_well = self._inference.is_alive
            return _page(
                HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE,
                "OK\n" if is_well else "the policy's thread has ended\n",
            )
        refusal = access.refusal(host, origin, headers.get_all("Authorization"))
        if refusal is None and url.path == "/metrics":
            return _page(
                HTTPStatus.OK,
                self.counters.to_text(
                    self._greeting, len(self._connections), self._inference.waiting
                ),
                "text/plain; version=0.0.4",
            )
        if refusal is None and url.path != "/":
            refusal = HTTPStatus.NOT_FOUND
        if refusal is None and len(self._connections) >= self._config.max_clients:
            refusal = HTTPStatus.SERVICE_UNAVAILABLE
        if refusal is not None:
            self.counters.refused += 1
            return _page(refusal, f"{refusal.value} {refusal.phrase}\n")
        self._connections.add(connection)  # before the handshake ends, so that none slips in
        self._handshakes.pop(connection, None)
        return None

    async def _connected(self, connection: _Connection) -> None:
        self.counters.connections += 1
        with contextlib.suppress(ConnectionClosed):
            await self._send(connection, self._hello)
            await self._answer_all(connection)

    async def _answer_all(self, connection: _Connection) -> None:
        is_ours = connection.subprotocol is not None
        bad = 0
        while True:
            connection.expect_question()
            data = await connection.recv()
            connection.is_answering = True
            try:
                if isinstance(data, str):
                    raise ImitactError("a text is no question; send MessagePack")
                question = self._read(data, is_ours)
            except ImitactError as error:
                self.counters.bad_messages += 1
                bad += 1
                await self._send(connection, _words(error))
                if bad >= MAX_BAD:
                    await connection.close(
                        CloseCode.POLICY_VIOLATION, f"{MAX_BAD} messages were no questions"
                    )
                    return
                continue
            bad = 0
            self.counters.questions += 1
            try:
                answer = await self._inference.answer(
                    question, lambda: connection.state is State.OPEN
                )
                message = answer.to_bytes()
            except ImitactError as error:
                self.counters.failures += 1
                await self._send(connection, _words(error))
                continue
            self.counters.queue_s += answer.queue_ms / 1000
            self.counters.infer_s += answer.infer_ms / 1000
            await self._send(connection, message)
            self.counters.answers += 1

    def _read(self, data: bytes, is_ours: bool) -> Question:
        if is_ours:
            return read_question(data, self._greeting)
        return read_openpi_question(data, self._greeting, self._config.names)

    async def _send(self, connection: _Connection, message: bytes | str) -> None:
        """Send; drop a peer that does not take it."""
        try:
            async with asyncio.timeout(SEND_S):
                await connection.send(message)
        except TimeoutError:
            self.counters.closed_slow += 1
            connection.transport.abort()
            await connection.wait_closed()
            raise ConnectionClosed(None, None) from None

    async def _watch(self) -> None:
        """Close connections whose questions take too long; runs until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            now_s = time.monotonic()
            for connection in [c for c in self._connections if c.is_slow(now_s)]:
                self.counters.closed_slow += 1
                self._connections.discard(connection)
                # Its handler ends with the connection; a closing handshake could be waited for.
                connection.transport.abort()


def _subprotocol(connection: ServerConnection, offered: Any) -> Subprotocol | None:
    """Choose imitact's dialect where it is offered; none offered is openpi's."""
    if not offered:
        return None
    if PROTOCOL in offered:
        return Subprotocol(PROTOCOL)
    raise NegotiationError(f"this server speaks {PROTOCOL}")


def _words(error: ImitactError) -> str:
    """Return the text of an error: one line that begins with its kind, at most 2,000 characters."""
    return f"{type(error).__name__}: {library_words(error)}"[:2000]


def _page(status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> Response:
    body = text.encode()
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(status.value, status.phrase, headers, body)


def _quiet_logger() -> logging.Logger:
    """Return a logger that says nothing: refused requests are counted."""
    logger = logging.getLogger("imitact.serving.websockets")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
