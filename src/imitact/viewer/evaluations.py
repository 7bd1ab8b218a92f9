"""An evaluation, as what a page shows of it: failures first, and their films where there are any.

Takes the numbers of evaluation.json (docs/formats.md), of whatever wing read and checked them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imitact.viewer.page import Blobs

FILMS = 24
FILMS_BYTES = 30_000_000
"""Films at most that a page carries, and their bytes; failures come first."""

_KEPT = (
    *("seed", "success", "highest_stage", "first_ticks", "reward_sum", "ticks", "queries"),
    *("jerk_rad_s3", "rewards"),
)


def section(
    told: Mapping[str, Any], folder: Path, blobs: Blobs, *, unfinished_of: int = 0
) -> dict[str, Any]:
    """What a page shows of an evaluation; its films go to `blobs`.

    told:          the contents of evaluation.json.
    folder:        where `videos/seed-N.mp4` lie.
    unfinished_of: how many episodes there will be, where it still runs; else 0.
    """
    films = _films(told["rows"], folder, blobs)
    world, names = told["world"], told["names"]
    facts = [
        ["success", f"{100 * told['successes'] / told['episodes']:.1f} %"],
        ["chunking", told["chunking"]],
        ["seeds", f"{min(told['seeds'])} to {max(told['seeds'])}"],
        ["step cap", f"{told['step_cap']} ticks, {told['step_cap'] / world['rate_hz']:g} s"],
        ["success at tick, mean", _number(told["mean_success_tick"], ".0f")],
        ["jerk, mean", _number(told["mean_jerk_rad_s3"], ",.0f", " rad/s³")],
    ]
    if told["held"] is not None:
        facts.append(["held at the end", str(told["held"])])
    facts += [
        [name, value if len(value) < 40 else f"{value[:12]}…"] for name, value in names.items()
    ]
    return {
        "kind": "evaluation",
        "path": str(folder),
        "badge": f"{told['successes']}/{told['episodes']}",
        "note": f"Still running: {told['episodes']} of {unfinished_of} episodes so far."
        if unfinished_of
        else "",
        "facts": facts,
        **{key: told[key] for key in ("successes", "episodes", "interval", "step_cap")},
        **{key: told[key] for key in ("stages", "reached")},
        "rate_hz": world["rate_hz"],
        "rows": [
            {**{key: row[key] for key in _KEPT}, "film": films.get(row["seed"])}
            for row in told["rows"]
        ],
    }


def _films(rows: list[dict[str, Any]], folder: Path, blobs: Blobs) -> dict[int, str]:
    """Names of the films by seed: those of failures, then others, as far as there is room."""
    films: dict[int, str] = {}
    room = FILMS_BYTES
    for row in sorted(rows, key=lambda row: (row["success"], row["seed"])):
        path = folder / "videos" / f"seed-{row['seed']}.mp4"
        if len(films) < FILMS and path.is_file() and path.stat().st_size <= room:
            data = path.read_bytes()
            room -= len(data)
            films[row["seed"]] = blobs.add(data)
    return films


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else format(value, form) + unit
