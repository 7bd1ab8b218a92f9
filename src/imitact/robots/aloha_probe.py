"""Probing of an ALOHA arm: the settings of its nine servos, as they are in their registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imitact.robots.aloha_hardware import (
    GRIPPER,
    SERVO_NAMES,
)
from imitact.robots.dynamixel_bus import DynamixelBus
from imitact.robots.dynamixel_registers import (
    CURRENT_LIMIT,
    CURRENT_POSITION_MODE,
    DRIVE_MODE,
    FIRMWARE,
    HARDWARE_ERROR,
    HOMING_OFFSET,
    MAX_POSITION,
    MIN_POSITION,
    MODELS,
    OPERATING_MODE,
    POSITION_MODE,
    PRESENT_POSITION,
    RETURN_DELAY,
    SECONDARY_ID,
    STATUS_RETURN_LEVEL,
    TICKS_A_TURN,
    TORQUE_ENABLE,
    Register,
)

LARGEST_OFFSET = 1024
"""Homing_Offset beyond it is ignored in position mode (control_table_homingoffset.md), ticks."""


@dataclass(frozen=True)
class ServoFacts:
    """What one servo says about itself; values of registers, positions in ticks."""

    model: int
    firmware: int
    return_delay: int
    drive_mode: int
    operating_mode: int
    secondary: int
    homing_offset: int
    lower: int
    upper: int
    current_limit: int | None
    torque: int
    status_level: int
    hardware_error: int
    position: int

    @property
    def span(self) -> tuple[int, int]:
        """Positions between which the encoder counts without a jump."""
        offset = self.homing_offset if abs(self.homing_offset) <= LARGEST_OFFSET else 0
        return offset, offset + TICKS_A_TURN - 1


def probe_servos(bus: DynamixelBus, models: Mapping[int, int]) -> dict[int, ServoFacts]:
    """Read the settings of servos, by ID, that answered with these model numbers.

    Raises:
        RobotError: one stopped answering.
    """

    def read(servo: int, register: Register) -> int:
        # A lost answer is asked for again: one in ten thousand must not refuse an arm.
        return bus.read(servo, register, tries=3)

    positions = read_positions(bus, tuple(models))
    return {
        servo: ServoFacts(
            model=model,
            firmware=read(servo, FIRMWARE),
            return_delay=read(servo, RETURN_DELAY),
            drive_mode=read(servo, DRIVE_MODE),
            operating_mode=read(servo, OPERATING_MODE),
            secondary=read(servo, SECONDARY_ID),
            homing_offset=read(servo, HOMING_OFFSET),
            lower=read(servo, MIN_POSITION),
            upper=read(servo, MAX_POSITION),
            current_limit=read(servo, CURRENT_LIMIT) if _has_current(model) else None,
            torque=read(servo, TORQUE_ENABLE),
            status_level=read(servo, STATUS_RETURN_LEVEL),
            hardware_error=read(servo, HARDWARE_ERROR),
            position=positions[servo],
        )
        for servo, model in models.items()
    }


def _has_current(model: int) -> bool:
    return model not in MODELS or MODELS[model].has_current


def read_positions(bus: DynamixelBus, servos: Sequence[int]) -> dict[int, int]:
    """Return positions in ticks of one moment, so that a pair that moves reads the same.

    Raises:
        RobotError: a servo does not answer.
    """
    answers = bus.sync_read(servos, PRESENT_POSITION)
    ticks = {servo: PRESENT_POSITION.decode(data) for servo, data in answers.data.items()}
    for servo in answers.missing:
        ticks[servo] = bus.read(servo, PRESENT_POSITION, tries=3)
    return ticks


def probe_arm(bus: DynamixelBus) -> dict[int, ServoFacts]:
    """Return the settings of the servos of an arm that answer, by ID."""
    models = {servo: bus.ping(servo) for servo in SERVO_NAMES}
    return probe_servos(bus, {servo: model for servo, model in models.items() if model is not None})


def joint_mode(servo: int, *, is_leader: bool) -> int:
    """Return the operating mode that a servo is driven in."""
    is_grip = servo == GRIPPER and not is_leader
    return CURRENT_POSITION_MODE if is_grip else POSITION_MODE


def fingerprint(facts: Mapping[int, ServoFacts]) -> tuple[int, ...]:
    """Return firmware versions and homing offsets of the nine servos.

    Dynamixel servos have no serial number; the offsets of the shadows are those of one assembly.
    """
    return (
        *(facts[servo].firmware for servo in SERVO_NAMES),
        *(facts[servo].homing_offset for servo in SERVO_NAMES),
    )
