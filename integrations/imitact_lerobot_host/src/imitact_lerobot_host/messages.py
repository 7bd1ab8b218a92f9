"""Messages between imitact and this program: a JSON object and float64 values, each with its size.

A message is two little-endian uint32 (bytes of the JSON, number of values), the JSON in UTF-8, and
the values as little-endian float64. Nothing is ever unpickled. `imitact.robots.lerobot_process` has
the other end.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_HEAD = struct.Struct("<II")

MAX_JSON_BYTES = 1 << 20
MAX_VALUES = 1 << 12


def pack(message: dict[str, Any], values: Sequence[float] = ()) -> bytes:
    """Return a message as bytes."""
    text = json.dumps(message).encode()
    array = np.asarray(values, "<f8")
    return _HEAD.pack(len(text), array.size) + text + array.tobytes()


def receive(connection: socket.socket) -> tuple[dict[str, Any], np.ndarray] | None:
    """Wait for a message and return it; None once the other end has gone.

    Raises:
        ValueError: the bytes are no message.
    """
    head = _exactly(connection, _HEAD.size)
    if head is None:
        return None
    length, count = _HEAD.unpack(head)
    if length > MAX_JSON_BYTES or count > MAX_VALUES:
        raise ValueError(f"a message of {length:,} bytes and {count:,} values; it is no message")
    body = _exactly(connection, length + 8 * count)
    if body is None:
        return None
    message = json.loads(body[:length])
    if not isinstance(message, dict):
        raise ValueError("a message is no JSON object")
    return message, np.frombuffer(body[length:], "<f8")


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except ConnectionError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
