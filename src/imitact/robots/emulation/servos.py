"""Emulated servos: what all families share, that is mounting, load, heat and errors.

Positions of joints are in ticks, 4096 a turn, counted on over whole turns; 2048 is the middle,
0 rad. They are what a servo shows whose registers fit its mounting: where a servo is mounted
reversed and its drive mode is reversed too, the position of the joint, and not
the mirrored one of its shaft.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from imitact.core.errors import BadInput, NotFinite
from imitact.robots.emulation.control_table import ControlTable

TURN = 4096
"""Ticks a turn: the encoders of Dynamixel X and Feetech STS have 12 bits."""

STALL_SPEED = 20.0
"""Speed below which a loaded shaft counts as stalled, ticks/s; an assumption."""

AMBIENT_C = 31.0
HEATING_C = 60.0
"""Final rise of the temperature at full load, in degrees Celsius; an assumption."""
COOLING_S = 120.0
"""Time constant of heating and cooling, s; an assumption."""


@dataclass(frozen=True)
class ServoModel:
    """One servo of a bus: which it is, and how it was set up and mounted.

    Attributes:
        id: 0 to 252.
        model_number: as its register holds it, such as 1020 for an XM430-W350.
        name: of its joint, for `truth` and errors.
        registers: values that differ from the factory's, by register name.
        position: of the joint at the start, ticks.
        mounted_reversed: whether the shaft turns against the joint; None for what the register
            drive_mode says, so that a servo is set up right unless it is said otherwise.
        same_shaft_as: id of another servo that drives the same joint (a shadow servo).
        goal_at_torque: what the goal is when the torque is turned on: "keep" the old one, so that
            a careless driver makes the arm snap, or the "present" position. Which one real
            firmware does is not documented; reports of snapping arms exist.
        volts: supply voltage; None for the usual one of the model.
        stall_s: time at a stall after which the overload protection acts, s.
    """

    id: int
    model_number: int
    name: str
    registers: Mapping[str, int] = field(default_factory=dict)
    position: float = TURN / 2
    mounted_reversed: bool | None = None
    same_shaft_as: int | None = None
    goal_at_torque: Literal["keep", "present"] = "keep"
    volts: float | None = None
    stall_s: float = 2.0


class Joints(Protocol):
    """The mechanics behind the servos of a bus, one value a servo, in the order of the servos.

    Attributes:
        positions: joint positions, ticks.
        velocities: joint velocities, ticks/s.
    """

    @property
    def positions(self) -> Sequence[float]: ...

    @property
    def velocities(self) -> Sequence[float]: ...

    def advance(self, now_s: float, goals: Sequence[float], torque: Sequence[float]) -> None:
        """Move on to `now_s`, which never goes back.

        Args:
            goals: position that each servo drives its joint to, ticks.
            torque: share of the stall torque that each may use, 0 to 1; 0 is a limp joint.
        """
        ...

    def place(self, index: int, position: float) -> None:
        """Put a joint somewhere at once, as a hand does with a limp arm."""
        ...


class FirstOrderJoints:
    """Joints that approach their goal exponentially, up to a top speed; a limp joint stays.

    Args:
        positions: at the start, ticks.
        top_speeds: ticks/s.
        shafts: number of the shaft that each servo drives; servos of one number move together.
        time_constant_s: of the approach.
    """

    # Tracking of position-controlled servos without profile: 60 ms; velocity settles in 10 ms.
    _VELOCITY_S = 0.01
    _STEP_S = 0.002
    _LONGEST_S = 2.0  # after which every joint is where it goes to or the driver is gone
    _FRICTION = 0.02  # share of the stall torque that moves nothing

    def __init__(
        self,
        positions: Sequence[float],
        top_speeds: Sequence[float],
        shafts: Sequence[int] | None = None,
        *,
        time_constant_s: float = 0.06,
    ) -> None:
        self.positions: list[float] = [float(p) for p in positions]
        self.velocities: list[float] = [0.0] * len(self.positions)
        self._top_speeds = list(top_speeds)
        groups: dict[int, list[int]] = {}
        for servo, shaft in enumerate(shafts if shafts is not None else range(len(positions))):
            groups.setdefault(shaft, []).append(servo)
        self._groups = list(groups.values())
        self._time_constant_s = time_constant_s
        self._now_s: float | None = None

    def advance(self, now_s: float, goals: Sequence[float], torque: Sequence[float]) -> None:
        past_s = 0.0 if self._now_s is None else min(now_s - self._now_s, self._LONGEST_S)
        self._now_s = now_s
        if past_s <= 0:
            return
        steps = max(1, math.ceil(past_s / self._STEP_S))
        step_s = past_s / steps
        settle = min(1.0, step_s / self._VELOCITY_S)
        for group in self._groups:
            first = group[0]
            position, velocity = self.positions[first], self.velocities[first]
            total = sum(torque[i] for i in group)
            if total <= self._FRICTION:
                velocity = 0.0
            else:
                goal = sum(torque[i] * goals[i] for i in group) / total
                top = min(self._top_speeds[i] for i in group)
                if abs(goal - position) < 1e-3 and abs(velocity) < 1e-3:
                    velocity = 0.0
                else:
                    for _ in range(steps):
                        wanted = max(-top, min(top, (goal - position) / self._time_constant_s))
                        velocity += (wanted - velocity) * settle
                        position += velocity * step_s
            for i in group:
                self.positions[i], self.velocities[i] = position, velocity

    def place(self, index: int, position: float) -> None:
        for group in self._groups:
            if index in group:
                for i in group:
                    self.positions[i], self.velocities[i] = float(position), 0.0


class Demand(NamedTuple):
    """What a servo does with its joint now: goal in ticks, share of the torque it may use."""

    goal: float
    torque: float


class Servo:
    """What servos of both families share. A subclass gives registers, modes and error bits."""

    USUAL_ERROR_BIT = 0
    """Bit of the error byte that a fault "error" sets unless it names others."""

    REBOOT_S = 0.3
    """Time during which a servo that reboots hears nothing, s; an assumption."""

    def __init__(
        self, model: ServoModel, table: ControlTable, *, volts: float, top_speed: float
    ) -> None:
        if not 0 <= model.id <= 252:
            raise BadInput(f"servo {model.name}: id is {model.id}; expected 0 to 252")
        self.model = model
        self.table = table
        if not math.isfinite(model.position):
            raise BadInput(f"servo {model.name}: position is {model.position}; expected ticks")
        for name, value in model.registers.items():
            self.preset(name, value)
        table.set("id", model.id)
        self.top_speed = top_speed
        self.nominal_volts = model.volts if model.volts is not None else volts
        self.volts = self.nominal_volts
        self.position, self.velocity, self.load = model.position, 0.0, 0.0
        self.temperature_c = AMBIENT_C
        self.is_powered = True
        self.forced_error_bits = 0
        self.forced_temperature: tuple[float, float] | None = None
        self.extra_turns = 0
        self.goal_writes = 0
        self._stalled_s = 0.0
        self._deaf_until_s = -math.inf

    def preset(self, name: str, value: int) -> None:
        """Set a register beside the bus, without the rules of access.

        Raises:
            BadInput: there is no such register, or the value does not fit.
        """
        self.table.check_name(name, f"servo {self.model.name} (model {self.model.model_number})")
        register = self.table.registers[name]
        low = -math.inf if register.low is None else register.low
        high = math.inf if register.high is None else register.high
        does_fit = register.decode(register.encode(value)) == value
        if not does_fit or (register.is_writable and not low <= value <= high):
            raise BadInput(
                f"servo {self.model.name}: register {name} cannot hold {value}; it has "
                f"{register.size} bytes"
                + (f" and takes {low} to {high}" if register.low is not None else "")
            )
        self.table.set(name, value)

    @property
    def id(self) -> int:
        return self.table.get("id")

    @property
    def secondary_id(self) -> int | None:
        """Another id whose commands it follows without a reply; None for none."""
        return None

    @property
    def baud_rate(self) -> int:
        raise NotImplementedError

    @property
    def return_delay_s(self) -> float:
        """Time between an instruction and the reply."""
        return self.table.get("return_delay_time") * 2e-6

    @property
    def goal_register(self) -> int:
        """The goal position as its register holds it."""
        return self.table.get("goal_position")

    @property
    def has_torque(self) -> bool:
        """Whether it drives its joint."""
        return self.is_powered and bool(self.table.get("torque_enable"))

    def is_listening(self, now_s: float) -> bool:
        return self.is_powered and now_s >= self._deaf_until_s

    def errors(self) -> tuple[str, ...]:
        """Return the names of the errors that it reports."""
        raise NotImplementedError

    def trip(self, error: str) -> None:
        """Act on an error that the servo found: report it, and shut down if it is set up to."""
        raise NotImplementedError

    def recover(self, error: str) -> None:
        """Note that the cause of an error has gone; by default it is reported until a reboot."""

    def demand(self, dt_s: float) -> Demand:
        """Return what it does with its joint now."""
        raise NotImplementedError

    def settle(self) -> None:
        """Begin at the position that was measured, as at power-up."""
        self.show()
        if "goal_position" not in self.model.registers:
            self.stay()

    def hear(self) -> None:
        """Note that an instruction was on the bus."""

    def watch_bus(self, dt_s: float) -> None:
        """Let time pass without an instruction; a model with a bus watchdog stops."""

    def show(self) -> None:
        """Write the measured values into the registers."""
        raise NotImplementedError

    def stay(self) -> None:
        """Make the measured position the goal."""
        self.table.set("goal_position", self.table.get("present_position"))

    def restart(self) -> None:
        """Forget what is not kept in EEPROM; a subclass goes on with what follows from that."""
        for register in self.table.registers.values():
            if not register.is_kept:
                self.table.set(register.name, register.default)

    def reboot(self, now_s: float) -> None:
        """Restart: torque and RAM are lost, errors are cleared, nothing is heard for a while."""
        self._stalled_s = 0.0
        self._deaf_until_s = now_s + self.REBOOT_S
        self.restart()

    def power_off(self) -> None:
        self.is_powered = False

    def power_on(self, now_s: float) -> None:
        self.is_powered = True
        self.reboot(now_s)

    @property
    def full_load_ticks(self) -> float:
        """Position error at which it gives its whole torque, ticks."""
        raise NotImplementedError

    @property
    def stall_limit(self) -> tuple[float, float]:
        """Share of the torque, and time in s, after which a stall is an overload."""
        raise NotImplementedError

    @property
    def temperature_limit_c(self) -> float:
        raise NotImplementedError

    @property
    def voltage_limits(self) -> tuple[float, float]:
        """Lowest and highest voltage, V; both families count them in 0.1 V."""
        table = self.table
        return table.get("min_voltage_limit") / 10, table.get("max_voltage_limit") / 10

    def measure(self, position: float, velocity: float, demand: Demand, dt_s: float) -> None:
        """Take over where the joint is, and find overload, overheating and voltage errors.

        Args:
            position: of the joint, ticks.
            velocity: of the joint, ticks/s.
            demand: what the servo did with it.
            dt_s: for how long.
        """
        if not math.isfinite(position):
            raise NotFinite(f"the emulated joint {self.model.name} is at {position} ticks")
        self.position, self.velocity = position, velocity
        wanted = (demand.goal - position) / self.full_load_ticks
        self.load = max(-demand.torque, min(demand.torque, wanted))
        least, longest_s = self.stall_limit
        is_stalled = abs(self.load) > least and abs(velocity) < STALL_SPEED
        self._stalled_s = self._stalled_s + dt_s if is_stalled else 0.0
        self._heat(dt_s)
        if not self.is_powered:
            return
        if self._stalled_s > longest_s:
            self._stalled_s = 0.0
            self.trip("overload")
        lowest, highest = self.voltage_limits
        found = {
            "overheating": self.temperature_c > self.temperature_limit_c,
            "voltage": not lowest <= self.volts <= highest,
        }
        for error, is_there in found.items():
            (self.trip if is_there else self.recover)(error)

    def _heat(self, dt_s: float) -> None:
        if self.forced_temperature is not None:
            goal, rate = self.forced_temperature
            step = min(abs(goal - self.temperature_c), rate * dt_s)
            self.temperature_c += math.copysign(step, goal - self.temperature_c)
            return
        final = AMBIENT_C + HEATING_C * self.load**2
        self.temperature_c += (final - self.temperature_c) * (1 - math.exp(-dt_s / COOLING_S))

    def status_error(self) -> int:
        """Return the error byte of a reply without a failure of its own."""
        raise NotImplementedError

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        """Return the error byte of the reply, and the bytes."""
        raise NotImplementedError

    def write(self, address: int, data: bytes, *, by_secondary_id: bool = False) -> int:
        """Write registers; return the error byte of the reply."""
        raise NotImplementedError
