"""LeRobot driver: any robot or teleoperator of LeRobot, driven by LeRobot's own code.

The code runs in a program of LeRobot's environment (`LeRobotProcess`). Names are those of LeRobot's
features, "shoulder_pan.pos", and units the driver's own, "deg" or "%": datasets and policies of
LeRobot fit, and limits are converted, never data.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, RobotError
from imitact.core.robot import ServoHealth
from imitact.core.types import Camera, FloatArray, Spec
from imitact.parallel.mailbox import Mailbox
from imitact.robots.config import LeRobotConfig
from imitact.robots.lerobot_process import LeRobotProcess, check_python

Kind = Literal["robot", "leader"]

READ_TIMEOUT_S = 2.0
"""Time for a read or a command, s: LeRobot's SO-101 tries a lost read three times, 0.23 s, and two
arms twice that."""

ORDER_TIMEOUT_S = 10.0
"""Time to turn torque on or off, motor by motor with retries, s."""

OPEN_TIMEOUT_S = 60.0
"""Time to open a device, s: 42 requests to an SO-101, and cameras that warm up."""


@dataclass(frozen=True)
class LeRobotDevice:
    """What a device of LeRobot is, without being connected.

    Attributes:
        spec: its values; cameras are those that LeRobot drives.
        ranges: calibrated range of each action in its unit; None where it is not known.
        keeps_torque: whether connecting it changes no torque.
    """

    spec: Spec
    ranges: tuple[tuple[float, float] | None, ...]
    keeps_torque: bool

    @property
    def driver_spec(self) -> Spec:
        """The Spec of its driver; cameras belong to that of the robot."""
        return dataclasses.replace(self.spec, cameras=())

    @classmethod
    def from_json(cls, values: Mapping[str, Any], rate_hz: float) -> LeRobotDevice:
        """Return the device that the program describes.

        Raises:
            RobotError: the description is not understood, or it has no joints.
        """
        try:
            states, actions = list(values["states"]), list(values["actions"])
            spec = Spec(
                tuple(str(name) for name, _ in states),
                tuple(str(name) for name, _ in actions),
                tuple(str(unit) for _, unit in states),
                tuple(str(unit) for _, unit in actions),
                tuple(Camera(str(n), int(h), int(w)) for n, h, w in values["cameras"]),
                rate_hz,
            )
            ranges = tuple(
                None if ends is None else (float(ends[0]), float(ends[1]))
                for ends in values["ranges"]
            )
            return cls(spec, ranges, bool(values["keeps_torque"]))
        except (KeyError, TypeError, ValueError, IndexError, ImitactError) as error:
            raise RobotError(
                f"the description of LeRobot's device cannot be used: {error}"
            ) from None


class LeRobotDriver:
    """A device of LeRobot as a `Driver`.

    Connecting an arm on serial buses changes no torque; any other device is connected as LeRobot
    does, which may turn it off and on.
    """

    def __init__(
        self,
        process: LeRobotProcess,
        kind: Kind,
        config: LeRobotConfig,
        rate_hz: float,
        frames: Mapping[str, Mailbox] | None = None,
        patience: float = 1.0,
    ) -> None:
        """Prepare the driver.

        Args:
            process: in which LeRobot runs; it is started where it does not run.
            kind: of device.
            config: of the device.
            rate_hz: of control, for the Spec.
            frames: mailboxes of the cameras that LeRobot drives, by name.
            patience: factor of the time-outs.
        """
        self._process, self._config = process, config
        self._kind: Kind = kind
        self._rate_hz, self._frames, self._patience = rate_hz, dict(frames or {}), patience
        self._device: LeRobotDevice | None = None

    @property
    def spec(self) -> Spec:
        """What is measured and commanded.

        Raises:
            RobotError: the device was not opened yet.
        """
        if self._device is None:
            raise RobotError(f"{self._config.type} of LeRobot is not open")
        return self._device.driver_spec

    @property
    def device(self) -> LeRobotDevice:
        """The device as LeRobot describes it.

        Raises:
            RobotError: it was not opened yet.
        """
        if self._device is None:
            raise RobotError(f"{self._config.type} of LeRobot is not open")
        return self._device

    def connect(self) -> None:
        """Start LeRobot where it does not run, and open the device."""
        if not self._process.is_alive:
            self._process.start([box.fileno() for box in self._frames.values()])
        frames = {
            name: {"file": box.fileno(), "shape": list(box.shape), "slots": box.slots}
            for name, box in self._frames.items()
        }
        request = device_request(self._kind, self._config)
        answer, _ = self._process.ask(
            "open",
            timeout_s=OPEN_TIMEOUT_S * self._patience,
            frames=frames,
            patience=self._patience,
            **request,
        )
        self._device = LeRobotDevice.from_json(answer.get("device") or {}, self._rate_hz)

    def enable(self) -> None:
        """Turn the torque on with the goal at the present position, where it is off."""
        self._ask("enable", ORDER_TIMEOUT_S)

    def read(self) -> FloatArray:
        """Return the measured values, (S,)."""
        _, values = self._ask("read", READ_TIMEOUT_S)
        return self._checked(values, self.spec.state_size, "read")

    def write(self, action: FloatArray) -> FloatArray:
        """Send joint targets, (A,); return the goals as the servos have them."""
        _, values = self._ask("write", READ_TIMEOUT_S, np.asarray(action, np.float64))
        return self._checked(values, self.spec.action_size, "write")

    def check_next(self) -> tuple[str, ServoHealth]:
        """Ask one motor, the next in turn, for its health.

        Raises:
            RobotError: it did not answer, or the device has no motors that can be asked.
        """
        answer, _ = self._ask("check", READ_TIMEOUT_S)
        found = answer.get("health")
        if not isinstance(found, dict):
            raise RobotError(f"{self._config.type} of LeRobot has no motors that tell their health")
        errors = tuple(str(error) for error in found.get("errors") or ())
        health = ServoHealth(
            time.monotonic(),
            _number(found.get("temperature_c")),
            _number(found.get("voltage_v")),
            _number(found.get("load")),
            errors,
        )
        return str(found.get("joint")), health

    def release(self) -> tuple[str, ...]:
        """Turn the torque off, motor by motor; return the joints that did not confirm it.

        A device that cannot be opened, as where a motor is dead, is released without its checks.
        """
        if self._device is not None:
            answer, _ = self._ask("release", ORDER_TIMEOUT_S)
        else:
            if not self._process.is_alive:
                self._process.start()
            answer, _ = self._process.ask(
                "release",
                timeout_s=ORDER_TIMEOUT_S * self._patience,
                patience=self._patience,
                **device_request(self._kind, self._config),
            )
        return tuple(str(joint) for joint in answer.get("missing") or ())

    def close(self) -> None:
        """Close the ports; the program goes on. No torque of a robot changes."""
        try:
            self._process.ask("close", timeout_s=ORDER_TIMEOUT_S)
        except RobotError:
            self._process.stop()

    def _ask(
        self, do: str, timeout_s: float, values: NDArray[np.float64] | Sequence[float] = ()
    ) -> tuple[dict[str, Any], NDArray[np.float64]]:
        return self._process.ask(do, values, timeout_s=timeout_s * self._patience)

    def _checked(self, values: NDArray[np.float64], size: int, what: str) -> NDArray[np.float64]:
        if values.shape != (size,):
            raise RobotError(
                f"LeRobot answered a {what} with {values.size} values, expected {size}"
            )
        return values


@dataclass(frozen=True, eq=False)
class LeRobotMaker:
    """Makes drivers of one device, which share one program of LeRobot.

    It is given to the host process, which starts the program when it first opens a driver: LeRobot
    is imported once, even where a driver is replaced by a new one.
    """

    python: str
    kind: Kind
    config: LeRobotConfig
    rate_hz: float
    frames: Mapping[str, Mailbox] = field(default_factory=dict)
    patience: float = 1.0
    _processes: list[LeRobotProcess] = field(default_factory=list, init=False)

    def __call__(self) -> LeRobotDriver:
        """Return a new driver."""
        if not self._processes:
            self._processes.append(LeRobotProcess(self.python))
        return LeRobotDriver(
            self._processes[0], self.kind, self.config, self.rate_hz, self.frames, self.patience
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return LeRobotMaker, (
            self.python, self.kind, self.config, self.rate_hz, dict(self.frames), self.patience,
        )  # fmt: skip


def describe(
    python: str, devices: Sequence[tuple[Kind, LeRobotConfig]], rate_hz: float
) -> list[LeRobotDevice]:
    """Return what devices of LeRobot are; none is connected. LeRobot is started for it.

    Raises:
        RobotError: LeRobot cannot be started.
        BadInput: a device's type or settings cannot be used.
    """
    process = LeRobotProcess(check_python(python))
    process.start()
    found: list[LeRobotDevice] = []
    try:
        for kind, config in devices:
            request = device_request(kind, config)
            try:
                answer, _ = process.ask("describe", timeout_s=OPEN_TIMEOUT_S, **request)
            except RobotError as error:
                table = "lerobot" if kind == "robot" else "lerobot_leader"
                raise BadInput(f"[{table}]: {error}") from None
            found.append(LeRobotDevice.from_json(answer.get("device") or {}, rate_hz))
    finally:
        process.stop()
    return found


def device_request(kind: Kind, config: LeRobotConfig) -> dict[str, Any]:
    """Return the fields of a request that names a device."""
    return {
        "kind": kind,
        "type": config.type,
        "id": config.id,
        "calibration": config.calibration,
        "settings": _plain(config.settings),
    }


def _plain(value: Any) -> Any:
    """Return settings as JSON has them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise BadInput(f"a setting of LeRobot is {value!s}; expected text, a number, a list or a table")


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
