"""`imitact view`: demonstrations, a training, an evaluation or a run, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.options import require_path
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.ranges import Count, Range
from imitact.datasets.read_config import ReadConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.core.types import Dataset
    from imitact.quality.findings import Finding
    from imitact.viewer.discover import ViewItem
    from imitact.viewer.page import Blobs

RESUME_HINT = "nothing was written"


@dataclass(frozen=True)
class View:
    """Write one HTML page that shows demonstrations, a training, an evaluation, a run or a demo.

    The page needs no network and opens in any browser.
    """

    paths: Positional[tuple[Path, ...]]
    """Folders of datasets, trainings, evaluations or logs of runs on a robot, or of a demo."""

    out: Path | None = None
    """The page. None: FOLDER.html beside the first folder."""

    episodes: str = ""
    """Demonstrations to show with their videos, by number: 0,5,9. Empty: --max-episodes of them."""

    max_episodes: Count = 8
    """Demonstrations shown with their videos, from the shortest to the longest; each adds about
    0.6 MB per camera (400 ticks at 320 pixels)."""

    width: Annotated[int, Range(16, 16_384)] = 320
    """Width of a video in pixels; larger shows more and makes the page larger."""

    check: Literal["numbers", "frames", "none"] = "numbers"
    """What of a dataset is checked as by imitact check, and marked in the page: states and actions,
    or every frame too, which decodes all videos."""

    rerun: str = ""
    """Send the same to Rerun instead: a file FILE.rrd, or spawn to open its viewer (docs/view.md).
    """

    read: ReadConfig = field(default_factory=ReadConfig)
    """What a dataset's layout leaves open."""


OPTIONS = View


def run(settings: View) -> None:
    """Write the page, and print where it is."""
    if settings.out:
        check_output(settings.out, is_file=True)
    if settings.rerun not in ("", "spawn"):
        check_output(settings.rerun, option="--rerun", is_file=True, starts=b"RRF")
    for path in settings.paths:
        require_path(path, "folder")
    from imitact.viewer import page
    from imitact.viewer.discover import find_items

    found = find_items(list(settings.paths))
    title = " and ".join(str(path) for path in settings.paths)
    # Beside the folder: what is in it belongs to another program or verb.
    first = settings.paths[0].absolute()
    out = settings.out or first.with_name(f"{first.name}.html")
    if settings.rerun:
        from imitact.viewer import rerun_export

        sink = rerun_export.parse_target(settings.rerun)  # refused before the work
        sections, blobs = gather(settings, found)
        rerun_export.send_sections(sink, title, sections, blobs)
        print_result(f"rerun:   {settings.rerun}")
        return
    page.check_page_path(out)
    sections, blobs = gather(settings, found)
    page.write_page(out, page.render_page(title, sections, blobs))
    print_result(f"page:    {out} ({out.stat().st_size / 1e6:.1f} MB)")


def gather(settings: View, found: list[ViewItem]) -> tuple[list[dict[str, Any]], Blobs]:
    """Return a section for each item, and the bytes that the sections refer to."""
    from imitact.viewer.page import Blobs, unreadable_section

    blobs = Blobs()
    chosen = _numbers(settings.episodes)
    if chosen is not None and not any(each.kind == "dataset" for each in found):
        raise BadInput("--episodes chooses demonstrations, and there is no dataset to show")
    sections: list[dict[str, Any]] = []
    damages: list[DamagedFile] = []
    for each in found:
        try:
            section = _section(settings, each, chosen, blobs)
        except DamagedFile as error:
            damages.append(error)
            section = unreadable_section(each.kind, each.path, str(error))
        sections.append({**section, "name": each.name})
    if len(damages) == len(found):
        raise damages[0]
    for error in damages:
        print_progress(f"left out: {error}")
    return sections, blobs


def _section(
    settings: View, item: ViewItem, chosen: list[int] | None, blobs: Blobs
) -> dict[str, Any]:
    from imitact.viewer import evaluations, runs, trainings

    if item.kind == "dataset":
        return _dataset(settings, item.path, chosen, blobs)
    if item.kind == "training":
        return trainings.training_section(item.path)
    if item.kind == "run":
        return runs.run_section(item.path, blobs)
    return evaluations.evaluation_section(item.path, blobs)


def _dataset(settings: View, path: Path, chosen: list[int] | None, blobs: Blobs) -> dict[str, Any]:
    from imitact.datasets.lerobot.video_segments import episode_ranges
    from imitact.quality.dataset_check import open_damaged
    from imitact.quality.findings import errors
    from imitact.viewer import demonstrations

    dataset, found = open_damaged(path, settings.read)
    if dataset is None:
        first = errors(found)[0]
        raise DamagedFile(f"{first.what}. {first.remedy}")
    was_checked = settings.check != "none" and not settings.rerun
    if was_checked:
        found += _findings(settings, dataset, found)
    shown = demonstrations.choose_episodes(dataset.lengths, chosen, settings.max_episodes, found)
    with ProgressDisplay("videos", len(shown) * len(dataset.spec.cameras), "clips") as display:
        section = demonstrations.dataset_section(
            dataset, path, blobs, chosen=shown, found=found, was_checked=was_checked,
            width=settings.width, on_clip=display.to,
        )  # fmt: skip
    if unread := section["unread"]:
        text = episode_ranges(unread)
        print_progress(f"{path}: {text} cannot be read; `imitact check {path}` says why")
    return section


def _findings(settings: View, dataset: Dataset, damage: Sequence[Finding]) -> list[Finding]:
    """What `imitact check` finds in the episodes of a dataset that opening found to be whole."""
    from imitact.quality.dataset_check import inspect_frames, inspect_numbers, unusable_episodes

    count = len(dataset.lengths)
    damaged = unusable_episodes(damage)
    with ProgressDisplay("numbers", count, "episodes") as display:
        found = inspect_numbers(dataset, damaged=damaged, on_progress=display.to)
    if settings.check == "frames" and dataset.spec.cameras:
        damaged |= unusable_episodes(found)
        with ProgressDisplay("frames", count - len(damaged), "episodes") as display:
            found += inspect_frames(dataset, damaged=damaged, on_progress=display.to)
    return found


def _numbers(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise BadInput(f'--episodes is "{text}"; expected numbers with commas: 0,5,9') from error
