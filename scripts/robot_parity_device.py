"""One device of LeRobot, by itself: connect with calibration, ticks, disconnect. No imitact.

    .venv-lerobot/bin/python scripts/robot_parity_device.py '{"kind": "robot", "type": ...}'

robot_parity.py runs this, plays the person at its prompts, and moves the arm. LeRobot's classes are
used as they are; only the time-outs of the servos' SDK are longer, for a busy computer.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

from imitact_lerobot_host.making import make_device


def patient(device: Any, patience: float) -> None:
    """Make the time-outs of the device's buses longer, on the instances."""
    arms = [device.left_arm, device.right_arm] if hasattr(device, "left_arm") else [device]
    for arm in arms:
        port = arm.bus.port_handler
        set_timeout = port.setPacketTimeout

        def longer(length: int, port: Any = port, set_timeout: Any = set_timeout) -> None:
            set_timeout(length)
            port.packet_timeout *= patience

        port.setPacketTimeout = longer


def main() -> None:
    """Run the device that the first argument describes, and print what came of it."""
    plan = json.loads(sys.argv[1])
    device = make_device(
        plan["kind"], plan["type"], plan["id"], plan["calibration"], plan["settings"]
    )
    patient(device, plan["patience"])
    device.connect(calibrate=True)
    print("CONNECTED", flush=True)
    start = begin = None
    least, most = math.inf, -math.inf
    for tick in range(plan["ticks"]):
        values = device.get_observation() if plan["kind"] == "robot" else device.get_action()
        if begin is None:
            begin, start = time.perf_counter(), dict(values)
        name = next(iter(start))
        least, most = min(least, values[name]), max(most, values[name])
        if plan["kind"] == "robot":
            offset = 10 * math.sin(tick / 100)
            device.send_action({joint: value + offset for joint, value in start.items()})
    assert begin is not None
    mean_ms = (time.perf_counter() - begin) / plan["ticks"] * 1000
    device.disconnect()
    print("RESULT", json.dumps({"tick_ms": mean_ms, "moved": most - least}), flush=True)


if __name__ == "__main__":
    main()
