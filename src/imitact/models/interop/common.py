"""What policies of other programs have in common on their way in and out.

No checkpoint of theirs tells all that a Spec holds: what is missing is told by whoever imports, or
is ALOHA's, and said aloud either way.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.aloha_joints import ALOHA_BASE, ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, DamagedFile, NotFinite, SpecMismatch
from imitact.core.statistics import Stats
from imitact.core.types import Camera, Spec
from imitact.models.config import ActConfig
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.resnet import FrozenNorm
from imitact.models.safetensors_file import parse_safetensors
from imitact.models.transformer import sine_table

SIDE = "imitact.json"
"""Beside an exported policy: its Spec, which the other program's files have no place for."""

_SIDE_FORMAT = 1

_MAX_JSON_BYTES = 16 << 20
_MAX_SIDE = 16_384

ALOHA_CAMERA = Camera("top", 480, 640)
"""Of the released simulated tasks."""

UNKNOWN_UNIT = "unknown"


@dataclass(frozen=True)
class Told:
    """What whoever imports tells of the Spec; None where nothing was told.

    state_units, action_units: one a name, or one for all.
    cameras: in the order in which the network sees them.
    """

    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    state_units: tuple[str, ...] | None = None
    action_units: tuple[str, ...] | None = None
    cameras: tuple[Camera, ...] | None = None
    rate_hz: float | None = None

    @classmethod
    def of(cls, spec: Spec) -> Told:
        """All of a Spec."""
        return cls(
            spec.state_names,
            spec.action_names,
            spec.state_units,
            spec.action_units,
            spec.cameras,
            spec.rate_hz,
        )

    def or_else(self, other: Told) -> Told:
        """With what `other` tells where this tells nothing."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **given)


@dataclass(frozen=True)
class Imported:
    """A policy that came in, and what a person must know of it, a line each."""

    policy: TorchPolicy
    notes: tuple[str, ...]


def spec_of(
    told: Told, state: int, action: int, cameras: Sequence[Camera]
) -> tuple[Spec, list[str]]:
    """The Spec of a policy with such sizes, and what of it was supposed, a line each.

    cameras: what the checkpoint itself says, or is supposed; what is told names and sizes them.
    Refuses told names that are more or fewer than the sizes.
    """
    notes: list[str] = []
    parts: dict[str, Any] = {}
    for what, size in (("state", state), ("action", action)):
        names, units = getattr(told, f"{what}_names"), getattr(told, f"{what}_units")
        usual_names, usual_units = _usual(what, size)
        if names is None:
            names = usual_names
            notes.append(f"{what} names are not in the checkpoint; taken: {_short(names)}")
        if units is None:
            as_usual = names == usual_names
            units = usual_units if as_usual else (UNKNOWN_UNIT,) * len(names)
            notes.append(f"{what} units are not in the checkpoint; taken: {_short(units)}")
        elif len(units) == 1:
            units *= size
        for word, values in (("names", names), ("units", units)):
            if len(values) != size:
                raise SpecMismatch(
                    f"{len(values)} {what} {word} were told, the policy has {size}: "
                    f"{', '.join(values)}"
                )
        parts |= {f"{what}_names": names, f"{what}_units": units}
    rate_hz = told.rate_hz
    if rate_hz is None:
        rate_hz = ALOHA_RATE_HZ
        notes.append(f"the rate is not in the checkpoint; taken: {rate_hz:g} Hz")
    return Spec(**parts, cameras=tuple(cameras), rate_hz=rate_hz), notes


def _usual(what: str, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if size == len(ALOHA_JOINTS):
        return ALOHA_JOINTS, ALOHA_UNITS
    if size == len(ALOHA_JOINTS) + len(ALOHA_BASE):
        return ALOHA_JOINTS + tuple(ALOHA_BASE), ALOHA_UNITS + tuple(ALOHA_BASE.values())
    return tuple(f"{what}_{i}" for i in range(size)), (UNKNOWN_UNIT,) * size


def _short(words: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(words))
    if len(kinds) < len(words):
        return " or ".join(repr(k) for k in kinds)
    return ", ".join(words if len(words) <= 4 else [*words[:2], "...", words[-1]])


@dataclass(frozen=True)
class Values:
    """What a checkpoint says of the values of a state or an action; None where it says nothing."""

    mean: NDArray[np.float64] | None = None
    std: NDArray[np.float64] | None = None
    min: NDArray[np.float64] | None = None
    max: NDArray[np.float64] | None = None
    count: int | None = None


def stats_of(values: Values, size: int, what: str) -> tuple[Stats, list[str]]:
    """As Stats, and what is not known, a line each.

    A range that is not known is the mean alone, of 1 row: a range that holds nothing is no claim.
    """
    mean, std, low, high = values.mean, values.std, values.min, values.max
    notes = []
    if mean is None or std is None:
        if low is None or high is None:
            notes.append(f"mean, spread and range of {what} are not in the checkpoint")
            mean, std = np.zeros(size), np.ones(size)
        else:
            notes.append(f"mean and spread of {what} are not in the checkpoint, its range is")
            mean, std = (low + high) / 2, (high - low) / 2
    elif low is None or high is None:
        notes.append(f"the range of {what} is not in the checkpoint")
    if low is None or high is None:
        low = high = mean
    return Stats(mean, std, low, high, values.count or 1), notes


def assembled(
    spec: Spec,
    stats: Mapping[str, Stats],
    config: ActConfig,
    weights: Mapping[str, Tensor],
    scaling: Scaling,
    *,
    origin: str,
    where: str,
    **more: Any,
) -> TorchPolicy:
    """The policy, with a scaling of its own only where imitact's is another.

    origin: what it came from, in a word; stands as its fingerprint with a digest of the weights.
    """
    plain = Scaling.plain(spec, stats, config)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return TorchPolicy.from_weights(
        spec,
        stats,
        config,
        weights,
        fingerprint=f"{origin} {digest.hexdigest()}",
        scaling=None if scaling.is_as(plain) else scaling,
        where=where,
        settings="the checkpoint's settings",
        **more,
    )


class Fields:
    """The values of a JSON object, each of the type that is asked for."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    def refuse(self, name: str, why: str) -> DamagedFile:
        shown = str(self._values.get(name, "missing"))[:100]
        return DamagedFile(f"{self.path}: {self._prefix}{name} is {shown}; {why}")

    def raw(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, "a text is expected")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(name, "a whole number is expected")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(name, "a number is expected")
        try:
            return float(value)
        except OverflowError as error:  # a whole number of more than 308 digits
            raise DamagedFile(
                f"{self.path}: {name} is a whole number of {int(value).bit_length()} bits; a "
                "number below 1e308 is expected"
            ) from error

    def truth(self, name: str, default: bool) -> bool:
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false is expected")
        return value

    def object(self, name: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        value = self._values.get(name, default)
        if not isinstance(value, dict):
            raise self.refuse(name, "an object is expected")
        return value

    def objects(self, name: str) -> list[Fields]:
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.refuse(name, "a list of objects is expected")
        return [Fields(v, self.path, f"{self._prefix}{name}[{i}].") for i, v in enumerate(value)]

    def within(self, name: str) -> Fields:
        return Fields(self.object(name), self.path, f"{self._prefix}{name}.")

    def names(self) -> list[str]:
        return list(self._values)


# -- names of weights ------------------------------------------------------------------------------


def renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The name with the first beginning of `pairs` that fits exchanged for its partner."""
    for old, new in pairs:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def flat_weights(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Floats of any width as float32; refuses what is no plain tensor of floats."""
    found = {}
    for name, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
            raise DamagedFile(f"{where}: {name!r} is {value.dtype}; weights are floats")
        found[name] = value.to(torch.float32).contiguous()
    return found


def check_table(value: Tensor, net: ActConfig, where: str) -> None:
    """The positions of the CVAE encoder are computed here; refuse a table that says otherwise."""
    want = (
        sine_table(2 + net.chunk_size, net.hidden_dim)
        if value.numel() == (2 + net.chunk_size) * net.hidden_dim
        else None
    )
    if want is None or not value.is_floating_point():
        raise DamagedFile(
            f"{where} has shape {tuple(value.shape)}, expected {2 + net.chunk_size}x{net.hidden_dim}"
        )
    if not torch.allclose(value.float().view_as(want), want, atol=1e-4):
        raise DamagedFile(
            f"{where} is another table of positions than ACT's; it cannot be imported"
        )


def frozen_norms(policy: TorchPolicy) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a policy as a network with frozen norms has them, and what changes by it."""
    weights = {name: value.detach().cpu() for name, value in policy.net.state_dict().items()}
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    for name in counters:
        del weights[name]
    notes = []
    if policy.spec.cameras and not isinstance(policy.net.backbone.bn1, FrozenNorm):
        notes.append("batch norms become frozen ones: equal answers, but training there keeps them")
    return weights, notes


def check_expressible(policy: TorchPolicy, program: str) -> None:
    """Refuse settings that neither the released ACT nor LeRobot's can express, naming the first."""
    config = policy.config
    wanted: tuple[tuple[str, Any, str], ...] = (
        ("backbone_norm", ("frozen", "batch"), "its ResNet has batch norms"),
        ("backbone_width", (64,), "its ResNet18 has 64 channels"),
        ("backbone_stages", (4,), "its ResNet18 has 4 stages"),
        ("head", ("linear",), "its head is one linear map"),
        ("positions", ("attention",), "it adds positions in the attention only"),
        ("actions", ("absolute",), "it predicts absolute actions"),
        ("crop", ("",), "it sees whole frames"),
    )
    for name, values, why in wanted:
        if not policy.spec.cameras and name in (
            "backbone_norm",
            "backbone_width",
            "backbone_stages",
            "crop",
        ):
            continue
        if (found := getattr(config, name)) not in values:
            raise BadInput(
                f"{program} cannot express {name} {found!r}: {why}. Policies of the preset "
                "'released' can be exported; imitact's own settings run inside LeRobot by "
                "lerobot_policy_imitact (docs/policies.md)"
            )


# -- files -----------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """All of a file; refuses one that is missing, or larger than anything expected there."""
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise DamagedFile(f"{path} has {size:,} bytes; at most {limit:,} are expected there")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedFile(
            f"{path} is missing; copy the checkpoint again from where it came"
        ) from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    data = read_bytes(path, _MAX_JSON_BYTES)
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedFile(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} holds {type(value).__name__}, expected an object")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file; views of its bytes."""
    return parse_safetensors(read_bytes(path), path)


def camera_size(shape: Any, where: str) -> tuple[int, int]:
    """Height and width of frames of shape (3, H, W)."""
    numbers = isinstance(shape, list | tuple) and all(type(n) is int for n in shape)
    if not numbers or len(shape) != 3 or shape[0] != 3:
        raise DamagedFile(f"{where} is {str(shape)[:100]}, expected [3, height, width]")
    if not (0 < shape[1] <= _MAX_SIDE and 0 < shape[2] <= _MAX_SIDE):
        raise DamagedFile(f"{where} is {shape}, of no sensible size")
    return shape[1], shape[2]


def read_side(folder: Path) -> Told:
    """What an exported policy's SIDE file tells; nothing where there is none."""
    path = folder / SIDE
    if not path.is_file():
        return Told()
    about = read_json(path)
    if about.get("format") != _SIDE_FORMAT or isinstance(about.get("format"), bool):
        raise DamagedFile(
            f"{path}: format is {about.get('format')!r}, this imitact reads {_SIDE_FORMAT}; use "
            "the version that wrote it, or remove the file and tell names and rate by options"
        )
    try:
        return Told.of(msgspec.convert(about.get("spec"), Spec))
    except (msgspec.ValidationError, BadInput, NotFinite) as error:
        raise DamagedFile(f"{path}: spec: {error}") from error


def write_side(folder: Path, spec: Spec) -> None:
    """The file that `read_side` reads."""
    about = {"format": _SIDE_FORMAT, "spec": asdict(spec)}
    write_json(folder / SIDE, about)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder that becomes `out` when it is complete.

    Refuses one that is there already with anything in it.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already, and nothing is overwritten; give another --out")
    fresh = out.with_name(f".{out.name}.exporting")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        fill(fresh)
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


_CAMERA = re.compile(r"([^=,\s]+)(?:=(\d{1,5})x(\d{1,5}))?")


def parse_cameras(text: str, usual: tuple[int, int]) -> tuple[Camera, ...]:
    """`top=480x640,wrist` as cameras; those without a size have the usual one."""
    cameras = []
    for part in (part.strip() for part in text.split(",")):
        found = _CAMERA.fullmatch(part)
        if not found:
            raise BadInput(
                f"camera {part!r} is not of the form NAME or NAME=HEIGHTxWIDTH, as in "
                "top=480x640,wrist=240x320"
            )
        height, width = (int(found[2]), int(found[3])) if found[2] else usual
        cameras.append(Camera(found[1], height, width))
    return tuple(cameras)
