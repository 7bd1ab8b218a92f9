"""robot.toml: what is refused by name, and that reading and writing are inverse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.field_texts import field_texts
from imitact.core.joint_limits import NO_LIMIT
from imitact.robots.aloha_gripper import LINKAGES, VARIANTS, GripperScale
from imitact.robots.aloha_hardware import (
    BASES,
    REST_POSES,
    START_POSE,
    arm_bases,
    arm_limits,
    arm_rest,
    rad_tick,
    robot_limits,
    tick_rad,
)
from imitact.robots.config import (
    ArmConfig,
    CameraConfig,
    GripperConfig,
    LeRobotConfig,
    LimitConfig,
    ParkingConfig,
    RobotConfig,
    SimConfig,
    config_text,
    parse_config,
    read_config,
    set_values,
    write_config,
)

ALOHA = """
# Our robot in room 3.
kind = "aloha"

[arms.left]
port = "/dev/serial/by-id/a"   # the one with the red tape
model = "vx300s"

[arms.left.gripper]
variant = "aloha"
current_ma = 400

[arms.right]
port = "/dev/serial/by-id/b"
model = "vx300s"
gripper = { closed_rad = -0.6, open_rad = 1.4 }

[leaders.left]
port = "/dev/serial/by-id/c"
model = "wx250s"

