"""Bench: its processes, ports and cameras, as drivers and tests meet them."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.robots.aloha import AlohaArm
from imitact.robots.config import read_config
from imitact.robots.emulation.bench import Bench, simulate
from imitact.robots.emulation.cameras import open_frames
from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.world import start_pose

Patiently = Callable[[Callable[[], bool]], None]
BUSES = ["follower_left", "follower_right", "leader_left", "leader_right"]


@pytest.fixture(scope="module")
def aloha() -> Iterator[Bench]:
    with Bench("aloha", cameras=("top", "left_wrist"), height=24, width=32) as bench:
        yield bench


@pytest.fixture
def so101(tmp_path: Path) -> Iterator[Bench]:
    with Bench("so101", cameras=("front",), height=24, width=32, folder=tmp_path) as bench:
        yield bench


def test_the_aloha_driver_works_on_ports_that_robot_toml_names(
    aloha: Bench, tmp_path: Path
) -> None:
    aloha.robot_toml(tmp_path / "robot.toml")
    config = read_config(tmp_path / "robot.toml")
    aloha.reset(3)
    for side in ("left", "right"):
        for arms in (config.arms, config.leaders):
            arm = AlohaArm(arms[side], side, patience=100)
            arm.connect()
            values = arm.read()
            truth = aloha.truth().joints_rad(Path(arms[side].port).name)
            arm.close()
            assert np.abs(values[:1] - truth[:1]).max() < 0.02
            assert values.shape == (7,)
    assert list(aloha.ports) == BUSES


def test_time_passes_while_nobody_talks_to_the_bench(aloha: Bench, patiently: Patiently) -> None:
    aloha.let_go()
    aloha.reset(4)
    patiently(lambda: aloha.truth().joints_rad("follower_left")[1] < -1.2)  # from -0.96
    assert aloha.truth().buses["follower_left"].is_limp


def test_the_hand_moves_limp_leaders_in_real_time(aloha: Bench, patiently: Patiently) -> None:
    aloha.hand(start_pose(0.5))
    patiently(lambda: aloha.truth().hand == "holding")
    joints = aloha.truth().joints_rad("leader_right")[[0, 1, 3, 5, 6, 7]]
    assert np.abs(joints - start_pose()[:6]).max() < 0.002


def test_every_process_of_the_computer_gets_the_frames(aloha: Bench, patiently: Patiently) -> None:
    box = open_frames(aloha.camera_path("left_wrist"))
    newest = box.newest
    patiently(lambda: box.newest > newest + 2)
    mail, mine = box.read(), aloha.frame("left_wrist")
    assert mail is not None
    assert mine is not None
    assert mail.values.shape == mine.frame.shape == (24, 32, 3)
    assert mail.values.std() > 1
    assert 0 < mail.times[0] <= aloha.truth().now_s
    with pytest.raises(BadInput, match="left_wrist"):
        open_frames(aloha.camera_path("left_wirst"))


def test_a_frozen_camera_gives_no_frames_and_a_black_one_black_frames(
    aloha: Bench, patiently: Patiently
) -> None:
    top, wrist = aloha.frames["top"], aloha.frames["left_wrist"]
    aloha.set_camera_fault("top", "frozen")
    aloha.set_camera_fault("left_wrist", "black")
    frozen, newest = top.newest, wrist.newest
    patiently(lambda: wrist.newest > newest + 2)
    mail = wrist.read()
    assert top.newest == frozen
    assert mail is not None
    assert not mail.values.any()
    for camera in ("top", "left_wrist"):
        aloha.set_camera_fault(camera, "")
    patiently(lambda: top.newest > frozen)
    with pytest.raises(BadInput, match="frozen"):
        aloha.set_camera_fault("top", "frosen")


def test_registers_faults_and_commands_are_reached_from_outside(aloha: Bench) -> None:
    aloha.set_register("leader_left", 9, "goal_position", 1234)
    assert aloha.get_register("leader_left", 9, "goal_position") == 1234
    aloha.set_fault("leader_left", "overload", ids=(9,))
    assert aloha.truth().buses["leader_left"].servos[9].errors == ("overload",)
    assert aloha.truth().buses["leader_right"].servos[9].errors == ()
    aloha.clear_faults()
    assert aloha.commands("leader_left") == []
    for order in (
        lambda: aloha.set_fault("leader_left", "overlode", ids=(9,)),
        lambda: aloha.get_register("leader_middle", 9, "goal_position"),
        lambda: aloha.get_register("leader_left", 9, "goal_positron"),
        lambda: aloha.get_register("leader_left", 77, "goal_position"),
        lambda: aloha.hand(np.zeros(5)),
        lambda: aloha.hand(np.full(14, np.nan)),
        lambda: aloha.reset(-1),
        lambda: aloha.reset("many"),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadInput):
            order()
    assert aloha.death() == ""


def test_lerobots_message_has_all_cameras(so101: Bench, tmp_path: Path) -> None:
    zmq = pytest.importorskip("zmq")
    port = so101.camera_statistics()["zmq_port"]
    context = zmq.Context()
    client = context.socket(zmq.SUB)
    client.setsockopt_string(zmq.SUBSCRIBE, "")
    client.setsockopt(zmq.RCVTIMEO, 60_000)
    client.connect(f"tcp://127.0.0.1:{port}")
    message = json.loads(client.recv_string())
    client.close()
    context.term()
    assert list(message["images"]) == ["front"]
    so101.robot_toml(tmp_path / "robot.toml")
    config = read_config(tmp_path / "robot.toml")
    assert config.lerobot is not None
    assert config.lerobot.type == "so101_follower"
    assert config.lerobot.settings["port"] == str(tmp_path / "follower")
    assert config.lerobot.settings["cameras"]["front"]["port"] == port
    kept = json.loads((Path(config.lerobot.calibration) / "bench.json").read_text())
    for joint, one in kept.items():
        low = so101.get_register("follower", one["id"], "min_position_limit")
        assert low == one["range_min"], f"LeRobot compares the servo's {joint} with its file"


def test_the_end_of_a_bench_takes_its_ports_and_cameras_away(tmp_path: Path) -> None:
    with Bench("koch", cameras=(), folder=tmp_path) as bench:
        port = Path(bench.ports["leader"])
        assert port.is_symlink()
        assert port.exists()
        with pytest.raises(BadInput, match="another emulated robot is writing to"):
            Bench("koch", cameras=(), folder=tmp_path).start()
        assert port.exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RobotError, match="the bench"):
        bench.truth()
    with pytest.raises(RobotError, match="no bench gives its cameras there"):
        open_frames(f"bench:{tmp_path}/top", timeout_s=1.0)


def test_a_process_that_was_killed_is_named() -> None:
    with Bench("koch", cameras=()) as bench:
        bench.set_register("leader", 1, "torque_enable", 1)
        pid = bench.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RobotError, match="the bench was killed by SIGKILL"):
            bench.truth()
        assert "SIGKILL" in bench.death()
    assert not bench.folder.exists()


def test_simulate_runs_until_it_is_told_and_reads_a_fault_plan(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(FaultPlan((Fault("dead", ids=(2,), bus="leader"),)).to_toml())
    seen: list[tuple[str, ...]] = []

    def ready(bench: Bench) -> None:
        seen.append(tuple(bench.ports))

    simulate("koch", plan, on_ready=ready, is_over=lambda: bool(seen), cameras=())
    assert seen == [("follower", "leader")]


def test_a_bench_that_was_never_started_leaves_no_folder() -> None:
    bench = Bench("koch", cameras=())
    folder = bench.folder
    assert folder.exists()
    del bench
    gc.collect()
    assert not folder.exists()


def test_what_cannot_be_is_refused_before_a_process_starts() -> None:
    with pytest.raises(BadInput, match="Did you mean aloha"):
        Bench("aloah")
    with pytest.raises(BadInput, match="Did you mean cube"):
        Bench(task="cubes")
    with pytest.raises(BadInput, match=r"expected 0\.1 to 240"):
        Bench(camera_hz=0)
    with pytest.raises(BadInput, match="no servo 9"):
        Bench("koch", faults=FaultPlan((Fault("dead", ids=(9,)),)))
    with pytest.raises(BadInput, match="too long for a socket"):
        Bench(folder="/tmp/" + "x" * 120)
