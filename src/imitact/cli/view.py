"""`imitact view`: look at demonstrations, a training or an evaluation, as one page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from tyro.conf import Positional

from imitact.cli.console import ProgressDisplay, print_result
from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.evaluation import report
from imitact.evaluation.results import Evaluation, EvaluationPlan, Row, World
from imitact.viewer import demonstrations, evaluations, page, trainings
from imitact.viewer.discover import Found, find
from imitact.viewer.page import Blobs

GO_ON = "nothing was written"


@dataclass(frozen=True)
class View:
    """Write one HTML file that shows what is in a folder: demonstrations, a training, an
    evaluation, or all that a demo holds. It needs no network and opens in any browser."""

    paths: Positional[tuple[Path, ...]]
    """Folders of datasets, trainings or evaluations, or of a demo."""

    out: Path | None = None
    """The page; none writes it beside the first folder, as FOLDER.html."""

    episodes: str = ""
    """Demonstrations to show with their videos, by number: 0,5,9. Empty takes --most of them."""

    most: int = 8
    """How many demonstrations are shown with their videos, spread from the shortest to the longest;
    each is about 0.6 MB of the page a camera, for 400 ticks at 320 pixels."""

    width: int = 320
    """Of a video of the page, pixels; larger shows more and takes more room."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What a dataset does not say of itself."""

    rerun: str = ""
    """Send the same to Rerun instead: a file FILE.rrd, or spawn to open its viewer. Needs
    pip install 'imitact[view]'."""


def run(settings: View) -> None:
    """Write the page, and print where it is."""
    found = find(list(settings.paths))
    title = " and ".join(str(path) for path in settings.paths)
    out = settings.out or _beside(settings.paths[0])
    if settings.rerun:
        from imitact.viewer import rerun_export

        sink = rerun_export.sink(settings.rerun)  # refused before the work, if it must be
        sections, blobs = gather(settings, found)
        rerun_export.send(sink, title, sections, blobs)
        print_result(f"rerun:   {settings.rerun}")
        return
    page.check_free(out)
    sections, blobs = gather(settings, found)
    page.write(out, page.render(title, sections, blobs))
    print_result(f"page:    {out} ({out.stat().st_size / 1e6:.1f} MB)")


def gather(settings: View, found: list[Found]) -> tuple[list[dict[str, Any]], Blobs]:
    """What is to be shown of each thing, and the bytes that it refers to."""
    blobs = Blobs()
    chosen = _numbers(settings.episodes)
    if chosen is not None and not any(each.kind == "dataset" for each in found):
        raise BadInput("--episodes chooses demonstrations, and there is no dataset to show")
    sections = []
    for each in found:
        if each.kind == "dataset":
            section = _dataset(settings, each.path, chosen, blobs)
        elif each.kind == "training":
            section = trainings.section(each.path)
        else:
            evaluation, of = read_evaluation(each.path)
            section = evaluations.section(
                report.to_dict(evaluation), each.path, blobs, unfinished_of=of
            )
        sections.append({**section, "name": each.name})
    return sections, blobs


def _dataset(settings: View, path: Path, chosen: list[int] | None, blobs: Blobs) -> dict[str, Any]:
    source = open_dataset(path, settings.read)
    asked = demonstrations.choose(source.lengths, chosen, settings.most)
    with ProgressDisplay("videos", len(asked) * len(source.spec.cameras), "clips") as waiting:
        return demonstrations.section(
            source, path, blobs, chosen=asked, width=settings.width, on_clip=waiting.to
        )


def read_evaluation(folder: Path) -> tuple[Evaluation, int]:
    """An evaluation, and 0; of one that still runs the episodes so far, and how many there will be.

    Unlike the evaluation itself, which goes on from it, looking changes nothing in episodes.jsonl.
    """
    if (folder / report.NAME).is_file():
        return report.read(folder), 0
    path = folder / "episodes.jsonl"
    rows: dict[int, Row] = {}
    plan, world = None, None
    try:
        for line in path.read_bytes().split(b"\n")[:-1]:  # the last is not whole, or empty
            entry = msgspec.json.decode(line, type=dict[str, Any])
            if plan is None:
                entry.pop("format", None)
                plan = msgspec.convert(entry, EvaluationPlan)
            elif "world" in entry:
                world = msgspec.convert(entry["world"], World)
            elif "episode" in entry:
                row = msgspec.convert(entry["episode"], Row, strict=False)
                rows[row.seed] = row
    except msgspec.MsgspecError as error:
        raise DamagedFile(f"{path} is no journal of an evaluation: {error}") from error
    if plan is None or world is None or not rows:
        raise BadInput(f"{path} has no finished episode yet; look again later")
    seeds = tuple(seed for seed in plan.seeds if seed in rows)
    done = tuple(rows[seed] for seed in seeds)
    evaluation = Evaluation(
        replace(plan, seeds=seeds), world, done, workers=1, wall_s=sum(row.wall_s for row in done)
    )
    return evaluation, len(plan.seeds)


def _numbers(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--episodes is {text!r}; give numbers with commas: 0,5,9") from error


def _beside(path: Path) -> Path:
    """Not within: a dataset is LeRobot's, and an evaluation's folder another verb's."""
    path = path.absolute()
    return path.with_name(f"{path.name}.html")
