"""Packets: an instruction that servos heard, a status that one of them sends."""

from __future__ import annotations

from dataclasses import dataclass

BROADCAST = 0xFE
"""The id that all servos obey, in both protocols."""


@dataclass(frozen=True)
class Instruction:
    """An instruction packet that arrived whole.

    Attributes:
        id: of the servo, or `BROADCAST`.
        code: what to do.
        parameters: without stuffing.
        size: bytes on the wire.
    """

    id: int
    code: int
    parameters: bytes
    size: int


@dataclass(frozen=True)
class Reply:
    """A status packet.

    Attributes:
        id: of the servo that sends it.
        data: the bytes.
        delay_s: which the servo waits before it sends.
    """

    id: int
    data: bytes
    delay_s: float
