"""ALOHA's arms as they are built: servos, their settings, joint limits and poses, with sources.

Each arm has nine servos on one bus. Shoulder and elbow have two each; the second, a shadow, obeys
the first one's ID as its Secondary_ID. Sources: DOC, TrossenRobotics/interbotix_xsarms_docs,
docs/_data/servos_*.csv (models); XC, Interbotix/interbotix_ros_manipulators,
interbotix_xsarm_control/config/vx300s.yaml:32-120 and wx250s.yaml:32-120 (settings; those of the
kit's aloha_*.yaml are the same); XD, interbotix_xsarm_descriptions/urdf/vx300s.urdf.xacro and
wx250s.urdf.xacro (limits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ARM_JOINTS
from imitact.core.errors import BadInput
from imitact.core.joint_limits import NO_LIMIT, JointLimits
from imitact.robots.config import ArmConfig, RobotConfig
from imitact.robots.dynamixel_registers import CENTRE_TICK, RAD_A_TICK, TICKS_A_TURN

SERVO_NAMES = {
    1: "waist", 2: "shoulder", 3: "shoulder_shadow", 4: "elbow", 5: "elbow_shadow",
    6: "forearm_roll", 7: "wrist_angle", 8: "wrist_rotate", 9: "gripper",
}  # fmt: skip
"""By ID. DOC's vx300s.rst exchanges 6 and 7; its own table, XC and wx250s.rst agree on this."""

SHADOWS = {3: 2, 5: 4}
"""ID of a shadow, and of the servo that it obeys."""

JOINT_SERVOS = tuple(servo for servo in SERVO_NAMES if servo not in SHADOWS)
"""IDs of the servos that are addressed, in the order of `ARM_JOINTS`."""

GRIPPER = 9
NO_SECONDARY = 255


@dataclass(frozen=True)
class ServoPlan:
    """What one servo must be.

    Attributes:
        models: model numbers that are accepted.
        is_reversed: bit 0 of Drive_Mode; the sign of a joint is kept there and nowhere else.
        secondary: Secondary_ID.
        lower, upper: Min_ and Max_Position_Limit, ticks.
    """

    models: tuple[int, ...]
    is_reversed: bool
    secondary: int = NO_SECONDARY
    lower: int = 0
    upper: int = TICKS_A_TURN - 1


FOLLOWER: Mapping[int, ServoPlan] = {
    1: ServoPlan((1120,), False),
    2: ServoPlan((1120,), True, lower=841, upper=2867),
    3: ServoPlan((1120,), False, secondary=2, lower=841, upper=2867),
    4: ServoPlan((1120,), True, lower=898, upper=3094),
    5: ServoPlan((1120,), False, secondary=4, lower=898, upper=3094),
    6: ServoPlan((1120,), False),
    7: ServoPlan((1120,), True, lower=830, upper=3504),
    8: ServoPlan((1020,), False),
    9: ServoPlan((1020,), False),
}
"""ViperX 300 6DOF, by ID."""

LEADER: Mapping[int, ServoPlan] = {
    1: ServoPlan((1020,), False),
    2: ServoPlan((1020,), False, lower=819, upper=3345),
    3: ServoPlan((1020,), True, secondary=2, lower=819, upper=3345),
    4: ServoPlan((1020,), False, lower=648, upper=3094),
    5: ServoPlan((1020,), True, secondary=4, lower=648, upper=3094),
    6: ServoPlan((1020,), False),
    7: ServoPlan((1020,), True, lower=910, upper=3447),
    # The kit's leaders may have a servo here that measures current: Interbotix/aloha,
    # config/leader_motor_specs_left.yaml, lists it for gravity compensation.
    8: ServoPlan((1060, 1070, 1020), False),
    # XL430-W250 in DOC, XC430-W150 in huggingface/lerobot widowx.py:49-57.
    9: ServoPlan((1060, 1070), False),
}
"""WidowX 250 6DOF, by ID."""

_URDF_RAD = {
    False: (
        (-3.14158, 3.14158), (-1.85005, 1.25664), (-1.76278, 1.60570), (-3.14158, 3.14158),
        (-1.86750, 2.23402), (-3.14158, 3.14158),
    ),
    True: (
        (-3.14158, 3.14158), (-1.88496, 1.98968), (-2.14675, 1.60570), (-3.14158, 3.14158),
        (-1.74533, 2.14675), (-3.14158, 3.14158),
    ),
}  # fmt: skip
"""Joint ranges by whether it is a leader (XD, lines 55, 95, 135, 175, 215, 255)."""

TOP_SPEED_RAD_S = math.pi
"""Velocity_Limit 131 in XC, the URDF's limit, and the XM540's speed without load at 12 V."""

TOP_ACCELERATION = 40.0
TOP_JERK = 2000.0
"""A little above what the scripted experts of gym-aloha's tasks use at spread 2, 39.6 rad/s² and
1762 rad/s³ (benchmarks/safety_episodes.py); not measured on an arm."""

GRIPPER_TOP = (NO_LIMIT,) * 3
"""Velocity, acceleration and jerk of a gripper's action: none. A person closes a leader's gripper
in 0.1 to 0.3 s and lets it run into its stop, 19 1/s and more. The follower's XM430-W350, without a
profile, turns at 46 rpm at most (ROBOTIS e-manual), so that its 2.1 rad (`VARIANTS`) take 0.44 s
whatever is commanded, and its goal current bounds the force. ALOHA itself sends the leader's angle
as it is (tonyzhaozh/aloha, real_env.py:86)."""

