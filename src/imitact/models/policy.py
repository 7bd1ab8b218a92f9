"""A trained model as a Policy: weights, Spec and statistics in one directory.

This is the only place that normalises: physical units and uint8 pixels go in, physical units
come out, in training and at inference alike.

The directory holds `model.safetensors` and `policy.json`; docs/formats.md describes both. It
needs neither the dataset nor the simulator, and nothing in it is executed.

Legend: B batch, K chunk, S state, A action, H and W pixels.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput, DamagedFile, NotFinite, SpecMismatch
from imitact.core.statistics import Stats
from imitact.core.types import Camera, Observation, Spec
from imitact.core.version import __version__
from imitact.models.act import Act, Losses
from imitact.models.augmentation import cropped, recoloured, shifted, shifts
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.config import ActConfig
from imitact.models.normalization import IMAGENET_MEAN, IMAGENET_STD, Scaling
from imitact.models.resnet import load_pretrained

FORMAT = 1
"""Number of the directory's format."""

TUNED_FORMAT = 2
"""The same with an "execution". A reader refuses any other number; one from before there were
executions refuses this one too, instead of executing another way than was chosen."""

SCALED_FORMAT = 3
"""The same with a "scaling", and perhaps an "execution": a policy of another program, which
standardises in another way than imitact. A reader from before refuses it."""

WEIGHTS = "model.safetensors"
ABOUT = "policy.json"

_MAX_ABOUT_BYTES = 16 * 2**20
_MAX_HEADER_BYTES = 4 * 2**20

Batch = Mapping[str, Any]
"""Tensors of B samples, in physical units: "state" (B, S) float, "frames" camera name to
(B, H, W, 3) uint8 at the network's input size, and for the loss "action" (B, K, A) float and
"is_pad" (B, K) bool."""


