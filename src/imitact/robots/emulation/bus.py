"""Servo buses behind ports: served by a loop of the process, or in a process of their own.

`BusServer` puts a `ServoBus` behind a pseudo-terminal, for the loop of a process that has other
things to do. `EmulatedBus` is a process that does nothing else, so that a driver that spins in
Python cannot starve it.
"""

from __future__ import annotations

import multiprocessing
import select
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput, ImitactError, RobotError, library_words
from imitact.parallel.signals import ignore_interrupts, interrupts_blocked
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.serial_line import SerialLine
from imitact.robots.emulation.servo_bus import (
    LATENCY_S,
    BusTruth,
    ProtocolName,
    ServoBus,
    first_order_joints,
    make_servos,
)
from imitact.robots.emulation.servos import Joints, ServoModel

_IDLE_S = 0.02
"""Longest time between two calls of `serve_ready`, s."""


class BusServer:
    """A bus behind a pseudo-terminal, served by the loop of the process that it lives in.

    That loop waits for `fileno` to become readable, or until `next_due_s`, and calls `serve_ready`;
    at least every 20 ms, so that servos move and protect themselves while nobody asks them. While
    the port is gone (`is_open`) there is nothing to wait for, but `serve_ready` goes on: it brings
    the port back after a fault "hang_up", under another path unless there is a link.

    Args:
        protocol: "dynamixel" for Dynamixel 2.0, "feetech" for the STS series.
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
        self._link = link
        self._line = SerialLine(link)
        self._is_closed = False
        self.path = self._line.path
        self._served_s = self._clock.now_s()
        self._checked_s = 0.0

    def fileno(self) -> int:
        """Return the descriptor that is readable when a driver has written."""
        return self._line.fileno()

    @property
    def is_open(self) -> bool:
        """Whether the port is there; it is not during a fault "hang_up" and after `close`."""
        return self._line.is_open

    def next_due_s(self) -> float | None:
        """Return when the next reply has to leave, on the clock; None where none waits."""
        return self._line.next_due_s()

    def serve_ready(self) -> None:
        """Take what arrived, let time pass, and send what is due. It does not wait."""
        now_s = self._clock.now_s()
        data = self._line.receive()
        if data:
            if now_s - self._served_s > 2 * _IDLE_S:
                # This process did not get to run: when the bytes came is not known, and a bus
                # watchdog must not take the pause for the driver's.
                self.bus.hear()
            for due_s, reply in self.bus.exchange(data, now_s, self._line.baud_rate()):
                self._line.queue(reply, due_s)
        else:
            self.bus.advance(now_s)
        self._served_s = now_s
        if self.bus.is_hung_up:
            self._line.close()
            return
        if not self._line.is_open and not self._is_closed:  # plugged in again
            self._line = SerialLine(self._link)
            self.path = self._line.path
        self._line.send_due(self._clock.now_s())
        asked_s = self.bus.last_request_s
        is_quiet = asked_s is None or now_s - asked_s > 1.0  # looking takes ms
        if is_quiet and now_s - self._checked_s > 1.0:
            self._checked_s = now_s
            self._line.forget_exclusive_use()

    def truth(self) -> BusTruth:
        """Return what the servos do now, and whether a driver has the port for itself."""
        self.bus.advance(self._clock.now_s())
        return replace(self.bus.truth(), is_exclusive=self._line.is_exclusive())

    def users(self) -> tuple[int, ...]:
        """Return the processes that have the port open, this one left out (Linux; takes ms)."""
        return self._line.users()

    def move(self, positions: Mapping[int, float]) -> tuple[int, ...]:
        """Move limp joints by hand to positions, ticks; return the servos that are not limp."""
        self.bus.advance(self._clock.now_s())
        return self.bus.move(positions)

    def set_fault(self, kind: str, **settings: Any) -> None:
        """Let a fault begin now; see `ServoBus.set_fault`."""
        self.bus.advance(self._clock.now_s())
        self.bus.set_fault(kind, **settings)

    def clear_faults(self) -> None:
        """End all faults, those of the plan that are to come included."""
        self.bus.advance(self._clock.now_s())
        self.bus.clear_faults()

    def commands(self) -> list[tuple[float, dict[int, int]]]:
        """Return the goals that were written since the last call: (time, goal registers by id)."""
        kept = list(self.bus.commands)
        self.bus.commands.clear()
        return kept

    def get_register(self, servo: int, name: str) -> int:
        """Return a register without the bus."""
        self.bus.advance(self._clock.now_s())
        return self.bus.get_register(servo, name)

    def set_register(self, servo: int, name: str, value: int) -> None:
        """Set a register without the bus and without the rules of access."""
        self.bus.set_register(servo, name, value)

    def close(self) -> None:
        """Take the port away for good."""
        self._is_closed = True
        self._line.close()


class EmulatedBus:
    """A bus in its own process.

        with EmulatedBus("dynamixel", servos) as bus:
            port = bus.port

    Args:
        protocol: "dynamixel" for Dynamixel 2.0, "feetech" for the STS series.
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
        self._lock = threading.Lock()  # of a question and its answer
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
        try:
            self.port = self._answer()
        except BaseException:
            self.stop()
            raise
        return self.port

    def find_port(self) -> str:
        """Return the path of the port as it is now: after a fault "hang_up" it may be another."""
        return self._ask("find_port")

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
        """Return what the servos do now, and whether a driver has the port for itself."""
        return self._ask("truth")

    def users(self) -> tuple[int, ...]:
        """Return the processes that have the port open (Linux)."""
        return self._ask("users")

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
        with self._lock:
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
    return {
        "truth": server.truth,
        "users": server.users,
        "find_port": lambda: server.path,
        "commands": server.commands,
        "move": server.move,
        "set_fault": server.set_fault,
        "clear_faults": server.clear_faults,
        "get_register": server.get_register,
        "set_register": server.set_register,
    }[name]
