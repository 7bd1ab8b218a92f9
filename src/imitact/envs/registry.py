"""Environment registry: environments and scripted experts by the names the command line gives them.

`cube` and `insertion` are the tasks of the ALOHA scene, `gym:NAME` is an environment registered
with Gymnasium, and FILE.py:NAME or MODULE:NAME is an `Env` of your own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib import metadata
from pathlib import Path
from types import FunctionType
from typing import Any

from imitact.core.errors import BadInput, unknown_name
from imitact.core.types import Camera, Env, Policy, Spec
from imitact.envs import aloha, gym
from imitact.envs.experts import registry as experts
from imitact.envs.gym import GYM_PREFIX, GymConfig

GymSettings = GymConfig | Mapping[str, Any] | None
"""Settings of a gym:NAME; a mapping has some fields of `GymConfig`, None has the defaults."""

FORMS = (*aloha.TASKS, f"{GYM_PREFIX}NAME", "FILE.py:NAME", "MODULE:NAME")
"""The forms that the name of an environment takes."""

TASK_TEXTS = {
    "cube": "Pick up the cube with the right arm and hand it over to the left arm.",
    "insertion": "Pick up the peg and the socket, and put the peg into the socket.",
}
"""The instruction stored with a dataset, by task; another environment's is its name."""

WORKSPACES = {"cube": "top=165:405,180:500", "insertion": "top=205:355,220:420"}
"""Part of a captured frame of 480x640 pixels in which the work happens, as `ActConfig.crop`. Cube:
its starts, the hand-over and both grippers on their ways, with a margin. Insertion: only peg and
socket wherever they are, because one more pixel there is worth more than the grippers."""

RECOMMENDED_MODEL: dict[str, dict[str, Any]] = {
    "cube": {"crop": WORKSPACES["cube"]},
    "insertion": {
        "crop": WORKSPACES["insertion"],
        "input_height": 150,
        "input_width": 200,
        "random_shift": 8,
        "shift_as_input": True,
        "state_noise": 0.05,
    },
}
"""Fields of `ActConfig` that the demo changes for a task. Peg and socket must be located to
millimetres: every pixel of their window is kept, the network is given the random shift (nothing in
the window shows it), and the state noise is no larger than the encoders' error."""

FOUR_VIEWS = "aloha4"
"""Stands for the four views of the real ALOHA."""


def make_env(
    name: str,
    *,
    cameras: Sequence[str] = ("top",),
    height: int = 480,
    width: int = 640,
    gym: GymSettings = None,
) -> Env:
    """Make an environment by its name on the command line.

    Args:
        name: cube or insertion (the ALOHA scene), gym:NAME (registered with Gymnasium), or
            FILE.py:NAME or MODULE:NAME (called without arguments, gives an `Env` of your own).
        cameras: cameras of the ALOHA scene, in order; `aloha4` stands for the real robot's four.
        height: rows of a frame of the ALOHA scene, pixels.
        width: columns of a frame of the ALOHA scene, pixels.
        gym: where a gym:NAME has its state, frames and success: a `GymConfig`, or its fields as a
            mapping.

    Raises:
        BadInput: there is no such environment or camera, or a package is missing.
    """
    return env_factory(name, cameras, height, width, gym)()


def is_env_name(text: str) -> bool:
    """Return whether a text has the form of an environment's name, whatever it names."""
    return text in aloha.TASKS or ":" in text


def check_env_name(name: str) -> None:
    """Refuse a name that has none of the forms; nothing is imported or made."""
    if not is_env_name(name):
        raise unknown_name("environment", name, FORMS)


def env_factory(
    name: str,
    cameras: Sequence[str] = ("top",),
    height: int = 480,
    width: int = 640,
    gym_settings: GymSettings = None,
) -> Callable[[], Env]:
    """Return a picklable function that makes the environment; arguments as for `make_env`.

    A name that is misspelt, and a camera that the scene does not have, are refused here.
    """
    check_env_name(name)
    if name.startswith(GYM_PREFIX):
        return partial(gym.GymEnv, name.removeprefix(GYM_PREFIX), gym_config(gym_settings))
    if name not in aloha.TASKS:
        return partial(_made, Env, name)
    chosen = camera_names(cameras)
    for camera in chosen:
        if camera not in aloha.CAMERAS:
            raise unknown_name("camera of the ALOHA scene", camera, (*aloha.CAMERAS, FOUR_VIEWS))
        Camera(camera, height, width)
    return partial(aloha.AlohaEnv, name, chosen, height, width)


