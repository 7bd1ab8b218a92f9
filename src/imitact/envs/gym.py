"""Gymnasium adapter: any Gymnasium environment with pixels and a measured state, as an Env.

Needs gymnasium and the package of the environment; MuJoCo only if that package does.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import (
    BadInput,
    DamagedFile,
    ImitactError,
    SpecMismatch,
    missing_package,
)
from imitact.core.ranges import CountOrNone, Range, RateOrStored
from imitact.core.types import Camera, FloatArray, Frame, Observation, Spec, StepResult
from imitact.envs.own_code import import_named, summary

GYM_PREFIX = "gym:"
"""Prefix of the names of Gymnasium environments on the command line."""

SUCCESS_KEY = "is_success"
"""Usual key of success in `info`."""


_DEFAULTS: dict[str, Any] = {
    "make": "{}",
    "state": ("agent_pos",),
    "cameras": ("pixels",),
    "success": SUCCESS_KEY,
}
"""What the settings that are not given stand for."""


@dataclass(frozen=True)
class GymConfig:
    """State, frames and success of a Gymnasium environment.

    Keys of nested dicts are joined by a slash: pixels/top. A policy knows the settings of its
    demonstrations: `evaluate`, `tune` and `export` take those that are not given from it.
    """

    make: str = ""
    """Arguments of `gymnasium.make` besides the name, as a JSON object:
    {"obs_type": "pixels_agent_pos"}."""

    module: str = ""
    """Python module, or FILE.py, whose import registers the environment; by default the module
    before the slash of its name. The current folder is looked into."""

    state: tuple[str, ...] | None = None
    """Keys of the observation that form the measured state, concatenated; by default agent_pos."""

    environment: tuple[str, ...] = ()
    """Keys of the observation that are the environment's state (object poses, goals); they follow
    the robot's at the end of the state. For policies that have such an input."""

    cameras: tuple[str, ...] | None = None
    """Keys of the observation that are frames, each KEY or NAME=KEY: uint8 of shape (rows, columns,
    3), RGB. A key with a dict of frames gives one camera for each. By default pixels."""

    success: str = ""
    """Key of `info` with the success of the task; by default is_success."""

    success_reward: Annotated[float | None, Range(-1e12, 1e12)] = None
    """Smallest reward that counts as success; replaces `success`."""

    state_names: tuple[str, ...] = ()
    """Names of the measured values; by default the key followed by a number."""

    action_names: tuple[str, ...] = ()
    """Names of the commanded values; by default action_0, action_1, ..."""

    units: tuple[str, ...] = ()
    """Units of the measured values, then of the commanded ones: rad, m, px, 1; by default 1."""

    rate_hz: RateOrStored = 0.0
    """Ticks per second; 0 uses the environment's render_fps."""

    step_cap: CountOrNone = 0
    """Largest number of ticks of an episode; 0 uses the environment's max_episode_steps."""

    remake: bool = False
    """Make the environment again for each episode, if its reset keeps state of the previous one, so
    that a start depends on its seed alone."""

    def completed(self) -> GymConfig:
        """Return the settings with the defaults of those that are not given."""
        unset = {k: v for k, v in _DEFAULTS.items() if getattr(self, k) in ("", None)}
        return replace(self, **unset)

    def with_recorded(self, recorded: GymConfig) -> GymConfig:
        """Return the settings, with those of a recording for what is not given."""
        none = GymConfig()
        names = [f.name for f in fields(self) if getattr(self, f.name) == getattr(none, f.name)]
        if self.success or self.success_reward is not None:  # one criterion, not half of each
            names = [name for name in names if not name.startswith("success")]
        return replace(self, **{name: getattr(recorded, name) for name in names})

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dataset stores them; `remake` has the key "anew" there."""
        values = asdict(self.completed())
        if not self.environment:
            del values["environment"]
        return {"anew" if k == "remake" else k: v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Any) -> GymConfig:
        """Read what `to_json` returned, from a file that may come from anywhere."""
        kinds: dict[str, Any] = {
            "success_reward": (int, float, type(None)),
            "rate_hz": (int, float),
            "step_cap": int,
            "anew": bool,
            **dict.fromkeys(("make", "module", "success"), str),
        }
        known = {"anew" if field.name == "remake" else field.name for field in fields(cls)}
        found: dict[str, Any] = {}
        for name, value in values.items() if isinstance(values, Mapping) else ():
            is_texts = isinstance(value, list | tuple) and all(
                isinstance(text, str) for text in value
            )
            if name not in known or not (
                isinstance(value, kinds[name]) if name in kinds else is_texts
            ):
                raise DamagedFile(f"{name} is {value} in the settings of its gym environment")
            found["remake" if name == "anew" else name] = tuple(value) if is_texts else value
        return cls(**found)


@dataclass(frozen=True)
class GymTruth:
    """What an expert may use of a Gymnasium environment, and no policy.

    Attributes:
        observed: the complete observation.
        info: the environment's `info`.
    """

    observed: Any
    info: Mapping[str, Any]
    _env: weakref.ref[Any]

    @property
    def env(self) -> Any:
        """The environment itself, without wrappers, until it is closed."""
        if (env := self._env()) is None:
            raise ImitactError("the environment is closed; use it before that")
        return env


class GymEnv:
    """`gymnasium.make(name, **make)` as an Env.

    Actions are clipped to the action space, because a policy has no bounds and many environments
    refuse others. An environment that has terminated or been truncated is not stepped again: each
    further step returns its last result, until it is reset.

    Args:
        name: as registered.
        config: where it has its state, frames and success.
        module_sha256: the checksum that a module given as FILE.py must have; empty takes any.

    Raises:
        BadInput: the environment cannot be made, or its rate or length is unknown.
        SpecMismatch: it has no such state, frames or actions; the message lists what it has.
    """

    stages = ()
    """Rewards of Gymnasium environments are not stages."""

    def __init__(self, name: str, config: GymConfig | None = None, module_sha256: str = "") -> None:
        self._name = name
        self._config = config = (config or GymConfig()).completed()
        self._state_keys = (*(config.state or ()), *config.environment)
        self._camera_keys = _camera_keys(config.cameras or ())
        self._module_sha256 = module_sha256
        self._gym: Any = self._make()
        self._final: StepResult | None = None
        self._is_running = False
        try:
            observed, _ = self._gym.reset(seed=0)
            self.spec = self._derive_spec(observed)
            self.step_cap = self._episode_length()
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int) -> Observation:
        if self._gym is None:
            raise ImitactError(f"{self._name} is closed; make a new environment")
        if self._config.remake and self._is_running:
            self._remake()
        observed, info = self._gym.reset(seed=seed)
        self._final, self._is_running = None, True
        return self._observation(observed, info)

    def step(self, action: FloatArray) -> StepResult:
        """Step the environment; raise an error for an action that does not fit."""
        if not self._is_running:
            raise ImitactError("step() before reset(); call reset(seed) first")
        self.spec.check_action(action)
        if self._final is not None:
            return self._final
        space = self._gym.action_space
        observed, reward, terminated, truncated, info = self._gym.step(
            np.clip(np.asarray(action).astype(space.dtype), space.low, space.high)
        )
        result = StepResult(
            self._observation(observed, info),
            float(reward),
            self._success(float(reward), info),
            bool(terminated),
            bool(truncated),
        )
        if terminated or truncated:
            self._final = result
        return result

    def close(self) -> None:
        """Close the environment and destroy it at once.

        The renderer of gymnasium 0.29 frees its OpenGL buffers by number when it is destroyed. One
        that was made before that has the same numbers, and renders only black from then on.
        """
        if self._gym is not None:
            self._gym.close()
            self._gym, self._is_running = None, False
            gc.collect()

    def _remake(self) -> None:
        """Replace the environment by a new one in the same state as the first was.

        An episode must not depend on the number of episodes before it.
        """
        before = weakref.ref(self._gym.unwrapped)
        self.close()
        if before() is not None:
            raise ImitactError(
                f"{self._name} cannot be made again: the previous environment is still in use; an "
                "expert must not keep observation.privileged.env"
            )
        self._gym = self._make()
        self._gym.reset(seed=0)

    def _make(self) -> Any:
        name, config = self._name, self._config
        try:
            import gymnasium
        except ModuleNotFoundError as error:
            raise missing_package(error.name or "gymnasium", "gym") from error
        try:
            given = json.loads(config.make)
        except ValueError as error:
            raise BadInput(f"--gym.make is not JSON: {config.make} ({error})") from error
        if not isinstance(given, dict):
            raise BadInput(f"--gym.make is {config.make}; expected a JSON object")
        if module := config.module or (name.partition("/")[0] if "/" in name else ""):
            import_named(module, name, self._module_sha256, "--gym.module FILE.py")
        try:
            # Gymnasium's checker would warn at every tick; what matters here is checked below.
            return gymnasium.make(name, **{"disable_env_checker": True, **given})
        except gymnasium.error.Error as error:
            said = str(error).rstrip(".")
            raise BadInput(
                f"gymnasium has no environment {name}: {said}. Give the module, or the FILE.py, "
                "that registers it with --gym.module"
            ) from error
        except Exception as error:
            raise BadInput(
                f"{name} cannot be made with --gym.make {config.make}: {summary(error)}"
            ) from error

    def _derive_spec(self, observed: Any) -> Spec:
        """Return the Spec of the first observation and the action space."""
        state = self._state(observed)
        frames = self._frames(observed)
        space = self._gym.action_space
        shape = getattr(space, "shape", None)
        if shape is None or len(shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise SpecMismatch(
                f"{self._name}: actions are {space}; expected a vector of numbers, a Box of shape "
                "(A,)"
            )
        config = self._config
        names = config.state_names or self._numbered(observed)
        actions = config.action_names or tuple(f"action_{n}" for n in range(shape[0]))
        units = config.units or ("1",) * (len(state) + shape[0])
        for what, given, size in (
            ("state-names", names, len(state)),
            ("action-names", actions, shape[0]),
            ("units", units, len(state) + shape[0]),
        ):
            if len(given) != size:
                raise BadInput(
                    f"--gym.{what} has {len(given)} entries, {self._name} needs "
                    f"{size}: {len(state)} measured and {shape[0]} commanded values"
                )
        return Spec(
            state_names=tuple(names),
            action_names=tuple(actions),
            state_units=tuple(units[: len(state)]),
            action_units=tuple(units[len(state) :]),
            cameras=tuple(Camera(n, f.shape[0], f.shape[1]) for n, f in frames.items()),
            rate_hz=self._rate_hz(),
            environment_size=sum(np.size(_lookup(observed, key)) for key in config.environment),
        )

    def _numbered(self, observed: Any) -> tuple[str, ...]:
        names: list[str] = []
        for key in self._state_keys:
            stem, count = key.replace("/", "_"), np.size(_lookup(observed, key))
            names += [stem] if count == 1 else [f"{stem}_{n}" for n in range(count)]
        return tuple(names)

    def _rate_hz(self) -> float:
        metadata: Mapping[str, Any] = getattr(self._gym.unwrapped, "metadata", None) or {}
        rate_hz = self._config.rate_hz or metadata.get("render_fps") or 0
        if not (np.isfinite(rate_hz) and rate_hz > 0):
            raise BadInput(
                f"{self._name} has no rate (metadata render_fps is "
                f"{metadata.get('render_fps', 'missing')}); give --gym.rate-hz"
            )
        return float(rate_hz)

    def _episode_length(self) -> int:
        cap = self._config.step_cap or getattr(self._gym.spec, "max_episode_steps", None) or 0
        if cap < 1:
            raise BadInput(
                f"{self._name} has no max_episode_steps, so its episodes would not end; give "
                "--gym.step-cap"
            )
        return int(cap)

    def _observation(self, observed: Any, info: Mapping[str, Any]) -> Observation:
        # A weak reference, so that an observation that is kept does not keep the environment alive.
        truth = GymTruth(observed, info, weakref.ref(self._gym.unwrapped))
        return Observation(self._state(observed), self._frames(observed), truth)

    def _state(self, observed: Any) -> NDArray[np.float64]:
        parts = []
        for key in self._state_keys:
            try:
                parts.append(np.array(_lookup(observed, key), np.float64).reshape(-1))
            except (KeyError, TypeError, ValueError) as error:
                option = "environment" if key in self._config.environment else "state"
                raise self._mismatch(observed, f'no state "{key}"', f"--gym.{option}") from error
        return np.concatenate(parts) if parts else np.empty(0)

    def _frames(self, observed: Any) -> dict[str, Frame]:
        found: dict[str, Frame] = {}
        for name, key in self._camera_keys:
            try:
                shown = _lookup(observed, key)
            except (KeyError, TypeError) as error:
                raise self._mismatch(observed, f'no frame "{key}"', "--gym.cameras") from error
            several = isinstance(shown, Mapping)
            for part, frame in shown.items() if several else ((name, shown),):
                frame = np.asarray(frame)
                if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                    raise self._mismatch(
                        observed,
                        f"{key} is {frame.dtype} of shape {frame.shape}, expected uint8 of shape "
                        "(rows, columns, 3)",
                        "--gym.cameras",
                    )
                found[str(part)] = np.array(frame)  # a copy: environments reuse the array
        return found

    def _mismatch(self, observed: Any, what: str, option: str) -> SpecMismatch:
        observes = "; ".join(_described(observed)) or "nothing"
        hint = ""
        arguments = getattr(self._gym.spec, "kwargs", None) or {}
        takes_obs_type = "obs_type" in arguments or hasattr(self._gym.unwrapped, "obs_type")
        if takes_obs_type and not isinstance(observed, Mapping):
            hint = ', or select both with --gym.make \'{"obs_type": "pixels_agent_pos"}\''
        return SpecMismatch(
            f"{self._name}: {what}. It observes {observes}. Give the keys of "
            f"state and frames with --gym.state and --gym.cameras (here {option} is wrong){hint}"
        )

    def _success(self, reward: float, info: Mapping[str, Any]) -> bool:
        if (threshold := self._config.success_reward) is not None:
            return reward >= threshold
        try:
            return bool(np.all(_lookup(info, self._config.success)))
        except (KeyError, TypeError) as error:
            raise SpecMismatch(
                f"{self._name} does not report success: info has no {self._config.success}, only "
                f"{', '.join(sorted(map(str, info))) or 'nothing'}. Give its key with "
                "--gym.success, or the smallest reward of success with --gym.success-reward"
            ) from error


def _camera_keys(cameras: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and key of each camera."""
    found = []
    for text in cameras:
        name, equals, key = text.partition("=")
        key = key if equals else name
        if not name or not key:
            raise BadInput(f'--gym.cameras has "{text}"; expected KEY or NAME=KEY')
        found.append((name if equals else key.rpartition("/")[2], key))
    return found


def _lookup(nested: Any, key: str) -> Any:
    """Return the value at a key of nested dicts; a key that contains a slash is found too."""
    if isinstance(nested, Mapping) and key in nested:
        return nested[key]
    first, slash, rest = key.partition("/")
    if not slash:
        raise KeyError(key)
    return _lookup(nested[first], rest)


def _described(nested: Any, name: str = "") -> list[str]:
    """Return a description of each array: key, type and shape."""
    if isinstance(nested, Mapping):
        return [
            line
            for key, value in nested.items()
            for line in _described(value, f"{name}/{key}" if name else str(key))
        ]
    array = np.asarray(nested)
    return [f"{name or 'one array,'} {array.dtype} of shape {array.shape}"]
