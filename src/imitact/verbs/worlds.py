"""The simulated worlds by the name that a command line gives them: scene, expert, cameras, task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from typing import Any

from imitact.contract import BadInput, Camera, Env, Policy, Spec
from imitact.data import coverage
from imitact.sim import aloha, experts

TASK_TEXT = {
    "cube": "Pick up the cube with the right arm and hand it over to the left arm.",
    "insertion": "Pick up the peg and the socket, and put the peg into the socket.",
}
"""What is to be done, in words; stored with a dataset."""

WORKSPACE = {"cube": "top=165:405,180:500", "insertion": "top=205:355,220:420"}
"""Where the work happens in a captured frame of 480x640 pixels, as `model.crop` has it. For the
cube its starts, the hand-over and both hands on their ways, with a margin; for the insertion only
peg and socket wherever they are, since there a pixel more is worth more than the hands."""

SIGHT: dict[str, dict[str, Any]] = {
    "cube": {"crop": WORKSPACE["cube"]},
    "insertion": {
        "crop": WORKSPACE["insertion"],
        "input_height": 150,
        "input_width": 200,
        "shift": 8,
        "shift_told": True,
        "state_noise": 0.05,
    },
}
"""How the demo's network sees a task, beside what its preset says. Peg and socket must be found to
millimetres: every pixel of their window is kept, the network is told how far a frame was moved
(nothing in that window tells it), and joints are known as well as they are."""

FOUR_VIEWS = "aloha4"
"""Names the four views of the real ALOHA together."""


def cameras(names: Sequence[str]) -> tuple[str, ...]:
    """Names as given, with `aloha4` spelt out."""
    return tuple(n for name in names for n in (aloha.ALOHA_FOUR if name == FOUR_VIEWS else (name,)))


def world(env: str, names: Sequence[str], height: int, width: int) -> Callable[[], Env]:
    """Makes the world of that name; picklable, and refused here if it cannot be made anywhere."""
    if env not in aloha.TASKS:
        raise BadInput(f"no environment {env!r}; there are {list(aloha.TASKS)}")
    for name in (chosen := cameras(names)):
        if name not in aloha.CAMERAS:
            raise BadInput(
                f"no camera {name!r} in the ALOHA scene; there are {[*aloha.CAMERAS, FOUR_VIEWS]}"
            )
        Camera(name, height, width)
    return partial(aloha.make, env, chosen, height, width)


def world_of(env: str, spec: Spec) -> Callable[[], Env]:
    """The world of that name as a policy with this Spec sees it: its cameras, at its sizes."""
    sizes = {(c.height, c.width) for c in spec.cameras}
    if len(sizes) > 1:
        raise BadInput(
            f"the policy's cameras have several sizes, {sorted(sizes)}; the scene renders all of "
            "its cameras at one size"
        )
    height, width = sizes.pop() if sizes else (480, 640)
    return world(env, [c.name for c in spec.cameras], height, width)


def start_order(env: str, seeds: Sequence[int]) -> list[int]:
    """Those seeds, in the order in which their starts cover the world's starts best."""
    return [seeds[row] for row in coverage.evenly(aloha.starts(env, seeds))]


def expert(env: str, spread: float) -> Callable[[], Policy]:
    """Makes the scripted demonstrator of that world; picklable, refused here like `world`."""
    make = partial(experts.make_expert, env, spread)
    make()
    return make


def demonstrator(env: str, spread: float) -> dict[str, Any]:
    """What fixes the demonstrations of `expert` in `world`, beside their seeds; plain JSON."""
    return {
        "env": env,
        "spread": spread,
        "expert": experts.EXPERTS[env].REVISION,
        "mujoco": _version("mujoco"),
        "gym-aloha": _version("gym-aloha"),
        "mink": _version("mink"),
        "daqp": _version("daqp"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # the world itself says what to install