def env_factory_for(name: str, spec: Spec, gym_settings: GymSettings = None) -> Callable[[], Env]:
    """Return a picklable function that makes the environment for a policy of this Spec.

    The ALOHA scene renders the policy's cameras at their sizes; the Spec of any other environment
    must fit the policy's.
    """
    if name in aloha.TASKS:
        sizes = {(c.height, c.width) for c in spec.cameras}
        if len(sizes) > 1:
            shown = ", ".join(map(str, spec.cameras))
            raise BadInput(
                f"the policy's cameras have several sizes: {shown}; the ALOHA scene renders all of "
                "its cameras at one size"
            )
        height, width = sizes.pop() if sizes else (480, 640)
        return env_factory(name, [c.name for c in spec.cameras], height, width)
    make = env_factory(name, gym_settings=gym_settings)
    own = make()
    own.close()
    advice = "Give the settings it was recorded with (--gym.cameras, --gym.make)"
    spec.check_same(
        own.spec, name, "the policy", advice=advice if name.startswith(GYM_PREFIX) else ""
    )
    return make


def gym_config(settings: GymSettings) -> GymConfig:
    """Return settings of a Gymnasium environment from any of the forms that `make_env` takes."""
    if settings is None or isinstance(settings, GymConfig):
        return settings or GymConfig()
    names = [field.name for field in fields(GymConfig)]
    for name in settings:
        if name not in names:
            raise unknown_name("setting of a Gymnasium environment", name, names)
    return GymConfig(**settings)


def camera_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return camera names with `aloha4` replaced by the four names it stands for."""
    views = {FOUR_VIEWS: aloha.REAL_ALOHA_CAMERAS}
    return tuple(camera for name in names for camera in views.get(name, (name,)))


def expert_factory(
    env: str, spread: float, given: str = "", gym_settings: GymSettings = None
) -> Callable[[], Policy]:
    """Return a picklable function that makes the expert of an environment.

    Args:
        env: the environment's name.
        spread: how much the scripted expert's demonstrations vary, from 0 to 2.
        given: FILE.py:NAME or MODULE:NAME of another expert: a callable that takes the Env's Spec,
            or nothing, and returns a `Policy`. Required outside the ALOHA scene.
        gym_settings: settings of a gym:NAME.
    """
    if not given:
        check_env_name(env)
        if env not in aloha.TASKS:
            raise BadInput(
                f"{env} has no scripted expert; give one with --expert FILE.py:NAME, a callable "
                "that takes the Env's Spec and returns a Policy (docs/own_environment.md)"
            )
        scripted = partial(experts.make_expert, env, spread)
        scripted()
        return scripted
    with_spec = env_factory(env, gym_settings=gym_settings)()
    with_spec.close()
    make = partial(_made, Policy, given, with_spec.spec)
    make()  # refused here, if it must be
    return make


def demonstrator_settings(
    env: str, spread: float, given: str = "", gym_settings: GymSettings = None
) -> dict[str, Any]:
    """Return all that fixes an expert's demonstrations beside their seeds, as plain JSON."""
    if given:
        found: dict[str, Any] = {"env": env, "expert": given}
        for key, text in (("expert_sha256", given), ("env_sha256", env)):
            path = Path(text.rpartition(":")[0])
            if path.suffix == ".py":
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        if env.startswith(GYM_PREFIX):
            settings = gym_config(gym_settings).to_json()
            found |= {"gym": settings, "gymnasium": _version("gymnasium")}
        return found
    packages = ("mujoco", "gym-aloha", "mink", "daqp")
    return {
        "env": env,
        "spread": spread,
        "expert": experts.EXPERTS[env].REVISION,
        **{name: _version(name) for name in packages},
    }


_MEMBERS: dict[type, str] = {
    Env: "spec, step_cap, stages, reset(seed), step(action) and close()",
    Policy: "spec, reset(seed) and chunk(observation)",
}


def _made(kind: type, given: str, *arguments: Spec) -> Any:
    """Call what FILE.py:NAME or MODULE:NAME names, without arguments where it takes none."""
    what = "environment" if kind is Env else "expert"
    function = _imported(given, what)
    try:
        parameters = inspect.signature(function).parameters
        arguments = arguments if parameters else ()
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        takes = "the environment's Spec" if arguments else "no arguments"
        raise BadInput(f"{what} {given} is called with {takes}: {error}") from error
    made = function(*arguments)
    if not isinstance(made, kind):
        raise BadInput(
            f"{what} {given} returns no {kind.__name__}: it needs {_MEMBERS[kind]} "
            "(docs/own_environment.md)"
        )
    return made


def _imported(given: str, what: str) -> Any:
    """Return the callable that FILE.py:NAME or MODULE:NAME names."""
    where, colon, name = given.rpartition(":")
    if not colon or not where or not name:
        raise BadInput(f'{what} is "{given}"; expected FILE.py:NAME or MODULE:NAME')
    try:
        if where.endswith(".py"):
            if not Path(where).is_file():
                raise BadInput(f"{what} {given}: there is no file {where}")
            plan = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert plan is not None
            assert plan.loader is not None
            module = importlib.util.module_from_spec(plan)
            plan.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"{what} {given} cannot be imported: {error}") from error
    found: Any = getattr(module, name, None)
    if not callable(found):
        kinds = (type, FunctionType)
        members = [n for n, value in vars(module).items() if isinstance(value, kinds)]
        raise unknown_name(f"class or function in {where} for the {what}", name, members)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # making the environment says what to install
