"""Dot dataset: demonstrations of the dot world, recorded by its expert."""

from __future__ import annotations

from pathlib import Path

from imitact.recording.recorder import record
from tests.support import dot_env


def record_dots(path: Path, episodes: int) -> Path:
    """Record demonstrations of 30 ticks at a path that is not there yet, and return it."""
    record(
        path,
        make_env=dot_env.make_dot,
        make_expert=dot_env.make_dot_expert,
        episodes=episodes,
        task="go to the mark",
        seeds=range(1000),
    )
    return path
