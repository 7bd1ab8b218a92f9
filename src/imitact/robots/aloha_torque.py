"""ALOHA torque: turned on without motion, each setting read back; turned off servo by servo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imitact.core.errors import RobotError
from imitact.robots.aloha_comparison import SHADOW_TOLERANCE, SNAP_TICKS, compare
from imitact.robots.aloha_hardware import GRIPPER, JOINT_SERVOS, SERVO_NAMES, SHADOWS
from imitact.robots.aloha_probe import LARGEST_OFFSET, ServoFacts, joint_mode, read_positions
from imitact.robots.config import ArmConfig
from imitact.robots.dynamixel_bus import DynamixelBus
from imitact.robots.dynamixel_registers import (
    BUS_WATCHDOG,
    CURRENT_UNIT_MA,
    GOAL_CURRENT,
    GOAL_POSITION,
    HARDWARE_ERROR,
    HOMING_OFFSET,
    OPERATING_MODE,
    POSITION_MODE,
    PRESENT_POSITION,
    PROFILE_ACCELERATION,
    PROFILE_VELOCITY,
    TORQUE_ENABLE,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
    Register,
    hardware_errors,
)


def driven_servos(arm: ArmConfig) -> tuple[int, ...]:
    """Return the IDs that are commanded: all joints, but of a leader not its limp gripper."""
    return JOINT_SERVOS[:-1] if arm.is_leader_model else JOINT_SERVOS


class TorqueOn:
    """Turns the torque of an arm on, with every goal where its joint is.

    Args:
        bus: the open bus.
        arm: the arm.
        where: the arm in words, for errors.
        facts: settings of all nine servos, just read.
    """

    def __init__(
        self, bus: DynamixelBus, arm: ArmConfig, where: str, facts: Mapping[int, ServoFacts]
    ) -> None:
        self._bus, self._arm, self._where, self._facts = bus, arm, where, facts
        self._driven = driven_servos(arm)
        self._is_leader = arm.is_leader_model
        self._was_on = {servo for servo, fact in facts.items() if fact.torque}
        self._goals: dict[int, int] = {}

    def run(self) -> dict[int, int]:
        """Set what is set at every start, then goals and torque; return the goals, ticks by ID.

        Raises:
            RobotError: see `AlohaArm.enable`. What was turned on here is off again.
        """
        turned_on: list[int] = []
        try:
            self._refuse_errors()
            self._set_modes()
            self._match_shadows()
            self._set_motion()
            for servo in self._driven:
                turned_on.append(servo)
                self._turn_on(servo)
            self._check_torque()
            self._start_watchdog()
        except BaseException:
            shadows = [shadow for shadow, master in SHADOWS.items() if master in turned_on]
            touched = (*turned_on, *shadows)
            turn_off(self._bus, [servo for servo in touched if servo not in self._was_on])
            raise
        return self._goals

    def _refuse_errors(self) -> None:
        found = compare(self._where, self._arm, self._facts)
        if errors := [f for f in found if f.severity == "error"]:
            raise RobotError(" | ".join(finding.line for finding in errors))

    def _set_modes(self) -> None:
        shadows = [s for s, master in SHADOWS.items() if master in self._driven]
        for servo in sorted((*self._driven, *shadows)):
            self._set(servo, OPERATING_MODE, joint_mode(servo, is_leader=self._is_leader))

    def _match_shadows(self) -> None:
        """Write the offset with which each shadow reads as its servo, or refuse.

        Three sources give three rules for the sign (Interbotix' ROS 1 driver, its ROS 2 driver and
        ROBOTIS' manual), so it is tried: write, read again, compare, then the other sign.
        """
        for shadow, master in SHADOWS.items():
            if abs(self._apart(shadow, master)) <= SHADOW_TOLERANCE:
                continue
            if {shadow, master} & self._was_on:
                raise RobotError(
                    f"{self._who(shadow)} reads {self._apart(shadow, master):+d} ticks from "
                    f"{SERVO_NAMES[master]}, and has torque: the two fight. Support the arm, "
                    "release it, then start again"
                )
            before = self._bus.read(shadow, HOMING_OFFSET, tries=3)
            self._set(shadow, HOMING_OFFSET, 0)
            raw = -self._apart(shadow, master)
            tried = []
            for offset in (raw, -raw):
                if abs(offset) > LARGEST_OFFSET:
                    break
                self._set(shadow, HOMING_OFFSET, offset)
                tried.append(f"{offset:+d} leaves {self._apart(shadow, master):+d}")
                if abs(self._apart(shadow, master)) <= SHADOW_TOLERANCE:
                    break
            else:
                tried.append("neither sign fits")
            if abs(left := self._apart(shadow, master)) > SHADOW_TOLERANCE:
                self._set(shadow, HOMING_OFFSET, before)
                raise RobotError(
                    f"{self._who(shadow)} reads {-raw:+d} ticks from {SERVO_NAMES[master]} without "
                    f"an offset, and no offset within {LARGEST_OFFSET} makes them equal "
                    f"({'; '.join(tried) or f'{left} ticks left'}); loosen its horn and mount it "
                    "where both read the same"
                )

    def _apart(self, shadow: int, master: int) -> int:
        ticks = read_positions(self._bus, (shadow, master))
        return ticks[shadow] - ticks[master]

    def _set_motion(self) -> None:
        """Set what RAM holds: no profile, and the gripper's current."""
        for servo in (*self._driven, *SHADOWS):
            self._set(servo, PROFILE_ACCELERATION, 0)
            self._set(servo, PROFILE_VELOCITY, 0)
        if not self._is_leader:
            # Current_Limit, which ALOHA's scripts mean to set, is EEPROM and needs its exact name.
            units = round(self._arm.gripper.current_ma / CURRENT_UNIT_MA)
            self._set(GRIPPER, GOAL_CURRENT, units)

    def _turn_on(self, servo: int) -> None:
        """Set the goal to where the joint is, then turn the torque on; keep both where it is on."""
        fact = self._facts[servo]
        has_stopped = self._bus.read(servo, BUS_WATCHDOG, tries=3) == WATCHDOG_TRIPPED
        if fact.torque and not has_stopped:
            self._goals[servo] = self._bus.read(servo, GOAL_POSITION, tries=3)
            return
        present = self._bus.read(servo, PRESENT_POSITION, tries=3)
        goal = present
        if joint_mode(servo, is_leader=self._is_leader) == POSITION_MODE:
            goal = min(max(present, fact.lower), fact.upper)
            if abs(goal - present) > SNAP_TICKS:
                raise RobotError(
                    f"{self._who(servo)} is at {present} ticks, outside its own range of "
                    f"{fact.lower} to {fact.upper}: it would jump there. Move it into its range by "
                    "hand"
                )
        # A watchdog that has tripped refuses goals until it is cleared.
        self._set(servo, BUS_WATCHDOG, 0)
        # Written even where it reads so already: the goal of its shadow may be another.
        self._bus.write(servo, GOAL_POSITION, goal)
        for shadow, master in SHADOWS.items():
            if master == servo and self._bus.read(shadow, GOAL_POSITION, tries=3) != goal:
                raise RobotError(
                    f"{self._who(shadow)} did not take the goal of {SERVO_NAMES[master]}: it does "
                    f"not obey the Secondary_ID {self._facts[shadow].secondary}. Check its firmware"
                )
        self._goals[servo] = goal
        self._bus.write(servo, TORQUE_ENABLE, 1)

    def _check_torque(self) -> None:
        shadows = [s for s, master in SHADOWS.items() if master in self._driven]
        for servo in (*self._driven, *shadows):
            if self._bus.read(servo, TORQUE_ENABLE, tries=3) != 1:
                errors = hardware_errors(self._bus.read(servo, HARDWARE_ERROR, tries=3))
                raise RobotError(
                    f"{self._who(servo)} got no torque"
                    f"{'; it reports ' if errors else ''}{', '.join(errors)}; look for what blocks "
                    "it, then switch its power off and on"
                )

    def _start_watchdog(self) -> None:
        units = round(self._arm.watchdog_s / WATCHDOG_UNIT_S)
        for servo in self._driven:
            self._set(servo, BUS_WATCHDOG, units)
        self._bus.forget_gaps()

    def _set(self, servo: int, register: Register, value: int) -> None:
        """Write a register where it differs, and refuse where it reads back otherwise."""
        if self._bus.read(servo, register, tries=3) == value:
            return
        self._bus.write(servo, register, value)
        if (came := self._bus.read(servo, register, tries=3)) != value:
            raise RobotError(
                f"{self._who(servo)}: {register.name} is {came} after {value} was written; switch "
                "its power off and on, then try again"
            )

    def _who(self, servo: int) -> str:
        return f"{self._where} ({self._arm.port}): {SERVO_NAMES[servo]} (servo {servo})"


def turn_off(bus: DynamixelBus, servos: Iterable[int]) -> tuple[int, ...]:
    """Turn the torque of servos off, each tried three times and read back, whatever the others do.

    Returns:
        IDs of those that did not confirm it.
    """
    failed = []
    for servo in servos:
        try:
            bus.write(servo, TORQUE_ENABLE, 0, tries=3)
            if bus.read(servo, TORQUE_ENABLE, tries=3):
                failed.append(servo)
        except RobotError:
            failed.append(servo)
    return tuple(failed)
