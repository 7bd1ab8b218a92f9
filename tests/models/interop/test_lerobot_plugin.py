"""Tests of the LeRobot plugin's wheel: its name and its imports.

Its predictions are compared in test_interop.py (the checkpoints of "plugin") and, inside LeRobot,
by scripts/parity_policies.py.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator

import pytest

import imitact
from tests.support.paths import ROOT

WHEEL = ROOT / "integrations" / "lerobot_policy_imitact"
NAME = "lerobot_policy_imitact"
SOURCES = sorted((WHEEL / "src" / NAME).glob("*.py"))


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("plugin")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=WHEEL, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_lerobot_discovers_the_plugin_by_its_name(built: zipfile.ZipFile) -> None:
    """LeRobot 0.6.1 imports distributions whose name begins with lerobot_policy_, by that name
    (lerobot/utils/import_utils.py); it silently skips names with hyphens."""
    about = next(n for n in built.namelist() if n.endswith("METADATA"))
    assert f"\nName: {NAME}\n" in built.read(about).decode()
    assert {n.split("/")[0] for n in built.namelist()} == {NAME, f"{NAME}-0.1.0.dist-info"}


def test_lerobot_finds_policy_and_processors_by_module_name() -> None:
    """LeRobot looks for policy and processors beside the settings (lerobot/policies/factory.py)."""
    modules = {p.stem: p.read_text() for p in SOURCES}
    assert 'register_subclass("imitact")' in modules["configuration_imitact"]
    assert "\nclass ImitactConfig(PreTrainedConfig)" in modules["configuration_imitact"]
    assert "\nclass ImitactPolicy(PreTrainedPolicy)" in modules["modeling_imitact"]
    assert "\ndef make_imitact_pre_post_processors(" in modules["processor_imitact"]


def test_the_plugin_imports_nothing_from_lerobots_act() -> None:
    assert len(SOURCES) == 4
    for file in SOURCES:
        names = list(imported(file.read_text()))
        assert [n for n in names if n.startswith("lerobot.policies.act")] == []
    assert list(imported("from lerobot.policies.act import x")) == ["lerobot.policies.act.x"]


def test_all_that_the_plugin_takes_from_imitact_exists() -> None:
    names = [n for file in SOURCES for n in imported(file.read_text()) if n.startswith("imitact.")]
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_version_and_dependencies_of_the_plugin_are_the_tested_ones() -> None:
    project = tomllib.loads((WHEEL / "pyproject.toml").read_text())["project"]
    assert project["version"] == imitact.__version__
    assert project["dependencies"] == [
        f"imitact>={imitact.core.version.__version__}",
        "lerobot>=0.6.1",
    ]
