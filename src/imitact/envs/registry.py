"""Environment registry: environments and scripted experts by the names the command line gives them.

`cube` and `insertion` are the tasks of the ALOHA scene, `gym:NAME` is an environment registered
with Gymnasium, and FILE.py:NAME or MODULE:NAME is an `Env` of your own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from importlib import metadata
from typing import Any

from imitact.core import validate
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError, unknown_name
from imitact.core.types import Camera, Env, Policy, Spec, SpecPart
from imitact.envs import aloha, gym, own_code
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
        config = gym_config(gym_settings)
        sha256 = own_code.sha256_of(config.module)
        return partial(gym.GymEnv, name.removeprefix(GYM_PREFIX), config, sha256)
    if name not in aloha.TASKS:
        return partial(_made, Env, name, own_code.sha256_of(name.rpartition(":")[0]))
    chosen = camera_names(cameras)
    for camera in chosen:
        if camera not in aloha.CAMERAS:
            raise unknown_name("camera of the ALOHA scene", camera, (*aloha.CAMERAS, FOUR_VIEWS))
        Camera(camera, height, width)
    return partial(aloha.AlohaEnv, name, chosen, height, width)


def env_for_policy(
    name: str,
    spec: Spec,
    gym_settings: GymSettings = None,
    *,
    recorded_in: Mapping[str, Any] | None = None,
    on_line: Callable[[str], object] = lambda line: None,
) -> tuple[Callable[[], Env], dict[str, str]]:
    """Return a picklable function that makes the environment for a policy of this Spec.

    With it comes what distinguishes the environment from others of the same name: the settings of
    a gym:NAME, and the checksum of a FILE.py.

    The ALOHA scene renders the policy's cameras at their sizes. Any other environment is made here,
    its Spec compared with the policy's, and its first ticks run, so that what does not fit is known
    before anything is begun.

    Args:
        name: the environment's name, as from `env_name_for`.
        gym_settings: settings of a gym:NAME. Those that are not given are those of the
            demonstrations, if they come from this environment; names and units are the policy's.
        recorded_in: where the policy's demonstrations were recorded (`PolicyRecord.recorded_in`).
        on_line: receives what is to be known about the environment.

    Raises:
        SpecMismatch: the environment does not fit the policy.
    """
    if name in aloha.TASKS:
        scene = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (), ALOHA_RATE_HZ)
        spec.check_same(scene, f"the ALOHA scene of {name}", "the policy", parts=_JOINTS)
        sizes = {(c.height, c.width) for c in spec.cameras}
        if len(sizes) > 1:
            shown = ", ".join(map(str, spec.cameras))
            raise BadInput(
                f"the policy's cameras have several sizes: {shown}; the ALOHA scene renders all of "
                "its cameras at one size"
            )
        height, width = sizes.pop() if sizes else (480, 640)
        return env_factory(name, [c.name for c in spec.cameras], height, width), {}
    config, advice, identity = gym_config(gym_settings), "", {}
    if name.startswith(GYM_PREFIX):
        config = _with_recorded(name, config, recorded_in or {})
        advice = (
            f"Give what differs with {', '.join(_GYM_OPTIONS)}; `imitact check {name}` with these "
            "options shows what the environment has"
        )
    with closing(env_factory(name, gym_settings=config)()) as env:
        own = env.spec
        if name.startswith(GYM_PREFIX):
            config, own = _named_after(spec, config, own)
        spec.check_same(own, name, "the policy", advice=advice)
        try_first_ticks(name, env, on_line=on_line)
    if name.startswith(GYM_PREFIX):
        identity["gym"] = json.dumps(config.to_json())
    if sha256 := own_code.sha256_of(config.module or name.rpartition(":")[0]):
        identity["env_sha256"] = sha256
    return env_factory(name, gym_settings=config), identity


_JOINTS: tuple[SpecPart, ...] = (
    "state names",
    "action names",
    "state units",
    "action units",
    "rate",
)

_GYM_OPTIONS = tuple(
    f"--gym.{name}"
    for name in (
        "state-names",
        "action-names",
        "units",
        "cameras",
        "environment",
        "rate-hz",
        "make",
    )
)
"""Options that change the Spec of a Gymnasium environment."""


def env_name_for(name: str, recorded_in: Mapping[str, Any]) -> str:
    """Return the environment that is named, or else the one of a policy's demonstrations.

    Code of one's own is only run where it is named: a policy may come from anywhere.
    """
    recorded = recorded_in.get("env", aloha.TASKS[0])
    if name or recorded in aloha.TASKS or str(recorded).startswith(GYM_PREFIX):
        check_env_name(name or recorded)
        return name or recorded
    raise BadInput(
        f"the policy's demonstrations were recorded in {recorded}; give --env {recorded}, or "
        "another environment that fits"
    )


def _with_recorded(name: str, config: GymConfig, recorded_in: Mapping[str, Any]) -> GymConfig:
    """Return the settings with those of the demonstrations, if they come from this environment."""
    if recorded_in.get("env") != name or "gym" not in recorded_in:
        return config
    recorded = GymConfig.from_json(recorded_in["gym"])
    if own_code.is_file_name(recorded.module) and not config.module:
        raise BadInput(
            f"{name} was recorded with --gym.module {recorded.module}; give it again: a file of "
            "Python is only run where the command names it"
        )
    return config.with_recorded(recorded)


def _named_after(spec: Spec, config: GymConfig, own: Spec) -> tuple[GymConfig, Spec]:
    """Return settings and Spec with the policy's names and units where none are given."""
    if (spec.state_size, spec.action_size) != (own.state_size, own.action_size):
        return config, own
    names: dict[str, Any] = {
        part: getattr(spec, part)
        for part in ("state_names", "action_names")
        if not getattr(config, part)
    }
    units: dict[str, Any] = {}
    if not config.units:
        units = {"state_units": spec.state_units, "action_units": spec.action_units}
    changed = replace(own, **names, **units)
    config = replace(config, **names, units=changed.state_units + changed.action_units)
    return config, changed


