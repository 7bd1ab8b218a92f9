"""Bench configuration: the robot.toml with which imitact drives an emulated robot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from imitact.robots.aloha_gripper import Command
from imitact.robots.config import (
    ArmConfig,
    CameraConfig,
    GripperConfig,
    LeRobotConfig,
    RobotConfig,
)
from imitact.robots.emulation.arms import SIX_SERVOS
from imitact.robots.emulation.cameras import CameraPlan
from imitact.robots.emulation.lerobot_calibration import DEVICE_ID

LEROBOT_TYPES = {
    "so101": ("so101_follower", "so101_leader"),
    "koch": ("koch_follower", "koch_leader"),
    "bi_so": ("bi_so_follower", "bi_so_leader"),
}
"""LeRobot's names of follower and leader, by kind of bench."""


def robot_config(
    plan: CameraPlan,
    ports: Mapping[str, str],
    camera_paths: Mapping[str, str],
    gripper: Command,
    zmq_port: int | None,
    watchdog_s: float = 0.2,
    calibration: Mapping[str, str] | None = None,
) -> RobotConfig:
    """Return the robot that a bench emulates.

    Args:
        plan: of the cameras.
        ports: by the name of the bus.
        camera_paths: by the name of the camera, for ALOHA.
        gripper: what ALOHA's gripper values are linear in.
        zmq_port: of the cameras, for LeRobot.
        watchdog_s: of ALOHA's servos.
        calibration: folders of LeRobot's calibration files, by role; None takes LeRobot's own.
    """
    name = f"emulated {plan.kind}"
    if plan.kind != "aloha":
        return _lerobot(plan, ports, zmq_port, name, calibration or {})
    jaws = GripperConfig(variant="aloha", command=gripper)
    cameras = {
        camera: CameraConfig(path, plan.width, plan.height, plan.rate_hz)
        for camera, path in camera_paths.items()
    }

    def arms(role: str, model: Literal["vx300s", "wx250s"]) -> dict[str, ArmConfig]:
        return {
            side: ArmConfig(ports[f"{role}_{side}"], model, jaws, watchdog_s=watchdog_s)
            for side in ("left", "right")
        }

    return RobotConfig(
        kind="aloha",
        name=name,
        arms=arms("follower", "vx300s"),
        leaders=arms("leader", "wx250s"),
        cameras=cameras,
    )


def _lerobot(
    plan: CameraPlan,
    ports: Mapping[str, str],
    zmq_port: int | None,
    name: str,
    calibration: Mapping[str, str],
) -> RobotConfig:
    follower, leader = LEROBOT_TYPES[plan.kind]
    cameras = {
        camera: {
            "type": "zmq",
            "server_address": "127.0.0.1",
            "port": zmq_port,
            "camera_name": camera,
            "width": plan.width,
            "height": plan.height,
            "fps": round(plan.rate_hz),
        }
        for camera in plan.cameras
    }
    with_cameras: dict[str, Any] = {"cameras": cameras} if cameras else {}
    return RobotConfig(
        kind="lerobot",
        rate_hz=30.0,
        name=name,
        lerobot=LeRobotConfig(
            follower,
            DEVICE_ID,
            calibration=calibration.get("follower", ""),
            settings={**_ports(ports, "follower"), **with_cameras},
        ),
        lerobot_leader=LeRobotConfig(
            leader,
            DEVICE_ID,
            calibration=calibration.get("leader", ""),
            settings=_ports(ports, "leader"),
        ),
        rest={
            f"{side}{joint}.pos": 50.0 if joint == "gripper" else 0.0
            for side in (("left_", "right_") if plan.kind == "bi_so" else ("",))
            for joint in SIX_SERVOS
        },
    )


def _ports(ports: Mapping[str, str], role: str) -> dict[str, Any]:
    if role in ports:
        return {"port": ports[role]}
    return {f"{side}_arm_config": {"port": ports[f"{role}_{side}"]} for side in ("left", "right")}
