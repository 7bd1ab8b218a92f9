"""Dynamixel protocol 2.0, as servos speak it: packets, and what each instruction does.

FF FF FD 00, id, length (2), instruction, parameters, CRC-16 (2), all with byte stuffing: FF FF FD
within a packet is followed by another FD (ROBOTIS-GIT/emanual: docs/en/dxl/protocol2.md).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence

from imitact.robots.emulation.dynamixel_servo import DynamixelServo
from imitact.robots.emulation.dynamixel_table import ACCESS_ERROR, INSTRUCTION_ERROR, LENGTH_ERROR
from imitact.robots.emulation.packets import BROADCAST, Instruction, Reply

HEADER = b"\xff\xff\xfd\x00"
STATUS = 0x55
PING, READ, WRITE, REG_WRITE, ACTION, FACTORY_RESET, REBOOT = 1, 2, 3, 4, 5, 6, 8
CLEAR = 0x10
SYNC_READ, SYNC_WRITE, FAST_SYNC_READ = 0x82, 0x83, 0x8A
BULK_READ, BULK_WRITE, FAST_BULK_READ = 0x92, 0x93, 0x9A
INSTRUCTION_NAMES = {
    PING: "ping", READ: "read", WRITE: "write", REG_WRITE: "reg_write", ACTION: "action",
    FACTORY_RESET: "factory_reset", REBOOT: "reboot", CLEAR: "clear", SYNC_READ: "sync_read",
    SYNC_WRITE: "sync_write", FAST_SYNC_READ: "fast_sync_read", BULK_READ: "bulk_read",
    BULK_WRITE: "bulk_write", FAST_BULK_READ: "fast_bulk_read",
}  # fmt: skip

_CLEAR_TURNS = b"\x01\x44\x58\x4c\x22"
_LONGEST_PACKET = 1024
_BROADCAST_READS = (PING, SYNC_READ, FAST_SYNC_READ, BULK_READ, FAST_BULK_READ)


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return tuple(table)


def crc16(data: bytes, crc: int = 0) -> int:
    """Return the CRC-16 with polynomial 0x8005 (CRC-16/UMTS) of a packet without its last two."""
    table = _crc_table()
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte]
    return crc


def stuff(body: bytes) -> bytes:
    """Put FD after each FF FF FD."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def status_packet(servo: int, error: int, data: bytes = b"") -> bytes:
    """Return a status packet."""
    body = stuff(bytes((STATUS, error)) + data)
    packet = HEADER + bytes((servo,)) + struct.pack("<H", len(body) + 2) + body
    return packet + struct.pack("<H", crc16(packet))


def instruction_packet(servo: int, code: int, parameters: bytes = b"") -> bytes:
    """Return an instruction packet, as a client sends it."""
    body = stuff(bytes((code,)) + parameters)
    packet = HEADER + bytes((servo,)) + struct.pack("<H", len(body) + 2) + body
    return packet + struct.pack("<H", crc16(packet))


