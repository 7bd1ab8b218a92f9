"""`imitact compare`: two evaluations on the same seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from imitact.cli.console import print_result
from imitact.cli.options import require_path
from imitact.core.errors import BadInput

RESUME_HINT = "nothing was changed"


@dataclass(frozen=True)
class Compare:
    """Compare two evaluations on the seeds that both ran: the difference, and its interval."""

    a: Positional[Path]
    """Folder of an evaluation, as `imitact evaluate` wrote it."""

    b: Positional[Path]
    """Folder of the other evaluation."""


OPTIONS = Compare


def run(settings: Compare) -> None:
    """Print both evaluations as a table, then the difference with its interval."""
    for path in (settings.a, settings.b):
        require_path(path, "evaluation")
    from imitact.evaluation import report
    from imitact.evaluation.results import compare, describe_seeds

    a, b = report.read(settings.a), report.read(settings.b)
    shared = [seed for seed in a.seeds if seed in set(b.seeds)]
    if not shared:
        raise BadInput(
            f"A ran {describe_seeds(a.seeds)} and B {describe_seeds(b.seeds)}: no seed is in both; "
            "evaluate both on the same seeds"
        )
    a, b = a.only(shared), b.only(shared)
    print_result(report.table([a, b]), "")
    print_result(report.paired_line(compare(a, b), str(settings.a), str(settings.b)))
