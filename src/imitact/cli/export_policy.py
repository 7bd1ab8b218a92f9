"""`imitact export-policy`: a policy as a checkpoint that another program loads and runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
from imitact.models.interop import act_release, lerobot_writer
from imitact.models.policy import TorchPolicy

GO_ON = "no checkpoint was written; the same command begins again"


@dataclass(frozen=True)
class ExportPolicy:
    """Write a policy as LeRobot's ACT or as the released ACT; it gives equal actions there.

    What the other program cannot express is refused, or said where it changes no action
    (docs/policies.md).
    """

    policy: Positional[Path]
    """Folder of the policy, as `imitact train` wrote it (OUT/policy)."""

    out: Path
    """Folder for the checkpoint; nothing that is there is overwritten."""

    to: Literal["lerobot", "act"]
    """lerobot: a pretrained_model of LeRobot 0.4 and later. act: policy_best.ckpt and
    dataset_stats.pkl of the released code."""

    at_input_size: bool = False
    """Of a policy that resizes its frames, write one that takes them resized, as LeRobot's ACT
    resizes none; only with --to lerobot."""


def run(settings: ExportPolicy) -> None:
    """Export, and say what is to be known there."""
    policy = TorchPolicy.load(settings.policy)
    if settings.to == "lerobot":
        notes = lerobot_writer.write(policy, settings.out, at_input_size=settings.at_input_size)
    elif settings.at_input_size:
        raise BadInput("--at-input-size is for --to lerobot")
    else:
        notes = act_release.write(policy, settings.out)
    for note in notes:
        print_progress(note)
    print_result(f"checkpoint: {settings.out}")
