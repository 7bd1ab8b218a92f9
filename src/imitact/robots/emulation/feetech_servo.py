"""Feetech STS3215 servo: control table, modes, protection and the lock of its EEPROM.

Addresses and sign bits: huggingface/lerobot, src/lerobot/motors/feetech/tables.py
(STS_SMS_SERIES_CONTROL_TABLE, _ENCODINGS_TABLE); protection: Feetech's memory table of the STS
series. What firmware does beyond that is an assumption, and said where it is made.
"""

from __future__ import annotations

import math
from typing import Literal

from imitact.core.errors import BadInput
from imitact.robots.emulation.control_table import ControlTable, Register
from imitact.robots.emulation.servos import TURN, Demand, Servo, ServoModel

STS3215 = 777
"""Model number."""

ERROR_BITS = {"voltage": 0, "encoder": 1, "overheating": 2, "overcurrent": 3, "overload": 5}
"""Bits of the error byte, of the status register and of the condition to unload."""

BAUD_RATES = {
    0: 1_000_000, 1: 500_000, 2: 250_000, 3: 128_000, 4: 115_200, 5: 57_600, 6: 38_400, 7: 19_200,
}  # fmt: skip

POSITION, VELOCITY, PWM, STEP = 0, 1, 2, 3
"""Values of operating_mode."""

_TOP_SPEED = 3072.0  # ticks/s: 45 rpm without load at 12 V
_CURRENT_UNIT_A, _STALL_A = 0.0065, 2.7
_FULL_LOAD_TICKS = 250.0  # an assumption; how p_coefficient scales is not documented
_SET_MIDDLE = 128  # value of torque_enable that makes the present position 2048
_TABLE_SIZE = 256
_EEPROM_END = 40


def _registers() -> list[Register]:
    def kept(
        name: str, address: int, size: int, default: int, sign: Literal[""] | int = ""
    ) -> Register:
        return Register(name, address, size, default, is_kept=True, sign=sign)

    def ram(
        name: str, address: int, size: int, default: int, sign: Literal[""] | int = ""
    ) -> Register:
        return Register(name, address, size, default, sign=sign)

    def fixed(name: str, address: int, size: int, default: int) -> Register:
        return Register(name, address, size, default, is_writable=False, is_kept=True)

    def measured(name: str, address: int, size: int, sign: Literal[""] | int = "") -> Register:
        return Register(name, address, size, is_writable=False, sign=sign)

    return [
        fixed("firmware_major_version", 0, 1, 3),
        fixed("firmware_minor_version", 1, 1, 10),
        fixed("model_number", 3, 2, STS3215),
        kept("id", 5, 1, 1),
        kept("baud_rate", 6, 1, 0),
        kept("return_delay_time", 7, 1, 250),
        kept("response_status_level", 8, 1, 1),
        kept("min_position_limit", 9, 2, 0),
        kept("max_position_limit", 11, 2, 4095),
        kept("max_temperature_limit", 13, 1, 70),
        kept("max_voltage_limit", 14, 1, 140),
        kept("min_voltage_limit", 15, 1, 40),
        kept("max_torque_limit", 16, 2, 1000),
        kept("phase", 18, 1, 12),
        kept("unloading_condition", 19, 1, 0x2C),
        kept("led_alarm_condition", 20, 1, 0x2F),
        kept("p_coefficient", 21, 1, 32),
        kept("d_coefficient", 22, 1, 32),
        kept("i_coefficient", 23, 1, 0),
        kept("minimum_startup_force", 24, 2, 16),
        kept("cw_dead_zone", 26, 1, 1),
        kept("ccw_dead_zone", 27, 1, 1),
        kept("protection_current", 28, 2, 500),
        kept("angular_resolution", 30, 1, 1),
        kept("homing_offset", 31, 2, 0, 11),
        kept("operating_mode", 33, 1, POSITION),
        kept("protective_torque", 34, 1, 20),
        kept("protection_time", 35, 1, 200),
        kept("overload_torque", 36, 1, 80),
        kept("velocity_p_coefficient", 37, 1, 10),
        kept("over_current_protection_time", 38, 1, 200),
        kept("velocity_i_coefficient", 39, 1, 200),
        ram("torque_enable", 40, 1, 0),
        ram("acceleration", 41, 1, 0),
        ram("goal_position", 42, 2, 0, 15),
        ram("goal_time", 44, 2, 0, 10),
        ram("goal_velocity", 46, 2, 0, 15),
        ram("torque_limit", 48, 2, 1000),
        ram("lock", 55, 1, 1),
        measured("present_position", 56, 2, 15),
        measured("present_velocity", 58, 2, 15),
        measured("present_load", 60, 2, 10),
        measured("present_voltage", 62, 1),
        measured("present_temperature", 63, 1),
        measured("status", 65, 1),
        measured("moving", 66, 1),
        measured("present_current", 69, 2),
        kept("moving_velocity_threshold", 80, 1, 50),
        kept("dts", 81, 1, 10),
        kept("velocity_unit_factor", 82, 1, 1),
        kept("hts", 83, 1, 0),
        kept("maximum_velocity_limit", 84, 1, 254),
        kept("maximum_acceleration", 85, 1, 254),
        kept("acceleration_multiplier", 86, 1, 1),
    ]


