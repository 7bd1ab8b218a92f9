"""Packaging: dependencies, the wheel, the choice of Python, and what CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import imitact
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {"torch", "numpy", "pyarrow", "av", "safetensors", "tyro", "msgspec", "rich", "pillow"}


def name_of(requirement: str) -> str:
    """Return the normalized name of a distribution."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


PINS = {
    name_of(line): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def test_the_core_needs_nine_packages_without_upper_bounds():
    assert {name_of(r) for r in PROJECT["dependencies"]} == CORE
    bounded = [
        r
        for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
        for r in group
        if "<" in r or "==" in r or "~=" in r
    ]
    assert bounded == []


def test_every_requirement_is_pinned():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    assert {name_of(r) for group in groups for r in group} <= PINS.keys()
    assert PINS["torch"] == "2.13.0"
    assert not [name for name, version in PINS.items() if "+" in version]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    ours = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    inside = {n for n in names if ".dist-info/" not in n}
    web = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("viewer/web/*")}
    assert {"imitact/viewer/web/page.js", "imitact/viewer/web/page.css"} <= web
    assert inside == ours | web | {"imitact/py.typed"}
    licences = {n.split("/")[-1] for n in names if "/licenses/" in n}
    assert licences == {"LICENSE", "THIRD_PARTY.md"}


def test_the_wheel_declares_its_dependencies(wheel: zipfile.ZipFile):
    folder = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
    about = metadata.PathDistribution(zipfile.Path(wheel, folder.removesuffix("METADATA"))).metadata
    needs = about.get_all("Requires-Dist") or []
    assert {name_of(r) for r in needs if "extra ==" not in r} == CORE
    assert about["Version"] == imitact.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert {"sim", "gym", "dev"} <= set(about.get_all("Provides-Extra") or [])


def pythons(folder: Path, **versions: str) -> dict[str, str]:
    """Return an environment whose PATH has only Pythons that report a version."""
    folder.mkdir()
    for name, version in versions.items():
        file = folder / name.replace("_", ".")
        works = f"""case "$2" in *version_info*) echo {version};; *executable*) echo "$0";; esac"""
        file.write_text(f"#!/bin/sh\n{works if version else 'exit 127'}\n")
        file.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder), "PYTHON": ""}


def find(env: dict[str, str], *wanted: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / "scripts" / "find_python.sh"), *wanted]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_first_python_that_fits_is_taken(tmp_path: Path):
    env = pythons(tmp_path / "bin", python3_11="", python3_12="3.12", python3="3.11")
    assert find(env, "3.11", "3.12").stdout == f"{tmp_path}/bin/python3.12\n"
    env = pythons(tmp_path / "other", python3_11="", python3_12="", python3="3.11")
    assert find(env, "3.11", "3.12").stdout == f"{tmp_path}/other/python3\n"


def test_without_a_fitting_python_setup_is_refused_in_one_line(tmp_path: Path):
    names = dict.fromkeys(("python3_11", "python3_12"), "")
    env = pythons(tmp_path / "bin", **names, python3="3.13", python="3.13")
    done = find(env, "3.11", "3.12")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("imitact: needs Python 3.11 or 3.12")
    assert done.stderr.count("\n") == 1


def test_a_named_python_that_does_not_fit_is_refused(tmp_path: Path):
    env = pythons(tmp_path / "bin", mine="3.13", python3="3.11")
    done = find({**env, "PYTHON": f"{tmp_path}/bin/mine"}, "3.11", "3.12")
    assert done.returncode == 2
    assert f"PYTHON={tmp_path}/bin/mine is 3.13" in done.stderr


def test_the_demo_installs_the_simulator_and_nothing_else():
    """`make demo` needs 57 packages, `make test` 165."""
    makefile = (ROOT / "Makefile").read_text()
    assert "$(DEMO_READY): EXTRAS := sim\n" in makefile
    assert "\ndemo: $(DEMO_READY)\n" in makefile
    (extras,) = re.findall(r"^\$\(READY\): EXTRAS := (.*)$", makefile, flags=re.MULTILINE)
    assert set(extras.split(",")) == PROJECT["optional-dependencies"].keys() - {"runtime"}


def test_ci_runs_make_test():
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert commands == ["exec make test"]
    assert "make test" in (ROOT / ".github" / "workflows" / "test.yml").read_text()
