"""Tests that imitact's ACT reproduces the recorded results of LeRobot 0.6.1's ACT.

scripts/parity_model.py records them and runs both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imitact.models import act
from scripts import parity_model as parity
from tests.support.paths import FIXTURES

RECORDED = FIXTURES / "model_parity"


def recorded(case: str) -> dict[str, Any]:
    with np.load(RECORDED / f"{case}.npz", allow_pickle=False) as file:
        return dict(file)


def test_one_camera_reproduces_lerobots_actions_posterior_losses_and_gradients() -> None:
    worst = parity.deviations(parity.imitact_side("one_camera"), recorded("one_camera"))
    assert max(worst.values()) <= 1, worst


def test_four_cameras_of_two_sizes_reproduce_lerobots_results() -> None:
    worst = parity.deviations(parity.imitact_side("four_cameras"), recorded("four_cameras"))
    assert max(worst.values()) <= 1, worst


def test_environment_states_without_a_camera_reproduce_lerobots_results() -> None:
    theirs = recorded("environment_state")
    worst = parity.deviations(parity.imitact_side("environment_state"), theirs)
    assert max(worst.values()) <= 1, worst


def test_the_comparison_detects_missing_image_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = act.sine_grid
    monkeypatch.setattr(act, "sine_grid", lambda *sizes: torch.zeros_like(grid(*sizes)))
    worst = parity.deviations(parity.imitact_side("four_cameras"), recorded("four_cameras"))
    assert worst["action"] > 100
    assert worst["gradient_norms"] > 100
    assert worst["mean"] <= 1  # the CVAE encoder sees no images


def test_the_recorded_results_are_small_and_name_their_versions() -> None:
    files = list(RECORDED.iterdir())
    assert sum(f.stat().st_size for f in files) < 200_000
    assert {file.stem for file in files if file.suffix == ".npz"} == set(parity.CASES)
    for case in parity.CASES:
        assert "lerobot 0.6.1" in str(recorded(case)["versions"])
        if parity.CASES[case]:
            assert recorded(case)["parameters"] == 51_613_582