SLOW_TICK_S = 0.2
"""Seconds of a tick with all of its frames from which on it is called slow."""


def try_first_ticks(
    name: str,
    env: Env,
    expert: Policy | None = None,
    seed: int = 0,
    on_line: Callable[[str], object] = lambda line: None,
) -> None:
    """Run two ticks of an environment that a user made; refuse one that fails, in one line.

    Args:
        name: the environment's name, for the error.
        expert: what commands it; None holds the joints.
        on_line: receives a line where a tick is slow, with what can be done about it.
    """
    try:
        tick_s = validate.check_first_ticks(env, expert, seed)
    except Exception as error:  # a user's code raises anything
        text = str(error) if isinstance(error, ImitactError) else own_code.summary(error)
        kind = type(error) if isinstance(error, ImitactError) else BadInput
        advice = (
            "" if f"imitact check {name}" in text else f". `imitact check {name}` tries it alone"
        )
        raise kind(f"{name}, first ticks of seed {seed}: {text.rstrip('.')}{advice}") from error
    if tick_s > SLOW_TICK_S:
        cameras = ", ".join(map(str, env.spec.cameras)) or "no camera"
        on_line(
            f"{name}: a tick takes {tick_s:.2g} s with {cameras}, most of it drawing if the "
            "physics are simple. In MuJoCo, model.vis.quality.shadowsize = 0 and offsamples = 0 "
            "(shadows and multisampling off) are up to 13 times faster without a graphics card "
            "(docs/own_environment.md)"
        )


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
    env: str,
    spread: float,
    given: str = "",
    gym_settings: GymSettings = None,
    *,
    styles: int = 1,
    seed: int | None = None,
    on_line: Callable[[str], object] = lambda line: None,
) -> Callable[[], Policy]:
    """Return a picklable function that makes the expert of an environment.

    With a seed, an expert that is given runs the first ticks of that episode here, so that what is
    wrong with it or with the environment is known before anything is begun.

    Args:
        env: the environment's name.
        spread: how much the scripted expert's demonstrations vary, from 0 to 2.
        given: FILE.py:NAME or MODULE:NAME of another expert: a callable that takes the Env's Spec,
            or nothing, and returns a `Policy`. Required outside the ALOHA scene.
        gym_settings: settings of a gym:NAME.
        styles: ways in which the scripted expert does the task, 1 or 2.
        seed: seed of the episode whose first ticks are tried; None tries none.
        on_line: receives what is to be known about the environment.
    """
    if not given:
        check_env_name(env)
        if env not in aloha.TASKS:
            raise BadInput(
                f"{env} has no scripted expert; give one with --expert FILE.py:NAME, a callable "
                "that takes the Env's Spec and returns a Policy (docs/own_environment.md)"
            )
        scripted = partial(experts.make_expert, env, spread, styles)
        scripted()
        return scripted
    if styles > 1:
        raise BadInput(f"styles is {styles}; only the scripted experts have two, not {given}")
    with closing(env_factory(env, gym_settings=gym_settings)()) as made:
        make = partial(
            _made, Policy, given, own_code.sha256_of(given.rpartition(":")[0]), made.spec
        )
        expert = make()  # refused here, if it must be
        if seed is not None:
            try_first_ticks(env, made, expert, seed, on_line)
    return make


def demonstrator_settings(
    env: str,
    spread: float,
    given: str = "",
    gym_settings: GymSettings = None,
    *,
    styles: int = 1,
) -> dict[str, Any]:
    """Return all that fixes an expert's demonstrations beside their seeds, as plain JSON."""
    if given:
        found: dict[str, Any] = {"env": env, "expert": given}
        for key, text in (("expert_sha256", given), ("env_sha256", env)):
            if sha256 := own_code.sha256_of(text.rpartition(":")[0]):
                found[key] = sha256
        if env.startswith(GYM_PREFIX):
            settings = gym_config(gym_settings).to_json()
            found |= {"gym": settings, "gymnasium": _version("gymnasium")}
        return found
    packages = ("mujoco", "gym-aloha", "mink", "daqp")
    return {
        "env": env,
        "spread": spread,
        "expert": experts.EXPERTS[env].REVISION,
        **({"styles": styles} if styles > 1 else {}),  # earlier recordings have no styles
        **{name: _version(name) for name in packages},
    }


_MEMBERS: dict[type, str] = {
    Env: "spec, step_cap, stages, reset(seed), step(action) and close()",
    Policy: "spec, reset(seed) and chunk(observation)",
}


def _made(kind: type, given: str, sha256: str, *arguments: Spec) -> Any:
    """Call what FILE.py:NAME or MODULE:NAME names, without arguments where it takes none."""
    what = "environment" if kind is Env else "expert"
    function = own_code.member(given, what, sha256)
    try:
        parameters = inspect.signature(function).parameters
        arguments = arguments if parameters else ()
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        takes = "the environment's Spec" if arguments else "no arguments"
        raise BadInput(f"{what} {given} is called with {takes}: {error}") from error
    try:
        made = function(*arguments)
    except ImitactError:
        raise
    except Exception as error:
        raise BadInput(f"{what} {given} cannot be made: {own_code.summary(error)}") from error
    if not isinstance(made, kind):
        raise BadInput(
            f"{what} {given} returns no {kind.__name__}: it needs {_MEMBERS[kind]} "
            "(docs/own_environment.md)"
        )
    return made


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # making the environment says what to install
