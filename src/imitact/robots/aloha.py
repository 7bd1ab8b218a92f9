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

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_RATE_HZ
from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput, RobotError
from imitact.core.robot import ServoHealth
from imitact.core.types import FloatArray, Spec
from imitact.robots.aloha_comparison import compare
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
    ServoFacts,
    joint_mode,
    probe_arm,
    probe_servos,
)
from imitact.robots.aloha_torque import TorqueOn, driven_servos, turn_off
from imitact.robots.config import ArmConfig
from imitact.robots.dynamixel_bus import DynamixelBus, NoAnswer
from imitact.robots.dynamixel_line import DynamixelLine
from imitact.robots.dynamixel_registers import (
    BUS_WATCHDOG,
    CURRENT_UNIT_MA,
    GOAL_POSITION,
    HARDWARE_ERROR,
    POSITION_MODE,
    PRESENT_CURRENT,
    PRESENT_POSITION,
    PRESENT_TEMPERATURE,
    PRESENT_VOLTAGE,
    TICKS_A_TURN,
    TORQUE_ENABLE,
    WATCHDOG_TRIPPED,
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
        open_line: opens the line of its port; an emulated one needs no port.

    Raises:
        BadInput: the end stops of the gripper are not known.
    """

    def __init__(
        self,
        arm: ArmConfig,
        side: str,
        *,
        clock: Clock | None = None,
        patience: float = 1.0,
        open_line: Callable[[str, int], DynamixelLine] = DynamixelLine,
    ) -> None:
        self._clock: Clock = WallClock() if clock is None else clock
        self.arm, self.side = arm, side
        self.is_leader = arm.is_leader_model
        self.where = f"{side} {'leader' if self.is_leader else 'follower'}"
        scale = arm.gripper_scale()
        if scale is None:
            table = f"[{'leaders' if self.is_leader else 'arms'}.{side}.gripper]"
            raise BadInput(
                f"{self.where}: the end stops of its gripper are not known; `imitact robot "
                f'measure` measures them, or name a variant in {table}, such as variant = "aloha"'
            )
        self.gripper = scale
        self.bus = DynamixelBus(
            arm.port,
            arm.baud,
            where=self.where,
            names=SERVO_NAMES,
            patience=patience,
            clock=self._clock,
            open_line=open_line,
        )
        self.facts: dict[int, ServoFacts] = {}
        """Settings of the servos, by ID, as of `connect`."""
        self.unsent: tuple[str, ...] = ()
        """Joints whose last goal was not sent because their servo would refuse it."""
        names = joint_names(side)
        units = ("rad",) * 6 + ("1",)
        self._spec = Spec(names, names, units, units, (), ALOHA_RATE_HZ)
        self._patience = patience
        self._driven = driven_servos(arm)
        self._goals: dict[int, int] = {}
        self._turn = self._alert_turn = -1
        self._is_alerts_turn = False
        self._why_not = "its torque is off; call enable first"

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
        if not self.facts or not self.bus.is_open:
            raise RobotError(f"{self.where}: it is not connected; call connect first")
        self._why_not = "its torque is off; call enable first"
        self._restart_gripper()
        models = {servo: fact.model for servo, fact in self.facts.items()}
        self.facts = probe_servos(self.bus, models)
        self._goals = TorqueOn(self.bus, self.arm, self.where, self.facts).run()
        self._why_not = ""

    def _restart_gripper(self) -> None:
        """Restart a gripper that switched itself off; it carries nothing but what it holds."""
        if not self.is_leader and self.bus.read(GRIPPER, HARDWARE_ERROR, tries=3):
            self.reboot(GRIPPER)

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
        for servo, tick in ticks.items():
            if not -LARGEST_OFFSET <= tick < TICKS_A_TURN + LARGEST_OFFSET:
                raise RobotError(
                    f"{self._who(servo)} reads {tick} ticks, more than a turn away; it lost count. "
                    "Support the arm, then switch its power off and on"
                )
        values = self._values([ticks[servo] for servo in JOINT_SERVOS], is_action=self.is_leader)
        if self.is_leader:  # its stops give way to a hand that presses on
            values[-1] = min(max(values[-1], 0.0), 1.0)
        return values

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
        if self._why_not:
            raise RobotError(f"{self.where}: {self._why_not}")
        self._refuse_after_watchdog()
        sent: dict[int, int] = {}
        unsent = []
        for servo, value in zip(JOINT_SERVOS, goals.tolist(), strict=True):
            if servo not in self._driven:
                continue
            angle = self.gripper.angle_from_command(value) if servo == GRIPPER else value
            tick = rad_tick(angle)
            low, high = self._range(servo)
            if low - 1 <= tick <= high + 1:
                sent[servo] = min(max(tick, low), high)
            else:
                unsent.append(self.joint(servo))
        if sent:
            self.bus.sync_write(GOAL_POSITION, sent)
        self._goals.update(sent)
        self.unsent = tuple(unsent)
        followed = self.goals()
        if self.is_leader:
            followed[-1] = goals[-1]
        return followed

    def _range(self, servo: int) -> tuple[int, int]:
        """Return the least and largest goal that a servo takes, ticks; a gripper has no limits."""
        if joint_mode(servo, is_leader=self.is_leader) == POSITION_MODE:
            return self.facts[servo].lower, self.facts[servo].upper
        return -LARGEST_OFFSET, TICKS_A_TURN - 1 + LARGEST_OFFSET

    @property
    def is_enabled(self) -> bool:
        """Whether `enable` turned the torque on, and nothing is known to have ended it."""
        return not self._why_not

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
            self._why_not = (
                f"the bus watchdog stopped {', '.join(stopped)} after {gap_s * 1000:.0f} ms "
                "without a request, and refuses goals; enable the arm again"
            )
            raise RobotError(f"{self.where}: {self._why_not}")
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
        servo = self._next_to_check()
        data = self.bus.read_block(servo, _HEALTH_BEGIN, _HEALTH_SIZE, what="its health")
        errors: tuple[str, ...] = ()
        if servo in self.bus.alerts:
            errors = hardware_errors(self.bus.read(servo, HARDWARE_ERROR)) or ("alert",)
        # A servo that restarted, as after a sag of its supply, reports no error and no torque.
        if self.is_enabled and self._has_torque(servo) is False:
            errors = (*errors, "no torque")
        health = ServoHealth(
            self._clock.now_s(),
            float(PRESENT_TEMPERATURE.decode(data, _HEALTH_BEGIN)),
            PRESENT_VOLTAGE.decode(data, _HEALTH_BEGIN) / 10,
            self._load(servo, PRESENT_CURRENT.decode(data, _HEALTH_BEGIN)),
            errors,
        )
        return self.joint(servo), health

    def _next_to_check(self) -> int:
        alerts = sorted(self.bus.alerts)
        self._is_alerts_turn = bool(alerts) and not self._is_alerts_turn
        if self._is_alerts_turn:  # every second call, so that the others have their turn as well
            self._alert_turn += 1
            return alerts[self._alert_turn % len(alerts)]
        self._turn += 1
        return tuple(SERVO_NAMES)[self._turn % len(SERVO_NAMES)]

    def _has_torque(self, servo: int) -> bool | None:
        """Return whether a servo has torque; None for one that is limp on purpose."""
        if SHADOWS.get(servo, servo) not in self._driven:
            return None
        return bool(self.bus.read(servo, TORQUE_ENABLE))

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
        self._why_not = "its torque is off; call enable first"
        if not self.bus.is_open:
            try:
                self.bus.open()
            except RobotError:
                return tuple(self.joint(servo) for servo in SERVO_NAMES)
        return tuple(map(self.joint, turn_off(self.bus, SERVO_NAMES)))

    def reboot(self, servo: int = GRIPPER) -> None:
        """Restart a servo, the one way out of a hardware error; its torque stays off.

        Raises:
            RobotError: it still carries the arm, or does not come back.
        """
        if servo != GRIPPER and self.bus.read(servo, TORQUE_ENABLE, tries=3):
            raise RobotError(f"{self._who(servo)} has torque; support the arm and release it first")
        self.bus.reboot(servo)
        end_s = self._clock.now_s() + REBOOT_S * self._patience
        while self.bus.ping(servo) is None:
            if self._clock.now_s() > end_s:
                raise RobotError(
                    f"{self._who(servo)} did not answer for {REBOOT_S:g} s after its restart; "
                    "switch the power off and on"
                )
            self._clock.wait_until(self._clock.now_s() + 0.02)

    def close(self) -> None:
        """Close the port. Never raises, and changes no torque."""
        self._why_not = "it is not connected; call connect first"
        self.bus.close()

    def _who(self, servo: int) -> str:
        return f"{self.where} ({self.arm.port}): {SERVO_NAMES[servo]} (servo {servo})"
