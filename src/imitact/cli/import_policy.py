"""`imitact import-policy`: a policy that another program trained, as one of imitact's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
from imitact.datasets.open import open_dataset
from imitact.models.interop import act_release, common, lerobot_reader
from imitact.models.interop.common import ALOHA_CAMERA, Imported, Told

GO_ON = "no policy was written; the same command begins again"

TRAINED = "pretrained_model"
"""Within a checkpoint of `lerobot-train`, the folder of the policy."""


@dataclass(frozen=True)
class ImportPolicy:
    """Make a policy of a checkpoint of the released ACT or of LeRobot; it gives equal actions.

    Nothing in the checkpoint is run. What a Spec holds and the checkpoint does not is told by the
    options, or taken from a dataset, or is ALOHA's; what was taken is said (docs/policies.md).
    """

    source: Positional[Path]
    """The checkpoint: LeRobot's folder (checkpoints/STEP, or its pretrained_model); of the released
    ACT the folder with policy_best.ckpt and dataset_stats.pkl, or another .ckpt file."""

    out: Path
    """Folder for the policy."""

    data: Path | None = None
    """A dataset with the policy's joints and cameras: names, units, rate and camera sizes are taken
    from it where no option tells them."""

    cameras: str = ""
    """Cameras in the order of training, with their sizes in pixels: top=480x640,wrist=480x640. Of
    the released ACT only, whose checkpoints do not name them; without a size: 480x640. Where
    nothing tells them: top."""

    state_names: str = ""
    """Names of the measured values, in order, separated by commas. Where nothing tells them:
    ALOHA's for 14 (and 16), else state_0, state_1, ..."""

    action_names: str = ""
    """Names of the commanded values, in order, separated by commas; as for `state_names`."""

    state_units: str = ""
    """Units of the measured values, in order, separated by commas; one for all of them is enough.
    Where nothing tells them: ALOHA's (rad, grippers 1) for ALOHA's names, else unknown."""

    action_units: str = ""
    """Units of the commanded values; as for `state_units`."""

    rate_hz: float = 0.0
    """Ticks a second at which it was trained; 0: where nothing tells it, ALOHA's 50."""

    heads: int = 8
    """Attention heads. Of the released ACT only, whose checkpoints do not tell them."""

    stats: Path | None = None
    """dataset_stats.pkl of the released ACT, if it is not beside the weights."""


def run(settings: ImportPolicy) -> None:
    """Import, say what was supposed, and where the policy is."""
    found = read(settings)
    for note in found.notes:
        print_progress(note)
    policy = found.policy
    spec = policy.spec
    written = policy.save(settings.out)
    sizes = ", ".join(f"{c.name} {c.height}x{c.width}" for c in spec.cameras) or "none"
    print_result(f"policy:    {written}")
    print_result(f"cameras:   {sizes}")
    print_result(
        f"state:     {spec.state_size} values, action: {spec.action_size}, {spec.rate_hz:g} Hz"
    )
    print_result(f"chunk:     {policy.config.chunk} ticks, executed by {policy.execution}")
    own = "its own (format 3 of docs/formats.md)" if policy.scaling else "as imitact's"
    print_result(f"normalised {own}")


def read(settings: ImportPolicy) -> Imported:
    """The policy in the checkpoint."""
    source, told = settings.source, _told(settings)
    if not source.exists():
        raise BadInput(f"{source}: no such file or folder")
    if not lerobot_reader.is_checkpoint(source) and (source / TRAINED).is_dir():
        source = source / TRAINED
    if source.is_dir() and lerobot_reader.is_checkpoint(source):
        if settings.cameras or settings.stats:
            option = "--cameras" if settings.cameras else "--stats"
            raise BadInput(
                f"{option} is for the released ACT; {source} is LeRobot's and tells them"
            )
        return lerobot_reader.read(source, told)
    if act_release.is_checkpoint(source):
        return act_release.read(source, told, heads=settings.heads, stats=settings.stats)
    raise BadInput(
        f"{source} is no checkpoint that imitact knows: neither LeRobot's (a folder with "
        "config.json and model.safetensors) nor the released ACT's (policy_best.ckpt and "
        "dataset_stats.pkl, or a .ckpt file)"
    )


def _told(settings: ImportPolicy) -> Told:
    data = Told.of(open_dataset(settings.data).spec) if settings.data else Told()
    if settings.rate_hz < 0:
        raise BadInput(f"rate_hz is {settings.rate_hz}; it must be above 0, or 0 for unknown")
    cameras = None
    if settings.cameras:
        cameras = common.parse_cameras(settings.cameras, (ALOHA_CAMERA.height, ALOHA_CAMERA.width))
    return Told(
        state_names=_words(settings.state_names),
        action_names=_words(settings.action_names),
        state_units=_words(settings.state_units),
        action_units=_words(settings.action_units),
        cameras=cameras,
        rate_hz=settings.rate_hz or None,
    ).or_else(data)


def _words(text: str) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in text.split(",")) if text else None
