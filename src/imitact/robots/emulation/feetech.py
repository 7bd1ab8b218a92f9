"""Feetech protocol of the STS series: packets, and what each instruction does.

FF FF, id, length, instruction, parameters, checksum: the complement of the sum from the id on. A
status has the error byte in the place of the instruction (Feetech's protocol manual; client:
feetech-servo-sdk, scservo_sdk/protocol_packet_handler.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imitact.robots.emulation.feetech_servo import FeetechServo
from imitact.robots.emulation.packets import BROADCAST, Instruction, Reply

HEADER = b"\xff\xff"
PING, READ, WRITE, REG_WRITE, ACTION, REBOOT = 1, 2, 3, 4, 5, 8
SYNC_READ, SYNC_WRITE = 0x82, 0x83
INSTRUCTION_NAMES = {
    PING: "ping", READ: "read", WRITE: "write", REG_WRITE: "reg_write", ACTION: "action",
    REBOOT: "reboot", SYNC_READ: "sync_read", SYNC_WRITE: "sync_write",
}  # fmt: skip


_LONGEST_READ = 200  # bytes; the length of a packet is one byte


def checksum(body: bytes) -> int:
    """Return the checksum of the bytes from the id to the last parameter."""
    return ~sum(body) & 0xFF


def status_packet(servo: int, error: int, data: bytes = b"") -> bytes:
    """Return a status packet."""
    body = bytes((servo, len(data) + 2, error)) + data
    return HEADER + body + bytes((checksum(body),))


def instruction_packet(servo: int, code: int, parameters: bytes = b"") -> bytes:
    """Return an instruction packet, as a client sends it."""
    return status_packet(servo, code, parameters)  # the same but for what the third byte means


class FeetechProtocol:
    """What the servos of a bus do with bytes that they hear."""

    @property
    def instruction_names(self) -> dict[int, str]:
        return INSTRUCTION_NAMES

    def instructions(self, buffer: bytearray) -> Iterator[Instruction]:
        """Take whole packets off the buffer; damaged ones are dropped, as servos do."""
        while True:
            begin = buffer.find(HEADER)
            if begin < 0:
                del buffer[: max(0, len(buffer) - 1)]
                return
            del buffer[:begin]
            if len(buffer) < 4:
                return
            if buffer[2] == 0xFF or not 2 <= buffer[3] <= 250:
                del buffer[:1]
                continue
            size = 4 + buffer[3]
            if len(buffer) < size:
                return
            packet = bytes(buffer[:size])
            if checksum(packet[2:-1]) != packet[-1]:
                del buffer[:1]
                continue
            del buffer[:size]
            yield Instruction(packet[2], packet[4], packet[5:-1], size)

    def spoil(self, packet: bytes) -> bytes:
        """Return a reply whose checksum is wrong."""
        return packet[:-1] + bytes((packet[-1] ^ 0x55,))

    def execute(
        self, instruction: Instruction, servos: Sequence[FeetechServo], now_s: float
    ) -> list[Reply]:
        """Do what an instruction says; return the replies in the order in which they are sent.

        Args:
            servos: those that hear it.
        """
        code, parameters = instruction.code, instruction.parameters
        by_id = {servo.id: servo for servo in servos}
        if code == SYNC_READ:
            if len(parameters) < 3 or parameters[1] > _LONGEST_READ:
                return []
            asked = [by_id[one] for one in parameters[2:] if one in by_id]
            return [_status(s, *s.read(parameters[0], parameters[1])) for s in asked]
        if code == SYNC_WRITE:
            if len(parameters) >= 2:
                address, length = parameters[0], parameters[1]
                for at in range(2, len(parameters) - length, length + 1):
                    servo = by_id.get(parameters[at])
                    if servo is not None:
                        servo.write(address, parameters[at + 1 : at + 1 + length])
            return []
        replies: list[Reply] = []
        for servo in sorted(servos, key=lambda one: one.id):
            if instruction.id not in (BROADCAST, servo.id):
                continue
            reply = self._one(servo, code, parameters, now_s)
            if reply is not None and (instruction.id != BROADCAST or code == PING):
                replies.append(reply)
        return replies

    @staticmethod
    def _one(servo: FeetechServo, code: int, parameters: bytes, now_s: float) -> Reply | None:
        """Let one servo do an instruction; return its reply, or None where it has none."""
        if code == PING:
            return _status(servo, servo.status_error())
        if code == READ:
            if len(parameters) != 2 or parameters[1] > _LONGEST_READ:
                return None
            return _status(servo, *servo.read(*parameters))
        if code in (WRITE, REG_WRITE):
            if len(parameters) < 2:
                return None
            do = servo.write if code == WRITE else servo.register_write
            error = do(parameters[0], parameters[1:])
        elif code == ACTION:
            servo.action()
            error = servo.status_error()
        elif code == REBOOT:
            servo.reboot(now_s)
            error = 0
        else:  # an unknown instruction is not answered
            return None
        return _status(servo, error) if servo.replies_to_write else None


def _status(servo: FeetechServo, error: int, data: bytes = b"") -> Reply:
    return Reply(servo.id, status_packet(servo.id, error, data), servo.return_delay_s)
