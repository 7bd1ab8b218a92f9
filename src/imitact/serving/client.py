"""Remote policies: a Policy that asks a server, of imitact or of openpi."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    NegotiationError,
    WebSocketException,
)
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from imitact.core.camera_view import resize
from imitact.core.errors import BadInput, ConnectionLost, ImitactError, SpecMismatch, library_words
from imitact.core.types import Observation, Spec
from imitact.serving import codec
from imitact.serving.access import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, client_token
from imitact.serving.address import checked_address
from imitact.serving.messages import PROTOCOL, Answer, Greeting, Question

CONNECT_S = 5.0
ANSWER_S = 30.0
"""Longest time for an answer, s; a large policy on a CPU takes one or two."""

SILENT_S = 5.0
"""Longest time for which the other computer acknowledges nothing of what was sent, s."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
"""Between two attempts to connect, s; it doubles after each."""

MESSAGE_BYTES = 8 << 20
"""Of a greeting or an answer; a chunk of 1,000 ticks of 14 actions has 56 KB."""


@dataclass
class Counts:
    """What a client counted.

    Attributes:
        asked: questions that were sent.
        answered: answers that came.
        lost: questions whose connection ended, or that got no answer in time.
        connections: times that it connected.
        round_trip_s: of each answer.
        server_s: of each answer, the part that the server reports: waiting and computing.
    """

    asked: int = 0
    answered: int = 0
    lost: int = 0
    connections: int = 0
    round_trip_s: list[float] = field(default_factory=list)
    server_s: list[float] = field(default_factory=list)


_KEPT_TIMES = 1000


def _keep(times_s: list[float], time_s: float) -> None:
    """Append a time, and keep the newest."""
    times_s.append(time_s)
    del times_s[:-_KEPT_TIMES]


def _limit_silence(connected: socket.socket) -> None:
    """Let a send fail where the other computer is silent, as when a cable is pulled (Linux)."""
    with suppress(AttributeError, OSError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * SILENT_S))


