"""Policy loading by path: a policy folder, a training, a checkpoint, an exported file, a server.

Only what the path needs is imported: torch for a folder, OpenVINO or ONNX Runtime for a file,
websockets for a server's address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imitact.core.errors import BadInput, ConnectionLost, missing_package
from imitact.core.execution import Execution
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Policy, Spec
from imitact.serving.address import as_address
from imitact.storage.atomic_folder import whole_folder
from imitact.storage.json_file import naming_file

if TYPE_CHECKING:
    from imitact.serving.client import RemotePolicy

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in that of a training."""


@dataclass(frozen=True)
class StoredPolicy:
    """What is known of a policy on disk without loading its network.

    Attributes:
        path: the policy folder, the exported file, or the address of a server.
        spec: what it sees and commands.
        identity: the SHA-256 of everything in it, which distinguishes policies.
        chunk_size: ticks of a chunk, K; None where a file does not say.
        execution: how its chunks are executed, if it was tuned.
        recorded_in: where its demonstrations were recorded, as in `PolicyRecord`.
        limits: joint limits of its demonstrations, as in `PolicyRecord`.
    """

    path: Path
    spec: Spec
    identity: str
    chunk_size: int | None
    execution: Execution | None = None
    recorded_in: Mapping[str, Any] = field(default_factory=dict)
    limits: JointLimits | None = None

    @property
    def where(self) -> str:
        """The path in words, or the address: a Path loses a slash of one."""
        return as_address(self.path) or str(self.path)

    @property
    def loader(self) -> Callable[[], Policy]:
        """A picklable function that loads this policy, and refuses any other at its path."""
        return partial(_load, self.path, self.identity)


def read_stored(path: Path | str) -> StoredPolicy:
    """Read what is known of the policy at a path, as for `load_policy`; needs no torch.

    Raises:
        BadInput: there is no policy at the path.
        DamagedFile: its metadata is missing, cut off or altered, or an exported file is.
    """
    if address := as_address(path):
        return _served(address)
    path = policy_path(path)
    if path.is_file():
        from imitact.deploy import runtime

        about, spec, execution, identity = runtime.read_about(path)
        chunk, recorded_in = about.get("chunk"), about.get("recorded_in")
        return StoredPolicy(
            path,
            spec,
            identity,
            chunk if isinstance(chunk, int) else None,
            execution,
            recorded_in if isinstance(recorded_in, dict) else {},
            _limits_of(about, path),
        )
    from imitact.models.policy_folder import read_record

    record = read_record(path)
    return StoredPolicy(
        path,
        record.spec,
        record.identity,
        record.config.chunk_size,
        record.execution,
        record.recorded_in,
        record.limits,
    )


def _served(address: str) -> StoredPolicy:
    """Return what a server says of its policy."""
    with closing(_remote(address, "")) as policy:
        said = policy.greeting
    return StoredPolicy(
        Path(address),
        said.spec,
        said.identity,
        said.chunk_size,
        said.execution,
        said.recorded_in,
        said.limits,
    )


def _remote(address: str, identity: str) -> RemotePolicy:
    try:
        from imitact.serving.client import RemotePolicy
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "websockets", "serve") from error
    try:
        return RemotePolicy(address, identity=identity)
    except ConnectionLost as error:
        raise BadInput(str(error)) from error


def _limits_of(about: Mapping[str, Any], path: Path) -> JointLimits | None:
    """Return the limits in the metadata of an exported file; older ones have none."""
    if "limits" not in about:
        return None
    with naming_file(f"{path}: limits"):
        return JointLimits.from_json(about["limits"])


def load_policy(path: Path | str) -> Policy:
    """Load a trained policy, ready to answer observations.

    The path is that of a policy folder (OUT/policy), of a training that has finished, of a
    checkpoint (OUT/checkpoints/step-N), or of a file that `imitact export` wrote. ws://HOST:PORT is
    a policy that `imitact serve` serves.

    Raises:
        BadInput: there is no policy at the path.
        DamagedFile: a file of the policy is missing, cut off or altered.
    """
    if address := as_address(path):
        return _remote(address, "")
    return policy_loader(Path(path))()


def policy_path(path: Path | str) -> Path:
    """Return the policy folder or the exported file that a path stands for; nothing is loaded.

    A training stands for its policy, and a checkpoint for the one that it holds. A training that is
    not finished has none; the error names its newest checkpoint.
    """
    if address := as_address(path):
        raise BadInput(
            f"{address} is the address of a server; this needs the policy itself, a folder or an "
            "exported file"
        )
    path = Path(path)
    if path.is_file() or (path / "policy.json").exists():
        return path
    if whole_folder(path / "policy").is_dir():  # a training or one of its checkpoints
        return path / "policy"
    training = path.parent if path.name == "policy" and not path.exists() else path
    if checkpoints := list_checkpoints(training):
        raise BadInput(
            f"{training} is a training that has not finished; give {checkpoints[-1]}, which holds "
            "the policy of its newest checkpoint, or finish it with `imitact train ... --resume`"
        )
    if not path.exists() and not whole_folder(path).exists():
        raise BadInput(f"{path}: no such file or folder; give the policy of a training")
    if not path.exists() or (path / "model.safetensors").exists():  # loading says what is wrong
        return path
    raise BadInput(f"{path} holds no policy.json; give the folder that `imitact train` wrote")


def list_checkpoints(training: Path) -> list[Path]:
    """Return the checkpoints of a training that hold a policy, from the oldest to the newest."""
    found = sorted((training / CHECKPOINTS).glob("step-*"))
    return [path for path in found if (path / "policy" / "policy.json").is_file()]


def policy_loader(path: Path) -> Callable[[], Policy]:
    """Return a picklable function that loads the policy at a path."""
    return partial(_load, policy_path(path), "")


def _load(path: Path, identity: str) -> Policy:
    """Load a policy; with an identity, refuse a policy of another."""
    if address := as_address(path):
        policy: Any = _remote(address, identity)
    elif path.is_file():
        from imitact.deploy.runtime import load

        policy = load(path)
    else:
        from imitact.models.policy import TorchPolicy

        policy = TorchPolicy.load(path)
    if identity and policy.identity != identity:
        raise BadInput(
            f"{path} was replaced by another policy since this command began; nothing of the other "
            "one was counted. Give the same command again, with another --out for the new policy"
        )
    return policy
