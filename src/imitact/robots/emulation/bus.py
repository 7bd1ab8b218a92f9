"""Servo bus: emulated servos on one line, by themselves, behind a port, or in their own process.

`ServoBus` is the servos and their faults: bytes in, timed replies out. `BusServer` puts one behind
a pseudo-terminal, for the loop of a process that has other things to do. `EmulatedBus` is a process
that does nothing else, so that a driver that spins in Python cannot starve it.
"""

from __future__ import annotations

import multiprocessing
import select
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput, ImitactError, RobotError, library_words, unknown_name
from imitact.parallel.signals import ignore_interrupts, interrupts_blocked
from imitact.robots.emulation.dynamixel import DynamixelProtocol
from imitact.robots.emulation.dynamixel_servo import DynamixelServo
from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.serial_line import SerialLine, wire_time_s
from imitact.robots.emulation.servos import (
    Demand,
    FirstOrderJoints,
    Joints,
    Servo,
    ServoModel,
)

ProtocolName = Literal["dynamixel"]

LATENCY_S = 0.0005
"""Time that a USB adapter adds to each request, s: FTDI with a latency timer of 1 ms or less."""

COMMANDS_KEPT = 100_000
"""Commanded goals that a bus remembers for `commands`."""

_IDLE_S = 0.02


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
        counts: how many requests, replies, replies dropped, corrupted, ... there were.
        last_command_s: when a goal position was last written; None for never.
        is_exclusive: whether a driver has the port for itself.
        users: processes that have the port open.
    """

    now_s: float
    servos: Mapping[int, ServoTruth]
    counts: Mapping[str, int]
    last_command_s: float | None
    is_exclusive: bool = False
    users: tuple[int, ...] = ()

    @property
    def is_limp(self) -> bool:
        """Whether no servo drives its joint."""
        return not any(servo.has_torque for servo in self.servos.values())


class _WireProtocol(Protocol):
    @property
    def instruction_names(self) -> Mapping[int, str]: ...

    def instructions(self, buffer: bytearray) -> Iterable[Any]: ...

    def spoil(self, packet: bytes) -> bytes: ...

    def execute(self, instruction: Any, servos: Sequence[Any], now_s: float) -> list[Any]: ...


def make_servos(protocol: ProtocolName, models: Sequence[ServoModel]) -> list[Servo]:
    """Return the servos of a bus.

    Raises:
        BadInput: the protocol, a model or a register is unknown, or an id is given twice.
    """
    kinds = {"dynamixel": DynamixelServo}
    if protocol not in kinds:
        raise unknown_name("servo protocol", protocol, tuple(kinds))
    seen: set[int] = set()
    for model in models:
        if model.id in seen:
            raise BadInput(f"servo {model.name}: id {model.id} is given twice on one bus")
        seen.add(model.id)
    if not models:
        raise BadInput("a bus needs at least one servo")
    return [kinds[protocol](model) for model in models]


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
        protocol: "dynamixel" for protocol 2.0.
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
        self._protocol: _WireProtocol = {"dynamixel": DynamixelProtocol}[protocol]()
        self.joints: Joints = first_order_joints(self.servos) if joints is None else joints
        if len(self.joints.positions) != len(self.servos):
            raise BadInput(
                f"there are {len(self.servos)} servos but {len(self.joints.positions)} joints; "
                "expected one for each servo, shadow servos included"
            )
        plan = faults if faults is not None else FaultPlan()
        self._faults = list(plan.faults)
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._rng = np.random.default_rng(plan.seed)
        self._latency_s, self._has_wire_time = latency_s, has_wire_time
        self._buffer = bytearray()
        self._start_s: float | None = None
        self._now_s = 0.0
        self._held: dict[int, float] = {}
        self.counts: Counter[str] = Counter()
        self.commands: deque[tuple[float, dict[int, int]]] = deque(maxlen=COMMANDS_KEPT)
        self.is_hung_up = False
        for servo, position in zip(self.servos, self.joints.positions, strict=True):
            servo.measure(position, 0.0, Demand(position, 0.0), 0.0)
            servo.settle()

    # ------------------------------------------------------------------ time

    def advance(self, now_s: float) -> None:
        """Let time pass: faults begin and end, joints move, servos protect themselves."""
        if self._start_s is None:
            self._start_s = self._now_s = now_s
        dt_s = max(0.0, now_s - self._now_s)
        self._now_s += dt_s
        self._turn_faults()
        demands = [servo.demand(dt_s) for servo in self.servos]
        driven = [self._hindered(i, demand) for i, demand in enumerate(demands)]
        self.joints.advance(self._now_s, [d.goal for d in driven], [d.torque for d in driven])
        positions, velocities = self.joints.positions, self.joints.velocities
        for i, servo in enumerate(self.servos):
            servo.measure(positions[i], velocities[i], demands[i], dt_s)
            servo.watch_bus(dt_s)

    def exchange(
        self, data: bytes, now_s: float, baud_rate: int | None = None
    ) -> list[tuple[float, bytes]]:
        """Take bytes that a client sent; return what it gets, each with its time.

        Args:
            baud_rate: of the client; None where it is not known, which every servo understands.
        """
        self.advance(now_s)
        if self._is_active("silent") or self.is_hung_up:
            self.counts["unheard_bytes"] += len(data)
            return []
        self._buffer += data
        sent: list[tuple[float, bytes]] = []
        for instruction in self._protocol.instructions(self._buffer):
            self.counts["requests"] += 1
            name = self._protocol.instruction_names.get(instruction.code, "unknown")
            self.counts[name] += 1
            listening = [s for s in self.servos if self._hears(s, baud_rate)]
            if not listening:
                self.counts["wrong_baud"] += 1
                continue
            before = [servo.goal_register for servo in self.servos]
            replies = self._protocol.execute(instruction, listening, self._now_s)
            self._note_commands(before)
            answer = self._send(instruction.size, replies, baud_rate or 1_000_000)
            if answer is not None:
                sent.append(answer)
        return sent

    def _hears(self, servo: Servo, baud_rate: int | None) -> bool:
        if not servo.is_listening(self._now_s):
            return False
        if baud_rate is None:
            return True
        for fault in self._active("wrong_baud"):
            if fault.concerns(servo.model.id):
                return baud_rate == int(fault.parameters["baud"])
        return baud_rate == servo.baud_rate

    def _note_commands(self, before: Sequence[int]) -> None:
        changed = {
            servo.model.id: servo.goal_register
            for servo, old in zip(self.servos, before, strict=True)
            if servo.goal_register != old
        }
        if changed:
            self.commands.append((self._now_s, changed))

    def _send(
        self, request_size: int, replies: Sequence[Any], baud_rate: int
    ) -> tuple[float, bytes] | None:
        """Return the bytes of replies and when the client gets them."""
        out = bytearray()
        wait_s = self._latency_s
        for reply in replies:
            data = self._disturbed(reply.id, reply.data)
            if not data:
                continue
            out += data
            wait_s += reply.delay_s
            wait_s += self._lateness(reply.id)
        if not out:
            return None
        if self._has_wire_time:
            wait_s += wire_time_s(request_size + len(out), baud_rate)
        return self._now_s + wait_s, bytes(out)

    def _disturbed(self, servo: int, data: bytes) -> bytes:
        for fault in self._active("drop"):
            if fault.concerns(servo) and self._rng.random() < fault.parameters["chance"]:
                self.counts["dropped"] += 1
                return b""
        for fault in self._active("corrupt"):
            if fault.concerns(servo) and self._rng.random() < fault.parameters["chance"]:
                data = self._protocol.spoil(data)
                self.counts["corrupted"] += 1
        for fault in self._active("noise"):
            if fault.concerns(servo) and self._rng.random() < fault.parameters["chance"]:
                data = self._rng.bytes(int(fault.parameters["bytes"])) + data
                self.counts["noisy"] += 1
        self.counts["replies"] += 1
        return data

    def _lateness(self, servo: int) -> float:
        late_s = 0.0
        for fault in self._active("late"):
            if fault.concerns(servo):
                late_s = max(late_s, fault.parameters["late_s"])
        for fault in self._active("jitter"):
            if fault.concerns(servo):
                late_s += float(self._rng.uniform(0.0, fault.parameters["jitter_s"]))
        for number, fault in enumerate(self._faults):
            is_due = number in self._begun and number not in self._ended
            if fault.kind == "late_once" and is_due and fault.concerns(servo):
                late_s += fault.parameters["late_s"]
                self._ended.add(number)
        if late_s:
            self.counts["late"] += 1
        return late_s

    # ------------------------------------------------------------------ faults

    def set_fault(
        self,
        kind: str,
        *,
        duration_s: float = float("inf"),
        ids: Sequence[int] = (),
        **parameters: float,
    ) -> None:
        """Let a fault begin now.

        Raises:
            BadInput: the kind, an id or a parameter is none.
        """
        start_s = 0.0 if self._start_s is None else self._now_s - self._start_s
        fault = Fault(kind, start_s, duration_s, tuple(ids), parameters=parameters)
        FaultPlan((fault,)).check({"": [servo.model.id for servo in self.servos]})
        self._faults.append(fault)
        if self._start_s is not None:
            self._turn_faults()

    def clear_faults(self) -> None:
        """End all faults, those of the plan that are to come included."""
        for number, fault in enumerate(self._faults):
            if number in self._begun and number not in self._ended:
                self._end(fault)
        self._faults.clear()
        self._begun.clear()
        self._ended.clear()

    def _active(self, kind: str) -> list[Fault]:
        if not self._begun:
            return []
        return [
            fault
            for number, fault in enumerate(self._faults)
            if fault.kind == kind and number in self._begun and number not in self._ended
        ]

    def _is_active(self, kind: str) -> bool:
        return bool(self._active(kind))

    def _turn_faults(self) -> None:
        if len(self._ended) == len(self._faults) or self._start_s is None:
            return
        past_s = self._now_s - self._start_s
        for number, fault in enumerate(self._faults):
            if number not in self._begun and past_s >= fault.start_s:
                self._begun.add(number)
                self._begin(fault)
            is_active = number in self._begun and number not in self._ended
            if is_active and fault.kind != "late_once" and past_s >= fault.end_s:
                self._ended.add(number)
                self._end(fault)

    def _concerned(self, fault: Fault) -> list[Servo]:
        return [servo for servo in self.servos if fault.concerns(servo.model.id)]

    def _begin(self, fault: Fault) -> None:
        values = fault.parameters
        if fault.kind == "hang_up":
            self.is_hung_up = True
        for servo in self._concerned(fault):
            match fault.kind:
                case "dead":
                    servo.power_off()
                case "reboot":
                    servo.reboot(self._now_s)
                case "error":
                    servo.forced_error_bits = int(values["bits"])
                case "overload":
                    servo.trip("overload")
                case "overheat":
                    rise = abs(values["celsius"] - servo.temperature_c)
                    rate = rise / values["rise_s"] if values["rise_s"] else float("inf")
                    servo.forced_temperature = (values["celsius"], rate)
                case "voltage_sag":
                    servo.volts = values["volts"]
                case "wrap":
                    servo.extra_turns = int(values["turns"])
                case "stuck":
                    self._held[servo.model.id] = servo.position
                case _:
                    pass

    def _end(self, fault: Fault) -> None:
        for servo in self._concerned(fault):
            match fault.kind:
                case "dead":
                    servo.power_on(self._now_s)
                case "error":
                    servo.forced_error_bits = 0
                case "overheat":
                    servo.forced_temperature = None
                case "voltage_sag":
                    servo.volts = servo.nominal_volts
                case "wrap":
                    servo.extra_turns = 0
                case "stuck":
                    self._held.pop(servo.model.id, None)
                case _:
                    pass

    def _hindered(self, index: int, demand: Demand) -> Demand:
        """Return what moves the joint where something holds it or is in its way."""
        servo = self.servos[index].model.id
        if servo in self._held:
            return Demand(self._held[servo], 1.0)
        for fault in self._active("stall"):
            if fault.concerns(servo):
                at, position = fault.parameters["position"], self.joints.positions[index]
                is_below = fault.parameters["side"] < 0
                if is_below and position >= at - 1:
                    demand = Demand(max(demand.goal, at), demand.torque)
                elif not is_below and position <= at + 1:
                    demand = Demand(min(demand.goal, at), demand.torque)
        return demand

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
            shaft = self.servos[index].model.same_shaft_as or servo
            group = [
                one
                for one in self.servos
                if shaft in (one.model.id, one.model.same_shaft_as)
            ]  # fmt: skip
            if any(one.has_torque or one.model.id in self._held for one in group):
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
        """Set a register without the bus and without the rules of access."""
        one = self.servos[self._index(servo)]
        one.table.check_name(name, f"servo {servo}")
        one.table.set(name, value)

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
        last_s = self.commands[-1][0] if self.commands else None
        return BusTruth(self._now_s, servos, dict(self.counts), last_s)


class BusServer:
    """A bus behind a pseudo-terminal, served by the loop of the process that it lives in.

    That loop waits for `fileno` to become readable, or until `next_due_s`, and calls `serve_ready`;
    at least every 20 ms, so that servos move and protect themselves while nobody asks them.

    Args:
        protocol: "dynamixel" for protocol 2.0.
        servos: the servos.
        faults: what goes wrong, and when.
        joints: the mechanics; None for joints of first order.
        clock: whose time the bus keeps.
        latency_s: that the adapter adds to each request.
        has_wire_time: whether bytes take time, at the rate that the driver set.
        link: a path that becomes a symbolic link to the port.
    """

    def __init__(
        self,
        protocol: ProtocolName,
        servos: Sequence[ServoModel],
        *,
        faults: FaultPlan | None = None,
        joints: Joints | None = None,
        clock: Clock | None = None,
        latency_s: float = LATENCY_S,
        has_wire_time: bool = True,
        link: Path | None = None,
    ) -> None:
        self.bus = ServoBus(
            protocol,
            servos,
            faults=faults,
            joints=joints,
            latency_s=latency_s,
            has_wire_time=has_wire_time,
        )
        self._clock: Clock = WallClock() if clock is None else clock
        self._line = SerialLine(link)
        self.path = self._line.path
        self._checked_s = 0.0

    def fileno(self) -> int:
        """Return the descriptor that is readable when a driver has written."""
        return self._line.fileno()

    @property
    def is_open(self) -> bool:
        """Whether the port is there; it is not after a fault "hang_up" or `close`."""
        return self._line.is_open

    def next_due_s(self) -> float | None:
        """Return when the next reply has to leave, on the clock; None where none waits."""
        return self._line.next_due_s()

    def serve_ready(self) -> None:
        """Take what arrived, let time pass, and send what is due. It does not wait."""
        now_s = self._clock.now_s()
        data = self._line.receive()
        if data:
            for due_s, reply in self.bus.exchange(data, now_s, self._line.baud_rate()):
                self._line.queue(reply, due_s)
        else:
            self.bus.advance(now_s)
        if self.bus.is_hung_up:
            self._line.close()
            return
        self._line.send_due(self._clock.now_s())
        if now_s - self._checked_s > 1.0:
            self._checked_s = now_s
            self._line.forget_exclusive_use()

    def truth(self) -> BusTruth:
        """Return what the servos do now, and who has the port open."""
        self.bus.advance(self._clock.now_s())
        truth = self.bus.truth()
        return BusTruth(
            truth.now_s,
            truth.servos,
            truth.counts,
            truth.last_command_s,
            self._line.is_exclusive(),
            self._line.users(),
        )

    def move(self, positions: Mapping[int, float]) -> tuple[int, ...]:
        """Move limp joints by hand to positions, ticks; return the servos that are not limp."""
        self.bus.advance(self._clock.now_s())
        return self.bus.move(positions)

    def set_fault(self, kind: str, **settings: Any) -> None:
        """Let a fault begin now; see `ServoBus.set_fault`."""
        self.bus.advance(self._clock.now_s())
        self.bus.set_fault(kind, **settings)

    def clear_faults(self) -> None:
        """End all faults. A port that hung up stays away."""
        self.bus.advance(self._clock.now_s())
        self.bus.clear_faults()

    def close(self) -> None:
        """Take the port away."""
        self._line.close()


class EmulatedBus:
    """A bus in its own process.

        with EmulatedBus("dynamixel", servos) as bus:
            port = bus.port

    Args:
        protocol: "dynamixel" for protocol 2.0.
        servos: the servos.
        faults: what goes wrong, and when.
        joints: the mechanics, which the process gets by pickling; None for joints of first order.
        latency_s: that the adapter adds to each request.
        has_wire_time: whether bytes take time, at the rate that the driver set.
        link: a path that becomes a symbolic link to the port.
    """

    _ANSWER_S = 60.0  # a busy machine may need that long to import NumPy in a new process

    def __init__(
        self,
        protocol: ProtocolName,
        servos: Sequence[ServoModel],
        *,
        faults: FaultPlan | None = None,
        joints: Joints | None = None,
        latency_s: float = LATENCY_S,
        has_wire_time: bool = True,
        link: Path | None = None,
    ) -> None:
        first_order_joints(make_servos(protocol, servos))  # refuses here, not in the process
        self._protocol, self._servos = protocol, tuple(servos)
        self._settings = {
            "faults": faults,
            "joints": joints,
            "latency_s": latency_s,
            "has_wire_time": has_wire_time,
            "link": link,
        }
        self._process: Any = None
        self._pipe: Any = None
        self.port = ""

    def start(self) -> str:
        """Start the process; return the path of the port."""
        if self._process is not None:
            return self.port
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(far, self._protocol, self._servos, self._settings),
            name="emulated bus",
            daemon=True,
        )
        with interrupts_blocked():
            self._process.start()
        far.close()
        self.port = self._answer()
        return self.port

    def stop(self) -> None:
        """End the process; the port goes away."""
        if self._process is None:
            return
        process, self._process = self._process, None
        self._pipe.close()  # the process ends when its pipe does
        process.join(5.0)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()

    def __enter__(self) -> EmulatedBus:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def truth(self) -> BusTruth:
        """Return what the servos do now, and who has the port open."""
        return self._ask("truth")

    def commands(self) -> list[tuple[float, dict[int, int]]]:
        """Return the goals that were written since the last call: (time, goal registers by id)."""
        return self._ask("commands")

    def move(self, positions: Mapping[int, float]) -> tuple[int, ...]:
        """Move limp joints by hand to positions, ticks; return the servos that are not limp."""
        return self._ask("move", dict(positions))

    def set_fault(self, kind: str, **settings: Any) -> None:
        """Let a fault begin now: `set_fault("late", duration_s=0.5, ids=(2,), late_s=0.3)`.

        Args:
            kind: of `FAULT_KINDS`.
            settings: duration_s, ids, and the parameters of the kind.
        """
        self._ask("set_fault", kind, **settings)

    def clear_faults(self) -> None:
        """End all faults, those of the plan that are to come included."""
        self._ask("clear_faults")

    def get_register(self, servo: int, name: str) -> int:
        """Return a register without the bus."""
        return self._ask("get_register", servo, name)

    def set_register(self, servo: int, name: str, value: int) -> None:
        """Set a register without the bus and without the rules of access."""
        self._ask("set_register", servo, name, value)

    def _ask(self, name: str, *arguments: Any, **settings: Any) -> Any:
        if self._process is None:
            raise RobotError("the emulated bus is not running; call start first")
        try:
            self._pipe.send((name, arguments, settings))
        except OSError:
            raise RobotError("the process of the emulated bus has ended") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self._ANSWER_S):
                raise RobotError(
                    f"the process of the emulated bus did not answer for {self._ANSWER_S:g} s"
                )
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise RobotError("the process of the emulated bus has ended") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Any, protocol: ProtocolName, servos: Sequence[ServoModel], settings: Any) -> None:
    """Serve a bus until the other end of the pipe goes."""
    ignore_interrupts()
    try:
        server = BusServer(protocol, servos, **settings)
    except Exception as error:
        pipe.send(error if isinstance(error, ImitactError) else RobotError(library_words(error)))
        return
    pipe.send(server.path)
    clock = WallClock()
    try:
        while True:
            due_s = server.next_due_s()
            wait_s = _IDLE_S if due_s is None else max(0.0, min(_IDLE_S, due_s - clock.now_s()))
            waiting = [pipe, server] if server.is_open else [pipe]
            ready, _, _ = select.select(waiting, [], [], wait_s)
            server.serve_ready()
            if pipe in ready:
                name, arguments, keywords = pipe.recv()
                try:
                    pipe.send(_command(server, name)(*arguments, **keywords))
                except ImitactError as error:
                    pipe.send(error)
                except TypeError as error:
                    pipe.send(BadInput(library_words(error)))
    except (EOFError, OSError):  # who started it has gone
        pass
    finally:
        server.close()


def _command(server: BusServer, name: str) -> Any:
    def commands() -> list[tuple[float, dict[int, int]]]:
        kept = list(server.bus.commands)
        server.bus.commands.clear()
        return kept

    def get_register(servo: int, register: str) -> int:
        server.bus.advance(server.truth().now_s)
        return server.bus.get_register(servo, register)

    return {
        "truth": server.truth,
        "commands": commands,
        "move": server.move,
        "set_fault": server.set_fault,
        "clear_faults": server.clear_faults,
        "get_register": get_register,
        "set_register": server.bus.set_register,
    }[name]
