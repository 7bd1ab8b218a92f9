"""Remote policies: the chunks of the policy itself, and what happens when its server goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitact.core.camera_view import View
from imitact.core.errors import BadInput, ConnectionLost, ImitactError, NotFinite, SpecMismatch
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Accumulator
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Camera, Observation, Spec
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.serving import client, server
from imitact.serving.address import as_address, checked_address
from imitact.serving.client import OpenpiPolicy, RemotePolicy
from imitact.serving.messages import Greeting
from tests.support.served import SPEC, TOKEN, StatePolicy, served
from tests.support.tiny_model import TINY_MODEL

RNG = np.random.default_rng(0)


def observation(spec: Spec = SPEC, x: float = 0.25) -> Observation:
    frames = {
        camera.name: RNG.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        for camera in spec.cameras
    }
    return Observation(np.full(spec.state_size, x), frames)


def cropping_policy(cameras: tuple[Camera, ...]) -> TorchPolicy:
    """An untrained policy that sees the middle of its frames, smaller."""
    spec = Spec(("x", "y"), ("x", "y"), ("m", "m"), ("m", "m"), cameras, 20.0)
    seen = Accumulator(2)
    seen.add(RNG.uniform(0, 1, (50, 2)))
    stats = {"state": seen.result(), "action": seen.result()}
    config: ActConfig = TINY_MODEL
    return TorchPolicy.create(spec, stats, config, seed=0, fingerprint="none")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_remote_policy_gives_the_policys_own_chunks_bit_for_bit(batch: int):
    policy = cropping_policy((Camera("top", 96, 128), Camera("side", 51, 67)))
    greeting = Greeting("tiny", policy.spec, policy.views, policy.config.chunk_size)
    with served(policy, greeting=greeting, batch=batch) as one:
        remote = RemotePolicy(one.address, token=TOKEN)
        assert remote.spec == policy.spec
        for _ in range(5):
            seen = observation(policy.spec)
            np.testing.assert_array_equal(remote.chunk(seen), policy.chunk(seen))
        assert remote.chunk(seen).dtype == np.float32
        remote.close()


def test_frames_are_sent_as_the_network_sees_them():
    policy = cropping_policy((Camera("top", 480, 640),))
    greeting = Greeting("tiny", policy.spec, policy.views, policy.config.chunk_size)
    with served(policy, greeting=greeting) as one:
        remote = RemotePolicy(one.address, token=TOKEN)
        sent: list[int] = []
        exchange = remote._line.exchange
        remote._line.exchange = lambda data: sent.append(len(data)) or exchange(data)  # type: ignore
        remote.chunk(observation(policy.spec))
        remote.close()
    height, width = policy.views["top"].size
    assert sent[0] < 3 * height * width + 300


def test_answers_together_are_those_of_one_after_the_other():
    policy = cropping_policy((Camera("top", 48, 64),))
    seen = [observation(policy.spec, x / 8) for x in range(6)]
    small = [
        Observation(each.state, {"top": policy.views["top"].apply(each.frames["top"])})
        for each in seen
    ]
    together = policy.chunks_seen(small)
    alone = np.stack([policy.chunk(each) for each in seen])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_frames_of_another_size_than_seen_are_refused():
    policy = cropping_policy((Camera("top", 48, 64),))
    with pytest.raises(SpecMismatch, match="input size"):
        policy.chunks_seen([observation(policy.spec)])


def test_the_greeting_comes_back_whole():
    policy = cropping_policy((Camera("top", 48, 64),))
    bounds = (np.array([1.0, 2.0]) * k for k in (-1, 1, 2, 3, 4))
    limits = JointLimits(policy.spec.action_names, policy.spec.action_units, *bounds)
    greeting = Greeting(
        "an identity", policy.spec, {"top": View(12, 16, (0, 40, 4, 60))}, 8,
        Execution("replay:4~2", "3..9"), {"env": "cube", "gym": {"success": "is_success"}}, limits,
    )  # fmt: skip
    found = Greeting.from_bytes(greeting.to_bytes(), "x")
    assert found.limits is not None
    assert found.limits.to_json() == limits.to_json()
    assert replace(found, limits=None) == replace(greeting, limits=None)


def test_what_is_no_greeting_is_refused_by_name():
    with pytest.raises(BadInput, match=r"x is no imitact server of protocol imitact\.1"):
        Greeting.from_bytes(b"\x80", "x")
    with pytest.raises(BadInput, match=r"x is no imitact server .* it speaks imitact\.7"):
        Greeting.from_bytes(b"\x81\xa8protocol\xa9imitact.7", "x")
    with pytest.raises(BadInput, match="x greets with something else"):
        Greeting.from_bytes(b"\x81\xa8protocol\xa9imitact.1", "x")


def test_an_observation_that_does_not_fit_is_refused_before_it_is_sent():
    with served() as one:
        remote = RemotePolicy(one.address, token=TOKEN)
        with pytest.raises(SpecMismatch, match="no frame of camera top"):
            remote.chunk(Observation(np.zeros(2)))
        with pytest.raises(NotFinite):
            remote.chunk(observation(x=np.nan))
        assert one.server.counters.questions == 0
        with pytest.raises(ImitactError, match="ZeroDivisionError: a defect of the policy"):
            remote.chunk(observation(x=666))
        remote.chunk(observation())
        remote.close()


def test_a_wrong_token_says_where_the_right_one_is():
    with (
        served() as one,
        pytest.raises(BadInput, match=r"refuses this token; .*IMITACT_TOKEN holds it"),
    ):
        RemotePolicy(one.address, token="another-token-0000")


def test_nobody_at_an_address_is_a_lost_connection():
    with pytest.raises(ConnectionLost, match=r"does not answer .* is the server running"):
        RemotePolicy("ws://127.0.0.1:9", token=TOKEN)


def test_a_connection_that_was_closed_while_idle_is_made_anew_for_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(server, "WATCH_S", 0.02)
    with served() as one:
        policy = RemotePolicy(one.address, token=TOKEN)
        first = policy.chunk(observation())
        monkeypatch.setattr(server, "IDLE_S", 0.1)
        connection = policy._line._connection
        assert connection is not None
        connection.recv_events_thread.join(10)  # the server has closed it
        monkeypatch.setattr(server, "IDLE_S", 600.0)
        np.testing.assert_array_equal(policy.chunk(observation())[0], first[0])
        assert policy.counts.lost == 0
        assert policy.counts.connections == 2
        policy.close()


def test_a_server_that_restarts_with_its_policy_is_asked_again():
    with served() as one:
        remote = RemotePolicy(one.address, token=TOKEN)
        remote.chunk(observation())
    with pytest.raises(ConnectionLost):
        remote.chunk(observation())
    with pytest.raises(ConnectionLost):
        remote.chunk(observation())
    with served(port=one.port):
        np.testing.assert_array_equal(remote.chunk(observation(x=0.5))[0], np.float32([0.5, 0.5]))
        remote.close()
    assert remote.counts.connections == 2
    assert remote.counts.answered == 2


def test_a_server_that_restarts_with_another_policy_is_refused():
    with served() as one:
        remote = RemotePolicy(one.address, token=TOKEN)
    with pytest.raises(ConnectionLost):
        remote.chunk(observation())
    other = Greeting("another identity", SPEC, {}, 5)
    with served(greeting=other, port=one.port):
        with pytest.raises(BadInput, match="has another policy than before"):
            remote.chunk(observation())
        with pytest.raises(BadInput, match="has another policy than before"):
            RemotePolicy(one.address, token=TOKEN, identity="an identity")


def test_the_time_between_attempts_doubles_to_a_second(monkeypatch: pytest.MonkeyPatch):
    with served() as one:
        remote = RemotePolicy(one.address, token=TOKEN)
    slept: list[float] = []
    monkeypatch.setattr(client.time, "sleep", slept.append)
    remote._line._now_s = lambda: 100.0
    for _ in range(8):
        with pytest.raises(ConnectionLost):
            remote.chunk(observation())
    assert [round(s, 3) for s in slept[:6]] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_an_answer_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    policy = StatePolicy()
    with served(policy) as one:
        remote = RemotePolicy(one.address, token=TOKEN)
        policy.gate.clear()
        with pytest.raises(ConnectionLost, match=r"gave no answer within 0\.2 s"):
            remote.chunk(observation(x=0.5))
        policy.gate.set()
        # The late answer was of the connection that was given up.
        np.testing.assert_array_equal(remote.chunk(observation(x=0.75))[0], np.float32([0.75] * 2))
        remote.close()


def test_openpis_client_asks_with_its_names_and_sizes():
    class Wide(StatePolicy):
        spec = Spec(("x", "y"), ("x", "y"), ("m",) * 2, ("m",) * 2, (Camera("cam", 8, 8),), 20.0)

        def chunk(self, observation: Observation) -> Any:
            state, frames = self.spec.checked(observation)
            return np.tile(np.float32([*state, frames["cam"].max(), 9, 9]), (4, 1))

    with served(Wide()) as one:
        policy = OpenpiPolicy(one.address, SPEC, images={"top": "cam"}, size=(8, 8), token=TOKEN)
        seen = Observation(np.array([1.0, 2.0]), {"top": np.full((24, 32, 3), 7, np.uint8)})
        np.testing.assert_array_equal(policy.chunk(seen), np.tile(np.float32([1, 2]), (4, 1)))
        policy.close()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000"),
        (Path("ws://127.0.0.1:8000"), "ws://127.0.0.1:8000"),
        ("wss://robot.example/", "wss://robot.example"),
        ("ws://[::1]:9", "ws://[::1]:9"),
        ("runs/act/policy", None),
        ("ws", None),
        ("http://127.0.0.1:8000", None),
        ("ws://user@host", None),
        ("ws://host/path", None),
    ],
)
def test_an_address_is_told_from_a_path(given: str | Path, address: str | None):
    assert as_address(given) == address


@pytest.mark.parametrize("given", ["ws://", "ws://:8000", "ws://host:port", "ws://host:99999", "x"])
def test_what_is_no_address_is_refused(given: str):
    with pytest.raises(BadInput, match="is no address; give ws://HOST:PORT"):
        checked_address(given)


def test_a_pickle_is_refused_as_any_other_bytes():
    with pytest.raises(BadInput):
        Greeting.from_bytes(b"\x80\x04\x95\x1c", "x")
