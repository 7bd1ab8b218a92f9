"""Serial arm: what an arm on LeRobot's serial motor buses (Feetech, Dynamixel) needs around it.

The arm's own code connects, configures, reads and writes. Here is what it lacks: input that is
flushed before each request, an exclusive port, torque that stays as it is while connecting, goals
at the present position before torque, a release of motor by motor, and the health of one motor.
Everything is set on the instances; LeRobot's classes stay as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import select
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imitact_lerobot_host.late_replies import LateReplies
from imitact_lerobot_host.making import HostError

RETRIES = 2
"""Further attempts of a request that got no answer; LeRobot's SO-101 makes as many when reading."""

_WAIT_S = 0.001
_QUIET_S, _LONGEST_QUIET_S = 0.02, 0.1
_TIMING = ("Torque_Enable", "Present_Load", "Present_Current", "Present_Voltage",
           "Present_Input_Voltage", "Present_Temperature", "Status")  # fmt: skip
_FEETECH_ERRORS = {0: "voltage", 1: "encoder", 2: "overheating", 3: "overcurrent", 5: "overload"}
"""Bits of Feetech's status and of the error byte of its replies (STS3215 memory table)."""
_DYNAMIXEL_ERRORS = {
    0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload",
}  # fmt: skip
"""Bits of Dynamixel's Hardware Error Status, address 70 (ROBOTIS e-Manual, X series)."""
_DYNAMIXEL_ALERT = 0x80
_FULL_LOAD = {"xl430-w250": 1000.0, "xl330-m288": 1750.0, "xl330-m077": 1750.0}
"""Register value of the full load at address 126: 0.1 % of the XL430, mA of the XL330."""


