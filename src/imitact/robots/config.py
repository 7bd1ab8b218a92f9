"""robot.toml: which robot, on which ports, with which limits, rest pose, cameras and leaders.

Every key that is unknown, missing or of another type is refused by name. `RobotConfig` is what the
other modules take; `read_config` and `write_config` are its file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imitact.core.aloha_joints import ARM_JOINTS
from imitact.core.errors import BadInput, unknown_name
from imitact.robots.aloha_gripper import LINKAGES, VARIANTS, Command, GripperScale
from imitact.robots.toml_table import read_table, table_text
from imitact.storage.atomic import write_bytes
from imitact.storage.toml_file import parse_toml, read_toml

Kind = Literal["aloha", "lerobot", "sim"]

MAX_RATE_HZ = 1000.0
"""A servo bus of 1 Mbit/s reads nine servos 500 times a second at most."""

MIN_RATE_HZ = 1.0
"""Below it a hold, which acts within ticks, would come too late to matter."""

MAX_PIXELS = 8192
"""Rows or columns of a frame; USB cameras have 4096 at most."""

BAUD_RATES = (9600, 57600, 115200, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 4_500_000)
"""Those of a Dynamixel servo (XM430-W350 manual, register 8)."""


@dataclass(frozen=True)
class GripperConfig:
    """One gripper of an ALOHA."""

    variant: Literal[
        "measured", "aloha", "mobile-aloha", "interbotix-kit", "aloha-2", "pi0", "lerobot"
    ] = "measured"
    """Where the end stops come from: "measured" takes the two values below, and any other name the
    published ones of that kind, which fit only an arm that is built and assembled the same."""

    closed_rad: float | None = None
    """Servo angle where the gripper is closed, rad; `imitact robot measure` measures it."""

    open_rad: float | None = None
    """Servo angle where the gripper is open, rad; larger than closed_rad."""

    command: Command = "angle"
    """What an action of 0 to 1 is linear in: "angle" of the servo, as in datasets of the real
    ALOHA, or position of the "fingers", as in gym-aloha. The state is the fingers' in both."""

    current_ma: float = 538.0
    """Largest current of a follower's gripper, mA: its grip force. ALOHA's is 538 (200 units of
    2.69 mA), Mobile ALOHA's 807; without one the servo takes 3200 and overloads within seconds."""

    def __post_init__(self) -> None:
        if self.variant == "measured" and (self.closed_rad is None) != (self.open_rad is None):
            raise BadInput("give both closed_rad and open_rad, or neither")
        closed, opened = self.closed_rad, self.open_rad
        if closed is not None and opened is not None and closed >= opened:
            raise BadInput(
                f"closed_rad is {closed:g} and open_rad {opened:g}; expected closed_rad below "
                "open_rad"
            )
        if self.variant != "measured" and not (self.closed_rad is self.open_rad is None):
            raise BadInput(
                f'variant is "{self.variant}", but closed_rad and open_rad are given as well; take '
                'them out, or set variant = "measured"'
            )
        if not 0 < self.current_ma <= 3210:
            raise BadInput(
                f"current_ma is {self.current_ma:g}; expected more than 0 and at most 3210, the "
                "factory's limit of the XM430 servo"
            )


