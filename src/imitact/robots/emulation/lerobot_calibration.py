"""LeRobot calibration: files and registers of emulated arms that LeRobot has calibrated.

LeRobot keeps <id>.json for each arm, and compares it with the registers of its servos when it
connects (lerobot/motors/motors_bus.py: MotorCalibration, is_calibrated).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from imitact.robots.emulation.arms import SIX_SERVOS
from imitact.storage.atomic import write_bytes

DEVICE_ID = "bench"
"""LeRobot's id of an emulated device; arms of a pair are bench_left and bench_right."""

REACH = 1100
"""Half of a joint's range, ticks: 97 degrees."""

_NARROWER = 10
"""By which the first joint of a right arm reaches less to both sides, ticks."""

_FULL_TURN = "wrist_roll"
_MIDDLE, _LAST = 2048, 4095


def calibrate(
    folder: Path, buses: Iterable[str], set_register: Callable[[str, int, str, int], None]
) -> dict[str, str]:
    """Set servos as LeRobot's calibration leaves them, and write its files.

    Args:
        folder: for the files, in folders "follower" and "leader".
        buses: "follower", "leader_left", ...
        set_register: sets a register: bus, id of the servo, name, value.

    Returns:
        The folder of the files of each role, as LeRobot's calibration_dir.
    """
    folders: dict[str, str] = {}
    for bus in buses:
        role, _, side = bus.partition("_")
        table: dict[str, dict[str, int]] = {}
        for number, joint in enumerate(SIX_SERVOS, 1):
            is_full = joint == _FULL_TURN
            low = 0 if is_full else _MIDDLE - REACH
            high = _LAST if is_full else _MIDDLE + REACH
            if side == "right" and number == 1:  # no two arms are calibrated alike
                low, high = low + _NARROWER, high - _NARROWER
            set_register(bus, number, "homing_offset", 0)
            set_register(bus, number, "min_position_limit", low)
            set_register(bus, number, "max_position_limit", high)
            table[joint] = {
                "id": number,
                "drive_mode": 0,
                "homing_offset": 0,
                "range_min": low,
                "range_max": high,
            }
        path = folder / role / f"{DEVICE_ID}{f'_{side}' if side else ''}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(table, indent=4).encode())
        folders[role] = str(path.parent)
    return folders
