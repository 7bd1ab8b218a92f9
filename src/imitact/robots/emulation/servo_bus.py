"""Servo bus: emulated servos on one line with their joints and faults; bytes in, replies out."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from imitact.core.errors import BadInput, unknown_name
from imitact.robots.emulation.dynamixel import DynamixelProtocol
from imitact.robots.emulation.dynamixel_servo import DynamixelServo
from imitact.robots.emulation.fault_schedule import FaultSchedule
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.feetech import FeetechProtocol
from imitact.robots.emulation.feetech_servo import FeetechServo
from imitact.robots.emulation.packets import Instruction, Reply
from imitact.robots.emulation.serial_line import wire_time_s
from imitact.robots.emulation.servos import Demand, FirstOrderJoints, Joints, Servo, ServoModel

ProtocolName = Literal["dynamixel", "feetech"]

LATENCY_S = 0.0005
"""Time that a USB adapter adds to each request, s: FTDI with a latency timer of 1 ms or less."""

COMMANDS_KEPT = 100_000
"""Commanded goals that a bus remembers for `commands`."""

_USUAL_BAUD = 1_000_000
_PACKET_GAP_S = 0.1
"""Pause after which the rest of a packet is not waited for any more, s."""


@dataclass(frozen=True)
class ServoTruth:
    """What one servo really does.

    Attributes:
        name: of its joint.
        position: of the joint, ticks.
        velocity: of the joint, ticks/s.
        goal: what its goal register holds.
        has_torque: whether it drives the joint.
        load: share of the stall torque, -1 to 1.
        temperature_c: in degrees Celsius.
        errors: names of the errors that it reports.
    """

    name: str
    position: float
    velocity: float
    goal: int
    has_torque: bool
    load: float
    temperature_c: float
    errors: tuple[str, ...]


@dataclass(frozen=True)
class BusTruth:
    """What a bus really does.

    Attributes:
        now_s: when, on the bus's clock (of a process: the system's monotonic clock).
        servos: by id as it was set up.
        counts: how many requests, replies, dropped, corrupted, late, ... there were.
        last_request_s: when an instruction was last heard; None for never.
        last_command_s: when a goal position was last written; None for never.
        is_exclusive: whether a driver has the port for itself.
    """

    now_s: float
    servos: Mapping[int, ServoTruth]
    counts: Mapping[str, int]
    last_request_s: float | None
    last_command_s: float | None
    is_exclusive: bool = False

    @property
    def is_limp(self) -> bool:
        """Whether no servo drives its joint."""
        return not any(servo.has_torque for servo in self.servos.values())


class _WireProtocol(Protocol):
    @property
    def instruction_names(self) -> Mapping[int, str]: ...

    def instructions(self, buffer: bytearray) -> Iterable[Instruction]: ...

    def spoil(self, packet: bytes) -> bytes: ...

    def execute(
        self, instruction: Instruction, servos: Sequence[Any], now_s: float
    ) -> list[Reply]: ...


def make_servos(protocol: ProtocolName, models: Sequence[ServoModel]) -> list[Servo]:
    """Return the servos of a bus.

    Raises:
        BadInput: the protocol, a model or a register is unknown, or an id is given twice.
    """
    if protocol not in get_args(ProtocolName):
        raise unknown_name("servo protocol", protocol, get_args(ProtocolName))
    seen: set[int] = set()
    for model in models:
        if model.id in seen:
            raise BadInput(f"servo {model.name}: id {model.id} is given twice on one bus")
        seen.add(model.id)
    if not models:
        raise BadInput("a bus needs at least one servo")
    kind = DynamixelServo if protocol == "dynamixel" else FeetechServo
    return [kind(model) for model in models]


def first_order_joints(servos: Sequence[Servo]) -> FirstOrderJoints:
    """Return the joints that servos drive where there is no physics."""
    ids = [servo.model.id for servo in servos]
    shafts: list[int] = []
    for number, servo in enumerate(servos):
        shared = servo.model.same_shaft_as
        if shared is not None and shared not in ids:
            raise BadInput(
                f"servo {servo.model.name}: it shares the shaft of servo {shared}, which is not "
                f"on the bus; expected one of {', '.join(map(str, ids))}"
            )
        shafts.append(number if shared is None else ids.index(shared))
    positions = [servos[shaft].model.position for shaft in shafts]
    return FirstOrderJoints(positions, [servo.top_speed for servo in servos], shafts)


class ServoBus:
    """Servos on one line, with their joints and faults. It has no clock: each call gives the time.

    Args:
        protocol: "dynamixel" for Dynamixel 2.0, "feetech" for the STS series.
        models: the servos.
        faults: what goes wrong; `start_s` counts from the first call.
        joints: the mechanics; None for joints of first order.
        latency_s: that the adapter adds to each request.
        has_wire_time: whether bytes take time, at the rate of the line.
    """

    def __init__(
        self,
        protocol: ProtocolName,
        models: Sequence[ServoModel],
        *,
        faults: FaultPlan | None = None,
        joints: Joints | None = None,
        latency_s: float = LATENCY_S,
        has_wire_time: bool = True,
    ) -> None:
        self.servos = make_servos(protocol, models)
        self._protocol: _WireProtocol = (
            DynamixelProtocol() if protocol == "dynamixel" else FeetechProtocol()
        )
        self.joints: Joints = first_order_joints(self.servos) if joints is None else joints
        if len(self.joints.positions) != len(self.servos):
            raise BadInput(
                f"there are {len(self.servos)} servos but {len(self.joints.positions)} joints; "
                "expected one for each servo, shadow servos included"
            )
        self.counts: Counter[str] = Counter()
        self.faults = FaultSchedule(faults or FaultPlan(), self.servos, self.counts)
        self._latency_s, self._has_wire_time = latency_s, has_wire_time
        self._buffer = bytearray()
        self._now_s: float | None = None
        self._last_byte_s = 0.0
        self.last_request_s: float | None = None
        self.commands: deque[tuple[float, dict[int, int]]] = deque(maxlen=COMMANDS_KEPT)
        self._last_command_s: float | None = None
        for servo, position in zip(self.servos, self.joints.positions, strict=True):
            servo.measure(position, 0.0, Demand(position, 0.0), 0.0)
            servo.settle()

    @property
    def is_hung_up(self) -> bool:
        """Whether the adapter has gone."""
        return self.faults.is_hung_up

    def advance(self, now_s: float) -> None:
        """Let time pass: faults begin and end, joints move, servos protect themselves."""
        dt_s = 0.0 if self._now_s is None else max(0.0, now_s - self._now_s)
        self._now_s = now_s if self._now_s is None else self._now_s + dt_s
        self.faults.turn(self._now_s)
        demands = [servo.demand(dt_s) for servo in self.servos]
        positions = self.joints.positions
        driven = [
            self.faults.hinder(servo, demand, position)
            for servo, demand, position in zip(self.servos, demands, positions, strict=True)
        ]
        self.joints.advance(self._now_s, [d.goal for d in driven], [d.torque for d in driven])
        positions, velocities = self.joints.positions, self.joints.velocities
        for i, servo in enumerate(self.servos):
            servo.measure(positions[i], velocities[i], demands[i], dt_s)
            servo.watch_bus(dt_s)

    def hear(self) -> None:
        """Tell all servos that there is life on the bus, as an instruction does."""
        for servo in self.servos:
            servo.hear()

    def exchange(
        self, data: bytes, now_s: float, baud_rate: int | None = None
    ) -> list[tuple[float, bytes]]:
        """Take bytes that a client sent; return what it gets, each with its time.

        Args:
            baud_rate: of the client; None where it is not known, which every servo understands.
        """
        self.advance(now_s)
        if self.faults.is_silent:
            self.counts["unheard_bytes"] += len(data)
            return []
        if self._buffer and now_s - self._last_byte_s > _PACKET_GAP_S:
            self._buffer.clear()
        self._last_byte_s = now_s
        self._buffer += data
        sent: list[tuple[float, bytes]] = []
        for instruction in self._protocol.instructions(self._buffer):
            listening = [s for s in self.servos if self._hears(s, now_s, baud_rate)]
            if not listening:
                self.counts["unheard"] += 1
                continue
            self.counts["requests"] += 1
            name = self._protocol.instruction_names.get(instruction.code, "unknown")
            self.counts[name] += 1
            self.last_request_s = now_s
            before = [servo.goal_writes for servo in self.servos]
            replies = self._protocol.execute(instruction, listening, now_s)
            self._note_commands(before, now_s)
            out, wait_s = self._sent(replies)
            if out:
                if self._has_wire_time:
                    wait_s += wire_time_s(instruction.size + len(out), baud_rate or _USUAL_BAUD)
                sent.append((now_s + wait_s, out))
        return sent

    def _hears(self, servo: Servo, now_s: float, baud_rate: int | None) -> bool:
        if not servo.is_listening(now_s):
            return False
        return baud_rate is None or baud_rate == self.faults.baud_rate(servo)

    def _note_commands(self, before: Sequence[int], now_s: float) -> None:
        written = {
            servo.model.id: servo.goal_register
            for servo, count in zip(self.servos, before, strict=True)
            if servo.goal_writes != count
        }
        if written:
            self.commands.append((now_s, written))
            self._last_command_s = now_s

    def _sent(self, replies: Sequence[Reply]) -> tuple[bytes, float]:
        """Return the bytes of replies, and how long they wait before they are on the wire."""
        out, wait_s, late_s = bytearray(), self._latency_s, 0.0
        for reply in replies:
            data = self.faults.disturb(reply.id, reply.data, self._protocol.spoil(reply.data))
            if data:
                out += data
                wait_s += reply.delay_s
                late_s = max(late_s, self.faults.lateness_s(reply.id))
                self.counts["replies"] += 1
        return bytes(out), wait_s + late_s

    # ------------------------------------------------------------------ from outside

    def _index(self, servo: int) -> int:
        for index, one in enumerate(self.servos):
            if one.model.id == servo:
                return index
        ids = ", ".join(str(one.model.id) for one in self.servos)
        raise BadInput(f"there is no servo {servo} on the bus; expected one of {ids}")

    def move(self, positions: Mapping[int, float]) -> tuple[int, ...]:
        """Move joints by hand to positions, ticks; return the servos that did not give way.

        A servo with torque does not give way, nor does one that is stuck.
        """
        firm: list[int] = []
        for servo, position in positions.items():
            index = self._index(servo)
            if not math.isfinite(position):
                raise BadInput(f"servo {servo} cannot be moved to {position}; expected ticks")
            model = self.servos[index].model
            shaft = model.id if model.same_shaft_as is None else model.same_shaft_as
            group = [s for s in self.servos if shaft in (s.model.id, s.model.same_shaft_as)]
            if any(one.has_torque or self.faults.is_held(one) for one in group):
                firm.append(servo)
                continue
            self.joints.place(index, position)
            for one in group:
                one.position = float(position)
        return tuple(firm)

    def get_register(self, servo: int, name: str) -> int:
        """Return a register without the bus."""
        one = self.servos[self._index(servo)]
        one.table.check_name(name, f"servo {servo}")
        one.show()
        return one.table.get(name)

    def set_register(self, servo: int, name: str, value: int) -> None:
        """Set a register without the bus and without the rules of access.

        Raises:
            BadInput: servo or register is unknown, or the value does not fit.
        """
        self.servos[self._index(servo)].preset(name, value)

    def set_fault(
        self,
        kind: str,
        *,
        duration_s: float = float("inf"),
        ids: Sequence[int] = (),
        **parameters: float,
    ) -> None:
        """Let a fault begin now: `set_fault("late", duration_s=0.5, ids=(2,), late_s=0.3)`.

        Raises:
            BadInput: the kind, an id or a parameter is none.
        """
        self.faults.add(kind, duration_s, ids, **parameters)

    def clear_faults(self) -> None:
        """End all faults, those of the plan that are to come included."""
        self.faults.clear()

    def truth(self) -> BusTruth:
        """Return what the servos do, as of the last `advance`."""
        servos = {
            one.model.id: ServoTruth(
                one.model.name,
                one.position,
                one.velocity,
                one.goal_register,
                one.has_torque,
                one.load,
                one.temperature_c,
                one.errors(),
            )
            for one in self.servos
        }
        return BusTruth(
            0.0 if self._now_s is None else self._now_s,
            servos,
            dict(self.counts),
            self.last_request_s,
            self._last_command_s,
        )
