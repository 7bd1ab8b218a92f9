"""Any Gymnasium environment that shows pixels and measures a state, as an Env.

Needs gymnasium and the package of the environment, nothing of the ALOHA scene.
"""

from __future__ import annotations

import gc
import importlib
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, SpecMismatch
from imitact.core.types import Camera, FloatArray, Frame, Observation, Spec, StepResult

GYM = "gym:"
"""What a command line writes before the name of an environment that Gymnasium knows."""

IS_SUCCESS = "is_success"
"""The name under which environments of this field tell success in `info`."""


@dataclass(frozen=True)
class GymConfig:
    """Where in a Gymnasium environment the state, the frames and the success are.

    Keys of nested dicts are joined by a slash: pixels/top.
    """

    make: str = "{}"
    """What `gymnasium.make` is given besides the name, as JSON, as
    {"obs_type": "pixels_agent_pos"}."""

    module: str = ""
    """Python module whose import registers the environment; none: what stands before the slash in
    its name."""

    state: tuple[str, ...] = ("agent_pos",)
    """Keys of the observation that are the measured state, put one after another."""

    cameras: tuple[str, ...] = ("pixels",)
    """Keys of the observation that are frames, each KEY or NAME=KEY; a key of several frames gives
    one camera each. A frame is uint8 of shape (rows, columns, 3), RGB."""

    success: str = IS_SUCCESS
    """Key of `info` that says whether the task is done."""

    success_reward: float | None = None
    """Reward from which on the task counts as done; where it is given `info` is not looked at."""

    state_names: tuple[str, ...] = ()
    """Names of the measured values; none: the key with a number behind."""

    action_names: tuple[str, ...] = ()
    """Names of the commanded values; none: action_0, action_1, ..."""

    units: tuple[str, ...] = ()
    """Unit of each measured value, then of each commanded one: rad, m, px, 1; none: 1 for all."""

    rate_hz: float = 0.0
    """Ticks a second; 0 takes the environment's own render_fps."""

    step_cap: int = 0
    """Ticks of an episode at most; 0 takes the environment's own max_episode_steps."""

    anew: bool = False
    """Make the environment anew for each episode: for one whose reset leaves something of the
    episode before, so that a start would not depend on its seed alone."""


@dataclass(frozen=True)
class Truth:
    """What a demonstrator may see of a Gymnasium environment, and no policy.

    observed: all that it observed.
    info:     what it told beside.
    """

    observed: Any
    info: Mapping[str, Any]
    _world: weakref.ref[Any]

    @property
    def world(self) -> Any:
        """The environment itself, without wrappers, until it is closed."""
        if (world := self._world()) is None:
            raise ImitactError("this world is closed; ask for it before that")
        return world