class TorchPolicy:
    """ACT with what it needs to be used: a contract.Policy in physical units.

    net:         the network, on normalised tensors.
    spec:        what it sees and commands.
    stats:       "state" and "action" statistics of the training episodes, and for
                 config.actions "delta" also "delta" (of action minus measured state, pooled over
                 the chunk).
    config:      the network's settings.
    fingerprint: of the dataset it was trained on.
    execution:   how its chunks are best executed, where that was found out (`imitact tune`).
    scaling:     what is standardised with, where another program trained it; None for imitact's
                 own way, (x - mean) / max(std, STD_FLOOR) and ImageNet's pixels.
    """

    def __init__(
        self,
        net: Act,
        spec: Spec,
        stats: Mapping[str, Stats],
        config: ActConfig,
        fingerprint: str,
        execution: Execution | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        """Use `create`, `of_weights` or `load`."""
        # Frames come with their channels last, and convolutions are faster so: by a tenth for
        # `quick`, training and inference alike, in float32 on a processor with AVX2 only.
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.stats = dict(stats)
        self.config = config
        self.fingerprint = fingerprint
        self.execution = execution
        self.scaling = scaling
        self.views = config.views(spec)
        _check_stats(spec, self.stats, config)
        self._constants = _constants(spec, scaling or Scaling.plain(spec, self.stats, config))
        if config.actions == "delta":
            where = [spec.state_names.index(n) for n in spec.action_names]
            self._constants["measured"] = torch.tensor(where)

    @classmethod
    def create(
        cls,
        spec: Spec,
        stats: Mapping[str, Stats],
        config: ActConfig,
        *,
        seed: int,
        fingerprint: str,
    ) -> TorchPolicy:
        """An untrained policy; `seed` fixes its initial weights.

        Refuses statistics that do not fit the Spec, `delta` actions whose names are not all
        state names, and `frozen` norms without pretrained weights.
        """
        _check_names(spec, config)
        _check_stats(spec, stats, config)
        generator = torch.Generator().manual_seed(seed)
        net = _network(spec, config, generator)
        if spec.cameras:
            load_pretrained(net.backbone, config.pretrained_backbone)
        return cls(net, spec, stats, config, fingerprint)

    @classmethod
    def of_weights(
        cls,
        spec: Spec,
        stats: Mapping[str, Stats],
        config: ActConfig,
        weights: Mapping[str, Tensor],
        *,
        fingerprint: str,
        execution: Execution | None = None,
        scaling: Scaling | None = None,
        where: str = "weights",
        settings: str = "the settings",
    ) -> TorchPolicy:
        """A policy with weights that are there already, by the names of `Act.state_dict`.

        Takes the tensors themselves, not copies. Refuses missing and unknown names, other shapes
        or types, and values that are not finite; where and settings tell in the message what the
        weights and the settings came from.
        """
        _check_names(spec, config)
        _check_stats(spec, stats, config)
        if scaling is not None:
            scaling.check(spec)
        net = _network(spec, config, None)
        _check_weights(weights, net, where, settings)
        net.adopt(weights)
        net.eval()
        return cls(net, spec, stats, config, fingerprint, execution, scaling)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    @property
    def constants(self) -> Mapping[str, Tensor]:
        """What is standardised with, in float32: "state_mean", "state_std", "action_mean",
        "action_std" (of what is predicted: actions, or their deltas; floors applied), "state_shift"
        where one is added behind (Scaling), and "pixel_mean", "pixel_std" of pixels from 0 to 255,
        (3, 1, 1): of the first camera, and of each as "pixel_mean.NAME", "pixel_std.NAME"."""
        return self._constants

    def to(self, device: torch.device | str) -> TorchPolicy:
        """Move the weights to a device; returns self."""
        self.net.to(device)
        self._constants = {n: t.to(device) for n, t in self._constants.items()}
        return self

    # -- training ------------------------------------------------------------------------------

    def loss(
        self, batch: Batch, *, noise: Tensor | None = None, part: BatchShard = WHOLE
    ) -> Losses:
        """Loss of a batch, with z from the CVAE's posterior where there is one.

        noise: (B, Z) standard normal for z; drawn from torch's global random state if None.
        part:  of which larger batch these samples are a part; the losses of its parts add up to
               its loss.
        The network's mode (train or eval) is left as it is; frames are changed (config.shift,
        random_crop, color_jitter) in train mode only.
        """
        state = self._state(batch)
        images, moved = self._images(batch["frames"], state.shape[0], part)
        action, is_pad = batch["action"], batch["is_pad"]
        want = (state.shape[0], self.config.chunk_size, self.spec.action_size)
        if action.shape != want or is_pad.shape != want[:2] or is_pad.dtype != torch.bool:
            raise SpecMismatch(
                f"batch: action has shape {tuple(action.shape)}, is_pad {tuple(is_pad.shape)} "
                f"{is_pad.dtype}; expected {want} and {want[:2]} torch.bool"
            )
        target = self._normalised(action, batch["state"])
        prediction = self.net(state, images, target, is_pad, noise, part, moved)
        return self.net.losses(prediction, target, is_pad, part)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The chunk (B, K, A) at z = 0, in physical units, float32; nothing is dropped out."""
        with _evaluating(self.net):
            state = self._state(batch)
            images, _ = self._images(batch["frames"], state.shape[0])
            target = self.net(state, images).action.float()
        return self._physical(target, batch["state"])

    # -- inference -----------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Begin an episode. Nothing here is random (z = 0), so the seed changes nothing."""

    def chunk(self, observation: Observation) -> NDArray[np.float32]:
        """The next K actions, shape (K, A), in the units of the Spec.

        Takes frames at capture size. Refuses a state or frame that does not fit the Spec, and
        values that are not finite.
        """
        state, captured = self.spec.seen(observation)
        frames: dict[str, Tensor] = {}
        for name, frame in captured.items():
            small = self.views[name].of(frame)
            frames[name] = torch.from_numpy(np.stack([small])).to(self.device)
        batch = {"state": _float(state)[None].to(self.device), "frames": frames}
        with torch.inference_mode():
            chunk = self.predict(batch)[0].cpu().numpy()
        if not np.all(np.isfinite(chunk)):
            raise NotFinite("the network answered with NaN or infinity; its weights are unusable")
        return chunk

    # -- units ---------------------------------------------------------------------------------

    def _state(self, batch: Batch) -> Tensor:
        state = batch["state"]
        if state.ndim != 2 or state.shape[1] != self.spec.state_size:
            raise SpecMismatch(
                f"batch: state has shape {tuple(state.shape)}, expected (B, {self.spec.state_size})"
            )
        constants = self._constants
        state = (state.float() - constants["state_mean"]) / constants["state_std"]
        return state + constants["state_shift"] if "state_shift" in constants else state

    def _images(
        self, frames: Mapping[str, Tensor], size: int, part: BatchShard = WHOLE
    ) -> tuple[list[Tensor], Tensor | None]:
        """Normalised (B, 3, H, W), camera by camera; by how much each was moved, as `Act` has it,
        None where none was."""
        images: list[Tensor] = []
        moved: list[Tensor] = []
        for name, view in self.views.items():
            want = (size, *view.size, 3)
            if name not in frames:
                raise SpecMismatch(f"batch: no frames of camera {name!r}; it has {list(frames)}")
            frame = frames[name]
            if frame.shape != want or frame.dtype != torch.uint8:
                raise SpecMismatch(
                    f"batch: frames of camera {name!r} are {frame.dtype} of shape "
                    f"{tuple(frame.shape)}, expected torch.uint8 of shape {want} (input size)"
                )
            if self.net.training and self.config.random_shift:
                by = shifts(frame, self.config.random_shift, part)
                frame = shifted(frame, by)
                moved.append(by[:, :, 0].T / self.config.random_shift)
            image = frame.permute(0, 3, 1, 2)  # strides are already those of channels_last
            image = image.to(torch.float32)
            if self.net.training and self.config.random_crop:
                image = cropped(image, self.config.random_crop, part)
            if self.net.training and self.config.color_jitter:
                image = recoloured(image, self.config.color_jitter, part)
            constants = self._constants
            image.sub_(constants[f"pixel_mean.{name}"]).div_(constants[f"pixel_std.{name}"])
            images.append(image)
        return images, torch.stack(moved) if moved else None

    def _normalised(self, action: Tensor, state: Tensor) -> Tensor:
        action = action.float()
        if self.config.actions == "delta":
            action = action - state.float()[:, None, self._constants["measured"]]
        return (action - self._constants["action_mean"]) / self._constants["action_divisor"]

    def _physical(self, target: Tensor, state: Tensor) -> Tensor:
        action = target * self._constants["action_std"] + self._constants["action_mean"]
        if self.config.actions == "delta":
            action = action + state.float()[:, None, self._constants["measured"]]
        return action

    # -- on disk -------------------------------------------------------------------------------

    def save(self, directory: Path | str) -> Path:
        """Write the policy to `directory`, whole or not at all.

        A policy that is there already is replaced; a directory with anything else in it is
        refused. A process killed at any moment leaves the old policy or the new one.
        """
        directory = Path(directory).absolute()
        _check_target(directory)
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()
        }
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise NotFinite(f"weight {name!r} is not finite; the policy was not saved")
        fresh = _beside(directory, "saving")
        try:
            _remove(fresh)
            fresh.mkdir(parents=True)
            safetensors.torch.save_file(tensors, fresh / WEIGHTS)
            write_policy_json(fresh / ABOUT, self._about(fresh / WEIGHTS))
            for path in (fresh / WEIGHTS, fresh):
                _sync(path)
            _swap(fresh, directory)
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            todo = "free some space" if _is_full(error) else "check the path and its rights"
            raise BadInput(
                f"could not save the policy to {directory}: {error}; {todo} and save again "
                "(an earlier policy there is untouched)"
            ) from error
        return directory

    def _about(self, weights: Path) -> dict[str, Any]:
        about = {
            "format": FORMAT,
            "imitact": __version__,
            "fingerprint": self.fingerprint,
            "spec": asdict(self.spec),
            "stats": {name: s.to_dict() for name, s in self.stats.items()},
            "config": self.config.to_json(),
            "weights": {"bytes": weights.stat().st_size, "sha256": _sha256(weights)},
        }
        if self.scaling is not None:
            about["scaling"] = asdict(self.scaling)
        return _executed(about, self.execution)

    @classmethod
    def load(cls, directory: Path | str, device: torch.device | str = "cpu") -> TorchPolicy:
        """Read a policy that `save` wrote.

        Refuses, naming the file: a missing, truncated or altered one, another format number,
        unknown or missing keys, weights that do not fit the settings.
        """
        directory = _there(Path(directory).absolute())
        about = _read_about(directory / ABOUT)
        policy = cls.of_weights(
            about.spec,
            about.stats,
            about.config,
            _read_weights(directory / WEIGHTS, about.weights),
            fingerprint=about.fingerprint,
            execution=about.execution,
            scaling=about.scaling,
            where=str(directory / WEIGHTS),
            settings=f"the settings in {ABOUT}",
        )
        return policy.to(device)