class DynamixelProtocol:
    """What the servos of a bus do with bytes that they hear."""

    @property
    def instruction_names(self) -> dict[int, str]:
        return INSTRUCTION_NAMES

    def instructions(self, buffer: bytearray) -> Iterator[Instruction]:
        """Take whole packets off the buffer; damaged ones are dropped, as servos do."""
        while True:
            begin = buffer.find(HEADER)
            if begin < 0:
                del buffer[: max(0, len(buffer) - len(HEADER) + 1)]
                return
            del buffer[:begin]
            if len(buffer) < 7:
                return
            length = buffer[5] | buffer[6] << 8
            if not 3 <= length <= _LONGEST_PACKET:
                del buffer[: len(HEADER)]
                continue
            if len(buffer) < 7 + length:
                return
            packet = bytes(buffer[: 7 + length])
            if crc16(packet[:-2]) != packet[-2] | packet[-1] << 8:
                del buffer[: len(HEADER)]
                continue
            del buffer[: 7 + length]
            body = packet[7:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
            if body[0] == STATUS:  # an echo, or another servo's reply
                continue
            yield Instruction(packet[4], body[0], body[1:], len(packet))

    def spoil(self, packet: bytes) -> bytes:
        """Return a reply whose checksum is wrong."""
        return packet[:-1] + bytes((packet[-1] ^ 0x55,))

    def execute(
        self, instruction: Instruction, servos: Sequence[DynamixelServo], now_s: float
    ) -> list[Reply]:
        """Do what an instruction says; return the replies in the order in which they are sent.

        Args:
            servos: those that hear it.
        """
        for servo in servos:
            servo.hear()
        code, parameters = instruction.code, instruction.parameters
        if code in (SYNC_READ, FAST_SYNC_READ, BULK_READ, FAST_BULK_READ):
            reads = _reads(code, parameters)
            is_fast = code in (FAST_SYNC_READ, FAST_BULK_READ)
            return _fast(reads, servos) if is_fast else _one_by_one(reads, servos)
        if code in (SYNC_WRITE, BULK_WRITE):
            by_id = {servo.id: servo for servo in servos}
            shadows = [servo for servo in servos if servo.secondary_id is not None]
            for target, address, data in _writes(code, parameters):
                if target in by_id:
                    by_id[target].write(address, data)
                for shadow in shadows:
                    if shadow.secondary_id == target:
                        shadow.write(address, data, by_secondary_id=True)
            return []
        if code == FACTORY_RESET and instruction.id == BROADCAST and parameters == b"\xff":
            return []  # not of all at once, since firmware 42
        replies: list[Reply] = []
        for servo in sorted(servos, key=lambda one: one.id):
            if instruction.id in (BROADCAST, servo.id):
                error, data, is_due = self._one(servo, code, parameters, now_s)
                if is_due and (instruction.id != BROADCAST or code == PING):
                    packet = status_packet(servo.id, error, data)
                    replies.append(Reply(servo.id, packet, servo.return_delay_s))
            elif instruction.id == servo.secondary_id and code in (WRITE, REG_WRITE, ACTION):
                self._shadow(servo, code, parameters)
        return replies

    @staticmethod
    def _shadow(servo: DynamixelServo, code: int, parameters: bytes) -> None:
        """Follow an instruction to the secondary id, without a reply."""
        if code == ACTION:
            servo.action()
        elif len(parameters) > 2:
            address = _word(parameters, 0)
            if code == WRITE:
                servo.write(address, parameters[2:], by_secondary_id=True)
            else:
                servo.register_write(address, parameters[2:])

    @staticmethod
    def _one(
        servo: DynamixelServo, code: int, parameters: bytes, now_s: float
    ) -> tuple[int, bytes, bool]:
        """Let one servo do an instruction; return error, data, and whether it replies."""
        error = servo.status_error()
        if code == PING:
            model = servo.table.get("model_number")
            data = struct.pack("<HB", model, servo.table.get("firmware_version"))
            return error, data, True
        if code == READ:
            if len(parameters) != 4:
                return error | LENGTH_ERROR, b"", True
            error, data = servo.read(_word(parameters, 0), _word(parameters, 2))
            return error, data, servo.replies_to_read
        replies = servo.replies_to_write
        if code in (WRITE, REG_WRITE):
            if len(parameters) < 3:
                return error | LENGTH_ERROR, b"", replies
            do = servo.write if code == WRITE else servo.register_write
            return do(_word(parameters, 0), parameters[2:]), b"", replies
        if code == ACTION:
            return servo.action(), b"", replies
        if code == REBOOT:
            servo.reboot(now_s)
            return 0, b"", replies
        if code == CLEAR:
            if parameters != _CLEAR_TURNS:
                return error | INSTRUCTION_ERROR, b"", replies
            return servo.clear_turns(), b"", replies
        if code == FACTORY_RESET:
            option = parameters[0] if parameters else 0
            if option not in (0xFF, 1, 2):
                return error | INSTRUCTION_ERROR, b"", replies
            if servo.table.get("torque_enable"):
                return error | ACCESS_ERROR, b"", replies
            servo.factory_reset(now_s, keep_id=option in (1, 2), keep_baud=option == 2)
            return 0, b"", replies
        return error | INSTRUCTION_ERROR, b"", replies


def _word(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8


def _reads(code: int, parameters: bytes) -> list[tuple[int, int, int]]:
    """Return (id, address, length) of each read that one instruction asks for."""
    if code in (SYNC_READ, FAST_SYNC_READ):
        if len(parameters) < 4:
            return []
        address, length = _word(parameters, 0), _word(parameters, 2)
        return [(servo, address, length) for servo in parameters[4:]]
    entries = (parameters[at : at + 5] for at in range(0, len(parameters) - 4, 5))
    return [(one[0], _word(one, 1), _word(one, 3)) for one in entries]


def _writes(code: int, parameters: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (id, address, data) of each write of one instruction; a cut one ends it."""
    if code == SYNC_WRITE:
        if len(parameters) < 4:
            return
        address, length = _word(parameters, 0), _word(parameters, 2)
        for at in range(4, len(parameters) - length, length + 1):
            yield parameters[at], address, parameters[at + 1 : at + 1 + length]
        return
    at = 0
    while at + 5 <= len(parameters):
        length = _word(parameters, at + 3)
        data = parameters[at + 5 : at + 5 + length]
        if len(data) < length:
            return
        yield parameters[at], _word(parameters, at + 1), data
        at += 5 + length


def _one_by_one(
    reads: Sequence[tuple[int, int, int]], servos: Sequence[DynamixelServo]
) -> list[Reply]:
    by_id = {servo.id: servo for servo in servos}
    replies: list[Reply] = []
    for target, address, length in reads:
        servo = by_id.get(target)
        if servo is not None and servo.replies_to_read:
            error, data = servo.read(address, length)
            packet = status_packet(target, error, data)
            replies.append(Reply(target, packet, servo.return_delay_s))
    return replies


def _fast(reads: Sequence[tuple[int, int, int]], servos: Sequence[DynamixelServo]) -> list[Reply]:
    """Return the one packet to which all servos add their part, each with the CRC up to there.

    Where a servo is silent the packet ends, because the next one adds to what it has heard.
    """
    by_id = {servo.id: servo for servo in servos}
    total = 1 + sum(length + 4 for _, _, length in reads)
    if total > _LONGEST_PACKET:
        return []
    packet = HEADER + bytes((BROADCAST,)) + struct.pack("<H", total) + bytes((STATUS,))
    head = len(packet)
    delay_s = 0.0
    for target, address, length in reads:
        servo = by_id.get(target)
        if servo is None or not servo.replies_to_read:
            break
        error, data = servo.read(address, length)
        packet += bytes((error, target)) + data.ljust(length, b"\0")
        packet += struct.pack("<H", crc16(packet))
        delay_s += servo.return_delay_s
    return [Reply(BROADCAST, packet, delay_s)] if len(packet) > head else []
