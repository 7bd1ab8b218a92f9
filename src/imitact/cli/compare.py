"""`imitact compare`: evaluations on the same seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import print_result
from imitact.cli.options import require_path
from imitact.core.errors import BadInput

RESUME_HINT = "nothing was changed"


@dataclass(frozen=True)
class Compare:
    """Compare evaluations on the seeds that all of them ran: the differences, and their intervals.

    Of more than two, each is compared with the one that succeeds most often.
    """

    evaluations: Annotated[Positional[tuple[Path, ...]], arg(metavar="EVALUATION")]
    """Folders of evaluations, as `imitact evaluate` wrote them; or one folder that holds them."""


OPTIONS = Compare


def run(settings: Compare) -> None:
    """Print the evaluations as a table, then the differences with their intervals."""
    paths = [*settings.evaluations]
    for path in paths:
        require_path(path, "evaluation")
    from imitact.evaluation import report
    from imitact.evaluation.results import describe_seeds

    if len(paths) == 1:
        paths = sorted(path.parent for path in paths[0].glob(f"*/{report.FILE_NAME}"))
    if len(paths) < 2:
        raise BadInput("give at least two evaluations to compare, or a folder that holds several")
    found = {str(path): report.read(path) for path in paths}
    if len(found) < len(paths):
        raise BadInput("an evaluation is given twice; give each once")
    shared = set.intersection(*(set(e.seeds) for e in found.values()))
    if not shared:
        ran = "; ".join(f"{name} ran {describe_seeds(e.seeds)}" for name, e in found.items())
        raise BadInput(f"{ran}: no seed is in all of them; evaluate all on the same seeds")
    seeds = [seed for seed in next(iter(found.values())).seeds if seed in shared]
    print_result(*report.side_by_side({name: e.only(seeds) for name, e in found.items()}))
