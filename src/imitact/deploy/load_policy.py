"""Policy loading by path: a policy folder, a training, a checkpoint or an exported file.

Only what the path needs is imported: torch for a folder, OpenVINO or ONNX Runtime for a file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.core.types import Policy
from imitact.storage.atomic_folder import whole_folder


def load_policy(path: Path | str) -> Policy:
    """Load a trained policy, ready to answer observations.

    The path is that of a policy folder (OUT/policy), of a training that has finished, of a
    checkpoint (OUT/checkpoints/step-N), or of a file that `imitact export` wrote.

    Raises:
        BadInput: there is no policy at the path.
        DamagedFile: a file of the policy is missing, cut off or altered.
    """
    return policy_loader(Path(path))()


def policy_path(path: Path | str) -> Path:
    """Return the policy folder or the exported file that a path stands for; nothing is loaded."""
    path = Path(path)
    if path.is_file() or (path / "policy.json").exists():
        return path
    if whole_folder(path / "policy").is_dir():  # a training or one of its checkpoints
        return path / "policy"
    if not path.exists() and not whole_folder(path).exists():
        raise BadInput(f"{path}: no such file or folder; give the policy of a training")
    if not path.exists() or (path / "model.safetensors").exists():  # loading says what is wrong
        return path
    raise BadInput(f"{path} holds no policy.json; give the folder that `imitact train` wrote")


def policy_loader(path: Path) -> Callable[[], Policy]:
    """Return a picklable function that loads the policy at a path."""
    path = policy_path(path)
    if path.is_file():
        from imitact.deploy.runtime import load

        return partial(load, path)
    from imitact.models.policy import TorchPolicy

    return partial(TorchPolicy.load, path)


def policy_identity(path: Path) -> str:
    """Return the SHA-256 of everything in a policy, which distinguishes policies."""
    path = policy_path(path)
    if path.is_file():
        from imitact.deploy import runtime

        return runtime.identity(path)
    from imitact.models.policy_folder import identity

    return identity(path)
