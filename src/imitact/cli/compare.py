"""`imitact compare`: evaluations on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import print_result
from imitact.cli.options import require_path
from imitact.core.errors import BadInput

if TYPE_CHECKING:
    from imitact.evaluation.results import Evaluation

RESUME_HINT = "nothing was changed"


@dataclass(frozen=True)
class Compare:
    """Compare evaluations on the seeds that all of them ran: the differences, and their intervals.

    Of more than two, each is compared with the one that succeeds most often. With --trainings or
    --against the trainings are the sample: how sure is the rate of a setting, and the difference of
    two, when each of its trainings counts once?
    """

    evaluations: Annotated[Positional[tuple[Path, ...]], arg(metavar="EVALUATION")]
    """Folders of evaluations, as `imitact evaluate` wrote them; or one folder that holds them."""

    trainings: bool = False
    """The evaluations are of trainings of one setting, which differ in their seed alone."""

    against: tuple[Path, ...] = ()
    """Folders of evaluations of the trainings of another setting, which those before are compared
    with; or one folder that holds them."""


OPTIONS = Compare


def run(settings: Compare) -> None:
    """Print the evaluations as a table, then the differences with their intervals."""
    given = [*settings.evaluations, *settings.against]
    for path in given:
        require_path(path, "evaluation")
    from imitact.evaluation import report
    from imitact.evaluation.results import describe_seeds

    sides = [_evaluations(settings.evaluations), _evaluations(settings.against)]
    found = {**sides[0], **sides[1]}
    if len(found) < len(sides[0]) + len(sides[1]) or len(set(given)) < len(given):
        raise BadInput("an evaluation is given twice; give each once")
    if len(sides[0]) < 2 or (settings.against and len(sides[1]) < 2):
        raise BadInput("give at least two evaluations to compare, or a folder that holds several")
    shared = set.intersection(*(set(e.seeds) for e in found.values()))
    if not shared:
        ran = "; ".join(f"{name} ran {describe_seeds(e.seeds)}" for name, e in found.items())
        raise BadInput(f"{ran}: no seed is in all of them; evaluate all on the same seeds")
    seeds = [seed for seed in next(iter(found.values())).seeds if seed in shared]
    a, b = ({name: e.only(seeds) for name, e in side.items()} for side in sides)
    if settings.trainings or settings.against:
        print_result(*report.table([*a.values(), *b.values()], [*a, *b]).splitlines(), "")
        print_result(*report.trainings_against(a, b))
    else:
        print_result(*report.side_by_side(a))


def _evaluations(given: Sequence[Path]) -> dict[str, Evaluation]:
    """Read evaluations by their path; one folder may hold several."""
    from imitact.evaluation import report

    paths = [*given]
    if len(paths) == 1 and not (paths[0] / report.FILE_NAME).is_file():
        paths = sorted(path.parent for path in paths[0].glob(f"*/{report.FILE_NAME}"))
    return {str(path): report.read(path) for path in paths}