@dataclass(frozen=True)
class ArmConfig:
    """One arm of an ALOHA: a follower or a leader on a port of its own."""

    port: str
    """Path of the port below /dev/serial/by-id, which names the adapter: /dev/ttyUSB0 may be
    another arm after the next start."""

    model: Literal["vx300s", "wx250s", "aloha_vx300s", "aloha_wx250s"]
    """Interbotix' name: vx300s or aloha_vx300s (kit) for a follower, wx250s or aloha_wx250s (kit)
    for a leader."""

    gripper: GripperConfig = GripperConfig()
    """End stops and current of the gripper."""

    baud: int = 1_000_000
    """Bits per second of all servos of the arm."""

    watchdog_s: float = 0.2
    """Time without any request after which a servo stops by itself, s, in steps of 0.02 up to
    2.54; 0 turns this last dead-man off."""

    other_models: Mapping[str, int] = field(default_factory=dict)
    """Joints whose servo was exchanged for another model, with its model number."""

    base: tuple[float, ...] = ()
    """Where the base of a follower stands, for the check of self-collisions: x and y in m, and the
    heading in degrees. Empty: as ALOHA's, left at [-0.469, 0, 0], right at [0.469, 0, 180]."""

    fingerprint: tuple[int, ...] = ()
    """Firmware versions and homing offsets of the nine servos, which `imitact robot check` records
    and compares: it tells the left arm from the right one."""

    def __post_init__(self) -> None:
        if self.baud not in BAUD_RATES:
            raise BadInput(f"baud is {self.baud}; expected {', '.join(map(str, BAUD_RATES))}")
        if not 0 <= self.watchdog_s <= 2.54:
            raise BadInput(f"watchdog_s is {self.watchdog_s:g}; expected 0, or 0.02 to 2.54 s")
        if self.base and len(self.base) != 3:
            raise BadInput(
                f"base has {len(self.base)} numbers, expected 3: x and y in m, heading in degrees"
            )
        if self.fingerprint and len(self.fingerprint) != 18:
            raise BadInput(
                f"fingerprint has {len(self.fingerprint)} numbers, expected 18; take it out and "
                "let `imitact robot check` record it"
            )

    def gripper_scale(self) -> GripperScale | None:
        """Return the gripper's end stops; None where they are not measured."""
        gripper, closed, opened = self.gripper, self.gripper.closed_rad, self.gripper.open_rad
        if gripper.variant != "measured":
            variant = VARIANTS[gripper.variant]
            stops = variant.leader_rad if self.is_leader_model else variant.follower_rad
            if stops is None:
                raise BadInput(
                    f"gripper: the variant {gripper.variant} has no published end stops of a "
                    "leader; `imitact robot measure` measures them"
                )
            closed, opened = stops
        if closed is None or opened is None:
            return None
        return GripperScale(closed, opened, LINKAGES[self.model], gripper.command)

    @property
    def is_leader_model(self) -> bool:
        return self.model.endswith("wx250s")


@dataclass(frozen=True)
class LeRobotConfig:
    """A device of LeRobot, driven by LeRobot's own code in its own Python environment."""

    type: str
    """LeRobot's name of the device: so101_follower, so101_leader, bi_so_follower, ..."""

    id: str = ""
    """LeRobot's id of the device, which names its calibration file."""

    python: str = ""
    """Python of the environment in which LeRobot is installed; empty takes the one that
    $IMITACT_LEROBOT_PYTHON names, then lerobot-env or .venv-lerobot in the current folder."""

    calibration: str = ""
    """Folder of LeRobot's calibration files; empty takes LeRobot's own."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """LeRobot's own settings of the device, such as port; as on the command line of its verbs."""


@dataclass(frozen=True)
class SimConfig:
    """A simulated robot."""

    env: str
    """The environment, as of --env: cube, insertion or gym:NAME."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the environment, as of --gym.*."""


@dataclass(frozen=True)
class LimitConfig:
    """What one joint may do; values that are left out are those of its kind of robot."""

    lower: float | None = None
    """Least commanded position, in the unit of the joint."""

    upper: float | None = None
    """Largest commanded position."""

    velocity: float | None = None
    """Largest speed, unit/s."""

    acceleration: float | None = None
    """Largest acceleration, unit/s²."""

    jerk: float | None = None
    """Largest jerk, unit/s³."""

    def __post_init__(self) -> None:
        for name in ("velocity", "acceleration", "jerk"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"{name} is {value:g}; it must be positive")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise BadInput(f"lower is {self.lower:g} and upper {self.upper:g}; the range is empty")