class _Line:
    """A connection to one server, made when it is needed."""

    def __init__(
        self,
        address: str,
        token: Callable[[], str],
        on_greeting: Callable[[bytes], object],
        subprotocol: str | None,
        remedy: str,
    ) -> None:
        """Prepare.

        Args:
            token: returns the token; a server of a restarted machine may have another.
            on_greeting: reads the first message.
            subprotocol: to offer, if any.
            remedy: how the user gives another token.
        """
        self.address, self._token, self._on_greeting = address, token, on_greeting
        self._subprotocol, self._remedy = subprotocol, remedy
        self._now_s = time.monotonic
        self._stack = ExitStack()
        self._connection: ClientConnection | None = None
        self._wait_s, self._next_s = FIRST_WAIT_S, -np.inf
        self._lost_words = ""
        self.counts = Counts()

    def exchange(self, message: bytes) -> bytes:
        """Send a question and return its answer.

        Raises:
            ConnectionLost: there is no connection, or none for now, or no answer in time.
            BadInput: the server refuses this client, or is none of imitact.
            ImitactError: the server says why it has no answer.
        """
        if self._connection is not None and self._connection.state is not State.OPEN:
            self._drop()  # closed since, as by a server after an idle time
        connection = self._connection or self.open()
        begun_s = self._now_s()
        self.counts.asked += 1
        try:
            connection.send(message)
            found = connection.recv(timeout=ANSWER_S)
        except TimeoutError as error:
            self._drop()
            self.counts.lost += 1
            raise self._lost(f"it gave no answer within {ANSWER_S:g} s") from error
        except (ConnectionClosed, OSError) as error:
            self._drop()
            self.counts.lost += 1
            raise self._lost(library_words(error)) from error
        except BaseException:
            self._drop()  # Ctrl-C between question and answer: the next answer would be this one's
            raise
        if isinstance(found, str):
            raise ImitactError(f"{self.address}: {' '.join(found.split())[:2000]}")
        self.counts.answered += 1
        _keep(self.counts.round_trip_s, self._now_s() - begun_s)
        return found

    def open(self) -> ClientConnection:
        """Connect, and read the greeting, after the backoff delay."""
        if (now_s := self._now_s()) < self._next_s:
            time.sleep(min(self._next_s - now_s, LONGEST_WAIT_S))
        token = self._token()
        try:
            with ExitStack() as stack:
                connection = stack.enter_context(
                    connect(
                        self.address,
                        subprotocols=[self._subprotocol] if self._subprotocol else None,  # type: ignore[list-item]
                        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                        compression=None,
                        open_timeout=CONNECT_S,
                        close_timeout=1,
                        max_size=MESSAGE_BYTES,
                        proxy=None,
                        user_agent_header=None,
                    )
                )
                _limit_silence(connection.socket)
                greeting = connection.recv(timeout=CONNECT_S)
                if isinstance(greeting, str):
                    raise BadInput(f"{self.address}: {' '.join(greeting.split())[:500]}")
                self._on_greeting(greeting)
                self._stack = stack.pop_all()
        except InvalidStatus as error:
            raise self._refusal(error) from error
        except NegotiationError as error:
            raise BadInput(f"{self.address} speaks another protocol ({error})") from error
        except ssl.SSLCertVerificationError as error:
            raise BadInput(
                f"{self.address}: its certificate is not trusted ({error.verify_message}); "
                "SSL_CERT_FILE names the certificate of an authority of your own"
            ) from error
        except ssl.SSLError as error:
            raise BadInput(
                f"{self.address}: the server there does not speak TLS ({library_words(error)}); "
                "give ws:// or start it with --tls-cert and --tls-key"
            ) from error
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException, EOFError) as error:
            self._next_s = self._now_s() + self._wait_s
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            raise self._lost(library_words(error)) from error
        self._connection, self._wait_s = connection, FIRST_WAIT_S
        self.counts.connections += 1
        return connection

    def close(self) -> None:
        """End the connection; the next question makes another."""
        self._drop()

    def _drop(self) -> None:
        self._connection = None
        with suppress(Exception):
            self._stack.close()
        self._stack = ExitStack()

    def _lost(self, words: str) -> ConnectionLost:
        return ConnectionLost(f"{self.address} does not answer ({words}); is the server running?")

    def _refusal(self, error: InvalidStatus) -> ImitactError:
        status = error.response.status_code
        said = (error.response.body or b"").decode(errors="replace")
        if status == 401:
            return BadInput(
                f"{self.address} refuses this token; give that of the server: {self._remedy}"
            )
        if status == 503:
            self._next_s = self._now_s() + LONGEST_WAIT_S
            return ConnectionLost(f"{self.address} has as many clients as it takes, or is stopping")
        return BadInput(f"{self.address} refuses the connection ({' '.join(said.split())[:200]})")


