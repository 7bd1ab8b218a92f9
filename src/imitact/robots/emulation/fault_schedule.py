"""Fault schedule: the faults of a plan on the servos of one bus, as time passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.servos import Demand, Servo


class FaultSchedule:
    """Which faults are active, what they do to servos, and what they do to replies.

    Args:
        plan: its `start_s` count from the first call of `turn`.
        servos: of the bus.
        counts: counts what was dropped, corrupted, ...
    """

    def __init__(self, plan: FaultPlan, servos: Sequence[Servo], counts: Counter[str]) -> None:
        self._servos, self._counts = servos, counts
        self._waiting = list(plan.faults)
        self._active: list[Fault] = []
        self._rng = np.random.default_rng(plan.seed)
        self._start_s: float | None = None
        self._now_s = 0.0
        self._held: dict[int, float] = {}

    def turn(self, now_s: float) -> None:
        """Let faults begin and end that have to by now."""
        if self._start_s is None:
            self._start_s = now_s
        self._now_s = now_s
        if not self._waiting and not self._active:
            return
        past_s = now_s - self._start_s
        for fault in [one for one in self._waiting if one.start_s <= past_s]:
            self._waiting.remove(fault)
            self._active.append(fault)
            self._begin(fault)
        # One late reply is over when a reply was late.
        over = [f for f in self._active if f.end_s <= past_s and f.kind != "late_once"]
        for fault in over:
            self._active.remove(fault)
            self._end(fault)
            for other in self._of_kind(fault.kind):  # one that goes on, perhaps on the same servo
                self._begin(other)

    def add(self, kind: str, duration_s: float, ids: Sequence[int], **parameters: float) -> None:
        """Let a fault begin now.

        Raises:
            BadInput: the kind, an id or a parameter is none.
        """
        past_s = 0.0 if self._start_s is None else self._now_s - self._start_s
        fault = Fault(kind, past_s, duration_s, tuple(ids), parameters=parameters)
        FaultPlan((fault,)).check({"": [servo.model.id for servo in self._servos]})
        self._waiting.append(fault)
        if self._start_s is not None:
            self.turn(self._now_s)

    def clear(self) -> None:
        """End all faults, those that are to come included."""
        self._waiting.clear()
        active, self._active = self._active, []
        for fault in active:
            self._end(fault)

    def _of_kind(self, kind: str) -> list[Fault]:
        return [fault for fault in self._active if fault.kind == kind]

    # ------------------------------------------------------------------ on servos

    def _concerned(self, fault: Fault) -> list[Servo]:
        return [servo for servo in self._servos if fault.concerns(servo.model.id)]

    def _begin(self, fault: Fault) -> None:
        values = fault.parameters
        for servo in self._concerned(fault):
            match fault.kind:
                case "dead":
                    servo.power_off()
                case "reboot":
                    servo.reboot(self._now_s)
                case "error":
                    servo.forced_error_bits = int(values["bits"]) or servo.USUAL_ERROR_BIT
                case "overload":
                    servo.trip("overload")
                case "overheat":
                    rise = abs(values["celsius"] - servo.temperature_c)
                    rate = rise / max(values["rise_s"], 1e-3)
                    servo.forced_temperature = (values["celsius"], rate)
                case "voltage_sag":
                    servo.volts = values["volts"]
                case "wrap":
                    servo.extra_turns = int(values["turns"])
                case "stuck":
                    self._held[servo.model.id] = servo.position
                case _:  # kinds that concern replies or the line
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

    def is_held(self, servo: Servo) -> bool:
        """Whether a shaft is stuck."""
        return servo.model.id in self._held

    def hinder(self, servo: Servo, demand: Demand, position: float) -> Demand:
        """Return what moves a joint where something holds it or is in its way."""
        if not self._active:
            return demand
        if servo.model.id in self._held:
            return Demand(self._held[servo.model.id], 1.0)
        for fault in self._of_kind("stall"):
            if fault.concerns(servo.model.id):
                wall = fault.parameters["position"]
                if fault.parameters["side"] < 0 and position >= wall - 1:
                    demand = Demand(max(demand.goal, wall), demand.torque)
                elif fault.parameters["side"] >= 0 and position <= wall + 1:
                    demand = Demand(min(demand.goal, wall), demand.torque)
        return demand

    # ------------------------------------------------------------------ on the line

    @property
    def is_hung_up(self) -> bool:
        """Whether the adapter has gone."""
        return bool(self._of_kind("hang_up"))

    @property
    def is_silent(self) -> bool:
        """Whether no servo hears anything."""
        return self.is_hung_up or bool(self._of_kind("silent"))

    def baud_rate(self, servo: Servo) -> int:
        """Return the rate that a servo really has."""
        for fault in self._of_kind("wrong_baud"):
            if fault.concerns(servo.model.id):
                return int(fault.parameters["baud"])
        return servo.baud_rate

    def disturb(self, servo: int, reply: bytes, spoiled: bytes) -> bytes:
        """Return what is left of a reply: nothing, the same, a spoiled one, or with noise before.

        Args:
            servo: id of the sender.
            spoiled: the reply with a wrong checksum.
        """
        if not self._active:
            return reply
        if self._is_hit("drop", servo):
            self._counts["dropped"] += 1
            return b""
        if self._is_hit("corrupt", servo):
            self._counts["corrupted"] += 1
            reply = spoiled
        noise = self._is_hit("noise", servo)
        if noise:
            self._counts["noisy"] += 1
            reply = self._rng.bytes(int(noise.parameters["bytes"])) + reply
        return reply

    def _is_hit(self, kind: str, servo: int) -> Fault | None:
        for fault in self._of_kind(kind):
            if fault.concerns(servo) and self._rng.random() < fault.parameters["chance"]:
                return fault
        return None

    def lateness_s(self, servo: int) -> float:
        """Return how long a reply waits."""
        late_s = 0.0
        for fault in [one for one in self._active if one.concerns(servo)]:
            if fault.kind in ("late", "late_once"):
                late_s += fault.parameters["late_s"]
            elif fault.kind == "jitter":
                late_s += float(self._rng.uniform(0.0, fault.parameters["jitter_s"]))
            if fault.kind == "late_once":
                self._active.remove(fault)
        if late_s:
            self._counts["late"] += 1
        return late_s
