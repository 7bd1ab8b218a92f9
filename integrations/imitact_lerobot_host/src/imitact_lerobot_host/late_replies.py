"""Late replies: what keeps the reply of a lost request from being taken for that of another.

The servos' protocols number nothing. A reply that comes after its time-out may come while the next
request waits, and the SDKs take it for the answer: values as old as the delay, for as long as it
lasts. So once a request was lost, the next one waits for a probe: a read of a length that no other
request had lately. The line keeps the order of replies, as the buffer of a USB adapter does, so
that no older one comes after the probe's own reply.
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any

PROBES = 3
"""Motors that are asked before the line is given up: some of them may be dead."""

_FEETECH = range(30, 70)
_DYNAMIXEL = range(100, 146)
"""Lengths of probes, bytes, which begin at register 0: longer than any read of LeRobot or of the
health. A time-out takes 34 ms, so that a length comes again after 1.4 s."""


class LateReplies:
    """Watches the port of one motor bus."""

    def __init__(self, bus: Any) -> None:
        """Watch a bus of LeRobot; set on the instance of its port."""
        self._port, self._packets = bus.port_handler, bus.packet_handler
        self._ids = [motor.id for motor in bus.motors.values()]
        self._is_feetech = not type(self._packets).__module__.startswith("dynamixel_sdk")
        # Dynamixel's SDK has a second argument since 3.8: whether it is a fast sync read.
        takes = len(inspect.signature(self._packets.rxPacket).parameters)
        self._rx_arguments = (self._port, False)[:takes]
        self._lengths = itertools.cycle(_FEETECH if self._is_feetech else _DYNAMIXEL)
        self._is_probing = self._is_over = False
        self.is_suspect = False
        self.is_off = False
        is_timeout = self._port.isPacketTimeout

        def is_packet_timeout() -> bool:
            self._is_over = is_timeout()
            self.is_suspect = self.is_suspect or self._is_over
            return self._is_over

        self._port.isPacketTimeout = is_packet_timeout

    def before_request(self) -> None:
        """Wait until no reply of an earlier request can come any more.

        Raises:
            ConnectionError: no motor answers.
        """
        if not self.is_suspect or self._is_probing or self.is_off:
            return
        self._is_probing = True
        self._port.is_using = False  # the SDK marked it for the request that waits
        try:
            found = next((id_ for id_ in self._ids[:PROBES] if self._answers(id_)), None)
        finally:
            self._is_probing = self._port.is_using = False
        if found is None:
            self._ids.append(self._ids.pop(0))
            raise ConnectionError("a request was lost, and no motor answers since")
        self._ids.remove(found)  # it is the first to be asked next time
        self._ids.insert(0, found)
        self.is_suspect, self._port.is_using = False, True

    def _answers(self, id_: int) -> bool:
        """Send a probe, and wait for its own reply; earlier ones are dropped."""
        length = next(self._lengths)
        if self._packets.readTx(self._port, id_, 0, length) != 0:
            self._port.is_using = False
            return False
        self._is_over = False
        while not self._is_over:
            packet, result = self._packets.rxPacket(*self._rx_arguments)
            if result == 0 and self._is_reply(packet, id_, length):
                return True
        return False

    def _is_reply(self, packet: Any, id_: int, length: int) -> bool:
        """Whether a packet is the reply of one servo with so many bytes."""
        if self._is_feetech:  # FF FF, id, length with error and checksum
            return packet[2] == id_ and packet[3] == length + 2
        # FF FF FD 00, id, two bytes of length with instruction, error and CRC; stuffing is removed.
        return packet[4] == id_ and packet[5] + 256 * packet[6] == length + 4
