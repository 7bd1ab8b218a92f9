"""Emulated buses behind ports, spoken to by a real client, dynamixel-sdk.

`make robot-parity` lets feetech-servo-sdk speak to them (scripts/parity_feetech.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput, RobotError
from imitact.robots.emulation import dynamixel
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos, so101_servos
from imitact.robots.emulation.bus import BusServer, EmulatedBus
from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.servos import FirstOrderJoints, ServoModel

Patiently = Callable[[Callable[[], bool]], None]
sdk = pytest.importorskip("dynamixel_sdk")
serial = pytest.importorskip("serial")
TIMEOUT = -3001  # COMM_RX_TIMEOUT of both SDKs


def patient(port: Any) -> Any:
    """Let an SDK's port wait like a machine with time: 20 s, and sleeping instead of spinning."""
    was_timeout, was_millis, was_read = (
        port.setPacketTimeout, port.setPacketTimeoutMillis, port.readPort,
    )  # fmt: skip

    def set_timeout(length: int) -> None:
        was_timeout(length)
        port.packet_timeout += port.patience_ms

    def read(length: int) -> bytes:
        port.ser.timeout = 0.02
        return was_read(length)

    port.patience_ms = 20_000
    port.setPacketTimeout, port.readPort = set_timeout, read
    port.setPacketTimeoutMillis = was_millis
    return port


@contextlib.contextmanager
def client(module: Any, path: str) -> Iterator[tuple[Any, Any]]:
    port = patient(module.PortHandler(path))
    assert port.setBaudRate(1_000_000)
    try:
        yield port, module.PacketHandler(2.0 if module is sdk else 0)
    finally:
        with contextlib.suppress(termios.error, OSError):
            port.closePort()


@pytest.fixture(scope="module")
def follower() -> Iterator[EmulatedBus]:
    with EmulatedBus("dynamixel", aloha_follower_servos()) as bus:
        yield bus


def test_dynamixel_sdk_drives_a_follower_arm(follower: EmulatedBus, patiently: Patiently) -> None:
    with client(sdk, follower.port) as (port, packets):
        for servo in range(1, 10):
            assert packets.ping(port, servo) == (1120 if servo <= 7 else 1020, 0, 0)
        assert packets.write1ByteTxRx(port, 1, 64, 1) == (0, 0)
        assert packets.write1ByteTxRx(port, 1, 11, 4) == (0, 7)  # EEPROM is locked
        goals = sdk.GroupSyncWrite(port, packets, 116, 4)
        goals.addParam(1, list((2500).to_bytes(4, "little")))
        assert goals.txPacket() == 0
        patiently(lambda: packets.read4ByteTxRx(port, 1, 132)[0] == 2500)
        read = sdk.GroupSyncRead(port, packets, 126, 10)
        for servo in range(1, 10):
            read.addParam(servo)
        for exchange in (read.txRxPacket, read.fastSyncRead):
            assert exchange() == 0
            assert [read.getData(i, 132, 4) for i in range(1, 10)] == [2500] + [2048] * 8
        bulk = sdk.GroupBulkRead(port, packets)
        bulk.addParam(1, 132, 4)
        bulk.addParam(9, 144, 2)
        assert bulk.txRxPacket() == 0
        assert (bulk.getData(1, 132, 4), bulk.getData(9, 144, 2)) == (2500, 121)
        assert packets.regWriteTxRx(port, 9, 65, 1, [1]) == (0, 0)
        assert packets.action(port, 9) == 0
        patiently(lambda: packets.read1ByteTxRx(port, 9, 65)[0] == 1)
        found, result = packets.broadcastPing(port)
        assert (len(found), result) == (9, 0)
        truth = follower.truth()
        assert truth.servos[1].has_torque
        assert not truth.servos[2].has_torque
        assert truth.servos[1].goal == 2500
        assert any(goals == {1: 2500} for _, goals in follower.commands())
        assert packets.reboot(port, 1) == (0, 0)
        patiently(lambda: follower.truth().is_limp)


def test_a_client_at_a_wrong_rate_hears_nothing(follower: EmulatedBus) -> None:
    with client(sdk, follower.port) as (port, packets):
        assert packets.ping(port, 9)[1] == 0
        port.setBaudRate(57_600)
        port.patience_ms = 300
        assert packets.ping(port, 9)[1] == TIMEOUT
        port.patience_ms = 20_000
        port.setBaudRate(1_000_000)
        assert packets.ping(port, 9)[1] == 0


def test_faults_come_and_go_from_outside(follower: EmulatedBus, patiently: Patiently) -> None:
    with client(sdk, follower.port) as (port, packets):
        follower.set_fault("dead", ids=(5,))
        port.patience_ms = 300
        assert packets.ping(port, 5)[1] == TIMEOUT
        follower.clear_faults()
        patiently(lambda: packets.ping(port, 5)[1] == 0)
        with pytest.raises(BadInput, match="Did you mean dead"):
            follower.set_fault("daed")
        with pytest.raises(BadInput, match="no servo 77"):
            follower.set_fault("dead", ids=(77,))
        with pytest.raises(BadInput, match="sekonds"):
            follower.set_fault("late", sekonds=3)


