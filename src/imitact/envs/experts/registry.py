"""Expert registry: the scripted experts by the name of their task."""

from __future__ import annotations

from imitact.core.errors import unknown_name
from imitact.core.types import Policy
from imitact.envs.experts.cube import CubeExpert
from imitact.envs.experts.insertion import InsertionExpert
from imitact.envs.experts.scripted import ScriptedExpert

EXPERTS: dict[str, type[ScriptedExpert]] = {"cube": CubeExpert, "insertion": InsertionExpert}
"""Task to expert."""


def make_expert(task: str = "cube", spread: float = 1.0, styles: int = 1) -> Policy:
    """Make the expert of a task; `spread` and `styles` are those of `ScriptedExpert`."""
    if task not in EXPERTS:
        raise unknown_name("task with an expert", task, EXPERTS)
    return EXPERTS[task](spread, styles)
