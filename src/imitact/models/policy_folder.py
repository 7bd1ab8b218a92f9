"""Policy directory: `policy.json` and the weights beside it, written atomically, read verified.

docs/formats.md describes both files. Reading `policy.json` alone needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from safetensors import SafetensorError

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Stats
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Camera, Spec
from imitact.core.version import __version__
from imitact.models.config import ActConfig
from imitact.models.normalization import Scaling, check_stats
from imitact.storage.atomic import write_bytes
from imitact.storage.atomic_folder import check_replaceable, replaced_folder, whole_folder
from imitact.storage.checksum import file_sha256, json_sha256, verified, with_checksum
from imitact.storage.json_file import check_format, naming_file, read_bytes, read_json_object

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")

FORMAT = 1
"""Format number of policy.json."""

TUNED_FORMAT = 2
"""Format 1 with an "execution". Versions from before executions refuse this number instead of
executing the policy in another way than was chosen."""

SCALED_FORMAT = 3
"""Format 1 with a "scaling" and an optional "execution": an imported policy that normalizes in
another way than imitact."""

WEIGHTS = "model.safetensors"
POLICY_JSON = "policy.json"

_MAX_JSON_BYTES = 16 << 20
_MAX_WEIGHTS_BYTES = 2 << 30
"""Half a billion weights; the released ACT has 84 million."""
_COPY_AGAIN = "Copy the directory again from where it was trained."

_ADDED_SETTINGS = frozenset({"random_crop", "color_jitter"})
"""Settings that the first policies of format 1 lack; their defaults reproduce those policies."""

_ADDED_SPEC_KEYS = frozenset({"environment_size"})
"""Keys of a Spec that are absent at their defaults."""


@dataclass(frozen=True)
class PolicyRecord:
    """Everything that a policy directory holds besides the weights; refused if it does not fit.

    Attributes:
        spec: State, action and cameras.
        stats: Statistics of the training episodes: "state", "action" and, with `delta` actions,
            "delta", of action minus measured state pooled over the chunk.
        config: Settings of the network.
        fingerprint: Fingerprint of the training dataset.
        execution: Preferred execution of the chunks, as found by `imitact tune`; None if unknown.
        scaling: Normalization of an imported policy; None for imitact's own,
            (x - mean) / max(std, STD_FLOOR) and ImageNet's for pixels.
        recorded_in: Where the demonstrations were recorded, as plain JSON: "env", the name of the
            environment, and "gym", its settings if it is Gymnasium's. Empty if that is unknown.
        parent: Identity of the policy that the training began with; empty where it began anew.
        limits: Joint limits that the training episodes stayed within, widened; None where the
            policy was trained before these were kept, or elsewhere.
        identity: What `identity` returns for the directory that the record was read from; empty
            for a record of no directory.
    """

    spec: Spec
    stats: Mapping[str, Stats]
    config: ActConfig
    fingerprint: str
    execution: Execution | None = None
    scaling: Scaling | None = None
    recorded_in: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    identity: str = field(default="", compare=False)
    limits: JointLimits | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.config.check_spec(self.spec)
        check_stats(self.spec, self.stats, self.config)
        if self.scaling is not None:
            self.scaling.check(self.spec)
        if self.limits is not None and self.limits.names != self.spec.action_names:
            raise DamagedFile(
                f"limits are of {', '.join(self.limits.names)}, expected those of the actions: "
                f"{', '.join(self.spec.action_names)}"
            )

    def to_json(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of policy.json, given the size and checksum of the weights file."""
        values = {
            "format": FORMAT,
            "imitact": __version__,
            "fingerprint": self.fingerprint,
            "spec": self.spec.to_json(),
            "stats": {name: s.to_dict() for name, s in self.stats.items()},
            "config": self.config.to_json(),
            "weights": dict(weights),
        }
        if self.scaling is not None:
            values["scaling"] = asdict(self.scaling)
        if self.recorded_in:
            values["recorded_in"] = dict(self.recorded_in)
        if self.parent:
            values["parent"] = self.parent
        if self.limits is not None:
            values["limits"] = self.limits.to_json()
        return _with_execution(values, self.execution)