START_POSE = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
"""Six joints at the start of every ALOHA episode, rad (tonyzhaozh/aloha constants.py:16)."""

OPENING_S = 4.0
"""Time of the opening move to START_POSE. ALOHA has 1 to 1.5 s, Interbotix/aloha 4 s."""

REST_POSES = {
    "vx300s": (0.0, -1.7, 1.55, 0.0, 0.65, 0.0),
    "wx250s": (0.0, -1.8, 1.55, 0.0, 0.8, 0.0),
    "aloha_vx300s": (0.0, -1.8, 1.55, 0.0, -1.57, 0.0),
    "aloha_wx250s": (0.0, -1.8, 1.55, 0.0, -1.57, 0.0),
}
"""Six joints in which an arm lies without torque, rad: MarkFzp/mobile-aloha sleep.py:20-29, XC
wx250s.yaml:2 and aloha_*.yaml:2 (branch noetic; that of humble lies outside its own limits)."""

REST_GRIPPER = 1.0
"""Open: grippers left closed make motor faults (Physical-Intelligence/openpi,
examples/aloha_real/real_env.py:114-126)."""


BASES = {"left": (-0.469, 0.0, 0.0), "right": (0.469, 0.0, 180.0)}
"""Where the followers stand: x and y in m, and the heading in degrees, by side; they face each
other (gym-aloha, assets/vx300s_left.xml and vx300s_right.xml)."""


def joint_names(side: str) -> tuple[str, ...]:
    """Return the seven joints of one arm, as the datasets name them."""
    return tuple(f"{side}_arm_{joint}" for joint in ARM_JOINTS)


def tick_rad(tick: float) -> float:
    """Return the angle of a position, rad."""
    return (tick - CENTRE_TICK) * RAD_A_TICK


def rad_tick(angle_rad: float) -> int:
    """Return the position nearest to an angle. Interbotix cuts the fraction off instead, and
    commands up to one tick less."""
    return round(CENTRE_TICK + angle_rad / RAD_A_TICK)


def arm_limits(side: str, arm: ArmConfig) -> JointLimits:
    """Return what one arm may do: the tighter of its URDF's and its servos' range.

    The gripper's range is 0 to 1.
    """
    plan = LEADER if arm.is_leader_model else FOLLOWER
    lower, upper = [], []
    for servo, (low, high) in zip(JOINT_SERVOS, _URDF_RAD[arm.is_leader_model], strict=False):
        lower.append(max(low, tick_rad(plan[servo].lower)))
        upper.append(min(high, tick_rad(plan[servo].upper)))
    tops = [(TOP_SPEED_RAD_S, TOP_ACCELERATION, TOP_JERK)] * 6 + [GRIPPER_TOP]
    velocity, acceleration, jerk = np.array(tops).T
    units = ("rad",) * 6 + ("1",)
    return JointLimits(
        joint_names(side),
        units,
        np.array([*lower, 0.0]),
        np.array([*upper, 1.0]),
        velocity,
        acceleration,
        jerk,
    )


def robot_limits(config: RobotConfig) -> JointLimits:
    """Return what all followers of a robot may do, side by side, cut by its [limits]."""
    arms = [arm_limits(side, arm) for side, arm in config.arms.items()]
    if not arms:
        raise BadInput(f'a robot of kind "{config.kind}" has no ALOHA arms')
    bounds = {
        bound: np.concatenate([getattr(arm, bound) for arm in arms])
        for bound in ("lower", "upper", "velocity", "acceleration", "jerk")
    }
    names = tuple(name for arm in arms for name in arm.names)
    for name, limit in config.limits.items():
        index = names.index(name)
        for bound, values in bounds.items():
            value = getattr(limit, bound)
            if value is not None:
                tighter = max if bound == "lower" else min
                values[index] = tighter(values[index], value)
    return JointLimits(names, tuple(unit for arm in arms for unit in arm.units), **bounds)


def arm_bases(config: RobotConfig) -> Mapping[str, tuple[float, ...]]:
    """Return where the base of each follower stands, as in `BASES`, by side.

    Raises:
        BadInput: it is not known.
    """
    given = {side: arm.base for side, arm in config.arms.items()}
    if len(given) == 1:  # it collides with itself alone, wherever it stands
        return {side: base or (0.0, 0.0, 0.0) for side, base in given.items()}
    if not any(given.values()) and given.keys() == BASES.keys():
        return {side: BASES[side] for side in given}
    if missing := [side for side, base in given.items() if not base]:
        raise BadInput(
            f"where the base of [arms.{missing[0]}] stands is not known, so that collisions of the "
            "arms cannot be checked; give base = [x in m, y in m, heading in degrees] for every "
            "arm, or self_collision = false"
        )
    return given


def arm_rest(config: RobotConfig, side: str, *, is_leader: bool = False) -> NDArray[np.float64]:
    """Return the pose in which one arm lies without torque, (7,)."""
    if config.rest and not is_leader:
        return np.array([config.rest[name] for name in joint_names(side)])
    arm = (config.leaders if is_leader else config.arms)[side]
    return np.array([*REST_POSES[arm.model], REST_GRIPPER])
