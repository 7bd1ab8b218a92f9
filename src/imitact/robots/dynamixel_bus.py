"""Dynamixel bus: requests to the servos of one serial port, with honest answers.

The packets are dynamixel-sdk's; the waiting, the time-outs and the sync read are not, because in
its version 4.1.0

- `PortHandler` polls without a pause, a full core for each waiting port, by the system's wall
  clock, and allows 34 ms for any answer; here the wait is a `select`, and its time fits the
  request;
- `GroupSyncRead` drops the error byte of each servo, so that an overloaded servo reads like a
  healthy one; it loses all answers where one is missing; and it returns negative values unsigned.

**A late answer never passes for a newer one.** Answers carry no number, so one that arrives after
its request was given up would answer the next request, and the next answer the one after that: all
later values are old, without an error. Here the input is flushed before each request, and a servo
that owes an answer must pass a barrier first: it is asked for a block of a length that nothing else
has. A servo answers in order, so when that block arrives, everything before it has arrived and is
dropped.
"""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import serial
from dynamixel_sdk import (  # pyright: ignore[reportMissingTypeStubs]
    COMM_SUCCESS,
    Protocol2PacketHandler,
)

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import RobotError, library_words
from imitact.robots.dynamixel_line import (
    ANSWER_S,
    BUSY,
    DynamixelLine,
    PortInUse,
    listed_ports,
    open_failure,
)
from imitact.robots.dynamixel_registers import (
    BAUD_RATES,
    MODEL_NUMBER,
    REFUSALS,
    Register,
)

RETRY_S = 0.05
"""A servo that did not pass the barrier is reported missing for so long, then asked again. Without
the pause a dead servo would cost a time-out in every read."""

ALERT = 0x80
"""Bit of a status packet's error byte: Hardware_Error_Status is not 0."""

_BARRIER_SIZES = range(5, 13)
"""Lengths of a block from address 0, all of defined registers, that nothing else is read with."""


@dataclass(frozen=True)
class SyncRead:
    """Answers of a sync read.

    Attributes:
        data: bytes by servo ID, of the servos that answered.
        missing: IDs of the servos that did not.
    """

    data: Mapping[int, bytes]
    missing: tuple[int, ...]


@dataclass
class BusCounts:
    """What happened on a bus since it was opened."""

    requests: int = 0
    missing: int = 0
    """Answers that did not come in time, or came damaged."""

    dropped: int = 0
    """Late answers that were recognized and dropped."""


