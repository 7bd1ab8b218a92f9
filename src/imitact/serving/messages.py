"""Messages between a policy's server and its clients, in imitact's dialect and in openpi's.

The server greets with what the policy is. Then a client sends a question, an observation, and the
server the answer, a chunk, or a text that says why there is none. A client of imitact offers the
subprotocol "imitact.1"; one that offers none is taken for a client of openpi
(Physical-Intelligence/openpi, packages/openpi-client).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from imitact.core.camera_view import View
from imitact.core.errors import BadInput, NotFinite, SpecMismatch
from imitact.core.execution import Execution
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Frame, Observation, Spec
from imitact.core.version import __version__
from imitact.serving import codec

PROTOCOL = "imitact.1"
"""The subprotocol; another number is another dialect."""

OTHER_BYTES = 64 << 10
"""What a question may have beside its frames and its state."""


@dataclass(frozen=True)
class Greeting:
    """What a server says of its policy.

    Attributes:
        identity: as in `StoredPolicy`; another identity is another policy.
        spec: what it sees and commands.
        views: what it sees of each camera, for clients to crop and resize; empty where the policy
            takes frames at capture size.
        chunk_size: ticks of a chunk, K; None where nobody knows.
        execution: how its chunks are executed, if it was tuned.
        recorded_in: where its demonstrations were recorded.
        limits: joint limits of its demonstrations.
    """

    identity: str
    spec: Spec
    views: Mapping[str, View] = field(default_factory=dict)
    chunk_size: int | None = None
    execution: Execution | None = None
    recorded_in: Mapping[str, Any] = field(default_factory=dict)
    limits: JointLimits | None = None

    @property
    def max_bytes(self) -> int:
        """The size of the largest question, with frames at capture size."""
        pixels = sum(camera.height * camera.width for camera in self.spec.cameras)
        return 3 * pixels + 8 * self.spec.state_size + OTHER_BYTES

    def to_bytes(self) -> bytes:
        """Return the message."""
        return codec.pack(
            {
                "protocol": PROTOCOL,
                "imitact": __version__,
                "policy": self.identity,
                "spec": self.spec.to_json(),
                "views": {
                    name: {"height": view.height, "width": view.width, "window": view.window}
                    for name, view in self.views.items()
                },
                "chunk": self.chunk_size,
                "execution": None
                if self.execution is None
                else {
                    "chunking": self.execution.chunking,
                    "delay_ticks": self.execution.delay_ticks,
                },
                "recorded_in": dict(self.recorded_in),
                "joint_limits": None if self.limits is None else self.limits.to_json(),
                "limits": {"bytes": self.max_bytes},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Greeting:
        """Read the message; `where` names the server in errors."""
        found = codec.unpack(data)
        if not isinstance(found, dict) or found.get("protocol") != PROTOCOL:
            said = found.get("protocol") if isinstance(found, dict) else None
            raise BadInput(
                f"{where} is no imitact server of protocol {PROTOCOL}"
                f"{f'; it speaks {said}' if isinstance(said, str) else ''}"
            )
        try:
            limits, execution = found["joint_limits"], found["execution"]
            return cls(
                _text(found["policy"]),
                msgspec.convert(found["spec"], Spec),
                msgspec.convert(found["views"], dict[str, View]),
                msgspec.convert(found["chunk"], int | None),
                msgspec.convert(execution, Execution | None),
                msgspec.convert(found["recorded_in"], dict[str, Any]),
                None if limits is None else JointLimits.from_json(limits),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{where} greets with something else: {error}") from error


@dataclass(frozen=True)
class Question:
    """A question of a client.

    Attributes:
        observation: state and frames, of the sizes that the policy takes.
        is_seen: whether the frames are what the network sees, cropped and resized by the client.
        number: of the question, which the answer repeats; None for a client of openpi.
    """

    observation: Observation
    is_seen: bool = False
    number: int | None = None

    def to_bytes(self) -> bytes:
        """Return the message in imitact's dialect."""
        return codec.pack(
            {
                "id": self.number,
                "seen": self.is_seen,
                "state": np.asarray(self.observation.state),
                "frames": dict(self.observation.frames),
            }
        )


def read_question(data: bytes, greeting: Greeting) -> Question:
    """Read a question in imitact's dialect.

    Raises:
        BadInput: it is none, or its state or frames are not what the policy takes.
    """
    found = _mapping(codec.unpack(data), "the question")
    number, is_seen = found.get("id"), found.get("seen", False)
    if type(number) is not int or type(is_seen) is not bool:
        raise BadInput('the question needs a whole number "id" and, if at all, a boolean "seen"')
    if is_seen and not greeting.views:
        raise BadInput("this policy takes frames at capture size; send them so")
    frames = _mapping(found.get("frames", {}), '"frames"')
    state = _array(found.get("state"), '"state"')
    return Question(_observation(state, frames, greeting, is_seen), is_seen, number)