class FeetechServo(Servo):
    """A Feetech STS3215.

    Raises:
        BadInput: the model number or a register is unknown.
    """

    USUAL_ERROR_BIT = 1 << ERROR_BITS["overload"]

    def __init__(self, model: ServoModel) -> None:
        if model.model_number != STS3215:
            raise BadInput(
                f"servo {model.name}: no Feetech servo of model number {model.model_number} is "
                f"emulated; expected {STS3215} (STS3215)"
            )
        super().__init__(
            model, ControlTable(_registers(), _TABLE_SIZE), volts=12.1, top_speed=_TOP_SPEED
        )
        if "torque_limit" not in model.registers:
            self.table.set("torque_limit", self.table.get("max_torque_limit"))
        self._errors: set[str] = set()
        self._path: float | None = None
        self._registered: tuple[int, bytes] | None = None
        self._saved = bytes(self.table.data[:_EEPROM_END])
        self.settle()

    # ------------------------------------------------------------------ state

    @property
    def baud_rate(self) -> int:
        return BAUD_RATES.get(self.table.get("baud_rate"), 1_000_000)

    @property
    def replies_to_write(self) -> bool:
        return bool(self.table.get("response_status_level"))

    @property
    def has_torque(self) -> bool:
        return self.is_powered and self.table.get("torque_enable") == 1

    @property
    def full_load_ticks(self) -> float:
        return _FULL_LOAD_TICKS

    @property
    def stall_limit(self) -> tuple[float, float]:
        # The register of the time counts 10 ms; a model's own stall_s is for families without it.
        share = min(self.table.get("overload_torque"), 100) / 100
        return share, self.table.get("protection_time") / 100

    @property
    def temperature_limit_c(self) -> float:
        return self.table.get("max_temperature_limit")

    def errors(self) -> tuple[str, ...]:
        return tuple(sorted(self._errors))

    def status_error(self) -> int:
        bits = sum(1 << ERROR_BITS[name] for name in self._errors)
        return bits | self.forced_error_bits & 0x7F

    def trip(self, error: str) -> None:
        self._errors.add(error)
        unloads = self.table.get("unloading_condition") >> ERROR_BITS[error] & 1
        # An overloaded servo goes on with its protective torque; otherwise the torque goes.
        if unloads and error != "overload":
            self.table.set("torque_enable", 0)

    def recover(self, error: str) -> None:
        # Overload is cleared by a new torque_enable only.
        if error != "overload":
            self._errors.discard(error)

    def restart(self) -> None:
        super().restart()
        self.table.put(0, self._saved)
        self.table.set("torque_limit", self.table.get("max_torque_limit"))
        self._errors.clear()
        self._path, self._registered, self.extra_turns = None, None, 0
        self.show()
        self.stay()

    # ------------------------------------------------------------------ position

    @property
    def _is_multi_turn(self) -> bool:
        table = self.table
        return not table.get("min_position_limit") and not table.get("max_position_limit")

    def _reading(self) -> float:
        reading = self.position - self.table.get("homing_offset")
        return reading if self._is_multi_turn else reading % TURN

    def joint_of(self, register: float) -> float:
        """Return the joint position, ticks, of a goal. The short way round is never taken."""
        return self.position + (register - self._reading())

    def show(self) -> None:
        table = self.table
        reading = round(self._reading())
        if not self._is_multi_turn:
            reading %= TURN
        table.set("present_position", reading + self.extra_turns * TURN)
        table.set("present_velocity", round(self.velocity))
        table.set("present_load", round(self.load * 1000))
        table.set("present_current", round(abs(self.load) * _STALL_A / _CURRENT_UNIT_A))
        table.set("present_voltage", max(0, min(255, round(self.volts * 10))))
        table.set("present_temperature", max(0, min(255, round(self.temperature_c))))
        table.set("moving", int(abs(self.velocity) > table.get("moving_velocity_threshold")))
        table.set("status", self.status_error())

    # ------------------------------------------------------------------ control

    def demand(self, dt_s: float) -> Demand:
        table = self.table
        if not self.has_torque:
            self._path = None
            return Demand(self.position, 0.0)
        share = min(table.get("torque_limit"), 1000) / 1000
        if "overload" in self._errors:
            share = min(share, table.get("protective_torque") / 100)
        mode, begin = table.get("operating_mode"), self.position
        if mode in (VELOCITY, PWM):
            if mode == VELOCITY:
                speed = float(table.get("goal_velocity"))  # one tick/s a unit
            else:
                speed = table.get("goal_time") / 1000 * self.top_speed
            speed = max(-self.top_speed, min(self.top_speed, speed))
            path = (begin if self._path is None else self._path) + speed * dt_s
            self._path = max(begin - 500, min(begin + 500, path))
            return Demand(self._path, share)
        if mode == STEP:
            return Demand(begin if self._path is None else self._path, share)
        target = self.joint_of(table.get("goal_position"))
        limit = table.get("goal_velocity")
        if not limit:
            self._path = target
        else:
            step = abs(limit) * dt_s
            path = begin if self._path is None else self._path
            self._path = path + max(-step, min(step, target - path))
        return Demand(self._path, share)

    # ------------------------------------------------------------------ access

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        self.show()
        data = bytes(self.table.data[address : address + length])
        return self.status_error(), data.ljust(length, b"\0")

    def write(self, address: int, data: bytes, *, by_secondary_id: bool = False) -> int:
        """Write bytes; those of registers that are measured or fixed are left as they are.

        A locked EEPROM takes writes too, but forgets them at the next start.
        """
        table = self.table
        written: list[Register] = []
        for at, value in enumerate(data, address):
            register = self._register_at(at)
            if at >= _TABLE_SIZE or (register is not None and not register.is_writable):
                continue
            table.put(at, bytes((value,)))
            if register is not None and register not in written:
                written.append(register)
        for register in written:
            self._apply(register.name)
        if not table.get("lock"):
            self._saved = bytes(table.data[:_EEPROM_END])
        return self.status_error()

    def _register_at(self, address: int) -> Register | None:
        for back in (0, 1):
            register = self.table.at.get(address - back)
            if register is not None and register.size > back:
                return register
        return None

    def _apply(self, name: str) -> None:
        table = self.table
        if name == "torque_enable":
            self._errors.discard("overload")
            self._path = None
            if table.get(name) == _SET_MIDDLE:
                offset = math.floor(self.position + 0.5) - TURN // 2
                table.set("homing_offset", (offset + TURN // 2) % TURN - TURN // 2)
                table.set(name, 0)
                self._saved = bytes(table.data[:_EEPROM_END])
            elif self.has_torque and self.model.goal_at_torque == "present":
                self.show()
                table.set("goal_position", table.get("present_position"))
        elif name == "goal_position":
            self.goal_writes += 1
            goal = table.get(name)
            if table.get("operating_mode") == STEP:
                self._path = (self.position if self._path is None else self._path) + goal
            elif not self._is_multi_turn:
                low, high = table.get("min_position_limit"), table.get("max_position_limit")
                table.set(name, max(low, min(high, goal)))

    def register_write(self, address: int, data: bytes) -> int:
        """Keep a write for the next action instruction."""
        self._registered = (address, data)
        return self.status_error()

    def action(self) -> None:
        """Do the write that was kept."""
        if self._registered is not None:
            (address, data), self._registered = self._registered, None
            self.write(address, data)
