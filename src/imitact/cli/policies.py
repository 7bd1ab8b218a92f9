"""A policy by its path: a folder that training wrote, or a file that was exported.

Only what the path needs is imported: torch for a folder, none for a file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from imitact.core.chunking import Execution
from imitact.core.types import Policy


def loader(path: Path) -> Callable[[], Policy]:
    """Loads it; picklable, so that each process can."""
    if path.is_file():
        from imitact.deploy.runtime import load

        return partial(load, path)
    from imitact.models.policy import TorchPolicy

    return partial(TorchPolicy.load, path)


def identity(path: Path) -> str:
    """Tells policies apart: a digest of everything in it."""
    if path.is_file():
        from imitact.deploy import runtime

        return runtime.identity(path)
    from imitact.models import policy

    return policy.identity(path)


def executed(policy: Policy) -> Execution | None:
    """How it says its chunks are best executed; None where it says nothing of that."""
    return getattr(policy, "execution", None)
