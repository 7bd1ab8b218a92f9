"""The simulated worlds by the name that a command line gives them: scene, expert, cameras, task.

`cube` and `insertion` are the ALOHA scene's; `gym:NAME` is any environment that Gymnasium knows by
that name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from imitact.core.errors import BadInput
from imitact.core.types import Camera, Env, Policy, Spec
from imitact.envs import aloha, gym
from imitact.envs.experts import registry
from imitact.envs.gym import GYM, GymConfig
from imitact.recording import start_selection

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


def world(
    env: str, names: Sequence[str], height: int, width: int, gymnasium: GymConfig | None = None
) -> Callable[[], Env]:
    """Makes the world of that name; picklable, and refused here if it cannot be made anywhere.

    names, height, width: of the ALOHA scene's cameras; another world has its own.
    """
    if env.startswith(GYM):
        return partial(gym.make, env.removeprefix(GYM), gymnasium or GymConfig())
    if env not in aloha.TASKS:
        raise BadInput(
            f"no environment {env!r}; there are {list(aloha.TASKS)}, and {GYM}NAME for any that "
            "Gymnasium knows"
        )
    for name in (chosen := cameras(names)):
        if name not in aloha.CAMERAS:
            raise BadInput(
                f"no camera {name!r} in the ALOHA scene; there are {[*aloha.CAMERAS, FOUR_VIEWS]}"
            )
        Camera(name, height, width)
    return partial(aloha.make, env, chosen, height, width)


def world_of(env: str, spec: Spec, gymnasium: GymConfig | None = None) -> Callable[[], Env]:
    """The world of that name as a policy with this Spec sees it: its cameras, at its sizes."""
    if env.startswith(GYM):
        make = world(env, (), 0, 0, gymnasium)
        own = make()
        own.close()
        spec.check_same(
            own.spec,
            env,
            "the policy",
            advice="Give the settings it was recorded with (--gym.cameras, --gym.make)",
        )
        return make
    sizes = {(c.height, c.width) for c in spec.cameras}
    if len(sizes) > 1:
        raise BadInput(
            f"the policy's cameras have several sizes, {sorted(sizes)}; the scene renders all of "
            "its cameras at one size"
        )
    height, width = sizes.pop() if sizes else (480, 640)
    return world(env, [c.name for c in spec.cameras], height, width)


def start_order(env: str, seeds: Sequence[int]) -> list[int]:
    """Those seeds, in the order in which their starts cover the world's starts best; where nobody
    can tell the starts, as given."""
    if env.startswith(GYM):
        return [*seeds]
    return [seeds[row] for row in start_selection.evenly(aloha.starts(env, seeds))]


def expert(
    env: str, spread: float, given: str = "", gymnasium: GymConfig | None = None
) -> Callable[[], Policy]:
    """Makes the demonstrator of that world; picklable, refused here like `world`.

    given: FILE.py:NAME or MODULE:NAME of another one than the scripted one of the ALOHA scene: what
           is called with the Env's Spec and gives a Policy.
    """
    if not given:
        if env.startswith(GYM):
            raise BadInput(
                f"{env} has no scripted expert; give one with --expert FILE.py:NAME: what is "
                "called with the Env's Spec and gives a Policy (docs/own_environment.md)"
            )
        scripted = partial(registry.make_expert, env, spread)
        scripted()
        return scripted
    with_spec = world(env, ("top",), 480, 640, gymnasium)()
    with_spec.close()
    make = partial(_other_expert, given, with_spec.spec)
    if not isinstance(make(), Policy):
        raise BadInput(
            f"expert {given}: what it gives is no Policy: it needs spec, reset(seed) and "
            "chunk(observation) (docs/own_environment.md)"
        )
    return make


def task_text(env: str, given: str = "") -> str:
    """What is to be done, in words; where nobody says it, the world's name."""
    return given or TASK_TEXT.get(env, env)


def demonstrator(
    env: str, spread: float, given: str = "", gymnasium: GymConfig | None = None
) -> dict[str, Any]:
    """What fixes the demonstrations of `expert` in `world`, beside their seeds; plain JSON."""
    if given:
        told: dict[str, Any] = {"env": env, "expert": given}
        path = Path(given.rpartition(":")[0])
        if path.suffix == ".py":
            told["expert_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        if env.startswith(GYM):
            told |= {"gym": asdict(gymnasium or GymConfig()), "gymnasium": _version("gymnasium")}
        return told
    return {
        "env": env,
        "spread": spread,
        "expert": registry.EXPERTS[env].REVISION,
        "mujoco": _version("mujoco"),
        "gym-aloha": _version("gym-aloha"),
        "mink": _version("mink"),
        "daqp": _version("daqp"),
    }


def _other_expert(given: str, spec: Spec) -> Policy:
    """The Policy that FILE.py:NAME or MODULE:NAME gives for this Spec."""
    where, colon, name = given.rpartition(":")
    if not colon or not where or not name:
        raise BadInput(f"expert {given!r}; expected FILE.py:NAME or MODULE:NAME")
    try:
        if where.endswith(".py"):
            if not Path(where).is_file():
                raise BadInput(f"expert {given}: there is no file {where}")
            plan = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert plan is not None
            assert plan.loader is not None
            module = importlib.util.module_from_spec(plan)
            plan.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"expert {given} cannot be imported: {error}") from error
    make: Any = getattr(module, name, None)
    if not callable(make):
        there = [n for n, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise BadInput(f"expert {given}: {where} has no {name!r} to call; it has {there}")
    return cast(Policy, make(spec))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # the world itself says what to install
