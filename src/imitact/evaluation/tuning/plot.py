"""Tuning figure: success and jerk of the grid at each delay, and success over the delay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imitact.core.answer_delay import delay_words
from imitact.core.words import counted
from imitact.evaluation.results import Evaluation
from imitact.evaluation.tuning.successive_halving import DelayRace, Tuning
from imitact.storage.atomic import write_atomically

FILE_NAME = "tune.svg"

_OTHER, _CHOSEN, _UNTUNED = "#7a8ca3", "#c8553d", "#2a6f97"
_BAR: dict[str, Any] = {"markersize": 4, "capsize": 2, "linewidth": 0.9}


def draw(tuning: Tuning, out: Path) -> Path:
    """Write out/tune.svg and return its path; equal tunings give equal bytes."""
    names = _names(tuning.races)
    columns = len(tuning.races)
    wide = max(2.2 * columns + 1.6, 7.0)
    rows = 3 if tuning.confirmed else 2
    heights = [0.24 * len(names) + 0.6] * 2 + [2.4] * (rows - 2)
    with mpl.rc_context({"svg.hashsalt": "imitact", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(wide, sum(heights) + 0.6), layout="constrained")
        cells = figure.add_gridspec(rows, columns, height_ratios=heights)
        for at, race in enumerate(tuning.races):
            above = figure.add_subplot(cells[0, at])
            below = figure.add_subplot(cells[1, at])
            _success(above, race, names, tuning.untuned.chunking)
            _jerk(below, race, names, tuning.untuned.chunking)
            for panel in (above, below):
                panel.set_yticks(range(len(names)), names if at == 0 else [""] * len(names))
                panel.set_ylim(len(names) - 0.5, -0.5)
                panel.grid(axis="x", linewidth=0.4, alpha=0.6)
            above.set_title(f"delay {delay_words(race.delay_ticks)}")
        if tuning.confirmed:
            _delays(figure.add_subplot(cells[2, :]), tuning)
        write_atomically(
            out / FILE_NAME,
            lambda path: figure.savefig(path, format="svg", metadata={"Date": None}),
        )
    return out / FILE_NAME


def _names(races: Sequence[DelayRace]) -> list[str]:
    """Return every chunking of any delay, once, by kind and number."""

    def key(chunking: str) -> tuple[str, list[float]]:
        kind, _, rest = chunking.partition(":")
        return kind, [float(number) for number in re.split("[/~,]", rest)]

    return sorted({e.execution.chunking for race in races for e in race.longest}, key=key)


def _success(panel: Axes, race: DelayRace, names: Sequence[str], untuned: str) -> None:
    for evaluation in race.longest:
        at = names.index(evaluation.execution.chunking)
        rate, below, above = _percent(evaluation)
        error = [[below], [above]]
        panel.errorbar(
            rate, at, xerr=error, fmt="o", color=_colour(race, evaluation, untuned), **_BAR
        )
        panel.annotate(
            f"{evaluation.episodes}", (1.01, at), xycoords=("axes fraction", "data"),
            fontsize=6, va="center", color="#666666",
        )  # fmt: skip
    panel.set_xlim(-3, 103)
    panel.set_xlabel("success, % (95 % interval; seeds at the right)", fontsize=7)


def _percent(evaluation: Evaluation) -> tuple[float, float, float]:
    """Return the success rate, and how far its interval reaches below and above it."""
    rate = 100 * evaluation.successes / evaluation.episodes
    low, high = (100 * end for end in evaluation.interval)
    return rate, max(0.0, rate - low), max(0.0, high - rate)


def _jerk(panel: Axes, race: DelayRace, names: Sequence[str], untuned: str) -> None:
    for evaluation in race.longest:
        jerk = evaluation.mean_jerk_rad_s3
        if jerk is not None:
            at = names.index(evaluation.execution.chunking)
            panel.plot(jerk, at, "o", markersize=4, color=_colour(race, evaluation, untuned))
    panel.set_xlim(left=0)
    panel.set_xlabel("jerk, rad/s³", fontsize=7)


def _colour(race: DelayRace, evaluation: Evaluation, untuned: str) -> str:
    if evaluation.execution == race.choice.chosen.execution:
        return _CHOSEN
    return _UNTUNED if evaluation.execution.chunking == untuned else _OTHER


def _delays(panel: Axes, tuning: Tuning) -> None:
    """Draw success over delay on the confirmation seeds, with the lines slightly offset."""
    chosen, untuned = tuning.chosen.chunking, tuning.untuned.chunking
    own = {race.delay_ticks: race.choice.chosen.execution.chunking for race in tuning.races}
    at = _places(list(own))
    lines = {
        f"{chosen} (chosen)": (_CHOSEN, dict.fromkeys(own, chosen)),
        "best at that delay": (_OTHER, own),
        f"{untuned} (untuned)": (_UNTUNED, dict.fromkeys(own, untuned)),
    }
    for place, (label, (colour, chunkings)) in enumerate(lines.items()):
        found = [(d, tuning.confirmation(c, d)) for d, c in chunkings.items()]
        there = [(d, e) for d, e in found if e is not None]
        rates, below, above = zip(*(_percent(e) for _, e in there), strict=True)
        x = np.array([at[d] for d, _ in there]) + 0.08 * (place - 1)
        bars = np.array([below, above])
        for drawn, style, name in ((False, "o-", label), (True, "o", None)):
            of = np.array([isinstance(d, str) is drawn for d, _ in there])
            if of.any():
                panel.errorbar(
                    x[of], np.array(rates)[of], yerr=bars[:, of], fmt=style, color=colour,
                    label=name, **_BAR,
                )  # fmt: skip
    seeds = tuning.confirmed[0].episodes
    panel.set_xlabel("delay from query to answer, ticks")
    panel.set_ylabel(f"success, %\n({counted(seeds, 'other seed')})")
    panel.set_xticks([at[d] for d in own], [str(d) for d in own])
    panel.set_ylim(-3, 103)
    panel.grid(linewidth=0.4, alpha=0.6)
    panel.legend(loc="lower left", fontsize=7)


def _places(delays: Sequence[int | str]) -> dict[int | str, float]:
    """Return where each delay is drawn: a number at itself, drawn delays apart, to the right."""
    numbers = [delay for delay in delays if isinstance(delay, int)]
    texts = [delay for delay in delays if isinstance(delay, str)]
    last = max(numbers, default=0)
    step = max(1.0, last / 8)
    return {
        **{delay: float(delay) for delay in numbers},
        **{delay: last + step * (place + 1) for place, delay in enumerate(texts)},
    }
