"""Dynamixel X servo: operating modes, position frames, protection and rules of access.

The rules are those of ROBOTIS' e-Manual, see `dynamixel_table`. What it does not say is an
assumption, and said where it is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from imitact.core.errors import BadInput
from imitact.robots.emulation.control_table import ControlTable, Register
from imitact.robots.emulation.dynamixel_table import (
    ACCESS_ERROR,
    ALERT,
    BAUD_RATES,
    CURRENT,
    CURRENT_POSITION,
    DYNAMIXEL_MOTORS,
    FULL_PWM,
    GOALS,
    HARDWARE_ERRORS,
    HOMING_LIMIT_IN_POSITION_MODE,
    INDIRECT_DATA,
    INSTRUCTION_ERROR,
    LENGTH_ERROR,
    LIMIT_ERROR,
    POSITION,
    PWM,
    RANGE_ERROR,
    RESULT_FAIL,
    TABLE_SIZE,
    VELOCITY,
    VELOCITY_TICKS,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
    dynamixel_registers,
    indirect_number,
)
from imitact.robots.emulation.servos import TURN, Demand, Servo, ServoModel


class DynamixelServo(Servo):
    """A Dynamixel X servo.

    Raises:
        BadInput: the model number or a register is unknown.
    """

    USUAL_ERROR_BIT = ALERT

    def __init__(self, model: ServoModel) -> None:
        motor = DYNAMIXEL_MOTORS.get(model.model_number)
        if motor is None:
            known = ", ".join(f"{n} ({m.title})" for n, m in DYNAMIXEL_MOTORS.items())
            raise BadInput(
                f"servo {model.name}: no Dynamixel of model number {model.model_number} is "
                f"emulated; expected {known}"
            )
        self.motor = motor
        table = ControlTable(dynamixel_registers(motor), TABLE_SIZE)
        super().__init__(model, table, volts=motor.volts, top_speed=motor.top_speed_rpm * TURN / 60)
        table.set("model_number", model.model_number)
        reversed_ = model.mounted_reversed
        self._is_mounted_reversed = bool(
            table.get("drive_mode") & 1 if reversed_ is None else reversed_
        )
        self._base = 0
        self._path: float | None = None
        self._registered: tuple[int, bytes] | None = None
        self._quiet_s = 0.0
        self._held: float | None = None
        if "current_limit" in table and "goal_current" not in model.registers:
            table.set("goal_current", table.get("current_limit"))
        self.settle()

    # ------------------------------------------------------------------ state

    @property
    def secondary_id(self) -> int | None:
        given = self.table.get("secondary_id")
        return given if given <= 252 else None

    @property
    def baud_rate(self) -> int:
        return BAUD_RATES[self.table.get("baud_rate")]

    @property
    def mode(self) -> int:
        return self.table.get("operating_mode")

    @property
    def replies_to_write(self) -> bool:
        return self.table.get("status_return_level") >= 2

    @property
    def replies_to_read(self) -> bool:
        return self.table.get("status_return_level") >= 1

    @property
    def full_load_ticks(self) -> float:
        # emanual, Position PID Gain: PWM = error * gain / 128.
        return FULL_PWM * 128 / max(1, self.table.get("position_p_gain"))

    @property
    def stall_limit(self) -> tuple[float, float]:
        return 0.8, self.model.stall_s

    @property
    def temperature_limit_c(self) -> float:
        return self.table.get("temperature_limit")

    def errors(self) -> tuple[str, ...]:
        bits = self.table.get("hardware_error_status")
        return tuple(name for name, bit in HARDWARE_ERRORS.items() if bits >> bit & 1)

    def status_error(self) -> int:
        alert = ALERT if self.table.get("hardware_error_status") else 0
        return alert | self.forced_error_bits

    def trip(self, error: str) -> None:
        bit = 1 << HARDWARE_ERRORS[error]
        self.table.set("hardware_error_status", self.table.get("hardware_error_status") | bit)
        if self.table.get("shutdown") & bit:
            self.table.set("torque_enable", 0)  # until a reboot

    @property
    def _is_shut_down(self) -> bool:
        return bool(self.table.get("hardware_error_status") & self.table.get("shutdown"))

    def settle(self) -> None:
        self._reset_turn()
        super().settle()

    def restart(self) -> None:
        super().restart()
        if "current_limit" in self.table:
            self.table.set("goal_current", self.table.get("current_limit"))
        self.table.set("goal_pwm", self.table.get("pwm_limit"))
        self._registered, self._path, self._held, self._quiet_s = None, None, None, 0.0
        self.extra_turns = 0
        self._reset_turn()
        self.show()
        self.stay()

    # ------------------------------------------------------------------ position

    @property
    def _is_mirrored(self) -> bool:
        return bool(self.table.get("drive_mode") & 1) != self._is_mounted_reversed

    def _shaft(self, joint: float) -> float:
        """Turn a joint position into what the encoder counts in the direction of the drive mode."""
        return TURN - joint if self._is_mirrored else joint

    def _offset(self) -> int:
        """What is added to the encoder's count. In position mode too large offsets are ignored."""
        homing = self.table.get("homing_offset")
        if self.mode == POSITION and abs(homing) > HOMING_LIMIT_IN_POSITION_MODE:
            homing = 0
        return homing - self._base

    def _reset_turn(self) -> None:
        """Count within one turn again, as at power-up and where position mode begins."""
        self._base = math.floor(self._shaft(self.position) / TURN) * TURN

    def joint_of(self, register: float) -> float:
        """Return the joint position, ticks, of a value of a position register."""
        return self._shaft(register - self._offset() - self._goal_turns() * TURN)

    def _goal_turns(self) -> int:
        # In position mode the encoder is absolute: a jump of the reading moves no goal.
        return 0 if self.mode == POSITION else self.extra_turns

    def show(self) -> None:
        table = self.table
        sign = -1 if self._is_mirrored else 1
        reading = self._shaft(self.position) + self._offset() + self.extra_turns * TURN
        table.set("present_position", round(reading))
        table.set("present_velocity", round(sign * self.velocity / VELOCITY_TICKS))
        full = self.motor.stall_current or 1000  # load in 0.1 %
        table.set("present_current", round(sign * self.load * full))
        table.set("present_pwm", round(sign * self.load * FULL_PWM))
        table.set(
            "moving", int(abs(self.velocity) > VELOCITY_TICKS * table.get("moving_threshold"))
        )
        table.set("present_input_voltage", round(self.volts * 10))
        table.set("present_temperature", max(0, min(255, round(self.temperature_c))))
        path = self._path if self._path is not None else self.position
        table.set("position_trajectory", round(self._shaft(path) + self._offset()))

    # ------------------------------------------------------------------ control

    def demand(self, dt_s: float) -> Demand:
        table = self.table
        if not self.has_torque:
            self._path = None
            return Demand(self.position, 0.0)
        share = table.get("pwm_limit") / FULL_PWM
        if table.get("bus_watchdog") == WATCHDOG_TRIPPED:
            # The e-Manual says that it stops; that it goes on holding there is an assumption.
            self._path = self._held = self.position if self._held is None else self._held
            return Demand(self._held, share)
        mode, sign = self.mode, -1 if self._is_mirrored else 1
        if mode == CURRENT:
            current = table.get("goal_current")
            torque = min(share, abs(current) / (self.motor.stall_current or 1))
            return Demand(self.position + math.copysign(TURN, sign * current), torque)
        if mode in (VELOCITY, PWM):
            if mode == VELOCITY:
                speed = table.get("goal_velocity") * VELOCITY_TICKS
            else:
                speed = table.get("goal_pwm") / FULL_PWM * self.top_speed
            begin = self.position if self._path is None else self._path
            path = begin + sign * speed * dt_s
            # A blocked shaft does not build up a way to catch up with.
            self._path = max(self.position - 500, min(self.position + 500, path))
            return Demand(self._path, share)
        share = min(share, abs(table.get("goal_pwm")) / FULL_PWM)
        if mode == CURRENT_POSITION:
            cap = abs(table.get("goal_current")) / (self.motor.stall_current or 1)
            share = min(share, cap)
        target = self.joint_of(table.get("goal_position"))
        self._path = self._profile(target, dt_s)
        return Demand(self._path, share)

    def _profile(self, target: float, dt_s: float) -> float:
        """Move the goal at the profile velocity.

        Profile acceleration and time-based profiles (bit 2 of the drive mode) are not emulated.
        """
        limit = self.table.get("profile_velocity")
        if not limit or self.table.get("drive_mode") & 4:
            return target
        if self._path is None:
            return self.position
        step = limit * VELOCITY_TICKS * dt_s
        return self._path + max(-step, min(step, target - self._path))

    def hear(self) -> None:
        self._quiet_s = 0.0

    def watch_bus(self, dt_s: float) -> None:
        limit = self.table.get("bus_watchdog")
        self._quiet_s += dt_s
        if limit > 0 and self.has_torque and self._quiet_s > limit * WATCHDOG_UNIT_S:
            self.table.set("bus_watchdog", WATCHDOG_TRIPPED)
            self._held = None

    # ------------------------------------------------------------------ access

    def _route(self, address: int, length: int) -> Sequence[int] | None:
        """Return the address of each byte, indirect data resolved; None beyond the table."""
        if address + length <= INDIRECT_DATA:
            return range(address, address + length)
        found: list[int] = []
        for at in range(address, address + length):
            number = indirect_number(at)
            if number is not None:
                at = self.table.get(f"indirect_address_{number + 1}")
            if not 0 <= at < TABLE_SIZE:
                return None
            found.append(at)
        return found

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        route = self._route(address, length)
        if route is None or not length:
            return self.status_error() | ACCESS_ERROR, b""
        self.show()
        return self.status_error(), bytes(self.table.data[at] for at in route)

    def write(self, address: int, data: bytes, *, by_secondary_id: bool = False) -> int:
        route = self._route(address, len(data))
        if route is None or not data:
            return self.status_error() | ACCESS_ERROR
        parts: list[tuple[Register, int]] = []
        at = 0
        while at < len(data):
            register = self.table.at.get(route[at])
            if register is None:
                is_inside = any(r.address < route[at] < r.address + r.size
                                for r in self.table.registers.values())  # fmt: skip
                return self.status_error() | (LENGTH_ERROR if is_inside else ACCESS_ERROR)
            whole = range(register.address, register.address + register.size)
            if list(route[at : at + register.size]) != list(whole):
                return self.status_error() | LENGTH_ERROR
            parts.append((register, register.decode(data[at : at + register.size])))
            at += register.size
        for register, value in parts:
            failure = self._refusal(register, value, by_secondary_id)
            if failure:
                return self.status_error() | failure
        for register, value in parts:
            self._apply(register.name, value)
        return self.status_error()

    def _refusal(self, register: Register, value: int, by_secondary_id: bool) -> int:
        """Return the error number with which a write is refused; 0 where it is not."""
        table, name = self.table, register.name
        if not register.is_writable:
            return ACCESS_ERROR
        if register.is_kept and (table.get("torque_enable") or by_secondary_id):
            return ACCESS_ERROR
        if name in GOALS and table.get("bus_watchdog") == WATCHDOG_TRIPPED:
            return RANGE_ERROR
        if register.low is not None and value < register.low:
            return RANGE_ERROR
        if register.high is not None and value > register.high:
            return RANGE_ERROR
        if name == "operating_mode" and value not in self.motor.modes:
            return RANGE_ERROR
        if name == "goal_position" and self.mode == POSITION:
            low, high = table.get("min_position_limit"), table.get("max_position_limit")
            return 0 if low <= value <= high else LIMIT_ERROR
        limits = {"goal_pwm": "pwm_limit", "goal_current": "current_limit",
                  "goal_velocity": "velocity_limit"}  # fmt: skip
        if name in limits and abs(value) > table.get(limits[name]):
            return LIMIT_ERROR
        return 0

    def _apply(self, name: str, value: int) -> None:
        table = self.table
        if name == "torque_enable" and value and self._is_shut_down:
            return
        had_torque = bool(table.get("torque_enable"))
        table.set(name, value)
        self.goal_writes += name == "goal_position"
        if name == "torque_enable":
            self._held, self._quiet_s = None, 0.0
            if value and not had_torque:
                if self.mode == POSITION:
                    self._reset_turn()
                if self.model.goal_at_torque == "present":
                    self._set_goal_to_present()
        elif name == "operating_mode":
            self._reset_mode()
        elif name in ("drive_mode", "homing_offset"):
            self.show()
        elif name == "bus_watchdog":
            self._held, self._quiet_s = None, 0.0
        elif name == "goal_position" and table.get("drive_mode") & 8 and not had_torque:
            self._apply("torque_enable", 1)  # "torque on by goal update", firmware 45

    def _set_goal_to_present(self) -> None:
        self.show()
        self.table.set("goal_position", self.table.get("present_position"))

    def _reset_mode(self) -> None:
        """Forget what a change of the mode resets: gains, profile, goals."""
        table = self.table
        gains = ("velocity_i_gain", "velocity_p_gain", "position_d_gain", "position_i_gain",
                 "position_p_gain", "feedforward_2nd_gain", "feedforward_1st_gain",
                 "profile_acceleration", "profile_velocity", "goal_velocity")  # fmt: skip
        for name in gains:
            table.set(name, table.registers[name].default)
        table.set("goal_pwm", table.get("pwm_limit"))
        if "current_limit" in table:
            table.set("goal_current", table.get("current_limit"))
        if self.mode == POSITION:
            self._reset_turn()
        self._set_goal_to_present()

    # ------------------------------------------------------------------ other instructions

    def register_write(self, address: int, data: bytes) -> int:
        """Keep a write for the next action instruction."""
        self._registered = (address, data)
        self.table.set("registered_instruction", 1)
        return self.status_error()

    def action(self) -> int:
        """Do the write that was kept."""
        if self._registered is None:
            return self.status_error() | INSTRUCTION_ERROR
        (address, data), self._registered = self._registered, None
        self.table.set("registered_instruction", 0)
        self.write(address, data)
        return self.status_error()

    def clear_turns(self) -> int:
        """Count the position within one turn again; only where the shaft stands still."""
        if self.has_torque and abs(self.velocity) > VELOCITY_TICKS * 10:
            return self.status_error() | RESULT_FAIL
        self._reset_turn()
        self._set_goal_to_present()
        return self.status_error()

    def factory_reset(self, now_s: float, *, keep_id: bool, keep_baud: bool) -> None:
        """Set every register to the factory's value and reboot."""
        for register in self.table.registers.values():
            is_identity = register.name in ("model_number", "firmware_version")
            is_asked = (keep_id and register.name == "id") or (
                keep_baud and register.name == "baud_rate"
            )
            if not (is_identity or is_asked):
                default = 1 if register.name == "baud_rate" else register.default
                self.table.set(register.name, default)
        self.reboot(now_s)