def write_policy(
    directory: Path, record: PolicyRecord, write_weights: Callable[[Path], object]
) -> None:
    """Write a policy directory atomically, replacing a policy that is already there.

    A process killed at any moment leaves the old policy or the new one. A directory that holds
    anything besides a policy is refused. `write_weights` writes the safetensors file to the path
    that it is given.
    """
    check_replaceable(directory, {WEIGHTS, POLICY_JSON}, "a policy")
    advice = "free some space and save again (an earlier policy there is untouched)"
    try:
        with replaced_folder(directory, advice=advice) as fresh:
            weights = fresh / WEIGHTS
            write_weights(weights)
            size, checksum = weights.stat().st_size, file_sha256(weights)
            values = record.to_json({"bytes": size, "sha256": checksum})
            (fresh / POLICY_JSON).write_bytes(_policy_json_bytes(values))
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"could not save the policy to {directory}: {error}; check the path and its "
            "permissions and save again (an earlier policy there is untouched)"
        ) from error


def read_policy(directory: Path) -> tuple[PolicyRecord, dict[str, Tensor]]:
    """Read a policy directory: its record and its weights by name.

    A file that is missing, truncated or altered, or has an unknown format number or other keys, is
    refused as damaged.
    """
    from imitact.models.safetensors_file import parse_safetensors

    directory = _existing(directory)
    record, values = _read_record(directory / POLICY_JSON)
    data = _read_weights(directory / WEIGHTS, values["weights"])
    tensors = parse_safetensors(data, directory / WEIGHTS)
    return record, {name: tensor.clone() for name, tensor in tensors.items()}


def read_record(directory: Path | str) -> PolicyRecord:
    """Read a policy directory without parsing its weights, which are only compared and dropped."""
    directory = _existing(directory)
    record, values = _read_record(directory / POLICY_JSON)
    _read_weights(directory / WEIGHTS, values["weights"])
    return record


def read_policy_json(directory: Path | str) -> dict[str, Any]:
    """Return the verified values of a policy's policy.json."""
    return _read_record(_existing(directory) / POLICY_JSON)[1]


def record_of(values: Mapping[str, Any]) -> PolicyRecord:
    """Return the record in values of `read_policy_json`."""
    return _parse_record(values)


def write_policy_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write policy.json atomically: values as of `read_policy_json`, with a new checksum."""
    # Staged beside the directory, which holds nothing but its two files, under a unique name: two
    # policies in one folder may be rewritten at once.
    beside = path.parent.with_name(f".{path.parent.name}.")
    with TemporaryDirectory(dir=beside.parent, prefix=beside.name) as staging:
        write_bytes(path, _policy_json_bytes(values), Path(staging))


def set_execution(
    directory: Path | str, execution: Execution | None, of_identity: str = ""
) -> None:
    """Store in a saved policy how its chunks are executed; None removes it.

    Only policy.json is replaced, atomically; the weights and `identity` stay. With `of_identity`, a
    policy of another identity is refused.
    """
    values = read_policy_json(directory)
    if of_identity and _identity_of(values) != of_identity:
        raise BadInput(
            f"{directory} has been replaced by another policy, which was left as it is; give the "
            "policy that the execution was chosen for"
        )
    values = _with_execution(values, execution)
    path = _existing(directory) / POLICY_JSON
    try:
        write_policy_json(path, values)
    except OSError as error:
        raise BadInput(
            f"could not write {path}: {error}; check the path and its permissions and run the same "
            "command again (the policy is unchanged)"
        ) from error


def identity(directory: Path | str) -> str:
    """Return a digest of everything that decides a saved policy's chunks, weights included.

    The execution is not part of it; evaluations name it separately.
    """
    return _identity_of(read_policy_json(directory))


def _identity_of(values: Mapping[str, Any]) -> str:
    return json_sha256(_with_execution(values, None))


# -- writing -----------------------------------------------------------------------------------


def _policy_json_bytes(values: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(with_checksum(values)), indent=2)


def _with_execution(values: Mapping[str, Any], execution: Execution | None) -> dict[str, Any]:
    """Return policy.json's values with this execution and the format number that follows."""
    changed = {name: value for name, value in values.items() if name != "execution"}
    changed["format"] = FORMAT
    if execution is not None:
        changed |= {"execution": asdict(execution), "format": TUNED_FORMAT}
    if "scaling" in values:
        changed["format"] = SCALED_FORMAT
    return changed


# -- reading -----------------------------------------------------------------------------------


def _existing(directory: Path | str) -> Path:
    directory = whole_folder(Path(directory).absolute())
    if not directory.is_dir():
        raise BadInput(
            f"{directory}: no such directory; a policy is a directory with {WEIGHTS} and "
            f"{POLICY_JSON}, as training writes it"
        )
    return directory