class RemotePolicy:
    """A Policy that an imitact server answers for: the same chunks, bit for bit.

    Frames are cropped and resized here as the policy would, so that a message has as few bytes as
    the network needs. The question during which a connection is lost raises `ConnectionLost`; the
    next one connects anew. A server that has another policy then is refused.

    Attributes:
        path: the address.
        greeting: what the server said of its policy.
        counts: questions, answers and their times.
    """

    def __init__(self, address: str, *, identity: str = "", token: str | None = None) -> None:
        """Connect.

        Args:
            identity: of the policy that the server must have; empty accepts any.
            token: None takes that of this user (`access.client_token`).

        Raises:
            BadInput: the address is none, or the server refuses this client.
            ConnectionLost: nobody answers there.
        """
        self._greeting: Greeting | None = None
        self._identity = identity
        self._token = token
        remedy = f"{TOKEN_VARIABLE} holds it, or {TOKEN_FILE_VARIABLE} names its file"
        url = checked_address(address)
        self._line = _Line(url, self._own_token, self._greeted, PROTOCOL, remedy)
        self._number = 0
        self._line.open()

    @property
    def path(self) -> Path:
        return Path(self._line.address)

    @property
    def greeting(self) -> Greeting:
        assert self._greeting is not None
        return self._greeting

    @property
    def counts(self) -> Counts:
        return self._line.counts

    @property
    def spec(self) -> Spec:
        return self.greeting.spec

    @property
    def identity(self) -> str:
        """Of the policy, as in `StoredPolicy`."""
        return self.greeting.identity

    @property
    def execution(self) -> Any:
        """How its chunks are executed, if it was tuned."""
        return self.greeting.execution

    def reset(self, seed: int) -> None:
        """Begin an episode; answers do not depend on earlier ones, so the seed has no effect."""

    def chunk(self, observation: Observation) -> NDArray[Any]:
        """Return the next K actions, (K, A), in the units of the Spec.

        Raises:
            ConnectionLost: nobody answers for now; the question may be asked again.
            SpecMismatch, NotFinite: the observation is refused, here as by the policy itself.
            ImitactError: the server says why it has no answer.
        """
        greeting = self.greeting
        state, frames = greeting.spec.checked(observation)
        if greeting.views:
            frames = {name: view.apply(frames[name]) for name, view in greeting.views.items()}
        self._number += 1
        question = Question(Observation(state, frames), bool(greeting.views), self._number)
        answer = Answer.from_bytes(self._line.exchange(question.to_bytes()))
        if answer.number != self._number:
            self._line.close()
            raise ConnectionLost(f"{self._line.address} answered another question")
        if answer.chunk.shape[1] != greeting.spec.action_size:
            raise SpecMismatch(
                f"{self._line.address} answered {answer.chunk.shape[1]} actions a tick, expected "
                f"{greeting.spec.action_size}"
            )
        _keep(self.counts.server_s, (answer.queue_ms + answer.infer_ms) / 1000)
        return answer.chunk

    def close(self) -> None:
        """End the connection."""
        self._line.close()

    def _own_token(self) -> str:
        return client_token() if self._token is None else self._token

    def _greeted(self, data: bytes) -> None:
        greeting = Greeting.from_bytes(data, self._line.address)
        if self._identity and greeting.identity != self._identity:
            raise BadInput(
                f"{self._line.address} has another policy than before; nothing of the other one "
                "was taken. Give the same command again for the new policy"
            )
        self._identity, self._greeting = greeting.identity, greeting


class OpenpiPolicy:
    """A Policy that a server of openpi answers for (Physical-Intelligence/openpi).

    Such a server says nothing of joints and cameras, so the Spec is yours to give.
    """

    def __init__(
        self,
        address: str,
        spec: Spec,
        *,
        images: Mapping[str, str] | None = None,
        size: tuple[int, int] | None = (224, 224),
        prompt: str = "",
        token: str = "",
    ) -> None:
        """Connect.

        Args:
            spec: what the policy sees and commands.
            images: openpi's name by camera, where it differs: {"top": "cam_high"}.
            size: to which frames are resized, as openpi's clients do; None sends them as captured.
            prompt: the task in words.
            token: sent as API key where it is given.
        """
        self.spec, self._images, self._size = spec, dict(images or {}), size
        self._prompt = prompt
        url = checked_address(address)
        self._line = _Line(url, lambda: token, lambda data: None, None, "the argument `token`")
        self._line.open()

    @property
    def counts(self) -> Counts:
        return self._line.counts

    def reset(self, seed: int) -> None:
        """Begin an episode; openpi's protocol has no message for it."""

    def chunk(self, observation: Observation) -> NDArray[Any]:
        """Return the next actions, (K, A)."""
        state, frames = self.spec.checked(observation)
        images = {}
        for name, frame in frames.items():
            small = frame if self._size is None else resize(frame, *self._size)
            images[self._images.get(name, name)] = np.ascontiguousarray(small.transpose(2, 0, 1))
        message = {"state": state, "images": images, "prompt": self._prompt}
        answer = Answer.from_bytes(self._line.exchange(codec.pack(message)))
        if answer.chunk.shape[1] < self.spec.action_size:
            raise SpecMismatch(
                f"{self._line.address} answered {answer.chunk.shape[1]} actions a tick, expected "
                f"{self.spec.action_size}"
            )
        return answer.chunk[:, : self.spec.action_size]

    def close(self) -> None:
        """End the connection."""
        self._line.close()
