"""Duplicate check: episodes whose states and actions all equal those of an earlier episode."""

from __future__ import annotations

import hashlib

import numpy as np

from imitact.core.types import FloatArray
from imitact.quality.findings import Finding


class DuplicateCheck:
    """Compares the episodes of a dataset by the SHA-256 of their states and actions."""

    def __init__(self) -> None:
        self._first_with: dict[bytes, int] = {}

    def add(self, index: int, state: FloatArray, action: FloatArray) -> list[Finding]:
        """Add an episode; return a finding if it is a duplicate."""
        hash_ = hashlib.sha256()
        for rows in (state, action):
            hash_.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        original = self._first_with.setdefault(hash_.digest(), index)
        if original == index:
            return []
        text = f"all its states and actions equal those of episode {original}"
        return [Finding.of("duplicate", text, index, ticks=(0, len(state)))]