def test_a_hand_moves_a_limp_leader(follower: EmulatedBus) -> None:
    assert follower.move({6: 1234.0}) == ()
    assert follower.get_register(6, "present_position") == 1234
    follower.set_register(6, "torque_enable", 1)
    assert follower.move({6: 0.0}) == (6,)
    follower.set_register(6, "torque_enable", 0)


def test_a_plan_runs_by_itself(patiently: Patiently) -> None:
    plan = FaultPlan((Fault("reboot", 0.2, ids=(1,)), Fault("hang_up", 1.5)))
    models = [ServoModel(1, 1020, "joint", {"torque_enable": 1})]
    with EmulatedBus("dynamixel", models, faults=plan) as bus:
        patiently(lambda: bus.truth().is_limp)
        with client(sdk, bus.port) as (port, _packets):

            def is_gone() -> bool:
                try:
                    port.ser.reset_input_buffer()
                except termios.error:  # which is no OSError
                    return True
                return False

            patiently(is_gone)


def test_an_adapter_that_is_plugged_in_again_has_its_link(
    tmp_path: Path, patiently: Patiently
) -> None:
    link = tmp_path / "usb-left"
    with EmulatedBus("dynamixel", aloha_follower_servos(), link=link) as bus:
        bus.set_register(1, "torque_enable", 1)
        bus.set_fault("hang_up")
        patiently(lambda: not link.is_symlink())
        assert bus.truth().servos[1].has_torque  # the power stays
        bus.clear_faults()
        patiently(link.exists)
        assert bus.find_port() == str(link)
        with client(sdk, bus.port) as (port, packets):
            assert packets.ping(port, 1)[1] == 0


def test_a_link_leads_to_the_port(tmp_path: Path) -> None:
    link = tmp_path / "usb-left"
    with EmulatedBus("feetech", so101_servos(), link=link) as bus:
        assert bus.port == str(link)
        assert link.exists()
    assert not link.is_symlink()


def test_what_cannot_be_is_refused_before_a_process_starts() -> None:
    with pytest.raises(BadInput, match="twice"):
        EmulatedBus("feetech", [*so101_servos(), *so101_servos()])
    bus = EmulatedBus("feetech", so101_servos())
    with pytest.raises(RobotError, match="call start first"):
        bus.truth()
    bus.stop()


def test_a_bus_that_was_killed_is_named(tmp_path: Path) -> None:
    with EmulatedBus("feetech", so101_servos()) as bus:
        bus._process.kill()
        bus._process.join()
        with pytest.raises(RobotError, match="process of the emulated bus has ended"):
            bus.truth()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_bus_ends_with_the_process_that_started_it(patiently: Patiently) -> None:
    code = (
        "import time\n"
        "from imitact.robots.emulation.arms import so101_servos\n"
        "from imitact.robots.emulation.bus import EmulatedBus\n"
        "if __name__ == '__main__':\n"
        "    bus = EmulatedBus('feetech', so101_servos())\n"
        "    print(bus.start(), bus._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    port, child = owner.stdout.readline().split()
    assert os.path.exists(port)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()

    def has_ended() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    patiently(has_ended)


# --------------------------------------------------------------------- served by another loop


def test_one_loop_serves_several_buses_on_its_own_clock() -> None:
    clock = VirtualClock()
    servers = [
        BusServer("dynamixel", models, clock=clock)
        for models in (aloha_follower_servos(), aloha_leader_servos())
    ]
    ports = [serial.Serial(server.path, 1_000_000, timeout=0) for server in servers]
    try:
        for server, port in zip(servers, ports, strict=True):
            server.serve_ready()
            port.write(dynamixel.instruction_packet(8, dynamixel.PING))
            end_s = time.monotonic() + 60
            while (due_s := server.next_due_s()) is None:
                server.serve_ready()
                assert time.monotonic() < end_s
            assert port.read(100) == b""
            clock.wait_until(due_s)
            server.serve_ready()
            port.timeout = 60
        models = [int.from_bytes(port.read(14)[9:11], "little") for port in ports]
        assert models == [1020, 1060]
    finally:
        for server, port in zip(servers, ports, strict=True):
            port.close()
            server.close()


class HeavyJoints(FirstOrderJoints):
    """Joints that hang: each sinks while nothing drives it."""

    def advance(self, now_s: float, goals: Any, torque: Any) -> None:
        super().advance(now_s, goals, torque)
        for index, share in enumerate(torque):
            if not share:
                self.positions[index] -= 1.0


def test_other_mechanics_stand_behind_the_servos() -> None:
    clock = VirtualClock()
    joints = HeavyJoints([1000.0, 2000.0], [5000.0] * 2)
    models = [ServoModel(1, 1020, "a"), ServoModel(2, 1020, "b")]
    server = BusServer("dynamixel", models, joints=joints, clock=clock)
    assert server.get_register(1, "present_position") == 999
    server.set_register(2, "torque_enable", 1)
    for _ in range(100):
        clock.wait_until(clock.now_s() + 0.01)
        server.serve_ready()
    assert server.get_register(1, "present_position") < 910
    assert server.get_register(2, "present_position") == pytest.approx(2000, abs=2)
    server.close()
