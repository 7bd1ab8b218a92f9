"""Comparison of an ALOHA arm: what was probed in its servos against what they must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imitact.robots.aloha_hardware import (
    FOLLOWER,
    GRIPPER,
    LEADER,
    SERVO_NAMES,
    SHADOWS,
    ServoPlan,
)
from imitact.robots.aloha_probe import ServoFacts, joint_mode
from imitact.robots.config import ArmConfig
from imitact.robots.dynamixel_registers import (
    CURRENT_UNIT_MA,
    LEAST_FIRMWARE,
    MODE_NAMES,
    REVERSED,
    TICKS_A_TURN,
    TORQUE_ON_BY_GOAL,
    hardware_errors,
    model_name,
)
from imitact.robots.robot_finding import RobotFinding

SHADOW_TOLERANCE = 3
"""Ticks by which a shadow may read differently from its servo: 0.26 degrees."""

SNAP_TICKS = 34
"""How far a joint may be outside its servo's own range when its torque is turned on, ticks: its
goal is then the end of the range, 3 degrees away at most. Arms rest on their stops."""

WIZARD = "with ROBOTIS' Dynamixel Wizard"


def compare(
    where: str, arm: ArmConfig, facts: Mapping[int, ServoFacts], *, found_baud: int | None = None
) -> list[RobotFinding]:
    """Return everything in which an arm differs from its plan.

    Errors are what would move a joint wrongly, or not at all: a servo that is missing, another
    model, the sign of a joint, a shadow that does not obey its servo or a servo that obeys another,
    a range wider than the follower's, a wrap inside the travel, torque that a goal turns on.
    Tolerated as warnings are what makes it slower or smaller: a return delay (0.5 ms a servo from
    the factory), a narrower range, other firmware in a pair; and what is set at every start
    (operating mode, shadow offset) is a note.

    Args:
        where: the arm, in words: "left follower".
        found_baud: where no servo answered at the configured rate, the one at which one did.
    """
    plan = LEADER if arm.is_leader_model else FOLLOWER
    if not facts:
        return [_nothing(where, arm, found_baud)]
    found = []
    if missing := [servo for servo in SERVO_NAMES if servo not in facts]:
        found.append(_missing(where, missing))
    for servo, fact in facts.items():
        found += _Comparison(where, arm, servo, plan[servo], fact, facts).findings()
    return found


def _nothing(where: str, arm: ArmConfig, found_baud: int | None) -> RobotFinding:
    if found_baud is not None:
        return RobotFinding(
            "baud",
            "error",
            where,
            f"its servos answer at {found_baud:,} bits per second",
            f"{arm.baud:,}",
            f"Set baud = {found_baud} in robot.toml, or Baud_Rate of all nine servos {WIZARD}",
        )
    return RobotFinding(
        "servo-missing",
        "error",
        where,
        "no servo answers, at any rate",
        "nine",
        "Switch the power supply on, check the cable from the adapter to the first servo, and that "
        "this port is the arm's",
    )


def _missing(where: str, missing: list[int]) -> RobotFinding:
    names = ", ".join(f"{SERVO_NAMES[servo]} (servo {servo})" for servo in missing)
    return RobotFinding(
        "servo-missing",
        "error",
        where,
        f"{names} did not answer",
        "all nine",
        "Check the cable to the first of them: one that is loose silences all behind it; new "
        f"servos have ID 1 and 57,600 bits per second, which is changed {WIZARD}",
    )


@dataclass(frozen=True)
class _Comparison:
    """One servo against its plan."""

    arm_name: str
    arm: ArmConfig
    servo: int
    plan: ServoPlan
    fact: ServoFacts
    all_facts: Mapping[int, ServoFacts]

    @property
    def where(self) -> str:
        return f"{self.arm_name}: {SERVO_NAMES[self.servo]} (servo {self.servo})"

    def error(self, name: str, came: str, expected: str, remedy: str) -> RobotFinding:
        return RobotFinding(name, "error", self.where, came, expected, remedy)

    def warning(self, name: str, came: str, expected: str, remedy: str) -> RobotFinding:
        return RobotFinding(name, "warning", self.where, came, expected, remedy)

    def findings(self) -> list[RobotFinding]:
        return [
            *self._identity(),
            *self._drive_mode(),
            *self._positions(),
            *self._shadow(),
            *self._mode(),
            *self._condition(),
        ]

    def _identity(self) -> list[RobotFinding]:
        fact, found = self.fact, []
        accepted = list(self.plan.models)
        if other := self.arm.other_models.get(SERVO_NAMES[self.servo]):
            accepted.append(other)
        if fact.model not in accepted:
            found.append(
                self.error(
                    "model",
                    f"it is {model_name(fact.model)}",
                    " or ".join(map(model_name, accepted)),
                    "Is this port the right arm's? A servo that was exchanged for another model is "
                    f"accepted with other_models = {{{SERVO_NAMES[self.servo]} = {fact.model}}}",
                )
            )
        if fact.firmware < LEAST_FIRMWARE:
            found.append(
                self.error(
                    "firmware",
                    f"its firmware is {fact.firmware}",
                    f"{LEAST_FIRMWARE} or newer, which has the bus watchdog",
                    f"Update it {WIZARD}",
                )
            )
        if fact.status_level != 2:
            found.append(
                self.error(
                    "status-level",
                    f"Status_Return_Level is {fact.status_level}",
                    "2, with which it acknowledges every write",
                    f"Set it to 2 {WIZARD}, or switch the power off and on",
                )
            )
        if fact.return_delay:
            found.append(
                self.warning(
                    "return-delay",
                    f"Return_Delay_Time is {fact.return_delay}, {2 * fact.return_delay} µs in "
                    "every answer",
                    "0",
                    f"Set it to 0 {WIZARD}; reads are slower until then",
                )
            )
        if fact.secondary != self.plan.secondary:
            obeys = f"servo {self.plan.secondary}" if self.servo in SHADOWS else "no other"
            found.append(
                self.error(
                    "secondary-id",
                    f"Secondary_ID is {fact.secondary}",
                    f"{self.plan.secondary}, so that it obeys {obeys}",
                    f"Set it {WIZARD}",
                )
            )
        return found

    def _drive_mode(self) -> list[RobotFinding]:
        found = []
        if bool(self.fact.drive_mode & REVERSED) != self.plan.is_reversed:
            found.append(
                self.error(
                    "drive-mode",
                    f"Drive_Mode is {self.fact.drive_mode}, "
                    f"{'' if self.fact.drive_mode & REVERSED else 'not '}reversed",
                    "reversed" if self.plan.is_reversed else "not reversed",
                    f"Set bit 0 {WIZARD}: as it is, the joint turns the wrong way"
                    + (" and the pair fights" if self.servo in (*SHADOWS, 2, 4) else "")
                    + (" and the gripper slams open" if self.servo == GRIPPER else ""),
                )
            )
        if self.fact.drive_mode & TORQUE_ON_BY_GOAL:
            found.append(
                self.error(
                    "torque-by-goal",
                    f"Drive_Mode is {self.fact.drive_mode}: every goal turns the torque on",
                    "bit 3 at 0",
                    f"Clear bit 3 {WIZARD}",
                )
            )
        return found

    def _positions(self) -> list[RobotFinding]:
        fact, plan, found = self.fact, self.plan, []
        is_wider = fact.lower < plan.lower or fact.upper > plan.upper
        if (fact.lower, fact.upper) != (plan.lower, plan.upper):
            must = is_wider and not self.arm.is_leader_model
            found.append(
                RobotFinding(
                    "position-limits",
                    "error" if must else "warning",
                    self.where,
                    f"its position limits are {fact.lower} to {fact.upper} ticks",
                    f"{plan.lower} to {plan.upper}",
                    f"Set Min_ and Max_Position_Limit {WIZARD}: "
                    + (
                        "the arm can hit itself beyond them"
                        if is_wider
                        else "it takes no goal beyond them"
                    ),
                )
            )
        low, high = fact.span
        if self.servo not in SHADOWS and fact.homing_offset:
            found.append(
                self.warning(
                    "homing-offset",
                    f"Homing_Offset is {fact.homing_offset} ticks, "
                    f"{fact.homing_offset * 360 / TICKS_A_TURN:.1f} degrees",
                    "0",
                    f"Set it to 0 {WIZARD}, unless the horn was mounted askew on purpose: poses "
                    "and policies of other ALOHAs are off by this angle",
                )
            )
        # A joint whose range is the whole turn ends at the wrap anyway.
        has_range = (plan.lower, plan.upper) != (0, TICKS_A_TURN - 1)
        if has_range and (low > plan.lower or high < plan.upper):
            wrap = low if low > plan.lower else high
            found.append(
                self.error(
                    "wrap",
                    f"its encoder wraps at {wrap} ticks, inside the travel of {plan.lower} to "
                    f"{plan.upper}",
                    "a wrap outside the travel",
                    "Mount the horn so that the joint's zero reads 2048, with Homing_Offset 0: at "
                    "the wrap the joint turns the long way round",
                )
            )
        outside = max(fact.lower - fact.position, fact.position - fact.upper)
        if outside > SNAP_TICKS and self.servo != GRIPPER and self.servo not in SHADOWS:
            found.append(
                RobotFinding(
                    "position-outside",
                    "warning" if self.arm.is_leader_model else "error",
                    self.where,
                    f"it is at {fact.position} ticks",
                    f"{fact.lower} to {fact.upper}",
                    "Move the joint into its range by hand; if it is there, its horn is mounted "
                    "wrongly or its Homing_Offset is wrong",
                )
            )
        return found

    def _shadow(self) -> list[RobotFinding]:
        master = self.all_facts.get(SHADOWS.get(self.servo, 0))
        if master is None:
            return []
        found = []
        apart = self.fact.position - master.position
        if abs(apart) > SHADOW_TOLERANCE:
            is_on = bool(self.fact.torque or master.torque)
            found.append(
                RobotFinding(
                    "shadow-offset",
                    "error" if is_on else "note",
                    self.where,
                    f"it reads {apart:+d} ticks from servo {SHADOWS[self.servo]}",
                    f"at most {SHADOW_TOLERANCE}",
                    "The two fight: support the arm, release it, then start again"
                    if is_on
                    else "Its Homing_Offset is written when the torque is turned on",
                )
            )
        if self.fact.firmware != master.firmware:
            found.append(
                self.warning(
                    "firmware",
                    f"its firmware is {self.fact.firmware}",
                    f"{master.firmware}, as servo {SHADOWS[self.servo]}",
                    f"Update both {WIZARD}",
                )
            )
        return found

    def _mode(self) -> list[RobotFinding]:
        wanted = joint_mode(self.servo, is_leader=self.arm.is_leader_model)
        came = self.fact.operating_mode
        if came == wanted or (self.servo == GRIPPER and self.arm.is_leader_model):
            return []
        return [
            RobotFinding(
                "operating-mode",
                "error" if self.fact.torque else "note",
                self.where,
                f"it is in {MODE_NAMES.get(came, str(came))} mode",
                f"{MODE_NAMES[wanted]} mode",
                "It has torque, and the mode is set without only: support the arm, then release it"
                if self.fact.torque
                else "It is set when the torque is turned on",
            )
        ]

    def _condition(self) -> list[RobotFinding]:
        found = []
        if self.fact.hardware_error == 1:  # which does not switch it off (Shutdown is 52)
            found.append(
                self.warning(
                    "voltage-error",
                    "since it was switched on, its supply voltage was out of its range",
                    "9.5 to 16 V",
                    "Check the power supply and its plugs; the servo says so until it is restarted",
                )
            )
        elif errors := hardware_errors(self.fact.hardware_error):
            found.append(
                self.error(
                    "hardware-error",
                    f"it reports {', '.join(errors)} and has no torque",
                    "no hardware error",
                    "Look for what blocks or overloads it, support the arm, then switch its power "
                    "off and on",
                )
            )
        if self.servo == GRIPPER and self.fact.current_limit is not None:
            units = round(self.arm.gripper.current_ma / CURRENT_UNIT_MA)
            if units > self.fact.current_limit:
                found.append(
                    self.error(
                        "current-limit",
                        f"Current_Limit is {self.fact.current_limit} units, "
                        f"{self.fact.current_limit * CURRENT_UNIT_MA:.0f} mA",
                        f"at least the {self.arm.gripper.current_ma:g} mA of current_ma",
                        f"Lower current_ma, or raise Current_Limit {WIZARD}",
                    )
                )
        return found
