"""Fixtures of the tests of the quality checks."""

from __future__ import annotations

import pytest

from tests.support.demonstrations import Rows, demonstrate
from tests.support.inspection import COUNT


@pytest.fixture(scope="session")
def sound() -> tuple[Rows, ...]:
    """State and action of episodes without a finding; not to be changed in place."""
    return tuple(demonstrate(seed) for seed in range(COUNT))
