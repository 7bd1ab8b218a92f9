"""Key selection: names of values, and which features a policy could need."""

from __future__ import annotations

from imitact.datasets.key_selection import (
    could_be_observed,
    distinct,
    is_environment,
    vector_width,
)
from imitact.datasets.read_config import ReadConfig


def test_only_equal_names_are_numbered():
    assert distinct(["x", "gripper", "gripper"]) == ("x", "gripper", "gripper_1")
    taken = ["gripper", "gripper_1", "gripper", "gripper"]
    assert distinct(taken) == ("gripper", "gripper_1", "gripper_2", "gripper_3")
    assert len(set(distinct(["a", "a", "a_1", "a_1", "a"]))) == 5


def test_a_vector_has_one_axis_beside_the_ticks():
    for shape, width in (
        ((9,), 1), ((9, 4), 4), ((9, 1, 4), 0), ((9, 4, 1), 0), ((9, 1, 1), 0),
        ((9, 2, 4), 0), ((9, 0), 0), ((), 0), ((9, 10_001), 0),
    ):  # fmt: skip
        assert vector_width(shape) == width, shape


def test_features_of_the_environment_are_known_by_name():
    for name in ("observation.environment_state", "object", "env_state", "observation.goal",
                 "observations/object-state", "object_pos"):  # fmt: skip
        assert is_environment(name)
        assert could_be_observed(name)
    for name in ("observation.state", "robot0_eef_pos", "objective", "observation.effort"):
        assert not is_environment(name)


def test_what_no_policy_observes_is_not_offered():
    for name in ("next.reward", "action", "actions_abs", "rewards", "dones", "task_index", "index"):
        assert not could_be_observed(name)
    for name in ("observation.effort", "index_finger_pos", "qvel", "robot0_joint_vel"):
        assert could_be_observed(name)


def test_one_name_may_be_given_as_text():
    read = ReadConfig(action="actions", cameras="top", state=["a", "b"])  # type: ignore[arg-type]
    assert (read.action, read.cameras, read.state) == (("actions",), ("top",), ("a", "b"))
    assert ReadConfig(action="").action == ()  # type: ignore[arg-type]


def test_one_action_is_stored_as_before_there_could_be_several():
    given = ReadConfig(action=("actions",)).given()
    assert given == {"action": "actions"}
    assert ReadConfig(**given) == ReadConfig(action=("actions",))
    assert ReadConfig(action=("a", "b")).given() == {"action": ["a", "b"]}
