"""Parent policy: what a fine-tuning begins with, found by path.

It is a policy of imitact, or a checkpoint of LeRobot or of the released ACT, which is read as
`imitact import-policy` does with the names, units and rate of the dataset.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imitact.core.errors import BadInput, ImitactError, SpecMismatch
from imitact.core.types import Spec
from imitact.deploy.load_policy import list_checkpoints, policy_path
from imitact.models.config import ActConfig
from imitact.models.interop.foreign_checkpoint import is_foreign, read_foreign
from imitact.models.interop.partial_spec import PartialSpec
from imitact.models.policy_folder import PolicyRecord, read_policy_json, record_of

if TYPE_CHECKING:
    from imitact.models.fine_tuning import Parent

Statistics = Literal["policy", "data"]


def parent_network(path: Path) -> tuple[ActConfig, bool]:
    """Return the settings of a policy's network, and whether it has cameras.

    Only for a checkpoint of another program is torch imported.
    """
    if is_foreign(path):
        policy = read_foreign(path, PartialSpec()).policy
        return policy.config, bool(policy.spec.cameras)
    record = record_of(read_policy_json(_own(path)))
    return record.config, bool(record.spec.cameras)


def load_parent(path: Path, statistics: Statistics, dataset: Spec) -> Parent:
    """Load the policy that a fine-tuning on a dataset of this Spec begins with."""
    from imitact.models.fine_tuning import Parent
    from imitact.models.policy import TorchPolicy

    if is_foreign(path):
        try:
            policy = read_foreign(path, PartialSpec.from_spec(dataset)).policy
        except SpecMismatch as error:
            raise SpecMismatch(
                f"{error}. Where the dataset is of another robot, import the checkpoint with its "
                f"own names: imitact import-policy {path} --out POLICY, then --from POLICY"
            ) from error
        return Parent(policy, str(path), policy.fingerprint, statistics)
    policy = TorchPolicy.load(_own(path))
    return Parent(policy, str(path), policy.identity, statistics)


def resumed_fine_tuning(out: Path) -> PolicyRecord | None:
    """Return the record of the newest readable checkpoint in OUT, if it is of a fine-tuning."""
    for checkpoint in reversed(list_checkpoints(out)):
        with contextlib.suppress(ImitactError):  # resuming skips it, too, and says so
            record = record_of(read_policy_json(checkpoint / "policy"))
            return record if record.parent else None
    return None


def _own(path: Path) -> Path:
    found = policy_path(path)
    if found.is_file():
        raise BadInput(
            f"{path} is a file without weights that can be trained on; give --from the policy that "
            "it was exported from"
        )
    return found
