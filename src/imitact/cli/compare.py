"""`imitact compare`: two evaluations on the same seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from imitact.cli.console import print_result
from imitact.core.errors import BadInput
from imitact.evaluation import report
from imitact.evaluation.results import Evaluation, compare, spell

GO_ON = "nothing was changed"


@dataclass(frozen=True)
class Compare:
    """Compare two evaluations on the seeds that both ran: what differs, and how surely."""

    a: Positional[Path]
    """Folder of an evaluation, as `imitact evaluate` wrote it."""

    b: Positional[Path]
    """Folder of the other one."""


def side_by_side(a: Evaluation, b: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both, of the seeds alone that both ran."""
    shared = [seed for seed in a.seeds if seed in set(b.seeds)]
    if not shared:
        raise BadInput(
            f"A ran {spell(a.seeds)}, B {spell(b.seeds)}: they share none; "
            "evaluate both on the same seeds"
        )
    return a.only(shared), b.only(shared)


def run(settings: Compare) -> None:
    """Print both as a table, then the difference with its interval."""
    a, b = side_by_side(report.read(settings.a), report.read(settings.b))
    comparison = compare(a, b)
    print_result(report.table([a, b]))
    print_result("")
    print_result(report.paired_line(comparison, str(settings.a), str(settings.b)))