@dataclass(frozen=True)
class CameraConfig:
    """One camera of the robot."""

    path: str
    """Path of the camera below /dev/v4l/by-path, which names its USB socket: /dev/video0 may be
    another camera after the next start, and equal cameras have equal ids."""

    width: int = 640
    """Columns, pixels."""

    height: int = 480
    """Rows, pixels."""

    rate_hz: float = 30.0
    """Frames per second. A Logitech C922 gives 30 at 640x480, whatever is asked for."""

    format: Literal["mjpeg", "yuyv"] = "mjpeg"
    """How the camera sends its frames. yuyv is uncompressed: two at most on one USB controller."""

    controls: Mapping[str, int] = field(default_factory=dict)
    """Camera controls to set by V4L2 name, such as exposure_dynamic_framerate = 0, which keeps the
    rate in dim light, focus_automatic_continuous = 0 and focus_absolute = 40."""

    reference: str = ""
    """Image file of what this camera sees, which `imitact robot check` compares, to notice
    exchanged cameras; beside robot.toml unless absolute."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or max(self.width, self.height) > MAX_PIXELS:
            raise BadInput(
                f"the frames have {self.width}x{self.height} pixels; expected 1 to {MAX_PIXELS} "
                "columns and rows"
            )
        _check_rate(self.rate_hz)


@dataclass(frozen=True)
class ParkingConfig:
    """How the robot goes to its rest pose before its torque is released."""

    speed: float = 0.3
    """Speed of the fastest joint, in its unit per s."""

    hold_limit_s: float = 60.0
    """Time after which a robot that was told to hold is parked and released, s: motors that hold a
    load get hot. 0 holds without end."""

    def __post_init__(self) -> None:
        if self.speed <= 0 or self.hold_limit_s < 0:
            raise BadInput(
                f"speed is {self.speed:g} and hold_limit_s {self.hold_limit_s:g}; speed must be "
                "positive, the limit not negative"
            )


@dataclass(frozen=True)
class RobotConfig:
    """A robot as its robot.toml describes it."""

    kind: Kind
    """What it is: "aloha" (arms and leaders below), "lerobot" (any device of LeRobot) or "sim"."""

    rate_hz: float = 50.0
    """Ticks per second of control and recordings."""

    name: str = ""
    """A name for people."""

    arms: Mapping[str, ArmConfig] = field(default_factory=dict)
    """aloha: the followers by side, left first, as in [arms.left]. Their joints are
    left_arm_waist and so on."""

    leaders: Mapping[str, ArmConfig] = field(default_factory=dict)
    """aloha: the leaders by side, as in [leaders.left]; leave them out to run policies only."""

    lerobot: LeRobotConfig | None = None
    """lerobot: the robot."""

    lerobot_leader: LeRobotConfig | None = None
    """lerobot: the teleoperator that leads it; leave it out to run policies only."""

    sim: SimConfig | None = None
    """sim: the environment."""

    cameras: Mapping[str, CameraConfig] = field(default_factory=dict)
    """Cameras by name, as in [cameras.cam_high]. A policy finds them by these names."""

    limits: Mapping[str, LimitConfig] = field(default_factory=dict)
    """Limits by joint, as in [limits.left_arm_waist]; they can only be tighter than the robot's own
    and those of a policy."""

    rest: Mapping[str, float] = field(default_factory=dict)
    """Rest pose by joint, in the joint's unit: the pose in which the arms lie without torque. Empty
    takes that of the kind of robot; LeRobot arms have none of their own, so give it."""

    parking: ParkingConfig = ParkingConfig()
    """The way to the rest pose."""

    self_collision: bool = True
    """aloha: whether an arm is held before it touches itself or the other arm
    (docs/robot_safety.md); false where the arms are built differently."""

    def __post_init__(self) -> None:
        _check_rate(self.rate_hz)
        needed = {"aloha": "arms", "lerobot": "lerobot", "sim": "sim"}
        for kind, name in needed.items():
            if kind == self.kind and not getattr(self, name):
                raise BadInput(f'kind is "{kind}", but there is no table [{name}]')
            if kind != self.kind and getattr(self, name):
                raise BadInput(
                    f'kind is "{self.kind}", but there is a table [{name}], which belongs to '
                    f'"{kind}"'
                )
        if self.kind != "aloha" and self.leaders:
            raise BadInput(f'kind is "{self.kind}", but [leaders] belongs to "aloha"')
        if self.kind != "lerobot" and self.lerobot_leader:
            raise BadInput(f'kind is "{self.kind}", but [lerobot_leader] belongs to "lerobot"')
        for side in self.leaders:
            if side not in self.arms:
                raise unknown_name("arm for the leader", side, list(self.arms))
        self._check_simulated()
        self._check_models()
        self._check_once()
        self._check_joints()

    def _check_models(self) -> None:
        for table, arms, is_leader in (
            ("arms", self.arms, False),
            ("leaders", self.leaders, True),
        ):
            for side, arm in arms.items():
                if not re.fullmatch("[a-z][a-z0-9]*", side):
                    raise BadInput(
                        f"[{table}.{side}]: a side is a word of small letters, such as left; "
                        "joints are named after it"
                    )
                if is_leader and arm.base:
                    raise BadInput(f"[leaders.{side}] has a base, which only [arms.{side}] needs")
                if arm.is_leader_model != is_leader:
                    wanted = "wx250s or aloha_wx250s" if is_leader else "vx300s or aloha_vx300s"
                    raise BadInput(f"[{table}.{side}] has the model {arm.model}; expected {wanted}")

    def _check_once(self) -> None:
        places: dict[str, str] = {}
        for table, things in (
            ("arms", self.arms),
            ("leaders", self.leaders),
            ("cameras", self.cameras),
        ):
            for name, thing in things.items():
                path = thing.path if isinstance(thing, CameraConfig) else thing.port
                if not path or "\0" in path:
                    raise BadInput(f"[{table}.{name}] has the path {path!r}; expected a device's")
                device = os.path.realpath(path)  # of /dev/serial/by-id/... /dev/ttyUSB0
                if device in places:
                    raise BadInput(
                        f"[{table}.{name}] and [{places[device]}] both have {path}; each needs "
                        "one of its own"
                    )
                places[device] = f"{table}.{name}"

    def _check_joints(self) -> None:
        if self.kind != "aloha":
            return  # only the driver knows the joints
        names = self.joint_names
        for table, values in (("limits", self.limits), ("rest", self.rest)):
            for name in values:
                if name not in names:
                    raise unknown_name(f"joint in [{table}]", name, names)
        if self.rest and (missing := [n for n in names if n not in self.rest]):
            raise BadInput(f"[rest] lacks {', '.join(missing)}; give all joints, or no [rest]")

    def _check_simulated(self) -> None:
        for name in ("cameras", "limits", "rest"):
            if self.kind == "sim" and getattr(self, name):
                raise BadInput(
                    f'kind is "sim", whose environment has its own; take [{name}] out, which '
                    "belongs to hardware"
                )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints of an ALOHA, in order; empty for other kinds."""
        return tuple(f"{side}_arm_{joint}" for side in self.arms for joint in ARM_JOINTS)


