"""Dynamixel X control table: registers, ranges and what differs from model to model.

Addresses, ranges and rules are those of ROBOTIS' e-Manual (ROBOTIS-GIT/emanual: docs/en/dxl/x/
xm540-w270.md, xm430-w350.md, xl430-w250.md, xc430-w150.md, xl330-m288.md, and the shared pages
_includes/en/dxl/control_table_*.md, docs/en/dxl/protocol2.md).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from imitact.robots.emulation.control_table import Register
from imitact.robots.emulation.servos import TURN

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

GOALS = ("goal_pwm", "goal_current", "goal_velocity", "goal_position")
FULL_PWM = 885
INDIRECT_DATA = 224  # address of the first block of 28; the second, of 28 too, is at 634
MULTI_TURN_LIMIT = 1_048_575
HOMING_LIMIT_IN_POSITION_MODE = 1024


@dataclass(frozen=True)
class DynamixelMotor:
    """What differs from model to model.

    Attributes:
        title: ROBOTIS' name.
        top_speed_rpm: without load at the usual voltage (emanual _data/dxl_x_info.yml).
        stall_current: in units of the register; None for a model that measures load instead.
        current_limit: factory value of the register.
        volts: usual supply.
        shutdown: factory value: the errors that turn the torque off.
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
    shutdown: int = 0x34  # overload, electrical shock, overheating

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
    1190: DynamixelMotor("XL330-M077", 383, 1470, 1750, 1620, 70, (35, 70), (400, 0, 0), 5.0, 0x35),
    1200: DynamixelMotor("XL330-M288", 103, 1470, 1750, 445, 70, (35, 70), (400, 0, 0), 5.0, 0x35),
}
"""By model number."""


def dynamixel_registers(motor: DynamixelMotor) -> list[Register]:
    """Return the registers of a model."""
    least_v, most_v = motor.voltage_limits
    p_gain, i_gain, d_gain = motor.position_gains

    def writable(
        name: str,
        address: int,
        size: int,
        default: int,
        low: int,
        high: int,
        sign: Literal["", "two"] = "",
        *,
        is_kept: bool,
    ) -> Register:
        return Register(name, address, size, default, low, high, True, is_kept, sign)

    kept = functools.partial(writable, is_kept=True)
    ram = functools.partial(writable, is_kept=False)

    def measured(
        name: str, address: int, size: int, default: int = 0, sign: Literal["", "two"] = ""
    ) -> Register:
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
        kept("pwm_limit", 36, 2, FULL_PWM, 0, FULL_PWM),
        kept("velocity_limit", 44, 4, motor.velocity_limit, 0, 2047),
        kept("max_position_limit", 48, 4, 4095, 0, 4095),
        kept("min_position_limit", 52, 4, 0, 0, 4095),
        kept("startup_configuration", 60, 1, 0, 0, 3),
        kept("shutdown", 63, 1, motor.shutdown, 0, 0x3D),
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
        ram("goal_pwm", 100, 2, FULL_PWM, -FULL_PWM, FULL_PWM, "two"),
        ram("goal_velocity", 104, 4, 0, -2047, 2047, "two"),
        ram("profile_acceleration", 108, 4, 0, 0, 32767),
        ram("profile_velocity", 112, 4, 0, 0, 32767),
        ram("goal_position", 116, 4, 0, -MULTI_TURN_LIMIT, MULTI_TURN_LIMIT, "two"),
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
        base, at = (168, INDIRECT_DATA) if number < 28 else (578 - 56, 634 - 28)
        table.append(
            ram(f"indirect_address_{number + 1}", base + 2 * number, 2, at + number, 64, 661)
        )
    return table


def indirect_number(address: int) -> int | None:
    """Return the number of an indirect data byte at an address, from 0; None where none is."""
    if INDIRECT_DATA <= address < INDIRECT_DATA + 28:
        return address - INDIRECT_DATA
    if 634 <= address < 662:
        return address - 634 + 28
    return None


TABLE_SIZE = 662