class DynamixelBus:
    """The servos of one port, used by one thread.

    Args:
        port: its path, best one below /dev/serial/by-id, which names the adapter.
        baud: bits per second.
        where: what hangs on it, in words, for errors: "left follower".
        names: joint names by servo ID, for errors.
        answer_s: time that an answer may take besides its bytes and the latency timer.
        patience: factor of all time-outs; more than 1 for tests on a busy machine.
        clock: of pauses between requests to silent servos, and of gaps.
        open_line: opens the line of a port at a rate; an emulated one needs no port.
    """

    def __init__(
        self,
        port: str | Path,
        baud: int = 1_000_000,
        *,
        where: str = "",
        names: Mapping[int, str] | None = None,
        answer_s: float = ANSWER_S,
        patience: float = 1.0,
        clock: Clock | None = None,
        open_line: Callable[[str, int], DynamixelLine] = DynamixelLine,
    ) -> None:
        self._clock: Clock = WallClock() if clock is None else clock
        self._open_line = open_line
        self.port = str(port)
        self.baud = baud
        self.counts = BusCounts()
        self.alerts: set[int] = set()
        """IDs of the servos whose last answer reported a hardware error."""
        self.latency_s = 0.0
        """The port's latency timer, once open; 0 where it has none."""
        self._where = f"{where} ({self.port})" if where else self.port
        self._names = dict(names or {})
        self._answer_s, self._patience = answer_s, patience
        self._packets: Any = Protocol2PacketHandler()
        self._line: DynamixelLine | None = None
        self._debts: dict[int, _Debt] = {}
        self._last_request_s: float | None = None
        self._largest_gap_s = 0.0

    # ------------------------------------------------------------------------------ the port

    @property
    def is_open(self) -> bool:
        return self._line is not None

    def open(self) -> None:
        """Open the port for this process alone.

        Raises:
            RobotError: the port is not there, may not be opened, or another process has it.
        """
        if self._line is not None:
            return
        if self._open_line is DynamixelLine and not os.path.exists(self.port):
            raise RobotError(
                f"{self._where}: there is no such port; plug the adapter in, and take the path "
                f"from /dev/serial/by-id, which has {listed_ports()}"
            )
        try:
            line = self._open_line(self.port, self.baud)
        except (OSError, termios.error, ValueError) as error:
            is_busy = getattr(error, "errno", None) in BUSY
            failure = PortInUse if is_busy else RobotError
            raise failure(f"{self._where}: {open_failure(self.port, error)}") from None
        self._line = line
        self.latency_s = line.set_latency()
        line.allowance_s = (self._answer_s + 2 * self.latency_s) * self._patience
        self._debts.clear()
        self.alerts.clear()
        self.forget_gaps()

    def close(self) -> None:
        """Close the port; never raises, and sends nothing."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    # ------------------------------------------------------------------------------ requests

    def ping(self, servo: int) -> int | None:
        """Return the model number of a servo, or None where nothing answers."""
        try:
            return self.read(servo, MODEL_NUMBER, tries=2)
        except NoAnswer:
            return None

    def read(self, servo: int, register: Register, *, tries: int = 1) -> int:
        """Return a register's value, signed where it is.

        Args:
            tries: how often to ask before the servo counts as silent.

        Raises:
            NoAnswer: it did not answer in time.
            RobotError: it refused, or the port failed.
        """
        return register.decode(
            self.read_block(servo, register.address, register.size, tries=tries, what=register.name)
        )

    def read_block(
        self, servo: int, address: int, size: int, *, tries: int = 1, what: str = "registers"
    ) -> bytes:
        """Return the bytes of a block of registers. Errors as `read`."""
        for _ in range(tries):
            if self._settle(servo, retry_at_once=tries > 1):
                data = self._read_once(servo, address, size, what)
                if data is not None:
                    return data
        raise NoAnswer(self._silent(servo, f"reading {what}"))

    def write(self, servo: int, register: Register, value: int, *, tries: int = 2) -> None:
        """Write a register and wait for the servo's receipt.

        A write whose receipt is lost is written again: the values here are the same twice.

        Raises:
            NoAnswer: no receipt came.
            RobotError: the servo refused the value, or the port failed.
        """
        what = f"writing {value} to {register.name}"
        data = list(register.encode(value))
        for _ in range(tries):
            self._settle(servo, retry_at_once=True)
            with self._failures(servo) as line:
                self._count()
                result, error = self._packets.writeTxRx(
                    line, servo, register.address, register.size, data
                )
                self._finish(line)
            if result != COMM_SUCCESS:
                self._miss(servo)
                continue
            self._heard(servo, error, what)
            return
        raise NoAnswer(self._silent(servo, what))

    def sync_read(self, servos: Sequence[int], register: Register) -> SyncRead:
        """Read one register of several servos with one request.

        Servos that owe an answer pass the barrier first or count as missing; the others' answers
        are not lost. A servo that reports a hardware error is added to `alerts`.
        """
        self._settle_together(servos)
        asked = [servo for servo in servos if servo not in self._debts]
        data = self._sync_read_once(asked, register.address, register.size)
        for servo in asked:
            if servo not in data:
                self._miss(servo)
        return SyncRead(data, tuple(servo for servo in servos if servo not in data))

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write one register of several servos with one request, which no servo answers.

        A servo ignores a value that it would refuse; only a later read shows that.
        """
        with self._failures() as line:
            self._count()
            param: list[int] = []
            for servo, value in values.items():
                param += [servo, *register.encode(value)]
            result = self._packets.syncWriteTxOnly(
                line, register.address, register.size, param, len(param)
            )
            self._finish(line)
            if result != COMM_SUCCESS:
                raise OSError(f"sending failed with code {result} of dynamixel-sdk")

    def reboot(self, servo: int) -> None:
        """Restart a servo, the one way out of a hardware error. Its torque goes off."""
        with self._failures(servo) as line:
            self._count()
            self._packets.reboot(line, servo)
            self._finish(line)
        self.alerts.discard(servo)
        self._debts[servo] = _Debt()

    def find_baud(self, servos: Sequence[int]) -> int | None:
        """Return the rate at which one of the servos answers, trying all that they can have."""
        line = self._line
        if line is None:
            return None
        try:
            for baud in sorted(set(BAUD_RATES.values()) - {self.baud}):
                with self._failures() as line:
                    line.set_speed(baud)
                self._debts.clear()
                if any(self.ping(servo) is not None for servo in servos):
                    return baud
            return None
        finally:
            with contextlib.suppress(RobotError), self._failures() as line:
                line.set_speed(self.baud)
            self._debts.clear()

    def largest_gap_s(self) -> float:
        """Return the longest time without a request since `forget_gaps`, now included, s."""
        if self._last_request_s is None:
            return self._largest_gap_s
        return max(self._largest_gap_s, self._clock.now_s() - self._last_request_s)

    def forget_gaps(self) -> None:
        """Let `largest_gap_s` begin anew."""
        self._largest_gap_s, self._last_request_s = 0.0, self._clock.now_s()

    # ------------------------------------------------------------------------------ inside

    def _read_once(self, servo: int, address: int, size: int, what: str) -> bytes | None:
        """Ask once; None where no answer of that servo and length came in time."""
        with self._failures(servo) as line:
            self._count()
            self._packets.readTx(line, servo, address, size)
            line.start_wait(size + 11)
            while not line.is_over():
                packet, result = self._packets.rxPacket(line, False)
                if result != COMM_SUCCESS:
                    continue  # damaged: the next may be whole
                came, error, payload = _parts(packet)
                refused = came == servo and not payload and error & ~ALERT
                if came == servo and (len(payload) == size or refused):
                    self._finish(line)
                    self._heard(servo, error, f"reading {what}")
                    return payload
                self.counts.dropped += 1
            self._finish(line)
        self._miss(servo)
        return None

    def _sync_read_once(self, servos: Sequence[int], address: int, size: int) -> dict[int, bytes]:
        """Ask several servos once; return what came in time, by ID."""
        data: dict[int, bytes] = {}
        if not servos:
            return data
        with self._failures() as line:
            self._count()
            self._packets.syncReadTx(line, address, size, servos, len(servos), False)
            line.start_wait((11 + size) * len(servos))
            # Answers come in the order of the request: the last one ends the wait.
            while servos[-1] not in data and not line.is_over():
                packet, result = self._packets.rxPacket(line, False)
                if result != COMM_SUCCESS:
                    continue  # damaged: the next may be whole
                servo, error, payload = _parts(packet)
                if servo in servos and len(payload) == size:
                    data[servo] = payload
                    self._note_alert(servo, error)
                else:
                    self.counts.dropped += 1
            self._finish(line)
        return data

    def _settle(self, servo: int, *, retry_at_once: bool = False) -> bool:
        """Return whether a servo owes no answer, after a barrier where it did."""
        debt = self._debts.get(servo)
        if debt is None:
            return True
        if not retry_at_once and self._clock.now_s() < debt.retry_s:
            return False
        size = _barrier_size([debt])
        if self._read_once(servo, 0, size, "its identity") is None:
            debt.retry_s = self._clock.now_s() + RETRY_S
            return False
        self._debts.pop(servo, None)
        return True

    def _settle_together(self, servos: Sequence[int]) -> None:
        """Ask all servos that owe an answer, and are due, to pass one barrier."""
        now_s = self._clock.now_s()
        due = [s for s in servos if s in self._debts and now_s >= self._debts[s].retry_s]
        if not due:
            return
        passed = self._sync_read_once(due, 0, _barrier_size([self._debts[s] for s in due]))
        for servo in due:
            if servo in passed:
                del self._debts[servo]
            else:
                self.counts.missing += 1
                self._debts[servo].retry_s = self._clock.now_s() + RETRY_S

    def _miss(self, servo: int) -> None:
        self.counts.missing += 1
        self._debts.setdefault(servo, _Debt())

    def _heard(self, servo: int, error: int, what: str) -> None:
        self._note_alert(servo, error)
        if number := error & ~ALERT:
            words = REFUSALS.get(number, f"error {number}")
            raise RobotError(f"{self._who(servo)} refused {what}: {words}")

    def _note_alert(self, servo: int, error: int) -> None:
        if error & ALERT:
            self.alerts.add(servo)
        else:
            self.alerts.discard(servo)

    def _count(self) -> None:
        self._largest_gap_s = self.largest_gap_s()
        self._last_request_s = self._clock.now_s()
        self.counts.requests += 1

    @staticmethod
    def _finish(line: DynamixelLine) -> None:
        line.is_using = False  # dynamixel-sdk leaves it set where its own rxPacket was not called

    def _who(self, servo: int) -> str:
        name = self._names.get(servo)
        return f"{self._where}: {name} (servo {servo})" if name else f"{self._where}: servo {servo}"

    def _silent(self, servo: int, what: str) -> str:
        return (
            f"{self._who(servo)} did not answer ({what}); check its cable and those before it, the "
            "power supply, and whether its LED blinks"
        )

    @contextlib.contextmanager
    def _failures(self, servo: int | None = None) -> Iterator[DynamixelLine]:
        """Turn every failure of the port into a RobotError, and close the port."""
        if self._line is None:
            raise RobotError(f"{self._where}: the port is not open; connect first")
        try:
            yield self._line
        except (OSError, termios.error, serial.SerialException) as error:
            self.close()
            who = self._where if servo is None else self._who(servo)
            raise RobotError(
                f"{who}: the port failed ({library_words(error)}) and was closed; was the adapter "
                "unplugged? Plug it in and connect again; the arm keeps its torque until then"
            ) from None


class NoAnswer(RobotError):
    """A servo did not answer in time."""


@dataclass
class _Debt:
    """An answer that a servo owes.

    Attributes:
        retry_s: when it may be asked for a barrier again.
        asked: lengths of the barriers that it has not answered yet.
    """

    retry_s: float = 0.0
    asked: list[int] = field(default_factory=list)


def _barrier_size(debts: Sequence[_Debt]) -> int:
    """Return the length of a barrier that none of these servos was asked for, and note it."""
    free = [size for size in _BARRIER_SIZES if all(size not in debt.asked for debt in debts)]
    if not free:  # eight barriers unanswered, 0.4 s and more: the servo is gone, not late
        free = list(_BARRIER_SIZES)
        for debt in debts:
            debt.asked.clear()
    for debt in debts:
        debt.asked.append(free[0])
    return free[0]


def _parts(packet: Sequence[int]) -> tuple[int, int, bytes]:
    """Return ID, error byte and payload of a status packet without stuffing."""
    size = packet[5] | packet[6] << 8
    return packet[4], packet[8], bytes(packet[9 : 7 + size - 2])
