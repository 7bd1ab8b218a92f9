"""ALOHA driver: one follower or leader arm on its Dynamixel bus, without ROS.

**Units.** Seven values an arm, in the order of `ARM_JOINTS`: six joints in rad, 0 where Interbotix'
0 is (2048 ticks), with the signs that the servos' own Drive_Mode gives; and the gripper, 0 closed
to 1 open. The gripper's action is linear in the servo's angle, its state in the position of the
fingers, as in datasets of the real ALOHA; gym-aloha has the fingers in both (`aloha_gripper`, which
can do that too). A leader's values are in the units of the action, all seven.

**Torque.** `connect` compares everything and changes nothing. `enable` sets what is set at every
start, all of it while the torque is off: operating modes, the offsets of the shadow servos, no
profile, the gripper's current. Then each goal is set to where its joint is, and only then its
torque is turned on. A servo whose torque is on already keeps it, and its goal, because a goal set
to where a loaded joint is would let it sink. `write` clips nothing: the safety filter does that. A
leader is limp except for an opening move, and its gripper is always limp.

**Dead-man.** With `watchdog_s`, a servo that hears nothing for so long stops by itself, whatever
became of this computer, and takes no goals until `enable`. That it keeps holding its position then
is not documented.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_RATE_HZ
from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput, RobotError
from imitact.core.robot import ServoHealth
from imitact.core.types import FloatArray, Spec
from imitact.robots.aloha_hardware import (
    GRIPPER,
    JOINT_SERVOS,
    SERVO_NAMES,
    SHADOWS,
    joint_names,
    rad_tick,
    tick_rad,
)
from imitact.robots.aloha_probe import (
    LARGEST_OFFSET,
    SHADOW_TOLERANCE,
    SNAP_TICKS,
    ServoFacts,
    compare,
    joint_mode,
    probe_arm,
    probe_servos,
    read_positions,
)
from imitact.robots.config import ArmConfig
from imitact.robots.dynamixel_bus import DynamixelBus, NoAnswer
from imitact.robots.dynamixel_registers import (
    BUS_WATCHDOG,
    CURRENT_UNIT_MA,
    GOAL_CURRENT,
    GOAL_POSITION,
    HARDWARE_ERROR,
    HOMING_OFFSET,
    OPERATING_MODE,
    POSITION_MODE,
    PRESENT_CURRENT,
    PRESENT_POSITION,
    PRESENT_TEMPERATURE,
    PRESENT_VOLTAGE,
    PROFILE_ACCELERATION,
    PROFILE_VELOCITY,
    TORQUE_ENABLE,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
    Register,
    hardware_errors,
)

REBOOT_S = 3.0
"""Time in which a servo answers again after a reboot; Interbotix waits 1 s."""

_HEALTH_BEGIN = PRESENT_CURRENT.address
_HEALTH_SIZE = PRESENT_TEMPERATURE.address + 1 - _HEALTH_BEGIN


class AlohaArm:
    """Driver of one arm (`core.robot.Driver`).

    Args:
        arm: the arm; whether it is a leader follows from its model.
        side: prefix of its joints: "left" makes left_arm_waist.
        clock: of the times in its health.
        patience: factor of all time-outs; more than 1 for tests on a busy machine.

    Raises:
        BadInput: the end stops of the gripper are not known.
    """

    def __init__(
        self, arm: ArmConfig, side: str, *, clock: Clock | None = None, patience: float = 1.0
    ) -> None:
        self.arm, self.side = arm, side
        self.is_leader = arm.is_leader_model
        self.where = f"{side} {'leader' if self.is_leader else 'follower'}"
        scale = arm.gripper_scale()
        if scale is None:
            table = f"[{'leaders' if self.is_leader else 'arms'}.{side}.gripper]"
            raise BadInput(
                f"{self.where}: the end stops of its gripper are not known; `imitact robot check` "
                f'measures them, or name a variant in {table}, such as variant = "aloha"'
            )
        self.gripper = scale
        self.bus = DynamixelBus(
            arm.port, arm.baud, where=self.where, names=SERVO_NAMES, patience=patience
        )
        self.facts: dict[int, ServoFacts] = {}
        """Settings of the servos, by ID, as of `connect`."""
        self.unsent: tuple[str, ...] = ()
        """Joints whose last goal was not sent because their servo would refuse it."""
        names = joint_names(side)
        units = ("rad",) * 6 + ("1",)
        self._spec = Spec(names, names, units, units, (), ALOHA_RATE_HZ)
        self._clock: Clock = WallClock() if clock is None else clock
        self._patience = patience
        self._driven = JOINT_SERVOS[:-1] if self.is_leader else JOINT_SERVOS
        self._goals: dict[int, int] = {}
        self._turn = 0
        self._is_enabled = False

    @property
    def spec(self) -> Spec:
        return self._spec

    def joint(self, servo: int) -> str:
        """Return the name of a servo, such as left_arm_elbow_shadow."""
        return f"{self.side}_arm_{SERVO_NAMES[servo]}"

    # ------------------------------------------------------------------------------ start

    def connect(self) -> None:
        """Open the port and compare every servo with the plan. No torque changes.

        Raises:
            RobotError: the port cannot be opened, or something differs that would move a joint
                wrongly (`aloha_probe.compare`); all of it is named.
        """
        self.bus.open()
        try:
            self.facts = probe_arm(self.bus)
            baud = None if self.facts else self.bus.find_baud(tuple(SERVO_NAMES))
            found = compare(self.where, self.arm, self.facts, found_baud=baud)
            # An overloaded gripper is restarted by `enable`; anything else is refused there.
            errors = [f for f in found if f.severity == "error" and f.name != "hardware-error"]
            if errors:
                raise RobotError(" | ".join(finding.line for finding in errors))
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """Turn the torque on with every goal where its joint is, so that nothing moves.

        Also the way back after the bus watchdog stopped the arm.

        Raises:
            RobotError: a servo reports an error, does not take a setting, or its torque does not
                come on. What was turned on here is off again; what was on before stays on.
        """
        self._need_connection()
        self._restart_gripper()
        self._refresh()
        was_on = {servo for servo, fact in self.facts.items() if fact.torque}
        turned_on: list[int] = []
        try:
            self._refuse_errors()
            self._set_modes()
            self._match_shadows(was_on)
            self._set_motion()
            for servo in self._driven:
                turned_on.append(servo)
                self._turn_on(servo)
            self._check_torque()
            self._start_watchdog()
        except BaseException:
            shadows = [shadow for shadow, master in SHADOWS.items() if master in turned_on]
            self.release_servos(servo for servo in (*turned_on, *shadows) if servo not in was_on)
            self._is_enabled = False
            raise
        self._is_enabled = True

    def _need_connection(self) -> None:
        if not self.facts or not self.bus.is_open:
            raise RobotError(f"{self.where}: it is not connected; call connect first")

    def _refresh(self) -> None:
        models = {servo: fact.model for servo, fact in self.facts.items()}
        self.facts = probe_servos(self.bus, models)

    def _restart_gripper(self) -> None:
        """Restart a gripper that switched itself off; it carries nothing but what it holds."""
        if not self.is_leader and self.bus.read(GRIPPER, HARDWARE_ERROR, tries=3):
            self.reboot(GRIPPER)

    def _refuse_errors(self) -> None:
        found = compare(self.where, self.arm, self.facts)
        if errors := [f for f in found if f.severity == "error"]:
            raise RobotError(" | ".join(finding.line for finding in errors))

    def _mode(self, servo: int) -> int:
        return joint_mode(servo, is_leader=self.is_leader)

    def _set_modes(self) -> None:
        shadows = [s for s, master in SHADOWS.items() if master in self._driven]
        for servo in sorted((*self._driven, *shadows)):
            wanted, came = self._mode(servo), self.facts[servo].operating_mode
            if came == wanted:
                continue
            self._set(servo, OPERATING_MODE, wanted)

    def _match_shadows(self, was_on: set[int]) -> None:
        """Write the offset with which each shadow reads as its servo, or refuse.

        Three sources give three rules for the sign (Interbotix' ROS 1 driver, its ROS 2 driver and
        ROBOTIS' manual), so it is tried: write, read again, compare, then the other sign.
        """
        for shadow, master in SHADOWS.items():
            if abs(self._apart(shadow, master)) <= SHADOW_TOLERANCE:
                continue
            if {shadow, master} & was_on:
                raise RobotError(
                    f"{self._who(shadow)} reads {self._apart(shadow, master):+d} ticks from "
                    f"{SERVO_NAMES[master]}, and has torque: the two fight. Support the arm, "
                    "release it, then start again"
                )
            before = self.bus.read(shadow, HOMING_OFFSET, tries=3)
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
        ticks = read_positions(self.bus, (shadow, master))
        return ticks[shadow] - ticks[master]

    def _set_motion(self) -> None:
        """Set what RAM holds: no profile, and the gripper's current."""
        for servo in (*self._driven, *SHADOWS):
            self._set(servo, PROFILE_ACCELERATION, 0)
            self._set(servo, PROFILE_VELOCITY, 0)
        if not self.is_leader:
            # Current_Limit, which ALOHA's scripts mean to set, is EEPROM and needs its exact name.
            units = round(self.arm.gripper.current_ma / CURRENT_UNIT_MA)
            self._set(GRIPPER, GOAL_CURRENT, units)

    def _turn_on(self, servo: int) -> None:
        """Set the goal to where the joint is, then turn the torque on; keep both where it is on."""
        fact = self.facts[servo]
        has_stopped = self.bus.read(servo, BUS_WATCHDOG, tries=3) == WATCHDOG_TRIPPED
        if fact.torque and not has_stopped:
            self._goals[servo] = self.bus.read(servo, GOAL_POSITION, tries=3)
            return
        present = self.bus.read(servo, PRESENT_POSITION, tries=3)
        goal = present
        if self._mode(servo) == POSITION_MODE:
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
        self.bus.write(servo, GOAL_POSITION, goal)
        for shadow, master in SHADOWS.items():
            if master == servo and self.bus.read(shadow, GOAL_POSITION, tries=3) != goal:
                raise RobotError(
                    f"{self._who(shadow)} did not take the goal of {SERVO_NAMES[master]}: it does "
                    f"not obey the Secondary_ID {self.facts[shadow].secondary}. Check its firmware"
                )
        self._goals[servo] = goal
        self.bus.write(servo, TORQUE_ENABLE, 1)

    def _check_torque(self) -> None:
        shadows = [s for s, master in SHADOWS.items() if master in self._driven]
        for servo in (*self._driven, *shadows):
            if self.bus.read(servo, TORQUE_ENABLE, tries=3) != 1:
                errors = hardware_errors(self.bus.read(servo, HARDWARE_ERROR, tries=3))
                raise RobotError(
                    f"{self._who(servo)} got no torque"
                    f"{'; it reports ' if errors else ''}{', '.join(errors)}; look for what blocks "
                    "it, then switch its power off and on"
                )

    def _start_watchdog(self) -> None:
        units = round(self.arm.watchdog_s / WATCHDOG_UNIT_S)
        if units:
            for servo in self._driven:
                self._set(servo, BUS_WATCHDOG, units)
        self.bus.forget_gaps()

    def _set(self, servo: int, register: Register, value: int) -> None:
        """Write a register where it differs, and refuse where it reads back otherwise."""
        if self.bus.read(servo, register, tries=3) == value:
            return
        self.bus.write(servo, register, value)
        if (came := self.bus.read(servo, register, tries=3)) != value:
            raise RobotError(
                f"{self._who(servo)}: {register.name} is {came} after {value} was written; switch "
                "its power off and on, then try again"
            )

    # ------------------------------------------------------------------------------ motion

    def read(self) -> FloatArray:
        """Return the measured values, (7,).

        A servo whose answer is missing is asked once more by itself. The shadows are read as well,
        so that one that reports an error is the next in `check_next`.

        Raises:
            RobotError: a servo does not answer; it names all that do not.
        """
        answers = self.bus.sync_read(tuple(SERVO_NAMES), PRESENT_POSITION)
        ticks = {servo: PRESENT_POSITION.decode(data) for servo, data in answers.data.items()}
        silent = []
        for servo in answers.missing:
            try:
                ticks[servo] = self.bus.read(servo, PRESENT_POSITION)
            except NoAnswer:
                silent.append(servo)
            if len(silent) > 1:  # the line is at fault: the others would cost a time-out each
                silent = [one for one in answers.missing if one not in ticks]
                break
        if silent:
            names = ", ".join(f"{SERVO_NAMES[servo]} (servo {servo})" for servo in silent)
            all_silent = len(silent) == len(SERVO_NAMES)
            raise RobotError(
                f"{self.where} ({self.arm.port}): "
                f"{'no servo answers' if all_silent else f'{names} did not answer'}; check "
                f"{'the power supply and the first cable' if all_silent else 'the cables'}"
            )
        return self._values([ticks[servo] for servo in JOINT_SERVOS], is_action=self.is_leader)

    def write(self, action: FloatArray) -> FloatArray:
        """Send joint targets, (7,); return what the servos follow now, after rounding.

        Nothing is clipped. A servo ignores a goal outside its own range, so such a goal is not
        sent: the value returned is the one that it goes on following, and `unsent` names the joint.
        A goal less than one tick outside becomes the end of the range, which is rounding.

        Raises:
            RobotError: a value is not finite, the torque is off, or the bus watchdog stopped the
                arm.
        """
        goals = np.asarray(action, np.float64)
        if goals.shape != (7,) or not np.isfinite(goals).all():
            raise RobotError(f"{self.where}: the command {goals} is not seven finite numbers")
        if not self._is_enabled:
            raise RobotError(f"{self.where}: its torque is off; call enable first")
        self._refuse_after_watchdog()
        sent: dict[int, int] = {}
        unsent = []
        for servo, value in zip(JOINT_SERVOS, goals.tolist(), strict=True):
            if servo not in self._driven:
                continue
            angle = self.gripper.angle_from_command(value) if servo == GRIPPER else value
            tick = rad_tick(angle)
            if self._mode(servo) == POSITION_MODE:
                fact = self.facts[servo]
                if fact.lower - 1 <= tick <= fact.upper + 1:
                    tick = min(max(tick, fact.lower), fact.upper)
                else:
                    unsent.append(self.joint(servo))
                    continue
            sent[servo] = tick
        if sent:
            self.bus.sync_write(GOAL_POSITION, sent)
        self._goals.update(sent)
        self.unsent = tuple(unsent)
        followed = self.goals()
        if self.is_leader:
            followed[-1] = goals[-1]
        return followed

    @property
    def is_enabled(self) -> bool:
        """Whether `enable` turned the torque on, and nothing is known to have ended it."""
        return self._is_enabled

    def goals(self) -> NDArray[np.float64]:
        """Return what the servos follow now, (7,), as an action; of a leader's limp gripper 0."""
        ticks = [self._goals[servo] for servo in JOINT_SERVOS[:-1]]
        if self.is_leader:
            return np.append(self._angles(ticks), 0.0)
        return self._values([*ticks, self._goals[GRIPPER]], is_action=True)

    def _refuse_after_watchdog(self) -> None:
        """Ask for the watchdog where the bus was silent for nearly its time: it refuses goals,
        and nobody answers a sync write."""
        limit_s = self.arm.watchdog_s
        gap_s = self.bus.largest_gap_s()
        if not limit_s or gap_s < 0.8 * limit_s:
            return
        answers = self.bus.sync_read(self._driven, BUS_WATCHDOG)
        stopped = [
            SERVO_NAMES[servo]
            for servo, data in answers.data.items()
            if BUS_WATCHDOG.decode(data) == WATCHDOG_TRIPPED
        ]
        if stopped:
            self._is_enabled = False
            raise RobotError(
                f"{self.where}: the bus watchdog stopped {', '.join(stopped)} after "
                f"{gap_s * 1000:.0f} ms without a request, and refuses goals; enable the arm again"
            )
        if not answers.missing:
            self.bus.forget_gaps()

    def _values(self, ticks: list[int], *, is_action: bool) -> NDArray[np.float64]:
        angles = self._angles(ticks)
        scale = self.gripper
        convert = scale.command_from_angle if is_action else scale.state_from_angle
        angles[-1] = convert(float(angles[-1]))
        return angles

    @staticmethod
    def _angles(ticks: list[int]) -> NDArray[np.float64]:
        return np.array([tick_rad(tick) for tick in ticks])

    # ------------------------------------------------------------------------------ health

    def check_next(self) -> tuple[str, ServoHealth]:
        """Ask one servo for its health: one that reports an error, else the next in turn.

        Raises:
            RobotError: it did not answer.
        """
        servos = tuple(SERVO_NAMES)
        self._turn = (self._turn + 1) % len(servos)
        alerts = sorted(self.bus.alerts)
        # Every second call, so that one servo's alert does not hide the others.
        servo = (
            alerts[self._turn % len(alerts)] if alerts and self._turn % 2 else servos[self._turn]
        )
        data = self.bus.read_block(servo, _HEALTH_BEGIN, _HEALTH_SIZE, what="its health")
        errors: tuple[str, ...] = ()
        if servo in self.bus.alerts:
            errors = hardware_errors(self.bus.read(servo, HARDWARE_ERROR)) or ("alert",)
        health = ServoHealth(
            self._clock.now_s(),
            float(PRESENT_TEMPERATURE.decode(data, _HEALTH_BEGIN)),
            PRESENT_VOLTAGE.decode(data, _HEALTH_BEGIN) / 10,
            self._load(servo, PRESENT_CURRENT.decode(data, _HEALTH_BEGIN)),
            errors,
        )
        return self.joint(servo), health

    def _load(self, servo: int, value: int) -> float:
        """Return the share of the largest torque: of the current limit, or of the measured load."""
        fact = self.facts.get(servo)
        limit = fact.current_limit if fact else None
        if limit is None:
            return value / 1000
        if servo == GRIPPER and not self.is_leader:
            limit = min(limit, round(self.arm.gripper.current_ma / CURRENT_UNIT_MA))
        return value / max(1, limit)

    # ------------------------------------------------------------------------------ end

    def release(self) -> tuple[str, ...]:
        """Turn the torque off, servo by servo, and return the joints that did not confirm it.

        Each is tried three times and read back, whatever the others do; a port that failed is
        opened again once. Without torque the arm falls: support it, or park it first.
        """
        self._is_enabled = False
        if not self.bus.is_open:
            try:
                self.bus.open()
            except RobotError:
                return tuple(self.joint(servo) for servo in SERVO_NAMES)
        return self.release_servos(SERVO_NAMES)

    def release_servos(self, servos: Iterable[int]) -> tuple[str, ...]:
        """Turn the torque of some servos off; return the joints that did not confirm it."""
        failed = []
        for servo in servos:
            try:
                self.bus.write(servo, TORQUE_ENABLE, 0, tries=3)
                if self.bus.read(servo, TORQUE_ENABLE, tries=3):
                    failed.append(self.joint(servo))
            except RobotError:
                failed.append(self.joint(servo))
        return tuple(failed)

    def reboot(self, servo: int = GRIPPER) -> None:
        """Restart a servo, the one way out of a hardware error; its torque stays off.

        Raises:
            RobotError: it still carries the arm, or does not come back.
        """
        if servo != GRIPPER and self.bus.read(servo, TORQUE_ENABLE, tries=3):
            raise RobotError(f"{self._who(servo)} has torque; support the arm and release it first")
        self.bus.reboot(servo)
        end_s = time.monotonic() + REBOOT_S * self._patience
        while self.bus.ping(servo) is None:
            if time.monotonic() > end_s:
                raise RobotError(
                    f"{self._who(servo)} did not answer for {REBOOT_S:g} s after its restart; "
                    "switch the power off and on"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Close the port. Never raises, and changes no torque."""
        self._is_enabled = False
        self.bus.close()

    def _who(self, servo: int) -> str:
        return f"{self.where} ({self.arm.port}): {SERVO_NAMES[servo]} (servo {servo})"


def arm_drivers(arms: Mapping[str, ArmConfig], *, patience: float = 1.0) -> dict[str, AlohaArm]:
    """Return a driver for each arm, by side."""
    return {side: AlohaArm(arm, side, patience=patience) for side, arm in arms.items()}