class GymEnv:
    """`gymnasium.make(name, **make)` as an Env.

    It begins as `reset(seed=seed)` does. An action that lies outside of its action space is moved
    to the nearest one in it, since a policy knows no bounds and many environments refuse to go on.
    An environment that has ended stands still: from then on
    each step gives its last observation, reward and success again, until it is reset. So an
    episode that ends with success stays successful, and one that ends without stays without.

    Refuses an environment that shows no such state or frames, saying what it offers.
    """

    stages = ()
    """Rewards of Gymnasium are no stages."""

    def __init__(self, name: str, config: GymConfig | None = None) -> None:
        self._name = name
        self._config = config = config or GymConfig()
        self._frames_at = _cameras(config.cameras)
        self._gym: Any = _made(name, config)
        self._ended: StepResult | None = None
        self._begun = False
        try:
            observed, _ = self._gym.reset(seed=0)
            self._spec = self._looked_over(observed)
            self._step_cap = self._cap()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def step_cap(self) -> int:
        return self._step_cap

    def reset(self, seed: int) -> Observation:
        if self._gym is None:
            raise ImitactError(f"{self._name} is closed; make another one")
        if self._config.anew and self._begun:
            self._make_anew()
        observed, info = self._gym.reset(seed=seed)
        self._ended, self._begun = None, True
        return self._observation(observed, info)

    def step(self, action: FloatArray) -> StepResult:
        """One step of the environment; refuses an action that does not fit."""
        if not self._begun:
            raise ImitactError("step() before reset(); call reset(seed) first")
        self._spec.check_action(action)
        if self._ended is not None:
            return self._ended
        space = self._gym.action_space
        observed, reward, terminated, truncated, info = self._gym.step(
            np.clip(np.asarray(action).astype(space.dtype), space.low, space.high)
        )
        outcome = StepResult(
            self._observation(observed, info), float(reward), self._success(float(reward), info)
        )
        if terminated or truncated:
            self._ended = outcome
        return outcome

    def close(self) -> None:
        """The environment is gone after that, not at some time later.

        The renderer of gymnasium 0.29 frees its buffers when it goes, by their numbers in OpenGL;
        another one made before that has the same numbers, and shows nothing but black from then on.
        """
        if self._gym is not None:
            self._gym.close()
            self._gym, self._begun = None, False
            gc.collect()

    def _make_anew(self) -> None:
        """In place of what there was, and begun as that had been: an episode must not tell how
        many came before."""
        before = weakref.ref(self._gym.unwrapped)
        self.close()
        if before() is not None:
            raise ImitactError(
                f"{self._name} cannot be made anew: somebody still holds the one before; an expert "
                "must not keep observation.privileged.world"
            )
        self._gym = _made(self._name, self._config)
        self._gym.reset(seed=0)

    def _looked_over(self, observed: Any) -> Spec:
        """The Spec of what it shows at its first tick."""
        state = self._state(observed)
        frames = self._frames(observed)
        space = self._gym.action_space
        shape = getattr(space, "shape", None)
        if shape is None or len(shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise SpecMismatch(
                f"{self._name}: actions are {space}; imitact commands one row of numbers, "
                "a Box of shape (A,)"
            )
        config = self._config
        names = config.state_names or self._numbered(observed)
        actions = config.action_names or tuple(f"action_{n}" for n in range(shape[0]))
        for what, given, size in (
            ("state_names", names, len(state)),
            ("action_names", actions, shape[0]),
            ("units", config.units or [""] * (len(state) + shape[0]), len(state) + shape[0]),
        ):
            if len(given) != size:
                raise BadInput(
                    f"gym.{what} has {len(given)} entries, {self._name} needs {size}: "
                    f"{len(state)} measured and {shape[0]} commanded values"
                )
        units = config.units or ("1",) * (len(state) + shape[0])
        return Spec(
            state_names=tuple(names),
            action_names=tuple(actions),
            state_units=tuple(units[: len(state)]),
            action_units=tuple(units[len(state) :]),
            cameras=tuple(Camera(n, f.shape[0], f.shape[1]) for n, f in frames.items()),
            rate_hz=self._rate_hz(),
        )

    def _numbered(self, observed: Any) -> tuple[str, ...]:
        names: list[str] = []
        for key in self._config.state:
            count = np.size(_at(observed, key))
            names += [key.replace("/", "_")] if count == 1 else [
                f"{key.replace('/', '_')}_{n}" for n in range(count)
            ]  # fmt: skip
        return tuple(names)

    def _rate_hz(self) -> float:
        metadata: Mapping[str, Any] = getattr(self._gym.unwrapped, "metadata", None) or {}
        rate_hz = self._config.rate_hz or metadata.get("render_fps") or 0
        if not (np.isfinite(rate_hz) and rate_hz > 0):
            raise BadInput(
                f"{self._name} does not say how many ticks a second has (metadata render_fps is "
                f"{metadata.get('render_fps')!r}); give gym.rate_hz"
            )
        return float(rate_hz)

    def _cap(self) -> int:
        cap = self._config.step_cap or getattr(self._gym.spec, "max_episode_steps", None) or 0
        if cap < 1:
            raise BadInput(
                f"{self._name} has no max_episode_steps, so its episodes would not end; give "
                "gym.step_cap"
            )
        return int(cap)

    def _observation(self, observed: Any, info: Mapping[str, Any]) -> Observation:
        # Weakly: observations that somebody keeps must not keep a closed environment from going.
        truth = Truth(observed, info, weakref.ref(self._gym.unwrapped))
        return Observation(self._state(observed), self._frames(observed), truth)

    def _state(self, observed: Any) -> NDArray[np.float64]:
        parts = []
        for key in self._config.state:
            try:
                parts.append(np.array(_at(observed, key), np.float64).reshape(-1))
            except (KeyError, TypeError, ValueError) as error:
                raise self._misfit(observed, f"no state {key!r}", "gym.state") from error
        return np.concatenate(parts) if parts else np.empty(0)

    def _frames(self, observed: Any) -> dict[str, Frame]:
        found: dict[str, Frame] = {}
        for name, key in self._frames_at:
            try:
                shown = _at(observed, key)
            except (KeyError, TypeError) as error:
                raise self._misfit(observed, f"no frame {key!r}", "gym.cameras") from error
            several = isinstance(shown, Mapping)
            for part, frame in shown.items() if several else ((name, shown),):
                frame = np.asarray(frame)
                if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                    raise self._misfit(
                        observed,
                        f"{key!r} is {frame.dtype} of shape {frame.shape}, expected uint8 of shape "
                        "(rows, columns, 3)",
                        "gym.cameras",
                    )
                found[str(part)] = np.array(frame)  # environments draw into the same one again
        return found

    def _misfit(self, observed: Any, what: str, option: str) -> SpecMismatch:
        offers = "; ".join(_told(observed)) or "nothing"
        hint = ""
        if not isinstance(observed, Mapping) and _takes_obs_type(self._gym):
            hint = ', or ask for both with gym.make \'{"obs_type": "pixels_agent_pos"}\''
        return SpecMismatch(
            f"{self._name}: {what}. It observes {offers}. Name what is state and what are frames "
            f"with gym.state and gym.cameras (here {option} is wrong){hint}"
        )

    def _success(self, reward: float, info: Mapping[str, Any]) -> bool:
        if (least := self._config.success_reward) is not None:
            return reward >= least
        try:
            return bool(np.all(_at(info, self._config.success)))
        except (KeyError, TypeError) as error:
            raise SpecMismatch(
                f"{self._name} does not tell success: info has no {self._config.success!r}, only "
                f"{sorted(map(str, info))}. Name its key with gym.success, or give the reward from "
                "which on the task is done as gym.success_reward"
            ) from error


def make(name: str, config: GymConfig | None = None) -> GymEnv:
    """GymEnv as a function, for functools.partial across processes."""
    return GymEnv(name, config)


def _made(name: str, config: GymConfig) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise BadInput(
            "gymnasium is not installed; install it with: pip install gymnasium"
        ) from error
    try:
        given = json.loads(config.make)
    except ValueError as error:
        raise BadInput(f"gym.make is {config.make!r}, which is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadInput(f"gym.make is {config.make!r}; expected a JSON object")
    module = config.module or (name.partition("/")[0] if "/" in name else "")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise BadInput(f"{module} needs {error.name}, which is not installed") from error
            raise BadInput(
                f"there is no Python module {module!r}, which would register {name!r}; install its "
                f"package (pip install {module.replace('_', '-')}), or name the module with "
                "gym.module"
            ) from error
        except Exception as error:  # it is foreign code: a display it lacks, versions that differ
            raise BadInput(f"{module} cannot be imported: {_said(error)}") from error
    try:
        # Gymnasium's own checker would warn of every tick; what matters here is refused below.
        return gymnasium.make(name, **{"disable_env_checker": True, **given})
    except gymnasium.error.Error as error:
        raise BadInput(f"gymnasium has no environment {name!r}: {error}") from error
    except Exception as error:
        raise BadInput(
            f"{name} cannot be made with gym.make {config.make}: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _cameras(given: Sequence[str]) -> list[tuple[str, str]]:
    """Name and key of each."""
    found = []
    for text in given:
        name, equals, key = text.partition("=")
        key = key if equals else name
        if not name or not key:
            raise BadInput(f"gym.cameras has {text!r}; expected KEY or NAME=KEY")
        found.append((name if equals else key.rpartition("/")[2], key))
    return found


def _at(nested: Any, key: str) -> Any:
    """What stands at a key of nested dicts; a name with a slash in it is found too."""
    if isinstance(nested, Mapping) and key in nested:
        return nested[key]
    first, slash, rest = key.partition("/")
    if not slash:
        raise KeyError(key)
    return _at(nested[first], rest)


def _told(nested: Any, name: str = "") -> list[str]:
    """What there is, a line each: key, type and shape."""
    if isinstance(nested, Mapping):
        return [
            line
            for key, value in nested.items()
            for line in _told(value, f"{name}/{key}" if name else str(key))
        ]
    array = np.asarray(nested)
    return [f"{repr(name) if name else 'one array,'} {array.dtype} of shape {array.shape}"]


def _takes_obs_type(gym: Any) -> bool:
    return "obs_type" in (getattr(gym.spec, "kwargs", None) or {}) or hasattr(
        gym.unwrapped, "obs_type"
    )