def calibrated_as(path: Path, motors: Mapping[str, Any]) -> str:
    """Return the id of another arm whose calibration file is what motors have; empty for none.

    Args:
        path: LeRobot's calibration file of the arm that was expected, beside those of others.
        motors: what the motors have, by name, as LeRobot's `read_calibration` returns it.
    """
    keys = ("homing_offset", "range_min", "range_max")
    found = {name: tuple(getattr(one, key) for key in keys) for name, one in motors.items()}
    for file in sorted(path.parent.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            table = json.loads(file.read_text())
            kept = {name: tuple(one[key] for key in keys) for name, one in table.items()}
            if file != path and kept == found:
                return file.stem
    return ""


class SerialArm:
    """One arm with a `SerialMotorsBus`.

    Attributes:
        prefix: of its joints in the device's values: "", "left_" or "right_".
        arm: LeRobot's object.
        bus: its motor bus.
    """

    def __init__(self, prefix: str, arm: Any, patience: float) -> None:
        """Prepare the arm's port.

        Args:
            prefix: of its joints.
            arm: LeRobot's object, not connected.
            patience: factor of the time-outs.
        """
        self.prefix, self.arm, self.bus = prefix, arm, arm.bus
        self.motors = tuple(self.bus.motors)
        self._quiet_s = min(_QUIET_S * patience, _LONGEST_QUIET_S)
        self._is_enabled = False
        _prepare(self.bus.port_handler, patience)
        self._late = LateReplies(self.bus)
        _flush_before_requests(self.bus.port_handler, self._late)

    def open(self) -> None:
        """Open port and cameras, and check every motor. No torque changes."""
        self.bus.connect()
        if not self.arm.is_calibrated:
            path = Path(self.arm.calibration_fpath)
            if other := calibrated_as(path, self.bus.read_calibration()):
                raise HostError(
                    f"on the port of {self.arm} are the motors that {other} was calibrated with; "
                    "exchange the ports, or the ids"
                )
            what = (
                f"the calibration in its motors differs from {path}"
                if self.arm.calibration
                else f"there is no calibration file {path}"
            )
            raise HostError(f"{self.arm} is not calibrated: {what}")
        for camera in getattr(self.arm, "cameras", {}).values():
            camera.connect()

    def close(self) -> None:
        """Close port and cameras. Never raises; no torque changes.

        LeRobot's `disconnect` would turn torque off, and so would its `__del__` while the port is
        open.
        """
        for close in (self.bus.port_handler.closePort, *self._cameras_to_close()):
            try:
                close()
            except Exception:  # the port may be gone
                continue
        self.bus.port_handler.is_open = False

    def _cameras_to_close(self) -> list[Any]:
        cameras = getattr(self.arm, "cameras", {}).values()
        return [camera.disconnect for camera in cameras if camera.is_connected]

    def settle(self) -> None:
        """Wait until no late reply comes any more, for a short while."""
        port = self.bus.port_handler.ser
        end_s = time.monotonic() + 5 * self._quiet_s
        while time.monotonic() < end_s:
            port.reset_input_buffer()
            if not select.select([port.fileno()], [], [], self._quiet_s)[0]:
                return

    def enable(self) -> None:
        """Turn torque on where it is off, with the goal at the present position."""
        torque = self.torque()
        limp = [motor for motor, is_on in torque.items() if not is_on]
        if not limp:
            self._is_enabled = True
            return
        present = self.bus.sync_read("Present_Position", normalize=False, num_retry=RETRIES)
        for motor in limp:
            goal = present[motor]
            self.bus.write("Goal_Position", motor, goal, normalize=False, num_retry=RETRIES)
        if len(limp) == len(torque):
            self.arm.configure()  # turns torque off and on again
        else:
            self.bus.enable_torque(limp, num_retry=RETRIES)
        if limp := [motor for motor, is_on in self.torque().items() if not is_on]:
            raise HostError(f"{', '.join(limp)} got no torque")
        self._is_enabled = True

    def torque(self) -> dict[str, bool]:
        """Return whether each motor has torque."""
        found: dict[str, bool] = {}
        for motor in self.motors:
            value = self._register(motor, "Torque_Enable")
            if value is None:
                raise HostError(f"{motor} does not answer")
            found[motor] = bool(value)
        return found

    def release(self) -> list[str]:
        """Turn torque off, motor by motor; return those that do not confirm it.

        The requests are sent even where replies are lost: a motor obeys what it hears.
        """
        missing: list[str] = []
        self._is_enabled = False
        for motor in self.motors:
            try:
                self._late.is_off = True
                try:
                    self._write_register(motor, "Torque_Enable", 0)
                finally:
                    self._late.is_off = False
                is_limp = self._register(motor, "Torque_Enable") == 0
            except Exception:  # termios.error and others are no OSError
                is_limp = False
            if not is_limp:
                missing.append(f"{self.prefix}{motor}")
        return missing

    def release_unopened(self) -> list[str]:
        """Open the port without asking any motor, and turn torque off; as `release`."""
        try:
            self.bus.connect(handshake=False)
        except Exception:  # the adapter is gone, or another program has the port
            return [f"{self.prefix}{motor}" for motor in self.motors]
        return self.release()

    def sent(self) -> dict[str, float] | None:
        """Return the goals of the newest command as the servos have them; None where unknown."""
        if getattr(self.bus, "protocol_version", 0) != 0:
            return None
        data = self.bus.sync_writer.data_dict
        if set(data) != {motor.id for motor in self.bus.motors.values()}:
            return None
        raw = {id_: int.from_bytes(bytes(one), "little") for id_, one in data.items()}
        goals = self.bus._decode_sign("Goal_Position", raw)
        if self._is_feetech:  # the servo cuts goals to its EEPROM's range
            for id_, goal in goals.items():
                kept = self.bus.calibration[self.bus._id_to_name(id_)]
                goals[id_] = min(max(goal, kept.range_min), kept.range_max)
        normal = self.bus._normalize(goals)
        return {self.bus._id_to_name(id_): float(value) for id_, value in normal.items()}

    def health(self, motor: str) -> dict[str, Any]:
        """Ask one motor for its health, in one request or two."""
        table = self.bus.model_ctrl_table[self.bus.motors[motor].model]
        spans = {name: table[name] for name in _TIMING if name in table}
        begin = min(address for address, _ in spans.values())
        end = max(address + length for address, length in spans.values())
        id_ = self.bus.motors[motor].id
        port, packets = self.bus.port_handler, self.bus.packet_handler
        data, result, error = packets.readTxRx(port, id_, begin, end - begin)
        if not self.bus._is_comm_success(result) or len(data) < end - begin:
            raise HostError(f"{motor} does not answer: {packets.getTxRxResult(result)}")
        values = {
            name: int.from_bytes(bytes(data[address - begin : address - begin + length]), "little")
            for name, (address, length) in spans.items()
        }
        return self._health_of(motor, values, error)

    def _health_of(self, motor: str, values: dict[str, int], error: int) -> dict[str, Any]:
        voltage = values.get("Present_Voltage", values.get("Present_Input_Voltage"))
        load: float | None = None
        unnamed = False
        if self._is_feetech:
            bits, names = values.get("Status", 0) | error, _FEETECH_ERRORS
            if (raw := values.get("Present_Load")) is not None:
                load = (raw & 0x3FF) / 1000 * (-1 if raw & 0x400 else 1)
        else:
            names, bits = _DYNAMIXEL_ERRORS, 0
            if error & _DYNAMIXEL_ALERT:
                bits = self._register(motor, "Hardware_Error_Status") or 0
                unnamed = not any(bits >> bit & 1 for bit in names)
            raw = values.get("Present_Load", values.get("Present_Current"))
            full = _FULL_LOAD.get(self.bus.motors[motor].model)
            if raw is not None and full is not None:
                load = (raw - 0x10000 if raw & 0x8000 else raw) / full
        errors = [name for bit, name in names.items() if bits >> bit & 1]
        if unnamed:
            errors.append("alert")
        if self._is_enabled and values.get("Torque_Enable") == 0:
            errors.append("no torque")  # as of a motor that restarted, which reports no error
        return {
            "temperature_c": values.get("Present_Temperature"),
            "voltage_v": None if voltage is None else voltage / 10,
            "load": load,
            "errors": errors,
        }

    def range(self, motor: str) -> tuple[float, float] | None:
        """Return the calibrated range of a motor in its unit; None where it is not calibrated."""
        if motor not in self.arm.calibration:
            return None
        kept, id_ = self.arm.calibration[motor], self.bus.motors[motor].id
        ends = [
            float(self.bus._normalize({id_: end})[id_]) for end in (kept.range_min, kept.range_max)
        ]
        return min(ends), max(ends)

    @property
    def _is_feetech(self) -> bool:
        return "Status" in self.bus.model_ctrl_table[next(iter(self.bus.motors.values())).model]

    def _address(self, motor: str, name: str) -> tuple[int, int]:
        return self.bus.model_ctrl_table[self.bus.motors[motor].model][name]

    def _register(self, motor: str, name: str) -> int | None:
        """Return a register whether or not the servo reports errors; None without an answer."""
        address, length = self._address(motor, name)
        id_ = self.bus.motors[motor].id
        value, result, _ = self.bus._read(
            address, length, id_, num_retry=RETRIES, raise_on_error=False
        )
        return int(value) if self.bus._is_comm_success(result) else None

    def _write_register(self, motor: str, name: str, value: int) -> None:
        address, length = self._address(motor, name)
        id_ = self.bus.motors[motor].id
        self.bus._write(address, length, id_, value, num_retry=RETRIES, raise_on_error=False)


def is_serial(arm: Any) -> bool:
    """Whether an object of LeRobot is an arm on a serial motor bus, and no more than that."""
    from lerobot.motors.motors_bus import SerialMotorsBus

    return isinstance(getattr(arm, "bus", None), SerialMotorsBus) and hasattr(arm, "configure")


def _prepare(port: Any, patience: float) -> None:
    """Change one port of the servos' SDK: wait without spinning, own the port.

    The SDKs time with the wall clock, which jumps, and they spin.
    """
    set_up, read = port.setupPort, port.readPort
    set_timeout, set_millis = port.setPacketTimeout, port.setPacketTimeoutMillis

    def setup_port(*arguments: Any) -> Any:
        done = set_up(*arguments)
        if done:
            _claim(port)
        return done

    def read_port(length: int) -> Any:
        if not port.ser.in_waiting:
            select.select([port.ser.fileno()], [], [], _WAIT_S)
        return read(length)

    def set_packet_timeout(length: int) -> None:
        set_timeout(length)
        port.packet_timeout *= patience

    def set_packet_timeout_millis(millis: float) -> None:
        set_millis(millis)
        port.packet_timeout *= patience

    port.setupPort, port.readPort = setup_port, read_port
    port.setPacketTimeout = set_packet_timeout
    port.setPacketTimeoutMillis = set_packet_timeout_millis
    port.getCurrentTime = lambda: round(time.monotonic_ns() / 1e6, 3)


def _flush_before_requests(port: Any, late: LateReplies) -> None:
    """Let no reply that came, or may still come, be taken for that of the next request."""
    write = port.writePort

    def write_port(packet: Any) -> Any:
        late.before_request()
        port.ser.reset_input_buffer()
        return write(packet)

    port.writePort = write_port


def _claim(port: Any) -> None:
    """Own an open port: flock for those who ask, TIOCEXCL for all but root."""
    try:
        fcntl.flock(port.ser.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        port.closePort()
        raise HostError(
            f"another process uses {port.getPortName()}; end it, two programs on one port make "
            "each other's replies unreadable"
        ) from None
    with contextlib.suppress(OSError):  # no terminal, as a port over the network
        fcntl.ioctl(port.ser.fileno(), termios.TIOCEXCL)
