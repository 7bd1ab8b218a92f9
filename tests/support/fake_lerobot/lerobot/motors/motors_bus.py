# ruff: noqa: N802, SIM115
"""A bus of Feetech servos in memory, with the names of LeRobot's and its defects.

Faults are read from a JSON file at each request: {"dead": [ids], "errors": {id: bits}, "read":
"late" (lost, and in the input afterwards), "retried" (the same, but a retry succeeded), "later" (it
comes during the next request), "hang" or the name of an exception}. Registers are kept in another
JSON file, so that they outlive the program.
"""

from __future__ import annotations

import builtins
import json
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

MotorNormMode = Enum("MotorNormMode", "DEGREES RANGE_0_100")
TABLE = {
    "Torque_Enable": (40, 1), "Goal_Position": (42, 2), "Present_Position": (56, 2),
    "Present_Load": (60, 2), "Present_Voltage": (62, 1), "Present_Temperature": (63, 1),
    "Status": (65, 1),
}  # fmt: skip
NAMES = {address: name for name, (address, _) in TABLE.items()}


class _Serial:
    def __init__(self, path):
        self.file = open(path, "ab")
        self.stale, self.arriving = [], []
        self.in_waiting = 1

    def fileno(self):
        return self.file.fileno()

    def reset_input_buffer(self):
        self.stale.clear()


class _Port:
    def __init__(self, path):
        self.path, self.ser, self.is_open, self.is_using = path, None, False, False
        self.packet_timeout = 0.0

    def setupPort(self, baud):
        self.ser, self.is_open = _Serial(self.path), True
        return True

    def openPort(self):
        return self.setupPort(1_000_000)

    def closePort(self):
        self.is_open = False
        self.ser.file.close()

    def getPortName(self):
        return self.path

    def writePort(self, packet):
        if self.is_using:
            raise ConnectionError("Port is in use!")
        return len(packet)

    def readPort(self, length):
        return b""

    def setPacketTimeout(self, length):
        self.packet_timeout = 50

    def setPacketTimeoutMillis(self, millis):
        self.packet_timeout = millis

    def isPacketTimeout(self):
        return False

    def getCurrentTime(self):
        return time.time()


