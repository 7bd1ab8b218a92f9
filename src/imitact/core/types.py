"""Core types: Spec, Observation, Policy, Env, Robot, Episode, Dataset; they need numpy alone.

Legend for shapes: K ticks of a chunk, A action dimensions, S state dimensions, T ticks of an
episode, H and W pixels of a frame, C = 3 colour channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, NotFinite, SpecMismatch
from imitact.core.words import counted

FloatArray = NDArray[np.floating[Any]]
Frame = NDArray[np.uint8]
"""One camera image: uint8, shape (H, W, 3), RGB."""

UNKNOWN_UNIT = "unknown"
"""Unit of values whose data does not state one, such as LeRobot's; it fits any unit."""

SpecPart = Literal["state names", "action names", "state units", "action units", "rate", "cameras"]
SPEC_PARTS: tuple[SpecPart, ...] = get_args(SpecPart)
"""Everything that `Spec.check_same` can compare."""


@dataclass(frozen=True)
class Camera:
    """A camera by name, with its capture size in pixels."""

    name: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if not self.name:
            raise BadInput("a camera has no name; give it the name that the dataset uses")
        if self.height < 1 or self.width < 1:
            raise BadInput(
                f"camera {self.name} has {self.height}x{self.width} pixels; height and width must "
                "be at least 1 pixel"
            )

    def __str__(self) -> str:
        """As in "top (480x640)": name, height and width."""
        return f"{self.name} ({self.height}x{self.width})"


