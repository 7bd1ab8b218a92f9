"""The tasks that have a scripted demonstrator."""

from __future__ import annotations

from imitact.core.errors import BadInput
from imitact.core.types import Policy
from imitact.envs.experts.cube import CubeExpert
from imitact.envs.experts.insertion import InsertionExpert
from imitact.envs.experts.scripted import Script

EXPERTS: dict[str, type[Script]] = {"cube": CubeExpert, "insertion": InsertionExpert}
"""Task to demonstrator."""


def make_expert(task: str = "cube", spread: float = 1.0) -> Policy:
    """The expert of a task, for functools.partial across processes."""
    if task not in EXPERTS:
        raise BadInput(f"no expert for task {task!r}; there is one for {list(EXPERTS)}")
    return EXPERTS[task](spread)