class SerialMotorsBus:
    protocol_version = 0

    def __init__(self, config, motors, calibration):
        self.motors, self.calibration, self._config = motors, calibration, config
        self.port_handler = _Port(config.port)
        self.packet_handler = self
        self.sync_writer = SimpleNamespace(data_dict={})
        self.model_ctrl_table = {"sts3215": TABLE}
        self._state = Path(config.state)

    # What tests look at.

    def registers(self):
        if self._state.exists():
            return json.loads(self._state.read_text())
        start = dict.fromkeys(TABLE, 0)
        start.update(Present_Position=2000, Present_Voltage=121, Present_Temperature=31)
        return {str(motor.id): dict(start) for motor in self.motors.values()}

    def _keep(self, registers):
        self._state.write_text(json.dumps(registers))

    @property
    def _faults(self):
        path = Path(self._config.faults)
        return json.loads(path.read_text()) if path.exists() else {}

    # What LeRobot has.

    @property
    def is_connected(self):
        return self.port_handler.is_open

    def connect(self, handshake=True):
        self.port_handler.openPort()
        self.port_handler.setPacketTimeoutMillis(1000)
        if dead := self._faults.get("dead"):
            raise RuntimeError(f"Missing motor IDs: {dead}")

    def _request(self):
        self.port_handler.writePort(b"request")
        return self._faults

    def sync_read(self, name, normalize=True, num_retry=0):
        faults = self._request()
        reply = {m.id: self.registers()[str(m.id)][name] for m in self.motors.values()}
        ser, fault = self.port_handler.ser, faults.get("read")
        if fault in ("late", "later"):
            (ser.stale if fault == "late" else ser.arriving).append(reply)
            raise ConnectionError("There is no status packet!")
        if ser.arriving:
            ser.stale += ser.arriving
            ser.arriving.clear()
        if fault == "retried":
            ser.stale.append(reply)
        elif fault == "hang":
            time.sleep(0.5)
        elif fault:
            self.port_handler.is_using = True
            raise getattr(builtins, fault)()
        if faults.get("dead"):
            raise ConnectionError("There is no status packet!")
        if ser.stale:  # the input is not flushed: every later reply is an old one
            ser.stale.append(reply)
            reply = ser.stale.pop(0)
        values = self._normalize(reply) if normalize else reply
        return {self._id_to_name(id_): value for id_, value in values.items()}

    def sync_write(self, name, values):
        self._request()
        raw = self._unnormalize({self.motors[motor].id: value for motor, value in values.items()})
        self.sync_writer.data_dict = {
            id_: list(goal.to_bytes(2, "little")) for id_, goal in raw.items()
        }
        registers = self.registers()
        for id_, goal in raw.items():
            registers[str(id_)][name] = goal
            if registers[str(id_)]["Torque_Enable"]:
                registers[str(id_)]["Present_Position"] = goal
        self._keep(registers)

    def write(self, name, motor, value, normalize=True, num_retry=0):
        address, length = TABLE[name]
        result, error = self._write(address, length, self.motors[motor].id, value)
        if result or error:
            raise RuntimeError(f"{motor}: {result} {error}")

    def read_calibration(self):
        return {}  # of no arm that has a file

    def enable_torque(self, motors=None, num_retry=0):
        for motor in motors or self.motors:
            self.write("Torque_Enable", motor, 1)

    def _read(self, address, length, id_, *, num_retry=0, raise_on_error=True, err_msg=""):
        faults = self._request()
        if id_ in faults.get("dead", ()):
            return 0, -6, 0
        error = faults.get("errors", {}).get(str(id_), 0)
        return self.registers()[str(id_)][NAMES[address]], 0, error

    def _write(self, address, length, id_, value, *, num_retry=0, raise_on_error=True, err_msg=""):
        faults = self._request()
        if id_ in faults.get("dead", ()):
            return -6, 0
        registers = self.registers()
        registers[str(id_)][NAMES[address]] = value
        registers[str(id_)].setdefault("log", []).append([NAMES[address], value])
        self._keep(registers)
        return 0, faults.get("errors", {}).get(str(id_), 0)

    def readTxRx(self, port, id_, address, length):
        faults = self._request()
        if id_ in faults.get("dead", ()):
            return [], -6, 0
        data = bytearray(length)
        for name, (at, size) in TABLE.items():
            if address <= at < address + length:
                value = self.registers()[str(id_)][name]
                data[at - address : at - address + size] = value.to_bytes(size, "little")
        return list(data), 0, faults.get("errors", {}).get(str(id_), 0)

    def rxPacket(self, port):
        raise NotImplementedError

    def getTxRxResult(self, result):
        return "[TxRxResult] There is no status packet!"

    def _is_comm_success(self, result):
        return result == 0

    def _decode_sign(self, name, values):
        return values

    def _id_to_name(self, id_):
        return next(name for name, motor in self.motors.items() if motor.id == id_)

    def _ends(self, id_):
        kept = self.calibration[self._id_to_name(id_)]
        return kept.range_min, kept.range_max

    def _normalize(self, values):
        found = {}
        for id_, value in values.items():
            low, high = self._ends(id_)
            if self.motors[self._id_to_name(id_)].norm_mode is MotorNormMode.DEGREES:
                found[id_] = (value - (low + high) / 2) * 360 / 4095
            else:
                found[id_] = (min(high, max(low, value)) - low) / (high - low) * 100
        return found

    def _unnormalize(self, values):
        found = {}
        for id_, value in values.items():
            low, high = self._ends(id_)
            if self.motors[self._id_to_name(id_)].norm_mode is MotorNormMode.DEGREES:
                found[id_] = int(value * 4095 / 360 + (low + high) / 2)
            else:
                found[id_] = int(min(100, max(0, value)) / 100 * (high - low) + low)
        return found