def _network(spec: Spec, config: ActConfig, generator: torch.Generator | None) -> Act:
    return Act(
        config,
        state_size=spec.state_size,
        action_size=spec.action_size,
        image_sizes=[view.size for view in config.views(spec).values()],
        generator=generator,
    )


def _float(values: NDArray[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _constants(spec: Spec, scaling: Scaling) -> dict[str, Tensor]:
    """As `TorchPolicy.constants` says, and "action_divisor", which training divides by: an action
    that never moves is told from its mean by nothing."""
    scaling.check(spec)
    found = {
        name: _float(np.array(getattr(scaling, name)))
        for name in ("state_mean", "state_std", "action_mean", "action_std")
    }
    found["action_divisor"] = torch.where(found["action_std"] > 0, found["action_std"], 1.0)
    if any(scaling.state_shift):
        found["state_shift"] = _float(np.array(scaling.state_shift))
    for name, plain in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
        of = getattr(scaling, name)
        pixels = {c.name: _float(np.array(of[c.name]) * 255).view(3, 1, 1) for c in spec.cameras}
        first = _float(np.array(plain) * 255).view(3, 1, 1)
        found[name] = next(iter(pixels.values()), first)
        found |= {f"{name}.{camera}": value for camera, value in pixels.items()}
    return found


@contextmanager
def _evaluating(net: Act) -> Iterator[None]:
    was_training = net.training
    if was_training:
        net.eval()
    try:
        yield
    finally:
        if was_training:
            net.train()


def _check_names(spec: Spec, config: ActConfig) -> None:
    strange = [n for n in spec.action_names if n not in spec.state_names]
    if config.actions == "delta" and strange:
        raise BadInput(
            f"actions 'delta' are differences to the measured state of that name, but "
            f"{strange} are not measured (states: {list(spec.state_names)}); use actions 'absolute'"
        )


def _check_stats(spec: Spec, stats: Mapping[str, Stats], config: ActConfig) -> None:
    sizes = {"state": spec.state_size, "action": spec.action_size}
    if config.actions == "delta":
        sizes["delta"] = spec.action_size
    for name, size in sizes.items():
        if name not in stats:
            raise BadInput(f"no statistics of {name!r}; given: {sorted(stats)}")
        if stats[name].size != size:
            raise SpecMismatch(
                f"statistics of {name!r} have {stats[name].size} dimensions, the Spec {size}"
            )


# -- files -------------------------------------------------------------------------------------


def _beside(directory: Path, word: str) -> Path:
    return directory.with_name(f".{directory.name}.{word}")


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def write_policy_json(path: Path, about: Mapping[str, Any]) -> None:
    """Write policy.json, whole or not at all, with the SHA-256 of its values: the one place.

    about: its keys. To alter a saved policy, give what `read_policy_json` gave, changed.
    """
    about = {name: value for name, value in about.items() if name != "sha256"}
    about["sha256"] = _digest(about)
    fresh = _beside(path.parent, "rewriting")  # not within: nothing but a policy may lie there
    try:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2))
        _sync(fresh)
        os.replace(fresh, path)
        _sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def read_policy_json(directory: Path | str) -> dict[str, Any]:
    """The values of a saved policy's policy.json, all of them checked."""
    path = _there(Path(directory).absolute()) / ABOUT
    _read_about(path)
    return msgspec.json.decode(_read_file(path, _MAX_ABOUT_BYTES))


