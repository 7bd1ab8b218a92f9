"""A served policy: a policy's server in a thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imitact.core.errors import NotFinite
from imitact.core.types import Observation
from imitact.serving.access import Access
from imitact.serving.inference import InferenceThread
from imitact.serving.messages import Greeting
from imitact.serving.server import PolicyServer, ServerConfig
from tests.support.dot_env import dot_spec

TOKEN = "a-token-of-the-tests"

SPEC = dot_spec()


class StatePolicy:
    """Answers with the state in every row, and with the sum of the pixels in the last."""

    spec = SPEC

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def reset(self, seed: int) -> None:
        pass

    def chunk(self, observation: Observation) -> Any:
        self.gate.wait()
        state, frames = self.spec.checked(observation)
        if state[0] == 666:
            raise ZeroDivisionError("a defect of the policy")
        if state[0] == 777:
            raise NotFinite("the network answered with NaN")
        chunk = np.tile(np.float32(state), (5, 1))
        chunk[-1] = np.float32(frames["top"].sum(dtype=np.int64))
        return chunk


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    server: PolicyServer
    policy: Any
    host: str
    port: int
    scheme: str = "ws"

    @property
    def address(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@contextlib.contextmanager
def served(
    policy: Any = None,
    *,
    greeting: Greeting | None = None,
    batch: int = 1,
    clients: int = 8,
    names: Mapping[str, str] | None = None,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Served]:
    """Serve a policy at 127.0.0.1 with `TOKEN` until the block ends."""
    policy = policy or StatePolicy()
    inference = InferenceThread(lambda: policy, batch)
    inference.start()
    with socket.create_server(("127.0.0.1", port)) as listening:
        port = listening.getsockname()[1]
        access = Access(TOKEN, frozenset({"127.0.0.1", "localhost"}))
        greeting = greeting or Greeting("an identity", policy.spec, {}, 5)
        server = PolicyServer(greeting, inference, ServerConfig(access, clients, names or {}, tls))
        ready, loops = threading.Event(), []

        def run() -> None:
            async def main() -> None:
                task = asyncio.current_task()
                loops.append((asyncio.get_running_loop(), task))
                with contextlib.suppress(asyncio.CancelledError):
                    await server.run(listening, ready.set)

            asyncio.run(main())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield Served(server, policy, "127.0.0.1", port, "ws" if tls is None else "wss")
        finally:
            loop, task = loops[0]
            loop.call_soon_threadsafe(task.cancel)
            thread.join(10)
            gate = getattr(policy, "gate", None)
            if gate is not None:
                gate.set()
            inference.stop()