def _read_record(path: Path) -> tuple[PolicyRecord, dict[str, Any]]:
    """Return the parsed and the plain values of policy.json; the plain ones keep the checksum."""
    values = read_json_object(path, limit=_MAX_JSON_BYTES, advice=_COPY_AGAIN)
    try:
        with naming_file(path):
            record = _parse_record(values)
    except (OverflowError, ValueError) as error:  # an integer that no float can hold
        raise DamagedFile(f"{path}: a value is out of range ({error})") from error
    verified(values, path, required=True, advice=_COPY_AGAIN)
    return replace(record, identity=_identity_of(values)), values


def _parse_record(values: Mapping[str, Any]) -> PolicyRecord:
    found = check_format(values, FORMAT, TUNED_FORMAT, SCALED_FORMAT)
    required = {"format", "imitact", "fingerprint", "spec", "stats", "config", "weights", "sha256"}
    required |= {TUNED_FORMAT: {"execution"}, SCALED_FORMAT: {"scaling"}}.get(found, set())
    optional = {"recorded_in", "parent", "limits"} | (
        {"execution"} if found == SCALED_FORMAT else set()
    )
    check_keys(values, required, "policy", frozenset(optional))
    check_keys(values["weights"], {"bytes", "sha256"}, "weights")
    if not isinstance(values["fingerprint"], str):
        raise DamagedFile(f"fingerprint is {values['fingerprint']!r}, expected a string")
    if not isinstance(values["stats"], dict):
        raise DamagedFile(f"stats is {type(values['stats']).__name__}, expected an object")
    for name, value in values["stats"].items():
        check_keys(value, {f.name for f in fields(Stats)}, f"stats.{name}")
    settings = set(ActConfig().to_json()) - _ADDED_SETTINGS
    check_keys(values["config"], settings, "config", _ADDED_SETTINGS)
    config = ActConfig.from_json(values["config"])
    cameras = values["spec"].get("cameras") if isinstance(values["spec"], dict) else None
    for camera in cameras if isinstance(cameras, list) else []:
        check_keys(camera, {f.name for f in fields(Camera)}, "spec.cameras")
    spec = _convert(values["spec"], Spec, "spec")
    stats = {n: Stats.from_dict(v, f"stats.{n}") for n, v in values["stats"].items()}
    scaling = execution = None
    if found == SCALED_FORMAT:
        scaling = _convert(values["scaling"], Scaling, "scaling")
    if "execution" in values:
        execution = _convert(values["execution"], Execution, "execution")
    recorded_in = values.get("recorded_in", {})
    if not isinstance(recorded_in, dict):
        raise DamagedFile(f"recorded_in is {type(recorded_in).__name__}, expected an object")
    fingerprint, parent = values["fingerprint"], values.get("parent", "")
    if not isinstance(parent, str):
        raise DamagedFile(f"parent is {type(parent).__name__}, expected a string")
    limits = JointLimits.from_json(values["limits"]) if "limits" in values else None
    return PolicyRecord(
        spec, stats, config, fingerprint, execution, scaling, recorded_in, parent, limits=limits
    )


def _convert(value: Any, kind: type[_T], where: str) -> _T:
    """Return the dataclass that a JSON object describes, with exactly its fields."""
    keys = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    check_keys(value, keys - _ADDED_SPEC_KEYS, where, _ADDED_SPEC_KEYS.intersection(keys))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"{where}: {error}") from error


def check_keys(
    value: Any, required: set[str], where: str, optional: frozenset[str] = frozenset()
) -> None:
    """Refuse anything but an object with the required keys and, at most, the optional ones."""
    if not isinstance(value, Mapping):
        raise DamagedFile(f"{where} is {type(value).__name__}, expected an object")
    found = []
    for what, keys in (
        ("unknown", value.keys() - required - optional),
        ("missing", required - value.keys()),
    ):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            found.append(f"{what} keys {', '.join(sorted(keys)[:5])}{more}")
    if found:
        raise DamagedFile(
            f"{where}: {', '.join(found)}; it was altered, or written by another version of imitact"
        )


def _read_weights(path: Path, expected: Mapping[str, Any]) -> bytes:
    """Return the bytes of the weights file, read once: what was verified is what is used."""
    size = path.stat().st_size if path.is_file() else expected["bytes"]
    if size != expected["bytes"]:  # before that many bytes are read
        raise DamagedFile(
            f"{path} has {size} bytes, {POLICY_JSON} expects {expected['bytes']}: it is truncated "
            f"or belongs to another policy. {_COPY_AGAIN}"
        )
    data = read_bytes(path, limit=_MAX_WEIGHTS_BYTES, advice=_COPY_AGAIN)
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise DamagedFile(
            f"{path} is not the file that was saved: its SHA-256 differs from the one in "
            f"{POLICY_JSON}. {_COPY_AGAIN}"
        )
    return data
