"""Device: one LeRobot robot or teleoperator as imitact drives it.

An arm, or a pair of arms, on serial motor buses (SO-100, SO-101, Koch, OMX and their pairs) is
opened without a change of torque, and released motor by motor (`serial_arm`). Any other device is
connected as LeRobot does, which may turn torque off and on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imitact_lerobot_host.frame_box import FrameBox
from imitact_lerobot_host.making import HostError
from imitact_lerobot_host.serial_arm import SerialArm, is_serial

UNKNOWN_UNIT = "unknown"
_OLDEST_MS = 1_000_000_000
"""Age up to which LeRobot hands out a camera's frame; imitact judges the age itself."""


class Device:
    """One device. Its calls wait for the hardware, and may raise whatever its driver raises."""

    def __init__(
        self,
        device: Any,
        kind: str,
        type_name: str,
        frames: Mapping[str, FrameBox] | None = None,
        patience: float = 1.0,
    ) -> None:
        """Prepare a device that is not connected.

        Args:
            device: LeRobot's object.
            kind: "robot" or "leader".
            type_name: LeRobot's name of it, for messages.
            frames: mailboxes of its cameras' frames, by name.
            patience: factor of the time-outs of serial buses.
        """
        self._device, self._kind, self._type = device, kind, type_name
        self._frames = dict(frames or {})
        self._posted: dict[str, tuple[object, float]] = {}
        self._is_suspect = False
        self.is_opened = False
        parts = [("", device)]
        if hasattr(device, "left_arm") and hasattr(device, "right_arm"):
            parts = [("left_", device.left_arm), ("right_", device.right_arm)]
        self._parts = parts
        self._arms: list[SerialArm] = []
        if all(is_serial(arm) for _, arm in parts):
            self._arms = [SerialArm(prefix, arm, patience) for prefix, arm in parts]
        turns = [(arm, motor) for arm in self._arms for motor in arm.motors]
        self._turns = itertools.cycle(turns) if turns else None
        features = dict(device.action_features)
        self.action_names = tuple(name for name, kind in features.items() if not _is_image(kind))
        if kind == "robot":
            features = dict(device.observation_features)
        self.state_names = tuple(name for name, kind in features.items() if not _is_image(kind))
        self._cameras = {
            name: tuple(shape)
            for name, shape in features.items()
            if _is_image(shape) and tuple(shape)[-1] == 3
        }

    def describe(self) -> dict[str, Any]:
        """Return names, units, ranges and cameras; nothing is connected for it."""
        for name, (height, width, _) in self._cameras.items():
            if not height or not width:
                raise HostError(f"camera {name} has no size; set its width and height")
        return {
            "states": [[name, self._unit(name)] for name in self.state_names],
            "actions": [[name, self._unit(name)] for name in self.action_names],
            "ranges": [self._range(name) for name in self.action_names],
            "cameras": [[name, h, w] for name, (h, w, _) in self._cameras.items()],
            "keeps_torque": bool(self._arms),
        }

    def open(self) -> None:
        """Connect; torque does not change where all arms are serial."""
        try:
            if self._arms and self._kind == "robot":
                for arm in self._arms:
                    arm.open()
            else:
                self._connect()
        except Exception as error:
            self.close()
            if isinstance(error, HostError) and "not calibrated" in str(error):
                raise HostError(f"{error}; {self._calibrate_words}") from None
            raise
        self.is_opened = True

    def enable(self) -> None:
        """Turn torque on with the goal at the present position, where it is off."""
        if self._kind == "leader":
            return
        for arm in self._arms:
            arm.enable()
        if not self._arms:
            if not self._device.is_connected:
                self._connect()
            for _, bus in self._buses:
                bus.enable_torque()

    def read(self) -> list[float]:
        """Return the measured values, (S,); post new frames.

        After a failed request its late reply may still come, and would be taken for that of the
        next request; so one read is made and dropped first, and what comes after it, too.
        """
        if self._is_suspect and self._arms:
            self._observed()
            for arm in self._arms:
                arm.settle()
            self._is_suspect = False
        values = self._observed()
        if self._kind == "robot":
            self._post_frames(values)
        return [float(values[name]) for name in self.state_names]

    def _observed(self) -> Mapping[str, Any]:
        if self._kind == "leader":
            return self._device.get_action()
        self._keep_old_frames()
        return self._device.get_observation()

    def write(self, action: Sequence[float]) -> list[float]:
        """Send joint targets, (A,); return them as the servos have them, where that is known."""
        if len(action) != len(self.action_names) or not np.all(np.isfinite(action)):
            raise HostError(
                f"an action of {len(action)} values, {len(self.action_names)} finite ones expected"
            )
        if self._kind == "leader":
            raise HostError("a leader is not commanded")
        asked = dict(zip(self.action_names, map(float, action), strict=True))
        sent = dict(self._device.send_action(asked))
        for arm in self._arms:
            goals = arm.sent()
            if goals is not None:
                sent.update({f"{arm.prefix}{motor}.pos": goal for motor, goal in goals.items()})
        # Some arms have actions that they do not send, such as velocities, and leave them out.
        return [float(sent.get(name, asked[name])) for name in self.action_names]

    def check_next(self) -> dict[str, Any] | None:
        """Ask one motor, the next in turn, for its health; None where that is not possible."""
        if self._turns is None:
            return None
        arm, motor = next(self._turns)
        return {"joint": f"{arm.prefix}{motor}.pos", **arm.health(motor)}

    def release(self) -> list[str]:
        """Turn torque off; return the joints that do not confirm it, or the failure in words."""
        if self._arms:
            return [motor for arm in self._arms for motor in arm.release()]
        if self._buses:
            return [name for part in self._buses for name in self._released(*part)]
        try:
            self._device.disconnect()
        except Exception as error:
            return [f"{self._type} ({type(error).__name__}: {error})"]
        return []

    def release_unopened(self) -> list[str]:
        """Turn torque off on a device that cannot be opened; as `release`.

        Raises:
            HostError: it has no serial arms, and so must be open.
        """
        if not self._arms:
            raise HostError(f"{self._type} is not open, so it cannot be released")
        return [motor for arm in self._arms for motor in arm.release_unopened()]

    def close(self) -> None:
        """Close ports and cameras; never raises.

        Torque stays as it is on serial arms of a robot. A leader is made limp, and any other device
        is disconnected by its own code.
        """
        try:
            if self._arms:
                if self._kind == "leader" and self.is_opened:
                    self.release()
            elif self._device.is_connected:
                self._device.disconnect()
        except Exception:  # a driver that failed may fail here as well
            pass
        for arm in self._arms:
            arm.close()
        self.is_opened = False

    def clear(self) -> None:
        """Free the ports after a failed request: the SDK leaves them marked as in use."""
        self._is_suspect = True
        for arm in self._arms:
            arm.bus.port_handler.is_using = False

    # ------------------------------------------------------------------ parts

    def _connect(self) -> None:
        self._device.connect(calibrate=False)
        if not self._device.is_calibrated:
            raise HostError(
                f"{self._type} is not calibrated: there is no calibration file, or its motors "
                "have another calibration"
            )

    @property
    def _calibrate_words(self) -> str:
        verb = "robot" if self._kind == "robot" else "teleop"
        return (
            f"run lerobot-calibrate --{verb}.type={self._type} with the same id and ports, in "
            "LeRobot's environment"
        )

    @property
    def _buses(self) -> list[tuple[str, Any]]:
        """Motor buses of arms that are not serial, such as CAN, with the prefix of their joints."""
        found = [(prefix, getattr(arm, "bus", None)) for prefix, arm in self._parts]
        return [(prefix, bus) for prefix, bus in found if hasattr(bus, "disable_torque")]

    @staticmethod
    def _released(prefix: str, bus: Any) -> list[str]:
        missing: list[str] = []
        for motor in bus.motors:
            try:
                bus.disable_torque(motor)
            except Exception:
                missing.append(f"{prefix}{motor}")
        return missing

    def _unit(self, name: str) -> str:
        found = self._motor(name)
        if found is None:
            return UNKNOWN_UNIT
        _, bus, motor = found
        return "deg" if bus.motors[motor].norm_mode.name == "DEGREES" else "%"

    def _range(self, name: str) -> tuple[float, float] | None:
        for arm in self._arms:
            motor = name.removeprefix(arm.prefix).removesuffix(".pos")
            if name.startswith(arm.prefix) and motor in arm.motors:
                return arm.range(motor)
        return None

    def _motor(self, name: str) -> tuple[str, Any, str] | None:
        if not name.endswith(".pos"):
            return None
        for prefix, arm in self._parts:
            motor = name.removeprefix(prefix).removesuffix(".pos")
            bus = getattr(arm, "bus", None)
            if name.startswith(prefix) and motor in getattr(bus, "motors", {}):
                return prefix, bus, motor
        return None

    # ------------------------------------------------------------------ cameras

    def _camera(self, name: str) -> Any:
        for prefix, arm in [("", self._device), *self._parts]:
            cameras = getattr(arm, "cameras", {})
            for key in (name, name.removeprefix(prefix)):
                if key in cameras:
                    return cameras[key]
        return None

    def _keep_old_frames(self) -> None:
        """Let cameras hand out frames of any age: a frozen camera must not stop the joints."""
        for name in self._cameras:
            camera = self._camera(name)
            if hasattr(camera, "latest_timestamp") and "read_latest" not in vars(camera):
                read = camera.read_latest
                camera.read_latest = lambda max_age_ms=0, read=read: read(max_age_ms=_OLDEST_MS)

    def _post_frames(self, values: Mapping[str, Any]) -> None:
        for name, box in self._frames.items():
            frame = values.get(name)
            stamp = getattr(self._camera(name), "latest_timestamp", None)
            now_s = time.monotonic()
            # LeRobot's cameras stamp with perf_counter; without a stamp the arrival is taken.
            captured_s = now_s if stamp is None else now_s - (time.perf_counter() - stamp)
            before, before_s = self._posted.get(name, (None, -1.0))
            is_known = frame is before if stamp is None else stamp == before_s
            if frame is None or is_known:
                continue
            box.post(np.asarray(frame), captured_s)
            self._posted[name] = (frame, -1.0 if stamp is None else stamp)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, (tuple, list))