def set_execution(directory: Path | str, execution: Execution | None) -> None:
    """Write into a saved policy how its chunks are executed; None takes that out of it.

    Only policy.json is replaced, whole or not at all; weights and `identity` stay.
    """
    about = _executed(_untuned(read_policy_json(directory)), execution)
    path = _there(Path(directory).absolute()) / ABOUT
    try:
        write_policy_json(path, about)
    except OSError as error:
        todo = "free some space" if _is_full(error) else "check the path and its rights"
        raise BadInput(
            f"could not write to {path}: {error}; {todo} and run the same again (the policy is as "
            "it was)"
        ) from error


def _executed(about: Mapping[str, Any], execution: Execution | None) -> dict[str, Any]:
    """policy.json of a policy that is executed so, with the number of its format."""
    parts = {} if execution is None else {"execution": asdict(execution)}
    if "scaling" in about:
        return {**about, **parts, "format": SCALED_FORMAT}
    return {**about, **parts, "format": FORMAT if execution is None else TUNED_FORMAT}


def _untuned(about: Mapping[str, Any]) -> dict[str, Any]:
    """The same policy as if nobody had chosen an execution for it."""
    rest = {name: value for name, value in about.items() if name != "execution"}
    return _executed(rest, None)


def _is_full(error: Exception) -> bool:
    """Whether the disk had no room; safetensors tells the system's error in words only."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in known
    return any(f"(os error {number})" in str(error) for number in known)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(fresh: Path, directory: Path) -> None:
    """Put `fresh` where `directory` is; between the two renames `_there` finds the old one."""
    previous = _beside(directory, "previous")
    if directory.exists():
        _remove(previous)
        os.rename(directory, previous)
    try:
        os.rename(fresh, directory)
    except OSError:
        if previous.exists():
            os.rename(previous, directory)
        raise
    _sync(directory.parent)
    _remove(previous)


def _check_target(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BadInput(f"{directory} is a file; a policy is saved as a directory")
    others = sorted({p.name for p in directory.iterdir()} - {WEIGHTS, ABOUT})
    if others:
        raise BadInput(
            f"{directory} holds other things than a policy ({others[0]!r}), and saving would "
            "remove them; give a new directory"
        )


def _there(directory: Path) -> Path:
    """The policy of that name, or the one a save was just replacing when it was killed."""
    previous = _beside(directory, "previous")
    if not directory.exists() and previous.is_dir():
        return previous
    if not directory.is_dir():
        raise BadInput(
            f"{directory}: no such directory; a policy is a directory with {WEIGHTS} and {ABOUT}, "
            "as training writes it"
        )
    return directory


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(about: Mapping[str, Any]) -> str:
    """SHA-256 of policy.json without its own: of the shortest JSON with sorted keys, so that
    indentation and order of keys may change and no value may."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def _read_file(path: Path, limit: int | None = None) -> bytes:
    if not path.is_file():
        raise DamagedFile(
            f"{path} is missing; a policy is a directory with {WEIGHTS} and {ABOUT}. Copy it again "
            "from where it was trained"
        )
    size = path.stat().st_size
    if limit is not None and size > limit:
        raise DamagedFile(f"{path} has {size} bytes; at most {limit} are expected there")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def _keys(
    value: Any, expected: set[str], where: str, optional: frozenset[str] = frozenset()
) -> None:
    if not isinstance(value, dict):
        raise DamagedFile(f"{where} is {type(value).__name__}, expected an object")
    unknown = sorted(value.keys() - expected - optional)
    missing = sorted(expected - value.keys())
    if unknown or missing:
        raise DamagedFile(
            f"{where}: unknown keys {_few(unknown)}, missing keys {_few(missing)}; it was altered, "
            "or written by another version of imitact"
        )