def _check_rate(rate_hz: float) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise BadInput(
            f"rate_hz is {rate_hz:g}; expected {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} per second"
        )


def read_config(path: Path | str) -> RobotConfig:
    """Return the robot of a robot.toml.

    Raises:
        BadInput: it is missing, no TOML, or has unknown, missing or unfit keys; all are named.
    """
    path = Path(path)
    return read_table(RobotConfig, read_toml(path, "robot.toml"), str(path))


def parse_config(text: str, where: str = "robot.toml") -> RobotConfig:
    """Return the robot that a text of TOML describes; errors begin with `where`."""
    return read_table(RobotConfig, parse_toml(text, where), where)


def config_text(config: RobotConfig) -> str:
    """Return a robot as TOML, each key with its explanation as a comment."""
    return table_text(config)


def write_config(path: Path | str, config: RobotConfig) -> None:
    """Write a robot.toml, whole or not at all; comments of an older file are lost."""
    write_bytes(Path(path), config_text(config).encode())


def set_values(path: Path | str, table: str, values: Mapping[str, Any]) -> RobotConfig:
    """Set keys of one table of a robot.toml and keep all else, comments included.

    Args:
        table: as in its header: "arms.left.gripper"; it is added at the end where it is missing.

    Returns:
        The robot that the file now describes.

    Raises:
        BadInput: the file cannot be read before or after the change; it is then left as it was.
    """
    path = Path(path)
    read_config(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    header = re.compile(r"\s*\[")
    begin = next(
        (i for i, line in enumerate(lines) if line.split("#")[0].strip() == f"[{table}]"), None
    )
    if begin is None:
        lines += ["", f"[{table}]"]
        begin = len(lines) - 1
    end = next((i for i in range(begin + 1, len(lines)) if header.match(lines[i])), len(lines))
    for key, value in values.items():
        new = table_text({key: value}).strip()
        old = [i for i in range(begin + 1, end) if re.match(rf"\s*{re.escape(key)}\s*=", lines[i])]
        if old:
            lines[old[0]] = new
        else:
            lines.insert(begin + 1, new)
            end += 1
    text = "\n".join(lines) + "\n"
    try:
        changed = parse_config(text, str(path))
    except BadInput as error:
        wanted = table_text(dict(values)).replace("\n", "; ").strip("; ")
        raise BadInput(
            f"{path} was left as it is, because [{table}] could not be changed ({error}); set "
            f"there yourself: {wanted}"
        ) from None
    write_bytes(path, text.encode())
    return changed
