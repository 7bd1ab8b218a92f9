"""Robot registry: one name, and a robot that every verb starts, enables, commands and ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imitact.core.clock import VirtualClock, WallClock
from imitact.core.errors import BadInput
from imitact.core.types import Camera
from imitact.parallel.mailbox import Mailbox
from imitact.robots import registry
from imitact.robots.config import ArmConfig, CameraConfig, GripperConfig, RobotConfig
from imitact.robots.registry import SimOptions, make_robot, robot_of
from imitact.robots.simulated import Outcome
from imitact.robots.timed_frames import frame_mailbox
from tests.support.dot_env import DotEnv
from tests.support.hosts import PATIENCE_S, wait_for

DOT = "sim:tests.support.dot_env:DotEnv"


def test_a_simulated_robot_runs_on_a_virtual_clock():
    with make_robot(DOT, SimOptions(seed=3)) as setup:
        setup.start()
        setup.enable()
        assert isinstance(setup.clock, VirtualClock)
        setup.robot.command(np.ones(2), 0)
        setup.clock.wait_until(1.0)
        assert setup.outcome is not None
        assert setup.outcome.ticks == 20
        assert setup.robot.fault() != ""
        setup.reset(4)
        assert setup.outcome == Outcome(4)
        assert setup.release() == ()
        assert (setup.watch(), setup.leaders, setup.limits) == ({}, (), None)


def test_a_simulated_robot_runs_in_real_time_in_a_host_process():
    with make_robot(DOT, SimOptions(real_time=True, seed=3)) as setup:
        setup.start(PATIENCE_S)
        assert isinstance(setup.clock, WallClock)
        assert setup.outcome == Outcome(3)
        setup.enable()
        setup.robot.command(np.ones(2), 0)
        wait_for(lambda: setup.outcome is not None and setup.outcome.ticks > 1)
        setup.park()
        setup.reset(5)
        start = DotEnv().reset(5).state.tolist()
        wait_for(lambda: (r := setup.robot.reading()) is not None and r.values.tolist() == start)
        assert setup.outcome == Outcome(5)
        assert list(setup.sentinels) == [f"the host of {DOT}"]
        assert setup.watch() == {}
        assert setup.close() == ()


def test_a_robot_toml_of_a_simulation_names_env_and_its_settings(tmp_path: Path):
    file = tmp_path / "robot.toml"
    file.write_text('kind = "sim"\n[sim]\nenv = "tests.support.dot_env:DotEnv"\n')
    with make_robot(str(file), SimOptions(seed=9)) as setup:
        assert setup.outcome == Outcome(9)
        assert setup.config is not None
    file.write_text(file.read_text() + "[sim.settings]\nsuccess = 'x'\n")
    with pytest.raises(BadInput, match=r"\[sim.settings\] are those of a gym:NAME"):
        make_robot(str(file), SimOptions(seed=9))


def test_a_simulation_at_another_rate_than_its_environment_is_refused(tmp_path: Path):
    file = tmp_path / "robot.toml"
    text = 'kind = "sim"\nrate_hz = {}\n[sim]\nenv = "tests.support.dot_env:DotEnv"\n'
    file.write_text(text.format(33))
    with pytest.raises(BadInput, match=r"rate_hz is 33, but .* has 20 ticks"):
        make_robot(str(file))
    file.write_text(text.format(20))
    make_robot(str(file)).close()


@pytest.mark.parametrize("name", ["aloha", "cube", "nothing", ""])
def test_a_name_that_is_no_robot_is_refused_with_the_forms(name: str):
    with pytest.raises(BadInput, match=r"FILE.toml, sim:ENV, bench:aloha"):
        make_robot(name)


def test_names_that_are_wrong_behind_their_prefix_are_refused():
    with pytest.raises(BadInput, match="cub"):
        make_robot("sim:cub")
    with pytest.raises(BadInput, match="bench"):
        make_robot("bench:alohaa")
    with pytest.raises(BadInput, match="is missing"):
        make_robot("/nowhere/robot.toml")
    with pytest.raises(BadInput, match="virtual clock only"):
        make_robot(DOT, SimOptions(real_time=True, state_latency_s=0.1))


def aloha(**more: object) -> RobotConfig:
    jaws = GripperConfig(variant="aloha")
    return RobotConfig(
        kind="aloha",
        arms={side: ArmConfig(f"/dev/f{side}", "vx300s", jaws) for side in ("left", "right")},
        leaders={side: ArmConfig(f"/dev/l{side}", "wx250s", jaws) for side in ("left", "right")},
        **more,  # type: ignore[arg-type]
    )


def test_an_aloha_has_its_arms_side_by_side_its_cameras_and_one_leader(
    monkeypatch: pytest.MonkeyPatch,
):
    box = frame_mailbox(24, 32)
    box.post(np.ones((24, 32, 3), np.uint8), 5.0)
    monkeypatch.setattr("imitact.robots.emulation.cameras.open_frames", lambda path: box)
    cameras = {
        "cam_high": CameraConfig("/dev/v4l/by-path/1", 640, 480),
        "cam_low": CameraConfig("bench:/tmp/x/cam_low", 32, 24),
    }
    with robot_of(aloha(cameras=cameras)) as setup:
        spec = setup.robot.spec
        assert spec.state_names[0] == "left_arm_waist"
        assert spec.action_names[13] == "right_arm_gripper"
        assert spec.cameras == (Camera("cam_high", 480, 640), Camera("cam_low", 24, 32))
        (leader,) = setup.leaders
        assert leader.action_names == spec.action_names
        assert setup.limits is not None
        assert setup.limits.names == spec.action_names
        assert setup.robot.frame("cam_high") is None
        frame = setup.robot.frame("cam_low")
        assert frame is not None
        assert frame.captured_s == 5.0
    assert robot_of(aloha(), with_leaders=False).leaders == ()


def test_a_camera_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch):
    box = Mailbox.create((10, 10, 3), "|u1")
    monkeypatch.setattr("imitact.robots.emulation.cameras.open_frames", lambda path: box)
    with pytest.raises(BadInput, match=r"camera top .* expected"):
        robot_of(aloha(cameras={"top": CameraConfig("bench:/tmp/x/top", 32, 24)}))


def test_a_bench_ends_where_its_robot_cannot_be_made(monkeypatch: pytest.MonkeyPatch):
    ended = []

    class FakeBench:
        folder = Path("/nowhere")

        def __init__(self, kind: str, seed: int) -> None:
            pass

        def start(self) -> None:
            pass

        def robot_toml(self, path: Path) -> None:
            raise BadInput("no")

        def stop(self) -> None:
            ended.append(True)

    monkeypatch.setattr("imitact.robots.emulation.bench.Bench", FakeBench)
    with pytest.raises(BadInput, match="no"):
        make_robot("bench:aloha")
    assert ended == [True]
    assert registry.BENCH_PATIENCE > 1
