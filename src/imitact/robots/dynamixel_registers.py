"""Dynamixel X registers: addresses, units, models and error names of protocol 2.0 servos.

Source: ROBOTIS-GIT/emanual, docs/en/dxl/x/xm540-w270.md, xm430-w350.md, xl430-w250.md and
xc430-w150.md. The addresses are the same in all four; XL430 and XC430 lack the current registers
38 and 102, and measure a load in 0.1 % where the others measure a current.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Register:
    """One value of a servo's control table.

    Attributes:
        name: as in the control table.
        address: of its first byte.
        size: in bytes; little-endian.
        is_signed: whether it is a two's complement number.
        is_eeprom: whether it is kept without power, and locked while the torque is on.
    """

    name: str
    address: int
    size: int
    is_signed: bool = False
    is_eeprom: bool = False

    def decode(self, data: bytes | bytearray, start: int | None = None) -> int:
        """Return the value in a block of registers that begins at address `start`."""
        offset = 0 if start is None else self.address - start
        part = bytes(data[offset : offset + self.size])
        return int.from_bytes(part, "little", signed=self.is_signed)

    def encode(self, value: int) -> bytes:
        """Return the bytes of a value; OverflowError where it does not fit."""
        return int(value).to_bytes(self.size, "little", signed=self.is_signed)


MODEL_NUMBER = Register("Model_Number", 0, 2, is_eeprom=True)
FIRMWARE = Register("Firmware_Version", 6, 1, is_eeprom=True)
BAUD_RATE = Register("Baud_Rate", 8, 1, is_eeprom=True)
RETURN_DELAY = Register("Return_Delay_Time", 9, 1, is_eeprom=True)
DRIVE_MODE = Register("Drive_Mode", 10, 1, is_eeprom=True)
OPERATING_MODE = Register("Operating_Mode", 11, 1, is_eeprom=True)
SECONDARY_ID = Register("Secondary_ID", 12, 1, is_eeprom=True)
HOMING_OFFSET = Register("Homing_Offset", 20, 4, is_signed=True, is_eeprom=True)
MAX_VOLTAGE = Register("Max_Voltage_Limit", 32, 2, is_eeprom=True)
MIN_VOLTAGE = Register("Min_Voltage_Limit", 34, 2, is_eeprom=True)
CURRENT_LIMIT = Register("Current_Limit", 38, 2, is_eeprom=True)
MAX_POSITION = Register("Max_Position_Limit", 48, 4, is_eeprom=True)
MIN_POSITION = Register("Min_Position_Limit", 52, 4, is_eeprom=True)
TORQUE_ENABLE = Register("Torque_Enable", 64, 1)
STATUS_RETURN_LEVEL = Register("Status_Return_Level", 68, 1)
HARDWARE_ERROR = Register("Hardware_Error_Status", 70, 1)
BUS_WATCHDOG = Register("Bus_Watchdog", 98, 1, is_signed=True)
GOAL_CURRENT = Register("Goal_Current", 102, 2, is_signed=True)
PROFILE_ACCELERATION = Register("Profile_Acceleration", 108, 4)
PROFILE_VELOCITY = Register("Profile_Velocity", 112, 4)
GOAL_POSITION = Register("Goal_Position", 116, 4, is_signed=True)
PRESENT_CURRENT = Register("Present_Current", 126, 2, is_signed=True)
PRESENT_POSITION = Register("Present_Position", 132, 4, is_signed=True)
PRESENT_VOLTAGE = Register("Present_Input_Voltage", 144, 2)
PRESENT_TEMPERATURE = Register("Present_Temperature", 146, 1)

TICKS_A_TURN = 4096
CENTRE_TICK = 2048
"""Position 0 rad of an ALOHA joint (dynamixel_workbench_toolbox, dynamixel_item.cpp:596)."""

RAD_A_TICK = 2 * math.pi / TICKS_A_TURN

CURRENT_UNIT_MA = 2.69
"""Of the registers 38, 102 and 126 of XM servos."""

WATCHDOG_UNIT_S = 0.02
"""Of Bus_Watchdog. One page of the manual prints "usec" there, the others 20 ms."""

WATCHDOG_TRIPPED = -1

LEAST_FIRMWARE = 38
"""The first with Bus_Watchdog (control_table_buswatchdog.md)."""

POSITION_MODE = 3
CURRENT_POSITION_MODE = 5
MODE_NAMES = {
    0: "current", 1: "velocity", 3: "position", 4: "extended position",
    5: "current-based position", 16: "PWM",
}  # fmt: skip

REVERSED = 0x01
TORQUE_ON_BY_GOAL = 0x08
"""Bits of Drive_Mode (control_table_drivemode.md)."""

BAUD_RATES = {
    0: 9_600, 1: 57_600, 2: 115_200, 3: 1_000_000, 4: 2_000_000, 5: 3_000_000, 6: 4_000_000,
}  # fmt: skip
"""Value of Baud_Rate to bits per second."""


@dataclass(frozen=True)
class Model:
    """One servo model.

    Attributes:
        name: as printed on it.
        has_current: whether it measures a current and has modes 0 and 5; else a load in 0.1 %.
        least_voltage_v, largest_voltage_v: of its supply.
        hot_c: its temperature limit, at which it switches itself off, degrees Celsius.
    """

    name: str
    has_current: bool
    least_voltage_v: float
    largest_voltage_v: float
    hot_c: float


MODELS = {
    1020: Model("XM430-W350", True, 9.5, 16.0, 80.0),
    1030: Model("XM430-W210", True, 9.5, 16.0, 80.0),
    1060: Model("XL430-W250", False, 6.0, 14.0, 72.0),
    1070: Model("XC430-W150", False, 6.0, 16.0, 80.0),
    1080: Model("XC430-W240", False, 6.0, 16.0, 80.0),
    1120: Model("XM540-W270", True, 9.5, 16.0, 80.0),
    1130: Model("XM540-W150", True, 9.5, 16.0, 80.0),
}
"""By model number."""


def model_name(number: int) -> str:
    """Return a model's name and number in words."""
    model = MODELS.get(number)
    return f"{model.name} ({number})" if model else f"an unknown model ({number})"


def hardware_errors(value: int) -> tuple[str, ...]:
    """Return the names of the bits of Hardware_Error_Status (control_table_shutdown.md)."""
    names = {
        0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload",
    }  # fmt: skip
    return tuple(names.get(bit, f"bit {bit}") for bit in range(8) if value >> bit & 1)


REFUSALS = {
    1: "it could not process the request",
    2: "it does not know the instruction",
    3: "the request arrived damaged",
    4: "the value is out of range, or its bus watchdog has tripped",
    5: "the value has another length",
    6: "the value is beyond its limit",
    7: "the register cannot be written now, as EEPROM while the torque is on",
}
"""Error numbers of a status packet (docs/en/dxl/protocol2.md, Error)."""
