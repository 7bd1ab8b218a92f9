"""Emulated arms: the servos of known arms, set up as their makers and drivers leave them.

Models, drive modes and shadow servos of ALOHA's arms: Interbotix/interbotix_ros_manipulators,
interbotix_xsarms/interbotix_xsarm_control/config/vx300s.yaml and wx250s.yaml (noetic, humble);
limits of the ViperX: the same files. Koch arms: huggingface/lerobot,
src/lerobot/robots/koch_follower/koch_follower.py and teleoperators/koch_leader/koch_leader.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imitact.robots.emulation.servos import ServoModel

ALOHA_SERVOS = (
    "waist", "shoulder", "shoulder_shadow", "elbow", "elbow_shadow", "forearm_roll", "wrist_angle",
    "wrist_rotate", "gripper",
)  # fmt: skip
"""Names of the nine servos of an arm of ALOHA, ids 1 to 9."""

_XM540, _XM430, _XL430, _XC430 = 1120, 1020, 1060, 1070
_XL330_M077, _XL330_M288 = 1190, 1200
_STS3215 = 777
_SHADOWS = {3: 2, 5: 4}
_FOLLOWER_LIMITS = {2: (841, 2867), 4: (898, 3094), 7: (830, 3504)}
_LEADER_LIMITS = {2: (819, 3345), 4: (648, 3094), 7: (910, 3447)}


def _aloha_arm(
    models: Sequence[int],
    reversed_ids: Sequence[int],
    limits: Mapping[int, tuple[int, int]],
    positions: Mapping[int, float],
    changes: Mapping[int, Mapping[str, int]],
) -> list[ServoModel]:
    servos: list[ServoModel] = []
    for number, (name, model) in enumerate(zip(ALOHA_SERVOS, models, strict=True), 1):
        low, high = limits.get(_SHADOWS.get(number, number), (0, 4095))
        registers = {
            "return_delay_time": 0,
            "drive_mode": int(number in reversed_ids),
            "secondary_id": _SHADOWS.get(number, 255),
            "min_position_limit": low,
            "max_position_limit": high,
            **changes.get(number, {}),
        }
        servos.append(
            ServoModel(
                number,
                model,
                name,
                registers,
                position=positions.get(_SHADOWS.get(number, number), 2048.0),
                mounted_reversed=number in reversed_ids,
                same_shaft_as=_SHADOWS.get(number),
            )
        )
    return servos


def aloha_follower_servos(
    positions: Mapping[int, float] | None = None,
    changes: Mapping[int, Mapping[str, int]] | None = None,
) -> list[ServoModel]:
    """Return the servos of a ViperX 300s, ids 1 to 9.

    Args:
        positions: of joints at the start, ticks, by id; 2048 otherwise.
        changes: registers that differ from a well set up arm, by id.
    """
    models = (_XM540,) * 7 + (_XM430,) * 2
    return _aloha_arm(models, (2, 4, 7), _FOLLOWER_LIMITS, positions or {}, changes or {})


def aloha_leader_servos(
    positions: Mapping[int, float] | None = None,
    changes: Mapping[int, Mapping[str, int]] | None = None,
    *,
    gripper_model: int = _XC430,
) -> list[ServoModel]:
    """Return the servos of a WidowX 250s, ids 1 to 9.

    Args:
        positions: of joints at the start, ticks, by id; 2048 otherwise.
        changes: registers that differ from a well set up arm, by id.
        gripper_model: 1070 (XC430-W150) or 1060 (XL430-W250); sources name both.
    """
    models = (_XM430,) * 7 + (_XL430, gripper_model)
    return _aloha_arm(models, (3, 5, 7), _LEADER_LIMITS, positions or {}, changes or {})


SIX_SERVOS = (
    "shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper",
)  # fmt: skip
"""Names of the six servos of an SO-101 or a Koch arm, ids 1 to 6."""


def koch_follower_servos() -> list[ServoModel]:
    """Return the servos of a Koch v1.1 follower, ids 1 to 6."""
    models = (_XL430,) * 2 + (_XL330_M288,) * 4
    return [
        ServoModel(number, model, name)
        for number, (name, model) in enumerate(zip(SIX_SERVOS, models, strict=True), 1)
    ]


def koch_leader_servos() -> list[ServoModel]:
    """Return the servos of a Koch v1.1 leader, ids 1 to 6."""
    return [ServoModel(number, _XL330_M077, name) for number, name in enumerate(SIX_SERVOS, 1)]


def so101_servos() -> list[ServoModel]:
    """Return the servos of an SO-101 (or SO-100), follower or leader, ids 1 to 6: STS3215."""
    return [ServoModel(number, _STS3215, name) for number, name in enumerate(SIX_SERVOS, 1)]
