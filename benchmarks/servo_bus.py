"""Emulated servo buses, spoken to by the makers' clients: time of a read, misses, processor time.

    python benchmarks/servo_bus.py [SECONDS]

Run it alone on the machine: a client gives up after about 35 ms, which a busy machine exceeds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import dynamixel_sdk
import numpy as np
import scservo_sdk

from imitact.robots.emulation.arms import aloha_follower_servos, so101_servos
from imitact.robots.emulation.bus import EmulatedBus


def cpu_s(process: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(protocol: str, seconds: float) -> dict[str, float]:
    """Read and command all servos of an arm at up to 100 Hz."""
    is_dynamixel = protocol == "dynamixel"
    sdk = dynamixel_sdk if is_dynamixel else scservo_sdk
    models = aloha_follower_servos() if is_dynamixel else so101_servos()
    with EmulatedBus(protocol, models) as bus:  # type: ignore[arg-type]
        port = sdk.PortHandler(bus.port)
        port.setBaudRate(1_000_000)
        packets = sdk.PacketHandler(2.0 if is_dynamixel else 0)
        read = sdk.GroupSyncRead(port, packets, *((126, 10) if is_dynamixel else (56, 2)))
        write = sdk.GroupSyncWrite(port, packets, *((116, 4) if is_dynamixel else (42, 2)))
        for model in models:
            read.addParam(model.id)
            write.addParam(model.id, [0, 8, 0, 0] if is_dynamixel else [0, 8])
        took: list[float] = []
        misses = 0
        process = bus._process.pid
        begin_cpu_s, begin_s = cpu_s(process), time.monotonic()
        due_s = begin_s
        while (now_s := time.monotonic()) - begin_s < seconds:
            misses += read.txRxPacket() != 0
            took.append(time.monotonic() - now_s)
            write.txPacket()
            due_s = max(due_s + 0.01, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
        used_s, past_s = cpu_s(process) - begin_cpu_s, time.monotonic() - begin_s
        port.closePort()
    p50, p90, p99 = (float(np.percentile(took, share)) * 1e3 for share in (50, 90, 99))
    return {
        "servos": len(models),
        "read_p50_ms": round(p50, 2),
        "read_p90_ms": round(p90, 2),
        "read_p99_ms": round(p99, 2),
        "least_ms": round(min(took) * 1e3, 2),
        "missed_share": round(misses / len(took), 4),
        "cycles_hz": round(len(took) / past_s, 1),
        "bus_cpu_ms_a_cycle": round(used_s / len(took) * 1e3, 3),
    }


if __name__ == "__main__":
    length_s = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    result = {name: measure(name, length_s) for name in ("dynamixel", "feetech")}
    print(json.dumps({"load": os.getloadavg()[0], **result}, indent=1))
