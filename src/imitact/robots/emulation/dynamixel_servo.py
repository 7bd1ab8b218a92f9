"""Dynamixel X servo: control table, operating modes, protection and access rules.

Addresses, ranges and rules are those of ROBOTIS' e-Manual (ROBOTIS-GIT/emanual: docs/en/dxl/x/
xm540-w270.md, xm430-w350.md, xl430-w250.md, xc430-w150.md, xl330-m288.md, and the shared pages
_includes/en/dxl/control_table_*.md, docs/en/dxl/protocol2.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from imitact.core.errors import BadInput
from imitact.robots.emulation.servos import TURN, ControlTable, Demand, Register, Servo, ServoModel

RESULT_FAIL, INSTRUCTION_ERROR, CRC_ERROR, RANGE_ERROR = 1, 2, 3, 4
LENGTH_ERROR, LIMIT_ERROR, ACCESS_ERROR = 5, 6, 7
ALERT = 0x80
"""Bit of the error byte that says: read hardware_error_status."""

HARDWARE_ERRORS = {"voltage": 0, "overheating": 2, "encoder": 3, "shock": 4, "overload": 5}
"""Bits of hardware_error_status and of shutdown."""

CURRENT, VELOCITY, POSITION, EXTENDED, CURRENT_POSITION, PWM = 0, 1, 3, 4, 5, 16
"""Values of operating_mode."""

VELOCITY_TICKS = 0.229 * TURN / 60
"""One unit of velocity registers, 0.229 rpm, in ticks/s."""

BAUD_RATES = {
    0: 9600, 1: 57_600, 2: 115_200, 3: 1_000_000, 4: 2_000_000, 5: 3_000_000, 6: 4_000_000,
    7: 4_500_000,
}  # fmt: skip

WATCHDOG_UNIT_S = 0.02
WATCHDOG_TRIPPED = -1

_GOALS = ("goal_pwm", "goal_current", "goal_velocity", "goal_position")
_FULL_PWM = 885
_MULTI_TURN_LIMIT = 1_048_575
_HOMING_LIMIT_IN_POSITION_MODE = 1024


@dataclass(frozen=True)
class DynamixelMotor:
    """What differs from model to model.

    Attributes:
        title: ROBOTIS' name.
        top_speed_rpm: without load at the usual voltage (emanual _data/dxl_x_info.yml).
        stall_current: in units of the register; None for a model that measures load instead.
        current_limit: factory value of the register.
        volts: usual supply.
    """

    title: str
    top_speed_rpm: float
    stall_current: int | None
    current_limit: int
    velocity_limit: int
    temperature_limit: int
    voltage_limits: tuple[int, int]
    position_gains: tuple[int, int, int]
    volts: float = 12.1

    @property
    def modes(self) -> tuple[int, ...]:
        with_current = (CURRENT, VELOCITY, POSITION, EXTENDED, CURRENT_POSITION, PWM)
        without = (VELOCITY, POSITION, EXTENDED, PWM)
        return without if self.stall_current is None else with_current


DYNAMIXEL_MOTORS = {
    1120: DynamixelMotor("XM540-W270", 30, 1636, 2047, 128, 80, (95, 160), (800, 0, 0)),
    1020: DynamixelMotor("XM430-W350", 46, 855, 1193, 200, 80, (95, 160), (800, 0, 0)),
    1060: DynamixelMotor("XL430-W250", 61, None, 0, 265, 72, (60, 140), (640, 0, 4000)),
    1070: DynamixelMotor("XC430-W150", 106, None, 0, 460, 80, (60, 160), (460, 0, 0)),
    1190: DynamixelMotor("XL330-M077", 383, 1470, 1750, 1620, 70, (35, 70), (400, 0, 0), 5.0),
    1200: DynamixelMotor("XL330-M288", 103, 1470, 1750, 445, 70, (35, 70), (400, 0, 0), 5.0),
}
"""By model number."""


def _registers(motor: DynamixelMotor) -> list[Register]:
    least_v, most_v = motor.voltage_limits
    p_gain, i_gain, d_gain = motor.position_gains

    def kept(
        name: str, address: int, size: int, default: int, low: int, high: int, sign: str = ""
    ) -> Register:
        return Register(name, address, size, default, low, high, True, True, sign)

    def ram(
        name: str, address: int, size: int, default: int, low: int, high: int, sign: str = ""
    ) -> Register:
        return Register(name, address, size, default, low, high, True, False, sign)

    def measured(name: str, address: int, size: int, default: int = 0, sign: str = "") -> Register:
        return Register(name, address, size, default, None, None, False, False, sign)

    table = [
        Register("model_number", 0, 2, 0, is_writable=False, is_kept=True),
        Register("model_information", 2, 4, 0, is_writable=False, is_kept=True),
        Register("firmware_version", 6, 1, 46, is_writable=False, is_kept=True),
        kept("id", 7, 1, 1, 0, 252),
        kept("baud_rate", 8, 1, 3, 0, 7),
        kept("return_delay_time", 9, 1, 250, 0, 254),
        kept("drive_mode", 10, 1, 0, 0, 13),
        kept("operating_mode", 11, 1, POSITION, 0, 16),
        kept("secondary_id", 12, 1, 255, 0, 255),
        kept("protocol_type", 13, 1, 2, 1, 2),
        kept("homing_offset", 20, 4, 0, -1_044_479, 1_044_479, "two"),
        kept("moving_threshold", 24, 4, 10, 0, 1023),
        kept("temperature_limit", 31, 1, motor.temperature_limit, 0, 100),
        kept("max_voltage_limit", 32, 2, most_v, least_v, most_v),
        kept("min_voltage_limit", 34, 2, least_v, least_v, most_v),
        kept("pwm_limit", 36, 2, _FULL_PWM, 0, _FULL_PWM),
        kept("velocity_limit", 44, 4, motor.velocity_limit, 0, 2047),
        kept("max_position_limit", 48, 4, 4095, 0, 4095),
        kept("min_position_limit", 52, 4, 0, 0, 4095),
        kept("startup_configuration", 60, 1, 0, 0, 3),
        kept("shutdown", 63, 1, 0x34, 0, 0x3D),
        ram("torque_enable", 64, 1, 0, 0, 1),
        ram("led", 65, 1, 0, 0, 1),
        ram("status_return_level", 68, 1, 2, 0, 2),
        measured("registered_instruction", 69, 1),
        measured("hardware_error_status", 70, 1),
        ram("velocity_i_gain", 76, 2, 1920, 0, 16383),
        ram("velocity_p_gain", 78, 2, 100, 0, 16383),
        ram("position_d_gain", 80, 2, d_gain, 0, 16383),
        ram("position_i_gain", 82, 2, i_gain, 0, 16383),
        ram("position_p_gain", 84, 2, p_gain, 0, 16383),
        ram("feedforward_2nd_gain", 88, 2, 0, 0, 16383),
        ram("feedforward_1st_gain", 90, 2, 0, 0, 16383),
        ram("bus_watchdog", 98, 1, 0, 0, 127, "two"),
        ram("goal_pwm", 100, 2, _FULL_PWM, -_FULL_PWM, _FULL_PWM, "two"),
        ram("goal_velocity", 104, 4, 0, -2047, 2047, "two"),
        ram("profile_acceleration", 108, 4, 0, 0, 32767),
        ram("profile_velocity", 112, 4, 0, 0, 32767),
        ram("goal_position", 116, 4, 0, -_MULTI_TURN_LIMIT, _MULTI_TURN_LIMIT, "two"),
        measured("realtime_tick", 120, 2),
        measured("moving", 122, 1),
        measured("moving_status", 123, 1),
        measured("present_pwm", 124, 2, 0, "two"),
        measured("present_current", 126, 2, 0, "two"),
        measured("present_velocity", 128, 4, 0, "two"),
        measured("present_position", 132, 4, 0, "two"),
        measured("velocity_trajectory", 136, 4, 0, "two"),
        measured("position_trajectory", 140, 4, 0, "two"),
        measured("present_input_voltage", 144, 2),
        measured("present_temperature", 146, 1),
        measured("backup_ready", 147, 1),
    ]
    if motor.stall_current is not None:
        table.append(kept("current_limit", 38, 2, motor.current_limit, 0, motor.current_limit))
        goal = ram("goal_current", 102, 2, motor.current_limit, -2047, 2047, "two")
        table.append(goal)
    for number in range(56):
        base, at = (168, 224) if number < 28 else (578 - 56, 634 - 28)
        table.append(
            ram(f"indirect_address_{number + 1}", base + 2 * number, 2, at + number, 64, 661)
        )
    return table


def _indirect(address: int) -> int | None:
    """Return the number of an indirect data byte at an address, from 0; None where none is."""
    if 224 <= address < 252:
        return address - 224
    if 634 <= address < 662:
        return address - 634 + 28
    return None


_TABLE_SIZE = 662


class DynamixelServo(Servo):
    """A Dynamixel X servo.

    Raises:
        BadInput: the model number or a register is unknown.
    """

    def __init__(self, model: ServoModel) -> None:
        motor = DYNAMIXEL_MOTORS.get(model.model_number)
        if motor is None:
            known = ", ".join(f"{n} ({m.title})" for n, m in DYNAMIXEL_MOTORS.items())
            raise BadInput(
                f"servo {model.name}: no Dynamixel of model number {model.model_number} is "
                f"emulated; expected {known}"
            )
        self.motor = motor
        table = ControlTable(_registers(motor), _TABLE_SIZE)
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
        return _FULL_PWM * 128 / max(1, self.table.get("position_p_gain"))

    @property
    def stall_limit(self) -> tuple[float, float]:
        return 0.8, self.model.stall_s

    @property
    def temperature_limit_c(self) -> float:
        return self.table.get("temperature_limit")

    @property
    def voltage_limits(self) -> tuple[float, float]:
        table = self.table
        return table.get("min_voltage_limit") / 10, table.get("max_voltage_limit") / 10

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
        self.show()
        if "goal_position" not in self.model.registers:
            self.table.set("goal_position", self.table.get("present_position"))

    def restart(self) -> None:
        for register in self.table.registers.values():
            if not register.is_kept:
                self.table.set(register.name, register.default)
        if "current_limit" in self.table:
            self.table.set("goal_current", self.table.get("current_limit"))
        self.table.set("goal_pwm", self.table.get("pwm_limit"))
        self._registered, self._path, self._held, self._quiet_s = None, None, None, 0.0
        self.extra_turns = 0
        self._reset_turn()
        self.show()
        self.table.set("goal_position", self.table.get("present_position"))

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
        if self.mode == POSITION and abs(homing) > _HOMING_LIMIT_IN_POSITION_MODE:
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
        table.set("present_pwm", round(sign * self.load * _FULL_PWM))
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
        share = table.get("pwm_limit") / _FULL_PWM
        if self._held is not None:
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
                speed = table.get("goal_pwm") / _FULL_PWM * self.top_speed
            begin = self.position if self._path is None else self._path
            path = begin + sign * speed * dt_s
            # A blocked shaft does not build up a way to catch up with.
            self._path = max(self.position - 500, min(self.position + 500, path))
            return Demand(self._path, share)
        share = min(share, abs(table.get("goal_pwm")) / _FULL_PWM)
        if mode == CURRENT_POSITION:
            cap = abs(table.get("goal_current")) / (self.motor.stall_current or 1)
            share = min(share, cap)
        target = self.joint_of(table.get("goal_position"))
        self._path = self._profile(target, dt_s)
        return Demand(self._path, share)

    def _profile(self, target: float, dt_s: float) -> float:
        """Move the goal at the profile velocity; profile_acceleration is not emulated."""
        limit = self.table.get("profile_velocity")
        if not limit or self._path is None:
            return target if not limit else self.position
        if self.table.get("drive_mode") & 4:  # time-based: the register is a duration in ms
            left = target - self._path
            return target if limit <= 1 else self._path + left * min(1.0, dt_s * 1000 / limit)
        step = limit * VELOCITY_TICKS * dt_s
        return self._path + max(-step, min(step, target - self._path))

    def hear(self) -> None:
        self._quiet_s = 0.0

    def watch_bus(self, dt_s: float) -> None:
        limit = self.table.get("bus_watchdog")
        self._quiet_s += dt_s
        if limit > 0 and self.has_torque and self._quiet_s > limit * WATCHDOG_UNIT_S:
            self.table.set("bus_watchdog", WATCHDOG_TRIPPED)
            # Whether a stopped servo still holds its position is not documented; here it does.
            self._held = self.position

    # ------------------------------------------------------------------ access

    def _route(self, address: int, length: int) -> list[int] | None:
        """Return the address of each byte, indirect data resolved; None beyond the table."""
        found: list[int] = []
        for at in range(address, address + length):
            number = _indirect(at)
            if number is not None:
                at = self.table.get(f"indirect_address_{number + 1}")
            if not 0 <= at < _TABLE_SIZE:
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
            whole = list(range(register.address, register.address + register.size))
            if route[at : at + register.size] != whole:
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
        if name in _GOALS and table.get("bus_watchdog") == WATCHDOG_TRIPPED:
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
            self._apply("torque_enable", 1)  # "torque on by goal update", firmware 42

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

    def action(self) -> None:
        """Do the write that was kept."""
        if self._registered is not None:
            address, data = self._registered
            self._registered = None
            self.table.set("registered_instruction", 0)
            self.write(address, data)

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