@dataclass(frozen=True)
class Spec:
    """What is observed and what is commanded: the contract between dataset, policy and robot.

    Attributes:
        state_names: the S measured values, in order.
        action_names: the A commanded values, in order.
        state_units: a unit for each state: "rad" for joints, "1" for a normalized gripper (0
            closed, 1 open), "m", "px", ...
        action_units: a unit for each action.
        cameras: names and capture sizes, in the order in which the network sees them.
        rate_hz: ticks per second.
        environment_size: how many of the last states are the environment's (object poses, goals),
            as LeRobot's `observation.environment_state`; the others are the robot's.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    state_units: tuple[str, ...]
    action_units: tuple[str, ...]
    cameras: tuple[Camera, ...]
    rate_hz: float
    environment_size: int = 0

    def __post_init__(self) -> None:
        cameras = tuple(camera.name for camera in self.cameras)
        for what, names, units in (
            ("state", self.state_names, self.state_units),
            ("action", self.action_names, self.action_units),
            ("camera", cameras, cameras),
        ):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise BadInput(f"{what} names must differ; given more than once: {_listed(twice)}")
            if len(names) != len(units):
                raise BadInput(f"{len(names)} {what} names but {len(units)} units; give one each")
        if not self.action_names:
            raise BadInput("a Spec needs at least one action dimension")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise BadInput(f"rate_hz is {self.rate_hz}; it must be positive (ticks per second)")
        if not 0 <= self.environment_size <= self.state_size:
            raise BadInput(
                f"environment_size is {self.environment_size}; of "
                f"{counted(self.state_size, 'state')}, 0 to {self.state_size} can be the "
                "environment's"
            )

    def __repr__(self) -> str:
        """As of any dataclass, without an environment_size of 0: fingerprints of datasets and
        policies from before environment states are made of it."""
        values = {k: v for k, v in vars(self).items() if v or k != "environment_size"}
        return f"Spec({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def state_size(self) -> int:
        """The number of states, S."""
        return len(self.state_names)

    @property
    def action_size(self) -> int:
        """The number of actions, A."""
        return len(self.action_names)

    @property
    def environment_names(self) -> tuple[str, ...]:
        """The names of the environment's states, the last ones."""
        return self.state_names[self.state_size - self.environment_size :]

    def to_json(self) -> dict[str, Any]:
        """Return the Spec as plain JSON; environment_size is absent where it is 0."""
        values = asdict(self)
        if not self.environment_size:
            del values["environment_size"]
        return values

    def camera(self, name: str) -> Camera:
        """Return the camera of that name; the error lists the names that exist."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise SpecMismatch(
            f"there is no camera {name}; there are {_listed(c.name for c in self.cameras)}"
        )

    def check_same(
        self,
        other: Spec,
        what: str,
        expected_by: str,
        *,
        parts: Sequence[SpecPart] = SPEC_PARTS,
        all_cameras: bool = False,
        advice: str = "",
    ) -> None:
        """Raise SpecMismatch where `other` differs from this Spec, naming every difference.

        A unit "unknown", as of data that states none, fits any unit. Where the number of states or
        actions differs, that is said instead of their names: other actions are another robot.

        Args:
            other: the Spec that came.
            what: what `other` belongs to, in words: "the environment".
            expected_by: what this Spec belongs to, in words: "the policy".
            parts: what to compare.
            all_cameras: whether `other` must have the same cameras in the same order; otherwise it
                must have every camera of this Spec at its capture size, and may have more.
            advice: what to do about it; ends the message.
        """
        sizes = [
            f"{came} {kind}s, expected {wanted}"
            for kind, came, wanted in (
                ("action", other.action_size, self.action_size),
                ("state", other.state_size, self.state_size),
            )
            if came != wanted and f"{kind} names" in parts
        ]
        is_other_robot = any("action" in size for size in sizes)
        found = sizes or [
            line for part in parts for line in self._differences(other, part, all_cameras)
        ]
        if found:
            raise SpecMismatch(
                f"{what} {'is of another robot than' if is_other_robot else 'does not fit'} "
                f"{expected_by}: {'; '.join(found)}{'. ' if advice else ''}{advice}"
            )

    def _differences(self, other: Spec, part: SpecPart, all_cameras: bool) -> list[str]:
        if part == "rate":
            same = self.rate_hz == other.rate_hz
            return [] if same else [f"rate is {other.rate_hz:g} Hz, expected {self.rate_hz:g} Hz"]
        if part == "cameras":
            there = {camera.name: camera for camera in other.cameras}
            fits = all(there.get(camera.name) == camera for camera in self.cameras)
            if self.cameras == other.cameras if all_cameras else fits:
                return []
            wanted, came = (_listed(map(str, spec.cameras)) for spec in (self, other))
            return [f"cameras are {came}, expected {wanted}"]
        attribute = part.replace(" ", "_")
        wanted, came = getattr(self, attribute), getattr(other, attribute)
        same = wanted == came
        if attribute.endswith("units") and len(wanted) == len(came):
            same = all(map(same_unit, wanted, came))
        if not same:
            return [f"{part} are {_listed(came)}, expected {_listed(wanted)}"]
        if part == "state names" and self.environment_size != other.environment_size:
            wanted, came = (_listed(spec.environment_names) for spec in (self, other))
            return [f"states of the environment are {came}, expected {wanted}"]
        return []

    def check_state(self, state: NDArray[Any], where: str = "observation") -> None:
        """Raise SpecMismatch for a state of another shape, NotFinite for a NaN or infinity."""
        _check_values("state", state, self.state_names, where)

    def check_action(self, action: NDArray[Any], where: str = "action") -> None:
        """Raise SpecMismatch for an action of another shape, NotFinite for a NaN or infinity."""
        _check_values("action", action, self.action_names, where)

    def check_frame(self, name: str, frame: NDArray[Any], where: str = "observation") -> None:
        """Raise SpecMismatch for a frame of another size or type than that camera captures."""
        camera = self.camera(name)
        want = (camera.height, camera.width, 3)
        if frame.shape != want or frame.dtype != np.uint8:
            raise SpecMismatch(
                f"{where}: camera {name} gave {frame.dtype} of shape {frame.shape}, expected uint8 "
                f"of shape {want} (the capture size; imitact resizes frames itself)"
            )

    def checked(
        self, observation: Observation, where: str = "observation"
    ) -> tuple[NDArray[Any], dict[str, Frame]]:
        """Return the state, and each camera's frame in the order of `cameras`, both checked.

        Raises:
            SpecMismatch: a camera is missing, or a size or type differs.
            NotFinite: the state holds a NaN or an infinity.
        """
        state = np.asarray(observation.state)
        self.check_state(state, where)
        frames: dict[str, Frame] = {}
        for camera in self.cameras:
            if camera.name not in observation.frames:
                raise SpecMismatch(
                    f"{where}: no frame of camera {camera.name}; it has frames of "
                    f"{_listed(observation.frames)}, expected "
                    f"{_listed(c.name for c in self.cameras)}"
                )
            frames[camera.name] = np.asarray(observation.frames[camera.name])
            self.check_frame(camera.name, frames[camera.name], where)
        return state, frames


def same_unit(one: str, other: str) -> bool:
    """Return whether values in these units can be compared; an unknown unit fits any."""
    return one == other or UNKNOWN_UNIT in (one, other)


def shown_unit(unit: str) -> str:
    """Return a unit as it is shown: empty where it is 1 or unknown."""
    return "" if unit in ("1", UNKNOWN_UNIT) else unit


def with_unit(number: str, unit: str) -> str:
    """Return a number with its unit: "0.5 rad", or "0.5" where the unit is 1 or unknown."""
    return f"{number} {shown_unit(unit)}".rstrip()


class LazyFrames(Mapping[str, Frame]):
    """Frames by camera name, each rendered or decoded at its first use, then kept."""

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], Frame],
        valid: Callable[[], bool] = lambda: True,
    ) -> None:
        """Remember how to read the frame of each camera.

        `valid` says whether the environment is still at the tick of this observation. A frame that
        is first used later is refused, because it would show another tick.
        """
        self._names = tuple(names)
        self._read = read
        self._valid = valid
        self._kept: dict[str, Frame] = {}

    def __getitem__(self, name: str) -> Frame:
        if name not in self._names:
            raise KeyError(f"there is no camera {name}; there are {_listed(self._names)}")
        if name not in self._kept:
            if not self._valid():
                raise ImitactError(
                    f"the frame of camera {name} was read after its tick, when the environment had "
                    "moved on; read the frames of an observation before the next step"
                )
            self._kept[name] = self._read(name)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Observation:
    """What is observed at one tick.

    Attributes:
        state: (S,) measured values, in the units of the Spec.
        frames: camera name to Frame at capture size; may be lazy.
        privileged: the true state of a simulator, None elsewhere. Only experts use it; it is never
            recorded.
        committed: (d, A) actions that are decided and not yet executed; None where there are none.
    """

    state: FloatArray
    frames: Mapping[str, Frame] = field(default_factory=dict)
    privileged: Any = None
    committed: FloatArray | None = None


@runtime_checkable
class Policy(Protocol):
    """Answers an observation with the next K actions, in physical units.

    A trained network, an exported file, a client of a server, a scripted expert (K = 1) and a
    recorded episode are all Policies.
    """

    @property
    def spec(self) -> Spec: ...

    def reset(self, seed: int) -> None:
        """Begin an episode; all randomness of the episode comes from `seed`."""
        ...

    def chunk(self, observation: Observation) -> FloatArray:
        """Return the next K actions, (K, A); row 0 is for the tick of the observation."""
        ...


@dataclass(frozen=True)
class StepResult:
    """The result of one step of an Env.

    Attributes:
        observation: after the step.
        reward: of this step; for tasks with stages, the number of the stage reached.
        success: whether the task's own criterion holds at this tick.
        terminated: whether the task has ended here, as by a success or a fall, so that its success
            at this tick stays. The episode ends, as with `truncated`.
        truncated: whether the environment ended the episode for another reason, such as a time
            limit of its own.
    """

    observation: Observation
    reward: float
    success: bool
    terminated: bool = False
    truncated: bool = False


@runtime_checkable
class Env(Protocol):
    """An environment that takes one action per tick.

    An episode ends at the step that is `terminated` or `truncated`, or before, as its caller likes.
    """

    @property
    def spec(self) -> Spec: ...

    @property
    def step_cap(self) -> int:
        """The usual length of an episode, in ticks."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """What rewards of 0, 1, 2, ... mean, in words; empty where rewards are not stages."""
        ...

    def reset(self, seed: int) -> Observation:
        """Begin an episode; the seed alone determines its start."""
        ...

    def step(self, action: FloatArray) -> StepResult:
        """Advance one control period; an action that does not fit the Spec is refused."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Robot(Protocol):
    """Hardware, which is observed and commanded on a schedule that its caller keeps."""

    @property
    def spec(self) -> Spec: ...

    def observe(self) -> Observation: ...

    def command(self, action: FloatArray) -> FloatArray:
        """Send an action, (A,); return what was actually sent."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ExtraColumn:
    """A column of numbers that a dataset stores beside state, action and frames.

    Attributes:
        dtype: NumPy type string, for example "<f4".
        width: values per tick; None where each tick holds a plain number, not a vector of one.
    """

    dtype: str
    width: int | None


# A property that is computed once; an instance may replace it: `self.task = "..."` needs no setter.
overridable = property if TYPE_CHECKING else cached_property


class Episode(Protocol):
    """One demonstration of T ticks.

    Inherit from this class explicitly to get the defaults of the properties below `frames`. A
    subclass gives each property, or sets it as an attribute.
    """

    @overridable
    def index(self) -> int:
        """Position in the dataset, from 0."""
        ...

    @overridable
    def state(self) -> NDArray[np.float32]:
        """Measured state, (T, S)."""
        ...

    @overridable
    def action(self) -> NDArray[np.float32]:
        """Commanded action, (T, A); action[t] was commanded at the tick of state[t]."""
        ...

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames of ticks `start` to `stop` (exclusive; None: T), in order, decoded lazily."""
        ...

    @overridable
    def task(self) -> str:
        """Task description at the first tick; empty where the dataset has none."""
        return ""

    @overridable
    def tasks(self) -> tuple[str, ...]:
        """All task descriptions of the episode; more than one where the task changes in it."""
        return (self.task,) if self.task else ()

    @overridable
    def times_s(self) -> NDArray[np.float64] | None:
        """Recorded time of each tick since the first, (T,) in s; None where none are stored."""
        return None

    def frame_offsets_s(self, camera: str) -> NDArray[np.float64] | None:
        """Return by how much the frame of each tick is later than its recorded time, (T,) in s.

        NaN where a tick has no frame; None for a camera whose frames have no times of their own.
        Nothing is decoded.
        """
        return None

    @overridable
    def origin(self) -> Mapping[str, Any]:
        """Where the episode comes from, as plain JSON values.

        Recordings of imitact give "seed", "variation" and "first_ticks" (stage to its first tick);
        other layouts give the "name" of the episode, or its "file" and whether it is "sim".
        """
        return {"name": str(self.index)}

    @overridable
    def own_videos(self) -> Mapping[str, Path]:
        """Cameras whose video file holds this episode from time 0 and nothing else."""
        return {}

    def extra_values(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read columns of `Dataset.extra_columns` by name: (T,), or (T, width), of its dtype."""
        if names:
            raise BadInput(f"the episode has no columns {', '.join(names)}")
        return {}


class Dataset(Protocol):
    """A dataset of demonstrations, whatever its layout.

    Inherit from this class explicitly to get the defaults of the properties below `episode`. A
    subclass gives each property, or sets it as an attribute.
    """

    @overridable
    def spec(self) -> Spec: ...

    @overridable
    def lengths(self) -> tuple[int, ...]:
        """Number of ticks T of every episode."""
        ...

    @overridable
    def weights(self) -> tuple[int, ...]:
        """How often an epoch of training draws the ticks of every episode."""
        return (1,) * len(self.lengths)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 that is equal for equal demonstrations and differs for others."""
        ...

    def episode(self, index: int) -> Episode: ...

    @overridable
    def path(self) -> Path | None:
        """Folder or file of the dataset; None where it is not on a disk."""
        return None

    @overridable
    def layout(self) -> str:
        """Name of the storage layout, as in `ReadConfig.layout`; "custom" for any other."""
        return "custom"

    @overridable
    def read_options(self) -> Mapping[str, Any]:
        """Read options that were given, as plain JSON; options at their defaults are absent."""
        return {}

    @overridable
    def notices(self) -> tuple[str, ...]:
        """Notices about features that are not read, one sentence each."""
        return ()

    @overridable
    def unread_cameras(self) -> tuple[str, ...]:
        """Stored features that look like cameras and cannot be read as such."""
        return ()

    @overridable
    def left_out(self) -> Mapping[str, str]:
        """Stored features or arrays that are not read, with the reason."""
        return {}

    @overridable
    def extra_columns(self) -> Mapping[str, ExtraColumn]:
        """Columns of numbers beside state, action and frames, by name."""
        return {}

    @overridable
    def frames_in_video(self) -> bool:
        """Whether all frames are stored as video; else as images or arrays, without loss."""
        return False

    @overridable
    def facts(self) -> Mapping[str, Any]:
        """What imitact recorded about the dataset (`meta/imitact.json`); empty for others.

        Keys: "settings" (of the recording: "task", "stages", "units", "video"), "episodes" (the
        origin of each) and "failed" (the attempts that were not saved).
        """
        return {}


def _check_values(what: str, values: NDArray[Any], names: Sequence[str], where: str) -> None:
    if values.shape != (len(names),):
        raise SpecMismatch(
            f"{where}: {what} has shape {values.shape}, expected ({len(names)},): {_listed(names)}"
        )
    if not np.all(np.isfinite(values)):
        bad = [n for n, v in zip(names, values, strict=True) if not np.isfinite(v)]
        raise NotFinite(f"{where}: {what} is not finite in {_listed(bad)}")


def _listed(names: Iterable[str]) -> str:
    """Return names as a list in a sentence; "none" where there are none."""
    return ", ".join(names) or "none"
