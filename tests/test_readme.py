"""The README's own lines run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.feature_statistics import Accumulator
from imitact.core.types import Camera, Spec
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language; fences come in pairs."""
    fences = re.split(r"^```(.*)\n", README, flags=re.MULTILINE)
    return [text for name, text in zip(fences[1::4], fences[2::4], strict=True) if name == language]


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = blocks("python")
    spec = Spec(
        ALOHA_JOINTS,
        ALOHA_JOINTS,
        ALOHA_UNITS,
        ALOHA_UNITS,
        (Camera("top", 480, 640),),
        ALOHA_RATE_HZ,
    )
    rows = Accumulator(14)
    rows.add(np.random.default_rng(0).normal(size=(10, 14)))
    config = ActConfig(
        input_height=30, input_width=40, backbone_width=8, backbone_stages=2,
        backbone_norm="batch", hidden_dim=16, num_heads=2,
        dim_feedforward=16, encoder_layers=1, use_vae=False,
    )  # fmt: skip
    stats = {"state": rows.result(), "action": rows.result()}
    policy = TorchPolicy.create(spec, stats, config, seed=0, fingerprint="none")
    (path,) = re.findall(r'load_policy\("(.*?)"\)', code)
    policy.save(tmp_path / path / "policy")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    names["env"].close()  # type: ignore[attr-defined]
    assert names["observation"].state.shape == (14,)  # type: ignore[attr-defined]


def test_the_commands_shown_are_commands():
    from imitact.cli import main

    shown = [line.split() for block in blocks("") for line in block.splitlines() if line]
    assert ["make", "demo"] in shown
    verbs = {words[1] for words in shown if words[0] == "imitact"}
    assert verbs <= main.VERBS.keys()
    assert {"record", "train", "evaluate", "compare"} <= verbs


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_every_success_rate_that_names_its_numbers_is_that_of_the_file(page: str):
    text = (ROOT / page).read_text()
    rows = [line for line in text.splitlines() if "`benchmarks/results/" in line and line[0] == "|"]
    checked = []
    for row in rows:
        (path,) = re.findall(r"`(benchmarks/results/[\w/-]+\.json)`", row)
        numbers = json.loads((ROOT / path).read_text())
        if "successes" in numbers:
            assert f"{numbers['successes']} of {numbers['episodes']}" in row
            checked.append(path)
        if "success" in numbers:
            success = numbers["success"]
            assert f"{success['exported']} to {success['torch']}" in row
            assert f"{100 * success['difference']:.1f} points" in row
            checked.append(path)
    assert len(checked) >= 3
