"""`imitact export-policy`: a policy as a checkpoint that another program loads and runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
from imitact.deploy.load_policy import policy_path
from imitact.storage.output_guard import check_output

RESUME_HINT = "no checkpoint was written; the same command starts again"


@dataclass(frozen=True)
class ExportPolicy:
    """Write a policy as a checkpoint of LeRobot's ACT or of the released ACT, with equal actions.

    What the other program cannot express is refused, or named where it changes no action
    (docs/policies.md).
    """

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Folder of a training or of its policy."""

    out: Path
    """Folder of the checkpoint; existing files are never overwritten."""

    to: Literal["lerobot", "act"]
    """lerobot: a pretrained_model of LeRobot 0.4 and later. act: policy_best.ckpt and
    dataset_stats.pkl of the released code."""

    at_input_size: bool = False
    """With --to lerobot: write a policy that takes frames already resized to the network's input,
    because LeRobot's ACT resizes none."""


OPTIONS = ExportPolicy


def run(settings: ExportPolicy) -> None:
    """Export, and print what is to be known about the checkpoint."""
    if settings.to == "act" and settings.at_input_size:
        raise BadInput("--at-input-size is for --to lerobot")
    check_output(settings.out, "checkpoint of another program")
    path = policy_path(settings.policy)
    from imitact.models.interop import act_release, lerobot_writer
    from imitact.models.policy import TorchPolicy

    policy = TorchPolicy.load(path)
    if settings.to == "lerobot":
        notes = lerobot_writer.write(policy, settings.out, at_input_size=settings.at_input_size)
    else:
        notes = act_release.write(policy, settings.out)
    for note in notes:
        print_progress(note)
    print_result(f"checkpoint: {settings.out}")
