"""Policy server: what a peer may do, and that the others are answered all the same."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from imitact.core.types import Observation
from imitact.serving import codec, server
from imitact.serving.messages import PROTOCOL, Answer, Question
from tests.support.paths import ROOT
from tests.support.served import TOKEN, Served, StatePolicy, served

FRAME = np.zeros((24, 32, 3), np.uint8)


@contextlib.contextmanager
def asking(
    one: Served, *, token: str = TOKEN, subprotocol: str | None = PROTOCOL, **options: Any
) -> Iterator[ClientConnection]:
    """Connect, and read the greeting."""
    headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
    with connect(
        one.address,
        subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
        additional_headers=headers,
        compression=None,
        proxy=None,
        **options,
    ) as connection:
        greeting = connection.recv(timeout=10)
        assert isinstance(greeting, bytes)
        yield connection


def question(number: int, x: float = 0.0) -> bytes:
    return Question(Observation(np.array([x, 2.0]), {"top": FRAME}), False, number).to_bytes()


def answer(connection: ClientConnection, message: bytes | str) -> Answer | str:
    connection.send(message)
    found = connection.recv(timeout=10)
    return found if isinstance(found, str) else Answer.from_bytes(found)


def is_answered(one: Served) -> bool:
    """Whether somebody else is answered."""
    with asking(one) as other:
        found = answer(other, question(7, 1.5))
    return isinstance(found, Answer) and found.number == 7 and found.chunk[0, 0] == 1.5


def status(one: Served, **headers: str) -> int:
    """Return the status with which a connection is refused."""
    with pytest.raises(InvalidStatus) as caught, asking(one, headers=headers):
        pass
    return caught.value.response.status_code


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_question_is_answered_with_its_number_and_times():
    with served() as one, asking(one) as connection:
        found = answer(connection, question(3, 1.25))
    assert isinstance(found, Answer)
    np.testing.assert_array_equal(found.chunk[0], np.float32([1.25, 2]))
    assert found.number == 3
    assert found.infer_ms >= 0
    assert found.queue_ms >= 0


def test_without_the_token_nothing_is_read():
    with served() as one:
        with pytest.raises(InvalidStatus) as caught, asking(one, token="another"):
            pass
        assert caught.value.response.status_code == 401
        assert status(one, Origin="http://127.0.0.1") == 403
        assert one.server.counters.refused == 2
        assert is_answered(one)


def test_another_protocol_is_refused_by_name():
    with served() as one:
        with pytest.raises(InvalidStatus) as caught, asking(one, subprotocol="imitact.2"):
            pass
        assert caught.value.response.status_code == 400
        assert b"this server speaks imitact.1" in (caught.value.response.body or b"")
        eventually(lambda: not one.server._connections)  # it holds no place
        assert is_answered(one)


def test_one_client_more_than_allowed_is_refused_until_another_goes():
    with served(clients=2) as one:
        with asking(one), asking(one):
            assert status(one) == 503
        eventually(lambda: not one.server._connections)
        assert is_answered(one)


def test_a_message_larger_than_any_question_is_refused_from_its_header():
    with served() as one, asking(one) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(bytes(4 << 20))
            connection.recv(timeout=10)
        assert connection.close_code == 1009
        assert is_answered(one)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xc1", "BadInput: the message is no MessagePack"),
        (b"\x91" * 60_000, "nested too deeply"),
        (codec.pack([1]), "the question is list, expected a map"),
        (codec.pack({"state": np.zeros(2)}), 'needs a whole number "id"'),
        (codec.pack({"id": True, "state": np.zeros(2)}), 'needs a whole number "id"'),
        (codec.pack({"id": 1, "seen": 1, "state": np.zeros(2)}), 'needs a whole number "id"'),
        (codec.pack({"id": 1}), '"state" is NoneType'),
        (codec.pack({"id": 1, "state": ["a"]}), '"state" is list'),
        (codec.pack({"id": 1, "state": np.zeros(2, bool)}), '"state" is of bool'),
        (codec.pack({"id": 1, "state": np.zeros(3)}), "SpecMismatch: question: state has shape"),
        (codec.pack({"id": 1, "state": np.array([np.nan, 0])}), "NotFinite"),
        (codec.pack({"id": 1, "state": [0.0, 0.0]}), "no frame of camera top; it has no camera"),
        (codec.pack({"id": 1, "state": [0.0, 0.0], "frames": {"top": 3}}), "no frame of camera"),
        (
            codec.pack({"id": 1, "state": [0.0, 0.0], "frames": {"top": FRAME[:-1]}}),
            "expected uint8 of shape (24, 32, 3)",
        ),
        (
            codec.pack({"id": 1, "state": [0.0, 0.0], "frames": {"top": FRAME / 1}}),
            "camera top gave float64",
        ),
        (
            codec.pack({"id": 1, "seen": True, "state": [0.0, 0.0], "frames": {"top": FRAME}}),
            "takes frames at capture size",
        ),
        ("hello", "a text is no question"),
    ],
)
def test_what_is_no_question_is_told_and_the_connection_stays(message: Any, words: str):
    with served() as one, asking(one) as connection:
        found = answer(connection, message)
        assert isinstance(found, str)
        assert words in found
        assert "\n" not in found
        assert "Traceback" not in found
        assert isinstance(answer(connection, question(1)), Answer)


def test_ten_messages_in_a_row_that_are_no_questions_close_the_connection():
    with served() as one, asking(one) as connection:
        for _ in range(9):
            assert isinstance(answer(connection, b"\xc1"), str)
        assert isinstance(answer(connection, question(1)), Answer)  # counts anew
        for _ in range(10):
            assert isinstance(answer(connection, b"\xc1"), str)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
        assert connection.close_code == 1008
        assert is_answered(one)


def test_a_defect_of_the_policy_is_told_in_a_line_and_the_next_is_answered():
    with served() as one, asking(one) as connection:
        found = answer(connection, question(1, 666))
        assert found == "ImitactError: ZeroDivisionError: a defect of the policy"
        assert answer(connection, question(2, 777)) == "NotFinite: the network answered with NaN"
        assert isinstance(answer(connection, question(3)), Answer)
        assert one.server.counters.failures == 2


def test_a_handshake_that_is_not_finished_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.3)
    with served() as one, socket.create_connection((one.host, one.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        slow.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while slow.recv(1000):
                pass
        assert is_answered(one)


def test_idle_connections_without_a_token_lock_nobody_out():
    clients = 3
    most = server.MAX_HANDSHAKES + clients
    with served(clients=clients) as one, contextlib.ExitStack() as stack:

        def knock(count: int) -> list[socket.socket]:
            address = (one.host, one.port)
            return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]

        idle = knock(most)
        eventually(lambda: len(one.server._handshakes) == most)
        assert is_answered(one)  # in place of the oldest
        idle[0].settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert idle[0].recv(100) == b""
        knock(3 * most)
        eventually(lambda: one.server.counters.refused == 3 * most)
        assert len(one.server._handshakes) == most
        assert is_answered(one)
        stack.close()
        eventually(lambda: not one.server._handshakes)
        assert is_answered(one)


def test_as_many_clients_as_allowed_may_come_at_once_beside_idle_connections():
    clients = 8
    with served(clients=clients) as one, contextlib.ExitStack() as stack:
        for _ in range(server.MAX_HANDSHAKES):
            stack.enter_context(socket.create_connection((one.host, one.port)))
        eventually(lambda: len(one.server._handshakes) == server.MAX_HANDSHAKES)
        found: list[Any] = []

        def come(number: int) -> None:
            with asking(one) as connection:
                found.append(answer(connection, question(number)))
                everybody.wait(10)

        everybody = threading.Barrier(clients)
        threads = [threading.Thread(target=come, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(each.number for each in found) == list(range(clients))
        assert one.server.counters.refused == 0


def test_a_question_that_drips_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "MESSAGE_S", 0.2)
    monkeypatch.setattr(server, "WATCH_S", 0.05)
    with served() as one, asking(one) as connection:
        # The head of a masked binary frame of 2,000 bytes, then a byte at a time.
        connection.socket.sendall(b"\x82\xfe\x07\xd0\0\0\0\0" + bytes(1100))
        with contextlib.suppress(OSError):
            for _ in range(500):
                connection.socket.sendall(b"\0")
                time.sleep(0.02)
        eventually(lambda: not one.server._connections)
        assert one.server.counters.closed_slow == 1
        assert is_answered(one)


def test_pings_alone_do_not_end_a_connection_and_silence_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "MESSAGE_S", 0.1)
    monkeypatch.setattr(server, "WATCH_S", 0.05)
    with served() as one, asking(one) as connection:
        for _ in range(20):
            assert connection.ping().wait(10)
            time.sleep(0.02)
        assert isinstance(answer(connection, question(1)), Answer)
        monkeypatch.setattr(server, "IDLE_S", 0.2)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
        assert one.server.counters.closed_slow == 1


def test_a_peer_that_does_not_read_its_answers_is_dropped(monkeypatch: pytest.MonkeyPatch):
    class Long(StatePolicy):
        def chunk(self, observation: Observation) -> Any:
            return np.zeros((1_000_000, 2), np.float32)

    monkeypatch.setattr(server, "SEND_S", 0.3)
    with served(Long()) as one, asking(one, max_queue=1) as connection:
        for number in range(20):
            with contextlib.suppress(ConnectionClosed):
                connection.send(question(number))
        eventually(lambda: one.server.counters.closed_slow == 1)
        eventually(lambda: not one.server._connections)


def test_a_flood_of_questions_waits_at_its_own_connection():
    policy = StatePolicy()
    with served(policy) as one, asking(one) as flooding:
        policy.gate.clear()
        thread = threading.Thread(target=flood, args=(flooding,), daemon=True)
        thread.start()
        eventually(lambda: one.server.counters.questions >= 1)
        time.sleep(0.1)
        assert one.server.counters.questions == 1  # the next is not read before the answer
        assert one.server._inference.waiting == 0
        policy.gate.set()
        assert is_answered(one)


def flood(connection: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for number in range(200):
            connection.send(question(number))


def test_a_client_connects_while_the_policy_computes():
    policy = StatePolicy()
    with served(policy) as one, asking(one) as first:
        policy.gate.clear()
        first.send(question(1))
        with asking(one) as second:
            second.send(question(2, 4.0))
            policy.gate.set()
            assert isinstance(second.recv(timeout=10), bytes)
        assert isinstance(first.recv(timeout=10), bytes)


def test_each_client_gets_its_own_answers():
    wrong: list[Any] = []

    def ask(one: Served, client: int) -> None:
        with asking(one) as connection:
            for number in range(50):
                found = answer(connection, question(number, client + number / 64))
                if (
                    not isinstance(found, Answer)
                    or found.number != number
                    or found.chunk[0, 0] != client + number / 64
                ):
                    wrong.append(found)

    with served() as one:
        threads = [threading.Thread(target=ask, args=(one, client)) for client in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert one.server.counters.answers == 200
    assert not wrong


def test_a_client_that_goes_while_its_question_waits_costs_nothing():
    policy = StatePolicy()
    with served(policy) as one:
        policy.gate.clear()
        with asking(one) as connection:
            connection.send(question(1))
            eventually(lambda: one.server.counters.questions == 1)
            connection.socket.shutdown(socket.SHUT_RDWR)
        policy.gate.set()
        assert is_answered(one)


def page(one: Served, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{one.host}:{one.port}{path}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_health_page_needs_no_token_and_says_no_more_than_that_it_runs():
    with served() as one:
        assert page(one, "/healthz") == (200, "OK\n")
        assert page(one, "/healthz", Host="example.org")[0] == 403
        one.server._inference.stop()
        assert page(one, "/healthz")[0] == 503


def test_counters_need_the_token_and_count():
    with served() as one:
        assert page(one, "/metrics")[0] == 401
        assert page(one, "/other", Authorization=f"Bearer {TOKEN}")[0] == 404
        with asking(one) as connection:
            answer(connection, question(1))
            answer(connection, b"\xc1")
            found = page(one, "/metrics", Authorization=f"Bearer {TOKEN}")[1]
    lines = dict(line.rsplit(" ", 1) for line in found.splitlines() if not line.startswith("#"))
    assert lines['imitact_policy{identity="an identity"}'] == "1"
    assert lines["imitact_clients"] == "1"
    assert lines["imitact_questions_total"] == "1"
    assert lines["imitact_answers_total"] == "1"
    assert lines["imitact_bad_messages_total"] == "1"
    assert lines["imitact_refused_total"] == "2"


def test_every_message_of_random_bytes_leaves_the_server_answering():
    rng = np.random.default_rng(0)
    good = question(1)
    with served() as one:
        for _ in range(30):
            with asking(one) as connection, contextlib.suppress(ConnectionClosed):
                for _ in range(9):
                    data = bytearray(good)
                    for _ in range(int(rng.integers(1, 20))):
                        data[int(rng.integers(len(data)))] = int(rng.integers(256))
                    answer(connection, bytes(data[: int(rng.integers(len(data) + 1))]))
        assert is_answered(one)


# openpi


def test_a_client_of_openpi_is_answered_in_its_dialect():
    with served(names={"cam_high": "top"}) as one, asking(one, subprotocol=None) as connection:
        message = {
            "state": np.array([1.0, 2.0]),
            "images": {"cam_high": FRAME.transpose(2, 0, 1)},
            "prompt": "any",
        }
        connection.send(codec.pack(message))
        found = codec.unpack(connection.recv(timeout=10))  # type: ignore[arg-type]
        assert sorted(found) == ["actions", "server_timing"]
        np.testing.assert_array_equal(found["actions"][0], np.float32([1, 2]))
        flat = {"observation/state": np.array([3.0, 4.0]), "observation/top": FRAME}
        connection.send(codec.pack(flat))
        found = codec.unpack(connection.recv(timeout=10))  # type: ignore[arg-type]
        np.testing.assert_array_equal(found["actions"][0], np.float32([3, 4]))


def test_what_openpis_own_encoder_wrote_is_answered():
    """Bytes of openpi-client 0.1.2 (scripts/parity_wire.py --write)."""
    recorded = (ROOT / "tests" / "fixtures" / "wire" / "openpi_question.msgpack").read_bytes()
    image = np.arange(24 * 32 * 3, dtype=np.uint8)
    with served(names={"cam_high": "top"}) as one, asking(one, subprotocol=None) as connection:
        connection.send(recorded)
        found = codec.unpack(connection.recv(timeout=10))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found["actions"][0], np.float32([1.5, -2]))
    assert found["actions"][-1, 0] == image.sum(dtype=np.int64)


def test_the_greeting_names_the_policy_and_holds_no_secret():
    with (
        served() as one,
        connect(
            one.address, additional_headers={"Authorization": f"Api-Key {TOKEN}"}, proxy=None
        ) as connection,
    ):
        data = connection.recv(timeout=10)
    assert isinstance(data, bytes)
    greeting = codec.unpack(data)
    assert greeting["protocol"] == PROTOCOL
    assert greeting["policy"] == "an identity"
    assert greeting["limits"]["bytes"] == 3 * 24 * 32 + 16 + (64 << 10)
    assert TOKEN not in json.dumps(greeting)