[cameras.cam_high]
path = "/dev/v4l/by-path/x"
"""

CONFIGS = (
    parse_config(ALOHA),
    RobotConfig(
        "aloha",
        name='the "big" one\n\t\x7fé',
        arms={
            "left": ArmConfig(
                "/dev/a",
                "aloha_vx300s",
                GripperConfig(closed_rad=-0.5, open_rad=1.25),
                other_models={"waist": 1130},
                base=(0.1, -0.2, 90.0),
                fingerprint=tuple(range(18)),
            )
        },
        cameras={"cam high": CameraConfig("/dev/v", controls={"focus_absolute": 40})},
        limits={"left_arm_waist": LimitConfig(lower=-1.0, velocity=2.5)},
        rest={f"left_arm_{j}": 0.0 for j in ("waist", "shoulder", "elbow", "forearm_roll",
              "wrist_angle", "wrist_rotate", "gripper")},
        parking=ParkingConfig(0.2, 0.0),
        self_collision=False,
    ),
    RobotConfig(
        "lerobot",
        30.0,
        lerobot=LeRobotConfig("so101_follower", "blue", settings={"port": "/dev/x", "n": [1, 2]}),
        lerobot_leader=LeRobotConfig("so101_leader", settings={"arm": {"port": "/dev/y"}}),
    ),
    RobotConfig("sim", sim=SimConfig("cube", {"a": True, "b": 1.5})),
)  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_what_is_written_is_read_back(config: RobotConfig, tmp_path: Path) -> None:
    write_config(tmp_path / "robot.toml", config)
    assert read_config(tmp_path / "robot.toml") == config


def test_each_key_is_explained_where_it_first_stands() -> None:
    text = config_text(CONFIGS[0])
    for kind in (RobotConfig, ArmConfig, GripperConfig, CameraConfig, LimitConfig, LeRobotConfig):
        assert all(field_texts(kind).get(name) for name in kind.__dataclass_fields__)
    assert text.count("# Path of the port below /dev/serial/by-id") == 1


REFUSED = {
    'kind = "aloha"': "there is no table [arms]",
    'kind = "alhoa"\n': 'kind is "alhoa"; expected one of "aloha", "lerobot", "sim"',
    "": "kind is missing: What it is",
    'kind = "sim"\nrate = 50\n[sim]\nenv = "cube"': "no key rate; expected kind, rate_hz",
    'kind = "sim"\nrate_hz = "50"\n[sim]\nenv = "cube"': 'rate_hz is "50"; expected a finite',
    'kind = "sim"\nrate_hz = nan\n[sim]\nenv = "cube"': "rate_hz is nan; expected a finite",
    'kind = "sim"\nrate_hz = true\n[sim]\nenv = "cube"': "rate_hz is true; expected a finite",
    'kind = "sim"\nrate_hz = -1\n[sim]\nenv = "cube"': "rate_hz is -1; expected 1 to 1000 per",
    'kind = "sim"\nsim = "cube"': 'sim is "cube"; expected a table',
    'kind = "sim"\n[sim]\nenv = "cube"\n[lerobot]\ntype = "x"': 'belongs to "lerobot"',
    "kind = ": "is no TOML",
    ALOHA.replace("port = ", "prot = ", 1): "arms.left: there is no key prot; expected port, model",
    ALOHA.replace('model = "vx300s"', "", 1): "arms.left: model is missing",
    ALOHA.replace("vx300s", "wx250s", 1): "[arms.left] has the model wx250s; expected vx300s or",
    ALOHA.replace("by-id/b", "by-id/a"): "[arms.right] and [arms.left] both have /dev/serial",
    ALOHA.replace("leaders.left", "leaders.lift"): 'no arm for the leader "lift"; expected left',
    ALOHA.replace('model = "vx300s"', 'model = "vx300s"\nbase = [0, 1]', 1): "base has 2 numbers",
    ALOHA.replace('"wx250s"', '"wx250s"\nbase = [0, 1, 0]'): "[leaders.left] has a base",
    ALOHA + '[limits.left_arm_wrist]\nlower = 0': 'no joint in [limits] "left_arm_wrist"',
    ALOHA + "[limits.left_arm_waist]\nlower = 1\nupper = -1": "lower is 1 and upper -1; the range",
    ALOHA + "[rest]\nleft_arm_waist = 0": "[rest] lacks left_arm_shoulder",
    ALOHA.replace("closed_rad = -0.6, ", ""): "give both closed_rad and open_rad",
    ALOHA.replace('"aloha"\ncurrent', '"aloha"\nclosed_rad = 0\nopen_rad = 1\ncurrent'): "as well",
    'kind = "sim"\nrate_hz = 1e9\n[sim]\nenv = "cube"': "rate_hz is 1e+09; expected 1 to 1000",
    'kind = "sim"\n[sim]\nenv = "cube"\n[limits.x]\nlower = 0': "take [limits] out",
    'kind = "sim"\n[sim]\nenv = "cube"\n[rest]\nx = 0': "take [rest] out",
    'kind = "sim"\n[sim]\nenv = "cube"\n[cameras.a]\npath = "/x"': "take [cameras] out",
    f"kind = {'9' * 5000}": "is no TOML: Exceeds the limit",
    f"kind = {'[' * 9000}": "is no TOML: its lists or tables are nested too deep",
    ALOHA.replace("by-id/b", "../serial/by-id/a"): "[arms.right] and [arms.left] both have",
    ALOHA.replace("/dev/serial/by-id/b", ""): "[arms.right] has the path ''; expected",
    ALOHA.replace("by-id/b", "\\u0000"): "expected a device's",
    ALOHA + "width = 100_000_000": "the frames have 100000000x480 pixels; expected 1 to 8192",
    ALOHA + "rate_hz = 0": "cameras.cam_high: rate_hz is 0; expected 1 to 1000",
    ALOHA.replace('model = "wx250s"', 'model = "wx250s"\nbaud = 1'): "baud is 1; expected 9600,",
    ALOHA.replace("closed_rad = -0.6", "closed_rad = 1.5"): "expected closed_rad below open_rad",
    ALOHA.replace("400", "4000"): "current_ma is 4000; expected more than 0 and at most 3210",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_config(text, "my.toml")
    assert REFUSED[text] in str(refused.value)
    assert str(refused.value).startswith("my.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"robot\.toml"):
        read_config(tmp_path / "robot.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(BadInput, match="1,000,001 bytes, expected at most"):
        read_config(tmp_path / "big.toml")
    (tmp_path / "other.toml").write_bytes(ALOHA.replace("room", "r\xf6\xf6m").encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8 text: line 2 has the byte 0xf6"):
        read_config(tmp_path / "other.toml")


def test_a_file_that_an_editor_of_windows_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "robot.toml"
    file.write_bytes(b"\xef\xbb\xbf" + ALOHA.replace("\n", "\r\n").encode())
    assert read_config(file) == parse_config(ALOHA)


def test_setting_values_keeps_the_comments_and_all_else(tmp_path: Path) -> None:
    file = tmp_path / "robot.toml"
    file.write_text(ALOHA)
    gripper = {"variant": "measured", "closed_rad": -0.5, "open_rad": 1.2}
    changed = set_values(file, "arms.left.gripper", gripper)
    assert changed.arms["left"].gripper == GripperConfig("measured", -0.5, 1.2, current_ma=400)
    before = parse_config(ALOHA)
    assert replace(changed, arms={**changed.arms, "left": before.arms["left"]}) == before
    assert "# the one with the red tape" in file.read_text()
    assert "# Our robot in room 3." in file.read_text()
    assert set_values(file, "arms.left.gripper", gripper) == changed
    assert set_values(file, "parking", {"speed": 0.1}).parking.speed == 0.1


def test_a_file_that_cannot_be_changed_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "robot.toml"
    file.write_text(ALOHA)
    with pytest.raises(BadInput, match=r"left as it is.*set there yourself: closed_rad = -0.5"):
        set_values(file, "arms.right.gripper", {"closed_rad": -0.5})  # an inline table
    assert file.read_text() == ALOHA


# ---------------------------------------------------------------------------------- grippers


@pytest.mark.parametrize("linkage", LINKAGES.values(), ids=LINKAGES)
def test_fingers_and_angle_are_inverse_within_the_travel(linkage) -> None:
    for angle in np.linspace(-0.7, 1.45, 30):
        finger = linkage.finger_m(angle)
        if finger > 0 and linkage.horn_m < linkage.rod_m:
            assert linkage.angle_rad(finger) == pytest.approx(angle, abs=1e-6)


def test_the_fingers_of_the_original_aloha_are_where_its_constants_say() -> None:
    closed, opened = VARIANTS["aloha"].follower_rad
    linkage = LINKAGES["vx300s"]
    assert linkage.finger_m(closed) == pytest.approx(0.01844, abs=2e-5)
    assert linkage.finger_m(opened) == pytest.approx(0.05800, abs=2e-4)


@pytest.mark.parametrize("command", ["angle", "fingers"])
def test_a_command_and_its_angle_are_inverse(command) -> None:
    scale = GripperScale(-0.6213, 1.4910, LINKAGES["vx300s"], command)
    for value in np.linspace(0, 1, 21):
        angle = scale.angle_from_command(value)
        assert scale.command_from_angle(angle) == pytest.approx(value, abs=1e-9)
    assert scale.state_from_angle(scale.closed_rad) == 0
    assert scale.state_from_angle(scale.open_rad) == 1


def test_action_and_state_of_a_real_gripper_differ_by_up_to_a_tenth() -> None:
    scale = GripperScale(*VARIANTS["aloha"].follower_rad, LINKAGES["vx300s"])
    values = np.linspace(0, 1, 101)
    apart = [scale.state_from_angle(scale.angle_from_command(v)) - v for v in values]
    assert min(apart) == pytest.approx(-0.047, abs=0.002)
    assert max(apart) == pytest.approx(0.093, abs=0.004)
    exact = replace(scale, command="fingers")
    np.testing.assert_allclose(
        [exact.state_from_angle(exact.angle_from_command(v)) for v in values], values, atol=1e-9
    )


def test_exchanged_end_stops_are_refused() -> None:
    with pytest.raises(BadInput, match="Are the two exchanged"):
        GripperScale(1.4, -0.6, LINKAGES["vx300s"])
    with pytest.raises(BadInput, match="Are the two exchanged"):
        GripperScale(float("nan"), 1.0, LINKAGES["vx300s"])


# ---------------------------------------------------------------------------------- hardware


def test_ticks_and_angles_are_inverse() -> None:
    assert tick_rad(2048) == 0
    assert [rad_tick(tick_rad(tick)) for tick in range(4096)] == list(range(4096))


def test_limits_are_the_tighter_of_urdf_and_servo() -> None:
    limits = arm_limits("left", CONFIGS[0].arms["left"])
    assert limits.upper[2] == pytest.approx(1.6045, abs=1e-4)  # 3094 ticks; the URDF has 1.6057
    assert limits.lower[1] == -1.85005  # the URDF; 841 ticks are -1.8515
    for value, low, high in zip(START_POSE, limits.lower, limits.upper, strict=False):
        assert low <= value <= high


def test_limits_of_robot_toml_cut_and_never_widen() -> None:
    limits = {
        "left_arm_waist": LimitConfig(lower=-1.0, upper=9.0, velocity=1.0),
        "right_arm_waist": LimitConfig(velocity=99.0),
        "right_arm_gripper": LimitConfig(upper=0.8, velocity=99.0),
    }
    limits_of_all = robot_limits(CONFIGS[0])
    cut = robot_limits(replace(CONFIGS[0], limits=limits))
    assert (cut.lower[0], cut.velocity[0]) == (-1.0, 1.0)
    assert cut.upper[0] == pytest.approx(3.1401, abs=1e-4)
    assert cut.velocity[7] == limits_of_all.velocity[7] < 99.0
    assert (cut.upper[13], cut.velocity[13]) == (0.8, 99.0)
    assert limits_of_all.velocity[13] == NO_LIMIT


def test_the_bases_are_aloha_s_or_those_of_robot_toml() -> None:
    config = parse_config(ALOHA)
    assert arm_bases(config) == BASES
    one, other = config.arms.values()
    assert arm_bases(replace(config, arms={"left": one})) == {"left": (0, 0, 0)}
    placed = {"left": replace(one, base=(0.0, 0.4, 0.0)), "right": other}
    with pytest.raises(BadInput, match=r"the base of \[arms.right\] stands is not known"):
        arm_bases(replace(config, arms=placed))
    placed["right"] = replace(other, base=(0.0, -0.4, 10.0))
    assert arm_bases(replace(config, arms=placed)) == {"left": (0, 0.4, 0), "right": (0, -0.4, 10)}
    named = replace(config, arms={"front": one, "back": other}, leaders={})
    with pytest.raises(BadInput, match="or self_collision = false"):
        arm_bases(named)


def test_every_rest_pose_is_within_the_limits_of_its_arm() -> None:
    for model, pose in REST_POSES.items():
        limits = arm_limits("left", ArmConfig("", model))  # type: ignore[arg-type]
        inside = (limits.lower[:6] <= pose) & (pose <= limits.upper[:6])
        assert inside.all()
    assert arm_rest(CONFIGS[0], "left").shape == (7,)
    assert (arm_rest(CONFIGS[1], "left") == 0).all()
