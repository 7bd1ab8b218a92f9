"""Hosted robot: robot and leader, read through the mailboxes of the process that hosts them.

One driver has mailboxes for its readings, the commands it sent, the health of its servos and its
fault; the host posts them and any process reads them. A robot of several drivers, such as two arms,
has their values side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput
from imitact.core.robot import Driver, Reading, SentCommand, ServoHealth, TimedFrame
from imitact.core.types import Camera, FloatArray, Spec
from imitact.parallel.mailbox import Mailbox
from imitact.robots.timed_frames import newest_frame

HEARTBEAT_STALE_S = 0.5
"""Time without a sign of life from the host after which its robot counts as lost, s. The host posts
one every 20 ms; a busy computer delays it."""

_SENT_SLOTS = 8
"""Commands that are kept, to find the newest one that every driver of a robot sent."""

_FAULT_BYTES = 1024
_HEALTH_BYTES = 4096


@dataclass(frozen=True, eq=False)
class HostedDriver:
    """A driver for a host process.

    Attributes:
        name: what it drives, for messages: "left arm".
        make: makes the driver in the host process; picklable, takes no arguments.
        spec: what the driver's own Spec must be.
        rest: (A,), the pose in which the arm stands without torque; None where none is known, and
            then it is never parked.
        reopens: whether a driver that failed may be replaced by a new one while the arm holds.
            False where `connect` turns the torque off, as LeRobot's drivers do.
    """

    name: str
    make: Callable[[], Driver]
    spec: Spec
    rest: FloatArray | None = None
    reopens: bool = True

    def __post_init__(self) -> None:
        if self.rest is not None:
            self.spec.check_action(np.asarray(self.rest, np.float64), f"rest pose of {self.name}")


@dataclass(frozen=True)
class TextBox:
    """The newest text between processes, cut to the mailbox's size."""

    box: Mailbox

    @classmethod
    def create(cls, size: int) -> TextBox:
        return cls(Mailbox.create((size,), "|u1"))

    def post(self, text: str) -> None:
        data = text.encode()[: self.box.shape[0]]
        padded = np.zeros(self.box.shape, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        self.box.post(padded)

    def read(self) -> str:
        """Return the newest text; empty before the first."""
        mail = self.box.read()
        return "" if mail is None else mail.values.tobytes().rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True)
class DriverBoxes:
    """The mailboxes of one driver.

    Attributes:
        state: (S,); times are begin and end of the read.
        sent: (A,) as the driver sent it; times are the tick of the command and when it was sent.
        health: JSON, for each servo its joint and the fields of `ServoHealth` in order.
        fault: why the driver does not follow.
    """

    state: Mailbox
    sent: Mailbox
    health: TextBox
    fault: TextBox

    @classmethod
    def create(cls, spec: Spec) -> DriverBoxes:
        return cls(
            Mailbox.create((spec.state_size,)),
            Mailbox.create((spec.action_size,), slots=_SENT_SLOTS),
            TextBox.create(_HEALTH_BYTES),
            TextBox.create(_FAULT_BYTES),
        )

    def post_health(self, health: Mapping[str, ServoHealth]) -> None:
        """Post the health of all servos; the longest unasked are left out where it is too long."""
        items = sorted(health.items(), key=lambda item: item[1].checked_s)
        texts = [json.dumps([joint, *vars(one).values()]) for joint, one in items]
        while sum(map(len, texts)) + len(texts) + 1 > _HEALTH_BYTES:
            del texts[0]
        self.health.post(f"[{','.join(texts)}]")


@dataclass(frozen=True)
class HostBoxes:
    """All mailboxes of a host.

    Attributes:
        command: (A,) of the whole robot; times are the tick and when it was given.
        drivers: of the robot's drivers, in order.
        leaders: of the leader's drivers, in order.
        heartbeat: (1,), no meaning; the time is that of the newest sign of life.
    """

    command: Mailbox
    drivers: tuple[DriverBoxes, ...]
    leaders: tuple[DriverBoxes, ...]
    heartbeat: Mailbox

    @classmethod
    def create(cls, drivers: Sequence[HostedDriver], leaders: Sequence[HostedDriver]) -> HostBoxes:
        size = sum(driver.spec.action_size for driver in drivers)
        return cls(
            Mailbox.create((max(1, size),)),
            tuple(DriverBoxes.create(driver.spec) for driver in drivers),
            tuple(DriverBoxes.create(leader.spec) for leader in leaders),
            Mailbox.create((1,)),
        )


def side_by_side(specs: Sequence[Spec], cameras: tuple[Camera, ...], rate_hz: float) -> Spec:
    """Return the Spec of a robot whose drivers have these Specs; names must differ."""
    if not specs:
        raise BadInput("a robot needs at least one driver")

    def joined(part: str) -> tuple[str, ...]:
        return tuple(name for spec in specs for name in getattr(spec, part))

    return replace(
        specs[0],
        state_names=joined("state_names"),
        action_names=joined("action_names"),
        state_units=joined("state_units"),
        action_units=joined("action_units"),
        cameras=cameras,
        rate_hz=rate_hz,
        environment_size=specs[-1].environment_size,
    )


