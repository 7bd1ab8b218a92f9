"""Our ACT computes what LeRobot 0.6.1's ACT computed, on recorded numbers.

The fixtures and the recipe of both sides are scripts/parity_model.py's.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from imitact.models import act
from tests.support.paths import FIXTURES, ROOT

SCRIPT = ROOT / "scripts" / "parity_model.py"
RECORDED = FIXTURES / "model_parity"


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(case: str) -> dict[str, Any]:
    with np.load(RECORDED / f"{case}.npz", allow_pickle=False) as file:
        return dict(file)


def test_one_camera_gives_lerobots_actions_posterior_losses_and_gradients(
    parity: ModuleType,
) -> None:
    worst = parity.deviations(parity.imitact_side("one_camera"), recorded("one_camera"))
    assert max(worst.values()) <= 1, worst


def test_four_cameras_of_two_sizes_give_lerobots_numbers(parity: ModuleType) -> None:
    worst = parity.deviations(parity.imitact_side("four_cameras"), recorded("four_cameras"))
    assert max(worst.values()) <= 1, worst


def test_the_comparison_notices_image_tokens_without_positions(
    parity: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = act.sine_grid
    monkeypatch.setattr(act, "sine_grid", lambda *sizes: torch.zeros_like(grid(*sizes)))
    worst = parity.deviations(parity.imitact_side("four_cameras"), recorded("four_cameras"))
    assert worst["action"] > 100
    assert worst["gradient_norms"] > 100
    assert worst["mean"] <= 1  # the CVAE encoder sees no images


def test_the_recorded_numbers_are_small_and_say_where_they_come_from() -> None:
    files = list(RECORDED.iterdir())
    assert sum(f.stat().st_size for f in files) < 200_000
    for case in ("one_camera", "four_cameras"):
        assert "lerobot 0.6.1" in str(recorded(case)["versions"])
        assert recorded(case)["parameters"] == 51_613_582
