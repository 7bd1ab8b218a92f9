"""`imitact import-policy`: a checkpoint that another program trained, as a policy of imitact."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import print_progress, print_result
from imitact.cli.options import require_path
from imitact.core.errors import BadInput
from imitact.core.ranges import Range, RateOrStored
from imitact.core.words import counted
from imitact.datasets.read_config import ReadConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.models.interop.imported_policy import ImportedPolicy
    from imitact.models.interop.partial_spec import PartialSpec

RESUME_HINT = "no policy was written; the same command starts again"


@dataclass(frozen=True)
class ImportPolicy:
    """Convert a checkpoint of LeRobot or of the released ACT to a policy with equal actions.

    Nothing in the checkpoint is executed. What it does not state comes from options, from a
    dataset or from ALOHA's defaults; every assumption is printed (docs/policies.md).
    """

    source: Annotated[Positional[Path], arg(metavar="SRC")]
    """Checkpoint: LeRobot's folder (checkpoints/STEP, or its pretrained_model), or the released
    ACT's folder (policy_best.ckpt and dataset_stats.pkl) or .ckpt file."""

    out: Path
    """Folder of the policy."""

    data: Path | None = None
    """Dataset with the policy's joints and cameras, which names, units, rate and camera sizes are
    taken from where no option gives them."""

    cameras: str = ""
    """Released ACT: cameras in training order, with sizes: top=480x640,wrist=480x640. Without a
    size: 480x640. Empty: top."""

    state_names: str = ""
    """Names of the measured values, separated by commas. Empty: ALOHA's for 14 or 16 values, else
    state_0, state_1, ..."""

    action_names: str = ""
    """Names of the commanded values, separated by commas; as for state-names."""

    state_units: str = ""
    """Units of the measured values, separated by commas, or one for all. Empty: rad and 1 for
    ALOHA's names, else unknown."""

    action_units: str = ""
    """Units of the commanded values; as for state-units."""

    rate_hz: RateOrStored = 0.0
    """Control rate of the demonstrations, ticks per second; 0: the dataset's, else ALOHA's 50."""

    num_heads: Annotated[int, Range(1, 4_096)] = 8
    """Released ACT: attention heads, which its checkpoints do not state."""

    stats: Path | None = None
    """Released ACT: its dataset_stats.pkl, where it is not beside the weights."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """How the dataset of --data is read."""


OPTIONS = ImportPolicy


def run(settings: ImportPolicy) -> None:
    """Import, and print the assumptions and where the policy is."""
    check_output(settings.out, "policy")
    for path in (settings.source, *([settings.data] if settings.data else [])):
        require_path(path, "file or folder")
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
        f"state:     {counted(spec.state_size, 'value')}, action: {spec.action_size}, "
        f"{spec.rate_hz:g} Hz"
    )
    print_result(
        f"chunk:     {counted(policy.config.chunk_size, 'tick')}, executed by {policy.execution}"
    )
    own = "its own (format 3 of docs/formats.md)" if policy.scaling else "as imitact's"
    print_result(f"normalised {own}")


def read(settings: ImportPolicy) -> ImportedPolicy:
    """Return the policy in the checkpoint."""
    from imitact.models.interop.foreign_checkpoint import lerobot_folder, read_foreign

    if (settings.cameras or settings.stats) and (folder := lerobot_folder(settings.source)):
        option = "--cameras" if settings.cameras else "--stats"
        raise BadInput(f"{option} is for the released ACT; {folder} is LeRobot's and states them")
    known = _given_spec(settings)
    heads, stats = settings.num_heads, settings.stats
    found = read_foreign(settings.source, known, num_heads=heads, stats=stats)
    there = {camera.name for camera in known.cameras or ()}
    lacking = [c.name for c in found.policy.spec.cameras if c.name not in there]
    if settings.data and lacking:
        note = (
            f"{settings.data} has no camera {', '.join(lacking)}, which the policy sees; it has "
            f"{', '.join(sorted(there)) or 'none'}. Is it another robot's?"
        )
        return replace(found, notes=(*found.notes, note))
    return found


def _given_spec(settings: ImportPolicy) -> PartialSpec:
    """Return what the options, and behind them the dataset, state about the policy."""
    from imitact.datasets.open import open_dataset
    from imitact.models.interop.partial_spec import ALOHA_CAMERA, PartialSpec, parse_cameras

    data = PartialSpec()
    if settings.data:
        data = PartialSpec.from_spec(open_dataset(settings.data, settings.read).spec)
    elif options := ", ".join(settings.read.given()):
        raise BadInput(
            f"--read ({options}) says how a dataset is read, and there is none; give it with --data"
        )
    cameras = None
    if settings.cameras:
        cameras = parse_cameras(settings.cameras, (ALOHA_CAMERA.height, ALOHA_CAMERA.width))
    return PartialSpec(
        state_names=_words(settings.state_names),
        action_names=_words(settings.action_names),
        state_units=_words(settings.state_units),
        action_units=_words(settings.action_units),
        cameras=cameras,
        rate_hz=settings.rate_hz or None,
    ).or_else(data)


def _words(text: str) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in text.split(",")) if text else None