class HostedRobot:
    """A robot in a host process. Any process that is given it may read; one may command.

    `sent` has tick -1 where the host itself sent it: while parking, and after the torque came on,
    when it is what the servos hold.
    """

    def __init__(
        self,
        name: str,
        spec: Spec,
        boxes: HostBoxes,
        cameras: Mapping[str, Mailbox],
        clock: Clock | None = None,
        heartbeat_stale_s: float = HEARTBEAT_STALE_S,
    ) -> None:
        """Read and command through these mailboxes.

        Args:
            name: of the host, for messages.
            spec: of the whole robot.
            boxes: of the host.
            cameras: (H, W, 3) mailboxes of frames, whose first time is that of the capture.
            clock: of the host.
            heartbeat_stale_s: time without a sign of life after which the host counts as lost, s.
        """
        self._name, self._spec, self._boxes = name, spec, boxes
        self._cameras = dict(cameras)
        self._clock = clock or WallClock()
        self._stale_s = heartbeat_stale_s
        self._health: list[tuple[int, dict[str, ServoHealth]]] = [(0, {}) for _ in boxes.drivers]

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def frame_boxes(self) -> Mapping[str, Mailbox]:
        """The mailbox of each camera's frames, for a recorder in another process."""
        return self._cameras

    def reading(self) -> Reading | None:
        return joined_reading(self._boxes.drivers)

    def frame(self, camera: str) -> TimedFrame | None:
        self._spec.camera(camera)
        return newest_frame(camera, self._cameras[camera])

    def frame_at(self, camera: str, sequence: int) -> TimedFrame | None:
        """Return a frame by its number; None where there is none, or it was overwritten."""
        self._spec.camera(camera)
        mail = self._cameras[camera].read(sequence)
        return None if mail is None else TimedFrame(mail.values, float(mail.times[0]), sequence)

    def health(self) -> Mapping[str, ServoHealth]:
        for number, boxes in enumerate(self._boxes.drivers):
            sequence = boxes.health.box.newest
            if sequence != self._health[number][0]:
                self._health[number] = (sequence, _health_of(boxes.health.read()))
        return {joint: one for _, health in self._health for joint, one in health.items()}

    def command(self, action: FloatArray, tick: int) -> None:
        values = np.asarray(action, np.float64)
        if values.shape != self._boxes.command.shape:
            self._spec.check_action(values, "command")
        self._boxes.command.post(values, float(tick), self._clock.now_s())

    def sent(self) -> SentCommand | None:
        return joined_sent(self._boxes.drivers)

    def fault(self) -> str:
        return joined_fault(
            self._name, self._boxes, self._boxes.drivers, self._clock, self._stale_s
        )


class HostedLeader:
    """A leader in a host process; its drivers' states are its values."""

    def __init__(
        self,
        name: str,
        specs: Sequence[Spec],
        boxes: HostBoxes,
        clock: Clock | None = None,
        heartbeat_stale_s: float = HEARTBEAT_STALE_S,
    ) -> None:
        """Read through these mailboxes; arguments as of `HostedRobot`, `specs` of the drivers."""
        spec = side_by_side(specs, (), specs[0].rate_hz)
        self._name, self._boxes = name, boxes
        self._names, self._units = spec.state_names, spec.state_units
        self._clock = clock or WallClock()
        self._stale_s = heartbeat_stale_s

    @property
    def action_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def action_units(self) -> tuple[str, ...]:
        return self._units

    def reading(self) -> Reading | None:
        return joined_reading(self._boxes.leaders)

    def fault(self) -> str:
        return joined_fault(
            self._name, self._boxes, self._boxes.leaders, self._clock, self._stale_s
        )


def joined_reading(drivers: Sequence[DriverBoxes]) -> Reading | None:
    """Return the newest readings side by side; None before every driver has one.

    It begins with the earliest read and ends with the latest.
    """
    mails = [boxes.state.read() for boxes in drivers]
    if not mails or any(mail is None for mail in mails):
        return None
    found = [mail for mail in mails if mail is not None]
    return Reading(
        np.concatenate([mail.values for mail in found]),
        float(min(mail.times[0] for mail in found)),
        float(max(mail.times[1] for mail in found)),
        sum(mail.sequence for mail in found) - len(found) + 1,
    )


def joined_sent(drivers: Sequence[DriverBoxes]) -> SentCommand | None:
    """Return the newest command that every driver sent; None before there is one.

    A driver may have left out a command that was overtaken within one of its periods.
    """
    rows = [_sent_by_tick(boxes.sent) for boxes in drivers]
    if not rows:
        return None
    common = set(rows[0]).intersection(*rows[1:])
    if not common:
        return None
    # The tick that was sent last, which is not the largest: ticks begin anew with each run.
    tick = max(common, key=lambda tick: max(row[tick][1] for row in rows))
    found = [row[tick] for row in rows]
    return SentCommand(
        tick, np.concatenate([values for values, _ in found]), max(sent_s for _, sent_s in found)
    )


def _sent_by_tick(box: Mailbox) -> dict[int, tuple[NDArray[np.float64], float]]:
    """Return the newest commands of one driver by tick; with one driver only the newest counts."""
    newest = box.newest
    found: dict[int, tuple[NDArray[np.float64], float]] = {}
    for sequence in range(newest, max(0, newest - 4), -1):
        mail = box.read(sequence)
        if mail is not None and int(mail.times[0]) not in found:
            found[int(mail.times[0])] = (mail.values, float(mail.times[1]))
    return found


def joined_fault(
    name: str,
    host: HostBoxes,
    drivers: Sequence[DriverBoxes],
    clock: Clock,
    stale_s: float,
) -> str:
    """Return the faults of the drivers, or that their host gives no sign of life."""
    newest = host.heartbeat.times()
    if newest is None:
        return f"the host of {name} has not started"
    age_s = clock.now_s() - newest[1][0]
    if age_s > stale_s:
        return f"the host of {name} gives no sign of life since {age_s:.2f} s"
    return "; ".join(text for boxes in drivers if (text := boxes.fault.read()))


def _health_of(text: str) -> dict[str, ServoHealth]:
    if not text:
        return {}
    return {
        joint: ServoHealth(checked_s, temperature_c, voltage_v, load, tuple(errors))
        for joint, checked_s, temperature_c, voltage_v, load, errors in json.loads(text)
    }
