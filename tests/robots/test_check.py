"""Robot check: each defect of an ALOHA and of its cameras is named, and nothing else is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.robots.cameras import CapturedFrame
from imitact.robots.config import (
    ArmConfig,
    CameraConfig,
    GripperConfig,
    RobotConfig,
    read_config,
    write_config,
)
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos
from tests.support.bus_thread import BusThread

pytest.importorskip("dynamixel_sdk")

from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_end_stops import (
    arm_to_measure,
    measure_end_stops,
    record_end_stops,
    watch_end_stops,
)
from imitact.robots.check import CheckConfig, check_robot
from imitact.robots.check_cameras import save_references
from imitact.robots.check_identity import record_identity
from imitact.robots.check_motion import check_motion

PATIENCE = 100.0
QUICK = CheckConfig(camera_s=0.05, reads=3)
GRIP = GripperConfig("aloha")

NO_PORT = "/dev/no-such-port"
"""Of robots whose cameras are tried."""

Changes = Mapping[int, Mapping[str, int]]


@dataclass
class Robot:
    """A robot on emulated buses: two followers and a leader for the left one."""

    config: RobotConfig
    buses: dict[str, BusThread]
    cameras: dict[str, FakeCamera] = field(default_factory=dict)

    def names(self, **changes: object) -> list[str]:
        """Names of what a check finds, besides the notes about what is not recorded."""
        config = replace(self.config, **changes)  # type: ignore[arg-type]
        found = check_robot(
            config,
            QUICK,
            make_camera=lambda name, config: self.cameras[config.path],
            patience=PATIENCE,
        )
        assert all(finding.where in finding.line for finding in found)
        usual = ("operating-mode", "fingerprint-missing", "reference-missing", "camera-rate")
        return [
            f.name
            for f in found
            if not (f.severity == "note" and f.name in usual)
            and f.name != "read-rate"
            and NO_PORT not in f.came
        ]


Make = Callable[..., Robot]
REST = {2: 940, 4: 3050, 7: 2470, 9: 1700}


@pytest.fixture
def robot() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(
            left: Changes | None = None, right: Changes | None = None, leader: Changes | None = None
        ) -> Robot:
            buses = {
                "left": BusThread(aloha_follower_servos(REST, left)),
                "right": BusThread(aloha_follower_servos(REST, right)),
                "leader": BusThread(aloha_leader_servos({9: 1900}, leader)),
            }
            for bus in buses.values():
                stack.enter_context(bus)
            arms = {
                side: ArmConfig(buses[side].port, "vx300s", GRIP, watchdog_s=0)
                for side in ("left", "right")
            }
            leaders = {"left": ArmConfig(buses["leader"].port, "wx250s", GRIP, watchdog_s=0)}
            return Robot(RobotConfig("aloha", arms=arms, leaders=leaders), buses)

        yield make


def test_nothing_is_found_on_a_well_set_up_robot(robot: Make) -> None:
    assert robot().names() == []


def test_a_check_changes_nothing(robot: Make) -> None:
    one = robot(left={9: {"operating_mode": 3}, 3: {"homing_offset": 50}})
    assert one.names() == ["shadow-offset"]
    assert one.buses["left"].truth().is_limp
    assert one.buses["left"].get_register(9, "operating_mode") == 3
    assert one.buses["left"].get_register(3, "homing_offset") == 50
    assert not one.buses["left"].truth().is_exclusive


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({2: {"drive_mode": 0}}, "drive-mode"),
        ({9: {"drive_mode": 1}}, "drive-mode"),
        ({4: {"homing_offset": -1020}}, "wrap"),
        ({1: {"return_delay_time": 250}}, "return-delay"),
        ({1: {"homing_offset": 100}}, "homing-offset"),
        ({5: {"secondary_id": 2}}, "secondary-id"),
    ],
)
def test_a_wrong_register_is_named(robot: Make, changes: Changes, name: str) -> None:
    assert name in robot(right=changes).names()


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ({"kind": "dead", "ids": (6,)}, "servo-missing"),
        ({"kind": "overload", "ids": (3,)}, "hardware-error"),
        ({"kind": "voltage_sag", "volts": 10.2}, "voltage"),
        ({"kind": "overheat", "ids": (2,), "celsius": 66, "rise_s": 0.0}, "temperature"),
        ({"kind": "hang_up"}, "port"),
    ],
)
def test_a_fault_is_named(robot: Make, fault: dict[str, object], name: str) -> None:
    one = robot()
    settings = dict(fault)
    one.buses["left"].set_fault(str(settings.pop("kind")), **settings)
    found = []
    with contextlib.suppress(OSError):
        patience = 20 if fault["kind"] == "dead" else PATIENCE
        found = check_robot(one.config, QUICK, patience=patience)
    assert name in {finding.name for finding in found if finding.severity != "note"}
    assert all("left follower" in f.where for f in found if f.severity == "error")


def test_exchanged_ports_of_leader_and_follower_are_one_finding(robot: Make) -> None:
    one = robot()
    arms, leaders = dict(one.config.arms), dict(one.config.leaders)
    ports = arms["left"].port, leaders["left"].port
    arms["left"] = replace(arms["left"], port=ports[1])
    leaders["left"] = replace(leaders["left"], port=ports[0])
    assert one.names(arms=arms, leaders=leaders).count("leader-follower-swapped") == 2
    assert "model" not in one.names(arms=arms, leaders=leaders)


def test_one_adapter_under_two_names_is_named(robot: Make, tmp_path: Path) -> None:
    one = robot()
    (tmp_path / "link").symlink_to(one.buses["left"].port)
    right = replace(one.config.arms["right"], port=str(tmp_path / "link"))
    with pytest.raises(BadInput, match=r"\[arms.right\] and \[arms.left\] both have"):
        one.names(arms={**one.config.arms, "right": right})


HOLD = "import sys, serial; p = serial.Serial(sys.argv[1], exclusive=True); print(1, flush=True); \
sys.stdin.read()"


def test_a_second_process_on_a_port_is_named(robot: Make) -> None:
    one = robot()
    arguments = [sys.executable, "-c", HOLD, one.buses["right"].port]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        found = check_robot(one.config, QUICK, patience=PATIENCE)
        holder.stdin.close()
    errors = [finding for finding in found if finding.severity == "error"]
    assert [(f.name, f.where) for f in errors] == [("port-in-use", "right follower")]
    assert f"process {holder.pid}" in errors[0].line


# ---------------------------------------------------------------------------------- identity

LEFT = {3: {"homing_offset": 1}, 5: {"homing_offset": -2}, 1: {"homing_offset": 12}}
RIGHT = {3: {"homing_offset": 2}, 5: {"homing_offset": -3}, 1: {"homing_offset": -20}}


def test_exchanged_arms_are_named_by_their_fingerprints(robot: Make, tmp_path: Path) -> None:
    one = robot(left=LEFT, right=RIGHT)
    file = tmp_path / "robot.toml"
    write_config(file, one.config)
    recorded = record_identity(file, patience=PATIENCE)
    assert recorded == read_config(file)
    one.config = recorded
    assert set(one.names()) == {"homing-offset"}
    left, right = recorded.arms["left"], recorded.arms["right"]
    one.config = replace(
        recorded,
        arms={
            "left": replace(left, port=right.port),
            "right": replace(right, port=left.port),
        },
    )
    assert one.names().count("left-right-swapped") == 2


def test_a_changed_servo_is_named(robot: Make, tmp_path: Path) -> None:
    one = robot(left=LEFT)
    file = tmp_path / "robot.toml"
    write_config(file, one.config)
    one.config = record_identity(file, patience=PATIENCE)
    one.buses["left"].set_register(1, "homing_offset", 40)
    found = check_robot(one.config, QUICK, patience=PATIENCE)
    assert [f.came for f in found if f.name == "fingerprint"] == [
        "its servos changed since they were recorded: homing offset 12 to 40 of waist"
    ]


def test_nothing_is_recorded_of_a_robot_that_is_not_whole(robot: Make, tmp_path: Path) -> None:
    one = robot()
    file = tmp_path / "robot.toml"
    write_config(file, one.config)
    one.buses["right"].set_fault("dead", ids=(8,))
    with pytest.raises(RobotError, match="wrist_rotate"):
        record_identity(file, patience=20)
    assert read_config(file) == one.config


# ---------------------------------------------------------------------------------- grippers


def test_a_gripper_beyond_its_end_stops_is_named(robot: Make) -> None:
    one = robot()
    one.buses["left"].move({9: 3200})
    assert one.names() == ["gripper-range"]


def test_a_mirrored_gripper_is_told_from_a_strange_one(robot: Make) -> None:
    one = robot()
    one.buses["left"].move({9: 2048 - 900})
    found = check_robot(one.config, QUICK, patience=PATIENCE)
    assert [("mirrored" in f.remedy) for f in found if f.name == "gripper-range"] == [True]


def test_a_gripper_that_was_not_measured_is_named(robot: Make) -> None:
    one = robot()
    arms = {**one.config.arms, "left": replace(one.config.arms["left"], gripper=GripperConfig())}
    assert one.names(arms=arms) == ["gripper-stops"]


def test_end_stops_are_found_and_kept_and_the_gripper_is_limp_again(
    robot: Make, tmp_path: Path
) -> None:
    one = robot()
    bus = one.buses["left"]
    bus.set_fault("stall", ids=(9,), position=1700, side=-1)
    bus.set_fault("stall", ids=(9,), position=2400, side=1)
    unmeasured = replace(one.config.arms["left"], gripper=GripperConfig())
    arm = arm_to_measure(unmeasured, "left", patience=PATIENCE)
    arm.connect()
    stops = measure_end_stops(arm)
    arm.close()
    assert stops == pytest.approx(tuple(np.array([-348, 352]) * np.pi / 2048), abs=0.01)
    assert bus.truth().is_limp
    file = tmp_path / "robot.toml"
    write_config(file, replace(one.config, arms={"left": unmeasured}))
    gripper = record_end_stops(file, "left", stops).arms["left"].gripper
    assert (gripper.closed_rad, gripper.open_rad) == pytest.approx(stops, abs=1e-4)
    with pytest.raises(BadInput, match="right"):
        record_end_stops(file, "right", stops)


def test_a_gripper_that_hardly_moves_has_no_end_stops(robot: Make) -> None:
    one = robot()
    arm = AlohaArm(one.config.leaders["left"], "left", patience=PATIENCE)
    arm.connect()
    with pytest.raises(RobotError, match=r"left leader: the gripper moved .* only"):
        watch_end_stops(arm, lambda low, high: True)
    positions = iter([1700, 2300, 2000])

    def move(low: float, high: float) -> bool:
        tick = next(positions, None)
        if tick is not None:
            one.buses["leader"].move({9: tick})
        return tick is None

    low, high = watch_end_stops(arm, move)
    arm.close()
    assert (low, high) == pytest.approx(
        ((1700 - 2048) * np.pi / 2048, 252 * np.pi / 2048), abs=2e-3
    )


# ---------------------------------------------------------------------------------- motion


def test_each_joint_moves_with_its_leader_and_the_arms_are_limp_again(
    robot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = robot()
    for name, value in (("MOVE_S", 0.1), ("SETTLE_S", 0.4)):
        monkeypatch.setattr(f"imitact.robots.check_motion.{name}", value)
    one.buses["left"].set_fault("stuck", ids=(6,))
    follower = replace(one.config.arms["left"], watchdog_s=0.2)
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        time.sleep(0.3)  # a person thinks for longer than the bus watchdog waits
        return "wrist_angle" not in question

    found = check_motion("left", follower, one.config.leaders["left"], answer, patience=PATIENCE)
    assert [(f.name, f.where) for f in found] == [
        ("does-not-follow", "left follower: left_arm_forearm_roll"),
        ("joint-mirrored", "left follower: left_arm_wrist_angle"),
    ]
    assert len(asked) == 7
    assert one.buses["left"].truth().is_limp
    assert one.buses["leader"].truth().is_limp


def test_nothing_is_moved_where_there_are_errors(robot: Make) -> None:
    one = robot(left={2: {"drive_mode": 0}})
    found = check_robot(one.config, replace(QUICK, move=True), patience=PATIENCE)
    assert "not-moved" in {finding.name for finding in found}
    assert one.buses["left"].truth().is_limp


# ---------------------------------------------------------------------------------- cameras


class FakeCamera:
    """A camera source at 1000 frames/s of its own time."""

    def __init__(self, picture: np.ndarray, **settings: float) -> None:
        self.picture, self.settings = picture, settings
        self.count = 0

    def open(self) -> None:
        if "absent" in self.settings:
            raise RobotError("there is no such camera")

    def grab(self) -> CapturedFrame:
        time.sleep(0.001)
        self.count += 1
        checksum = 0 if "frozen" in self.settings else self.count
        period_s = self.settings.get("period_s", 0.0)
        captured_s = time.monotonic() - self.settings.get("age_s", 0.0)
        return CapturedFrame(
            self.picture,
            captured_s + self.count * period_s,
            "arrival" not in self.settings,
            checksum,
        )

    def close(self) -> None:
        pass


def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    one, other = (
        np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for _ in range(2)
    )
    return one, other


def camera_robot(**settings: float) -> Robot:
    high, wrist = pictures()
    one = Robot(RobotConfig("aloha", arms={"left": ArmConfig(NO_PORT, "vx300s", GRIP)}), {})
    one.cameras = {"/a/high": FakeCamera(high, **settings), "/a/wrist": FakeCamera(wrist)}
    cameras = {name: CameraConfig(f"/a/{name}", 64, 48, rate_hz=2.0) for name in ("high", "wrist")}
    one.config = replace(one.config, cameras=cameras)
    return one


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"absent": 1}, "camera"),
        ({"frozen": 1}, "camera-frozen"),
        ({"period_s": 1.0}, "camera-rate"),
        ({"age_s": 0.5}, "camera-age"),
        ({"arrival": 1}, "camera-time"),
    ],
)
def test_a_faulty_camera_is_named(settings: dict[str, float], name: str) -> None:
    assert camera_robot(**settings).names() == [name]


def test_exchanged_cameras_are_named(tmp_path: Path) -> None:
    one = camera_robot()
    cameras = one.config.cameras
    files = save_references(
        cameras, tmp_path, make_camera=lambda name, config: one.cameras[config.path]
    )
    assert files["high"] == "high_reference.png"
    cameras = {name: replace(cameras[name], reference=files[name]) for name in cameras}
    config = replace(one.config, cameras=cameras)

    def names(cameras: Mapping[str, CameraConfig]) -> list[tuple[str, str]]:
        found = check_robot(
            replace(config, cameras=cameras),
            QUICK,
            make_camera=lambda name, config: one.cameras[config.path],
            folder=tmp_path,
            patience=PATIENCE,
        )
        return [
            (f.name, f.where)
            for f in found
            if f.severity != "note" and f.name != "camera-rate" and NO_PORT not in f.came
        ]

    assert names(config.cameras) == []
    high, wrist = config.cameras["high"], config.cameras["wrist"]
    exchanged = {
        "high": replace(high, path=wrist.path),
        "wrist": replace(wrist, path=high.path),
    }
    assert names(exchanged) == [
        ("cameras-swapped", "camera high"),
        ("cameras-swapped", "camera wrist"),
    ]
    one.cameras["/a/high"].picture = pictures()[0][::-1].copy()
    assert names(config.cameras) == [("camera-view", "camera high")]


def test_one_device_under_two_names_is_named(tmp_path: Path) -> None:
    one = camera_robot()
    device, link = tmp_path / "device", tmp_path / "link"
    device.touch()
    link.symlink_to(device)
    picture = pictures()[0]
    one.cameras = {str(device): FakeCamera(picture), str(link): FakeCamera(picture)}
    cameras = {
        "high": CameraConfig(str(device), 64, 48, rate_hz=20.0),
        "low": CameraConfig(str(link), 64, 48, rate_hz=20.0),
    }
    with pytest.raises(BadInput, match=r"\[cameras.low\] and \[cameras.high\] both have"):
        one.names(cameras=cameras)
