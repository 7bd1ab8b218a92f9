"""LeRobot's followers by themselves after one late reply: how many reads old each later one is.

    .venv-lerobot/bin/python -m tests.faults.lerobot_alone [--out FILE.json]

LeRobot's class and its SDK run as they are, without imitact's host, on emulated servos and a
virtual clock. A joint is moved between reads, so that a reading says when it was taken. This is
what the host's flush and probes are for; `lerobot_faults` shows that nothing is old with them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from imitact.robots.emulation.bench_config import LEROBOT_TYPES
from imitact.robots.emulation.lerobot_calibration import DEVICE_ID, calibrate
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.world import bus_servos
from tests.faults.lerobot_faults import shown_as
from tests.support.lerobot_virtual import VirtualPorts, VirtualSerial
from tests.support.turn_clock import TurnClock

READS = 40
SDKS = {"so101": "scservo_sdk", "koch": "dynamixel_sdk"}
SPIN_S = 0.0005
STEP = 12
"""How far the joint is moved before each read, ticks."""


class SpinningPorts(VirtualPorts):
    """Ports on which a read without input takes a moment: the SDKs look again and again."""

    def open(self, port: str, baudrate: int, **more: Any) -> VirtualSerial:
        one = super().open(port, baudrate, **more)
        read = one.read

        def slow_read(size: int) -> bytes:
            found = read(size)
            if not found:
                self.clock.wait_until(self.clock.now_s() + SPIN_S)
            return found

        one.read = slow_read  # type: ignore[method-assign]
        return one


def reads_behind(kind: str, late_s: float) -> dict[str, Any]:
    """Return how old the reads after a late reply are, in reads, and how many failed."""
    from imitact_lerobot_host.making import make_device

    clock = TurnClock(100.0)
    protocol = "feetech" if kind == "so101" else "dynamixel"
    bus = ServoBus(protocol, bus_servos(kind)["follower"])
    bus.advance(clock.now_s())
    ports = SpinningPorts(clock, {"follower": bus})
    handler = importlib.import_module(f"{SDKS[kind]}.port_handler")
    kept = handler.time
    handler.time = SimpleNamespace(time=clock.now_s, sleep=lambda s: None)
    try:
        with tempfile.TemporaryDirectory() as folder, ports.installed():
            calibration = calibrate(
                Path(folder), ["follower"], lambda _, *values: bus.set_register(*values)
            )
            settings = {"port": ports.names["follower"]}
            kind_of, id_ = LEROBOT_TYPES[kind][0], DEVICE_ID
            device = make_device("robot", kind_of, id_, calibration["follower"], settings)
            device.bus.connect()
            found = _read_on(device, bus, clock, late_s)
            device.bus.port_handler.closePort()
    finally:
        handler.time = kept
    return found


def _read_on(device: Any, bus: ServoBus, clock: TurnClock, late_s: float) -> dict[str, Any]:
    unit = "deg" if device.bus.motors["shoulder_pan"].norm_mode.name == "DEGREES" else "%"
    behind: list[int] = []
    failed = 0
    for number in range(READS):
        bus.move({1: 1800.0 + STEP * number})
        clock.wait_until(clock.now_s() + 1 / 30)
        bus.advance(clock.now_s())
        if number == 5:
            bus.set_fault("late_once", late_s=late_s)
        try:
            value = device.get_observation()["shoulder_pan.pos"]
        except ConnectionError:
            failed += 1
            continue
        places = np.array([1800.0 + STEP * back for back in range(number + 1)])
        shown = shown_as(0, places, unit)
        behind.append(number - int(np.argmin(np.abs(shown - value))))
    return {"reads": READS, "failed": failed, "behind at the end": behind[-1], "most": max(behind)}


def main() -> int:
    """Print what each does after one late reply of several delays."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {
        kind: {f"{late_s:g} s late": reads_behind(kind, late_s) for late_s in (0.05, 0.1, 0.3)}
        for kind in SDKS
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