def read_openpi_question(
    data: bytes, greeting: Greeting, names: Mapping[str, str] | None = None
) -> Question:
    """Read a question of a client of openpi.

    State and frames are below "state" and "images", or below "observation/state" and
    "observation/NAME"; frames have their channels first or last. Frames of the size that the
    network sees are taken as they are where all of them have it.

    Args:
        names: the camera by openpi's name of it, where it differs: {"cam_high": "top"}.

    Raises:
        BadInput: as for `read_question`.
    """
    found = _mapping(codec.unpack(data), "the observation")
    names = names or {}
    flat = {
        key.removeprefix("observation/"): value
        for key, value in found.items()
        if isinstance(key, str) and key.startswith("observation/")
    }
    state = found.get("state", flat.get("state"))
    images = _mapping(found["images"], '"images"') if "images" in found else flat
    frames = {
        names.get(name, name): _channels_last(value)
        for name, value in images.items()
        if isinstance(name, str) and name != "state"
    }
    sizes = {name: view.size for name, view in greeting.views.items()}
    is_seen = bool(sizes) and all(
        isinstance(frames.get(name), np.ndarray) and frames[name].shape == (*size, 3)
        for name, size in sizes.items()
    )
    captured = {camera.name: (camera.height, camera.width) for camera in greeting.spec.cameras}
    is_seen = is_seen and sizes != captured  # else a window would be skipped
    return Question(
        _observation(_array(state, '"state"'), frames, greeting, is_seen), is_seen, None
    )


def _observation(
    state: np.ndarray[Any, Any], frames: Mapping[Any, Any], greeting: Greeting, is_seen: bool
) -> Observation:
    spec = greeting.spec
    spec.check_state(state, "question")
    kept: dict[str, Frame] = {}
    for camera in spec.cameras:
        frame = frames.get(camera.name)
        if not isinstance(frame, np.ndarray):
            came = ", ".join(str(name)[:40] for name in list(frames)[:8]) or "no camera"
            raise SpecMismatch(f"question: no frame of camera {camera.name}; it has {came}")
        if not is_seen:
            spec.check_frame(camera.name, frame, "question")
        elif frame.shape != (*greeting.views[camera.name].size, 3) or frame.dtype != np.uint8:
            raise SpecMismatch(
                f"question: camera {camera.name} gave {frame.dtype} of shape {frame.shape}, "
                f"expected uint8 of shape {(*greeting.views[camera.name].size, 3)}, as seen"
            )
        kept[camera.name] = frame
    return Observation(state, kept)


@dataclass(frozen=True)
class Answer:
    """A chunk, and how long the server took for it.

    Attributes:
        chunk: (K, A) actions in physical units.
        number: of the question; None for a client of openpi.
        queue_ms: from the arrival of the question until the policy was free.
        infer_ms: of the policy.
    """

    chunk: np.ndarray[Any, Any]
    number: int | None = None
    queue_ms: float = 0.0
    infer_ms: float = 0.0

    def to_bytes(self) -> bytes:
        """Return the message; both dialects read it."""
        times = {"queue_ms": self.queue_ms, "infer_ms": self.infer_ms}
        number = {} if self.number is None else {"id": self.number}
        return codec.pack({**number, "actions": self.chunk, "server_timing": times})

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """Read the message of either dialect."""
        found = _mapping(codec.unpack(data), "the answer")
        times = found.get("server_timing")
        times = times if isinstance(times, dict) else {}
        number = found.get("id")
        chunk = _array(found.get("actions"), '"actions"')
        if chunk.ndim != 2 or chunk.dtype.kind != "f":
            raise BadInput(f"the answer has actions of {chunk.dtype} {chunk.shape}, not (K, A)")
        if not np.all(np.isfinite(chunk)):
            raise NotFinite("the answer holds a NaN or an infinity")
        return cls(
            chunk,
            number if type(number) is int else None,
            *(_number(times.get(name)) for name in ("queue_ms", "infer_ms")),
        )


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else 0.0


def _mapping(value: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{what} is {type(value).__name__}, expected a map")
    return value


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    """Return an array of numbers; a list of numbers is one."""
    if isinstance(value, list) and all(type(item) in (int, float) for item in value):
        value = np.array(value, np.float64)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        found = f"of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise BadInput(f"{what} is {found}, expected an array of numbers")
    return value


def _channels_last(value: Any) -> Any:
    """Return a frame with its channels last; (3, H, W) is told from (H, W, 3) by the axis of 3."""
    is_frame = isinstance(value, np.ndarray) and value.ndim == 3
    if is_frame and value.shape[0] == 3 and value.shape[2] != 3:
        return np.ascontiguousarray(value.transpose(1, 2, 0))
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a text")
    return value