def _few(names: list[str]) -> str:
    """The names, of many the first."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{names[:5]}{more}"


@dataclass(frozen=True)
class _About:
    """What policy.json says, checked."""

    spec: Spec
    stats: dict[str, Stats]
    config: ActConfig
    fingerprint: str
    weights: dict[str, Any]
    execution: Execution | None
    scaling: Scaling | None
    identity: str


def identity(directory: Path | str) -> str:
    """Tells saved policies apart: a digest of everything that decides their answers.

    Weights are among it; how the answers are executed is not, an evaluation names that beside it.
    """
    return _read_about(_there(Path(directory).absolute()) / ABOUT).identity


def _read_about(path: Path) -> _About:
    data = _read_file(path, _MAX_ABOUT_BYTES)
    try:
        return _parse_about(msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedFile(f"{path} is not JSON ({error}); copy the directory again") from error
    except (BadInput, NotFinite) as error:
        raise DamagedFile(f"{path}: {error}") from error
    except (OverflowError, ValueError) as error:  # a number that no float and no digest can hold
        raise DamagedFile(f"{path}: a value is out of range ({error})") from error


def _parse_about(about: Any) -> _About:
    found = about.get("format") if isinstance(about, dict) else None
    if found not in (FORMAT, TUNED_FORMAT, SCALED_FORMAT) or isinstance(found, bool):
        version = about.get("imitact") if isinstance(about, dict) else None
        by = f", written by imitact {version}" if isinstance(version, str) else ""
        raise DamagedFile(
            f"format is {found!r}{by}, this imitact ({__version__}) reads {FORMAT}, "
            f"{TUNED_FORMAT} and {SCALED_FORMAT}; use the version of imitact that wrote it"
        )
    parts = {"format", "imitact", "fingerprint", "spec", "stats", "config", "weights"}
    if found == TUNED_FORMAT:
        parts.add("execution")
    if found == SCALED_FORMAT:
        parts.add("scaling")
    optional = frozenset({"execution"}) if found == SCALED_FORMAT else frozenset()
    _keys(about, {*parts, "sha256"}, "policy", optional)
    _keys(about["weights"], {"bytes", "sha256"}, "weights")
    if not isinstance(about["fingerprint"], str):
        raise DamagedFile(f"fingerprint is {about['fingerprint']!r}, expected a string")
    if not isinstance(about["stats"], dict):
        raise DamagedFile(f"stats is {type(about['stats']).__name__}, expected an object")
    for name, value in about["stats"].items():
        _keys(value, {f.name for f in fields(Stats)}, f"stats.{name}")
    config = _parse_config(about["config"])
    spec = _parse_spec(about["spec"])
    stats = {n: Stats.from_dict(v, f"stats.{n}") for n, v in about["stats"].items()}
    _check_names(spec, config)
    _check_stats(spec, stats, config)
    config.views(spec)
    scaling = _parse_scaling(about["scaling"], spec) if found == SCALED_FORMAT else None
    if about["sha256"] != _digest(about):
        raise DamagedFile(
            "a value was altered since the policy was saved (the SHA-256 of its values is not the "
            "one it names); copy the directory again from where it was trained"
        )
    execution = _parse_execution(about["execution"]) if "execution" in about else None
    return _About(
        spec=spec,
        stats=stats,
        config=config,
        fingerprint=about["fingerprint"],
        weights=about["weights"],
        execution=execution,
        scaling=scaling,
        identity=_digest(_untuned(about)),
    )


def _parse_execution(value: Any) -> Execution:
    _keys(value, {f.name for f in fields(Execution)}, "execution")
    try:
        return msgspec.convert(value, Execution)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"execution: {error}") from error


def _parse_scaling(value: Any, spec: Spec) -> Scaling:
    _keys(value, {f.name for f in fields(Scaling)}, "scaling")
    try:
        scaling = msgspec.convert(value, Scaling)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"scaling: {error}") from error
    scaling.check(spec)
    return scaling


_SINCE = frozenset({"random_crop", "color_jitter"})
"""Settings that policies of format 1 were first saved without; their defaults are what was."""


def _parse_config(value: Any) -> ActConfig:
    names = set(ActConfig().to_json())
    _keys(value, names - _SINCE, "config", _SINCE)
    return ActConfig.from_json(value)


def _parse_spec(value: Any) -> Spec:
    _keys(value, {f.name for f in fields(Spec)}, "spec")
    cameras = value["cameras"]
    for camera in cameras if isinstance(cameras, list) else []:
        _keys(camera, {f.name for f in fields(Camera)}, "spec.cameras")
    try:
        return msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"spec: {error}") from error


def _read_weights(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of `path`, read once: what was checked is what is used."""
    size = path.stat().st_size if path.is_file() else expected["bytes"]
    if size != expected["bytes"]:  # before so many bytes are read
        raise DamagedFile(
            f"{path} has {size} bytes, {ABOUT} says {expected['bytes']}: it is truncated or "
            "of another policy; copy the directory again"
        )
    data = _read_file(path)
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise DamagedFile(
            f"{path} is not the file that was saved (its SHA-256 differs from that in {ABOUT}); "
            "copy the directory again"
        )
    return {name: tensor.clone() for name, tensor in parse_safetensors(data, path).items()}


def parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; anything else is Damaged."""
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise DamagedFile(f"{path} is not a safetensors file (its header has {header} bytes)")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # whatever the reader raises on bytes that are not tensors
        raise DamagedFile(f"{path} cannot be read as safetensors: {error}") from error


def _check_weights(tensors: Mapping[str, Tensor], net: Act, where: str, settings: str) -> None:
    wanted = net.state_dict()
    _keys(tensors, set(wanted), f"{where} (tensors)")
    for name, want in wanted.items():
        got = tensors[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise DamagedFile(
                f"{where}: {name!r} is {got.dtype} of shape {tuple(got.shape)}, {settings} need "
                f"{want.dtype} of shape {tuple(want.shape)}"
            )
        if got.is_floating_point() and not bool(got.isfinite().all()):
            raise DamagedFile(f"{where}: {name!r} holds NaN or infinity; use an earlier checkpoint")
