"""Types: a Spec that differs from another is refused with every difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Camera, Spec, SpecPart

SPEC = Spec(
    ("waist", "gripper"),
    ("waist", "gripper"),
    ("rad", "1"),
    ("rad", "1"),
    (Camera("top", 48, 64), Camera("wrist", 24, 32)),
    50.0,
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state_names": ("waist", "jaw")}, "state names are waist, jaw, expected waist, gripper"),
        ({"action_names": ("jaw", "waist")}, "action names are jaw, waist, expected waist, grip"),
        ({"state_units": ("deg", "1")}, "state units are deg, 1, expected rad, 1"),
        ({"action_units": ("deg", "1")}, "action units are deg, 1, expected rad, 1"),
        ({"rate_hz": 30.0}, "rate is 30 Hz, expected 50 Hz"),
        ({"cameras": ()}, r"cameras are none, expected top \(48x64\), wrist \(24x32\)"),
        (
            {"cameras": (Camera("top", 24, 64), SPEC.cameras[1])},
            r"cameras are top \(24x64\)",
        ),
    ],
)
def test_each_difference_between_two_specs_is_refused_by_name(
    change: dict[str, Any], says: str
) -> None:
    other = replace(SPEC, **change)
    with pytest.raises(SpecMismatch, match=f"^the env does not fit the policy: {says}") as caught:
        SPEC.check_same(other, "the env", "the policy", advice="Take another env")
    assert str(caught.value).endswith(". Take another env")


def test_an_unknown_unit_fits_any_and_no_other_does() -> None:
    unknown = ("unknown", "unknown")
    for other in (replace(SPEC, state_units=unknown), replace(SPEC, action_units=unknown)):
        SPEC.check_same(other, "the env", "the policy")
        other.check_same(SPEC, "the policy", "the env")
    half = replace(SPEC, state_units=("unknown", "deg"))
    with pytest.raises(SpecMismatch, match="state units are unknown, deg"):
        SPEC.check_same(half, "the env", "the policy")


def test_another_number_of_actions_is_another_robot_and_that_is_all_that_is_said() -> None:
    arm = Spec(("a", "b", "c"), ("a", "b", "c"), ("deg",) * 3, ("deg",) * 3, (), 10.0)
    with pytest.raises(SpecMismatch) as caught:
        SPEC.check_same(arm, "the scene", "the policy")
    actions, states = SPEC.action_size, SPEC.state_size
    assert str(caught.value) == (
        f"the scene is of another robot than the policy: 3 actions, expected {actions}; 3 states, "
        f"expected {states}"
    )
    more = replace(SPEC, state_names=(*SPEC.state_names, "z"), state_units=(*SPEC.state_units, "m"))
    with pytest.raises(SpecMismatch, match=r"does not fit the policy: \d states, expected \d$"):
        SPEC.check_same(more, "the scene", "the policy")


def test_all_differences_are_in_one_message() -> None:
    other = replace(SPEC, rate_hz=30.0, state_units=("deg", "1"), cameras=())
    with pytest.raises(SpecMismatch, match=r"state units .*; rate .*; cameras"):
        SPEC.check_same(other, "the env", "the policy")


def test_only_the_parts_asked_for_are_compared() -> None:
    other = replace(SPEC, rate_hz=30.0, action_units=("deg", "1"))
    parts: tuple[SpecPart, ...] = ("state names", "action names", "state units", "cameras")
    SPEC.check_same(other, "the env", "the policy", parts=parts)
    with pytest.raises(SpecMismatch, match="rate"):
        SPEC.check_same(other, "the env", "the policy", parts=(*parts, "rate"))


def test_more_cameras_in_another_order_fit_unless_all_must_be_the_same() -> None:
    more = replace(SPEC, cameras=(Camera("side", 8, 8), *reversed(SPEC.cameras)))
    SPEC.check_same(more, "the env", "the policy")
    with pytest.raises(SpecMismatch, match="cameras are side"):
        SPEC.check_same(more, "the env", "the policy", all_cameras=True)
    SPEC.check_same(replace(SPEC), "the env", "the policy", all_cameras=True)


def test_a_spec_that_contradicts_itself_is_refused():
    with pytest.raises(BadInput, match="more than once"):
        Spec(("x", "x"), ("x",), ("rad", "rad"), ("rad",), (), 50.0)
    with pytest.raises(BadInput, match="units"):
        Spec(("x",), ("x",), (), ("rad",), (), 50.0)
    with pytest.raises(BadInput, match="rate_hz"):
        Spec(("x",), ("x",), ("rad",), ("rad",), (), 0.0)
    with pytest.raises(BadInput, match="at least 1 pixel"):
        Camera("eye", 0, 4)
    with pytest.raises(SpecMismatch, match="there is no camera side; there are top, wrist"):
        SPEC.camera("side")


# -- environment states ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 3])
def test_more_environment_states_than_states_are_refused(size: int) -> None:
    with pytest.raises(BadInput, match=f"^environment_size is {size}; of 2 states, 0 to 2 can be"):
        replace(SPEC, environment_size=size)


def test_the_environments_states_are_the_last_ones() -> None:
    assert SPEC.environment_names == ()
    assert replace(SPEC, environment_size=1).environment_names == ("gripper",)
    assert replace(SPEC, environment_size=2).environment_names == ("waist", "gripper")


def test_other_environment_states_are_a_difference_of_the_state_names() -> None:
    other = replace(SPEC, environment_size=1)
    with pytest.raises(SpecMismatch, match="states of the environment are none, expected gripper"):
        other.check_same(SPEC, "the env", "the policy", parts=("state names",))
    with pytest.raises(SpecMismatch, match="states of the environment are gripper, expected none"):
        SPEC.check_same(other, "the env", "the policy")


def test_the_json_of_a_spec_names_environment_states_only_where_there_are_any() -> None:
    assert "environment_size" not in SPEC.to_json()
    other = replace(SPEC, environment_size=1)
    assert other.to_json() == {**SPEC.to_json(), "environment_size": 1}
    assert [msgspec.convert(s.to_json(), Spec) for s in (SPEC, other)] == [SPEC, other]


def test_the_text_of_a_spec_names_environment_states_only_where_there_are_any() -> None:
    """Fingerprints of datasets are made of it."""
    assert "environment_size" not in repr(SPEC)
    assert repr(replace(SPEC, environment_size=1)) == repr(SPEC)[:-1] + ", environment_size=1)"
