"""Checkpoints of other programs: which program wrote one, and the policy in it.

The readers need torch and are imported when they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imitact.core.errors import BadInput
from imitact.models.interop.lerobot_layout import CONFIG

if TYPE_CHECKING:
    from imitact.models.interop.imported_policy import ImportedPolicy
    from imitact.models.interop.partial_spec import PartialSpec

TRAINED = "pretrained_model"
"""Folder of the policy within a checkpoint of `lerobot-train`."""

RELEASED_WEIGHTS = "policy_best.ckpt"
NUM_HEADS = 8


def lerobot_folder(path: Path) -> Path | None:
    """Return the folder of LeRobot's policy at a path: itself or one in it; None for others."""
    return next((f for f in (path, path / TRAINED) if (f / CONFIG).is_file()), None)


def is_foreign(path: Path) -> bool:
    """Whether a path looks like a checkpoint of LeRobot or of the released ACT."""
    if path.is_file():
        return path.suffix == ".ckpt"
    return lerobot_folder(path) is not None or (path / RELEASED_WEIGHTS).is_file()


def read_foreign(
    path: Path, known: PartialSpec, *, num_heads: int = NUM_HEADS, stats: Path | None = None
) -> ImportedPolicy:
    """Return the policy in a checkpoint; `known` is what it does not state.

    Args:
        num_heads: attention heads, which checkpoints of the released ACT do not state.
        stats: dataset_stats.pkl of the released ACT, where it is not beside the weights.
    """
    if not is_foreign(path):
        raise BadInput(
            f"{path} is not a checkpoint that can be read; expected LeRobot's (a folder with "
            "config.json and model.safetensors) or the released ACT's (policy_best.ckpt and "
            "dataset_stats.pkl, or a .ckpt file)"
        )
    if folder := lerobot_folder(path):
        from imitact.models.interop import lerobot_reader

        return lerobot_reader.read(folder, known)
    from imitact.models.interop import act_release

    return act_release.read(path, known, num_heads=num_heads, stats=stats)
