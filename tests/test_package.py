"""Packaging: dependencies, the wheel, the choice of Python, and what CI runs."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import lock_requirements
import pytest
import third_party

import imitact
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {
    "torch",
    "numpy",
    "scipy",
    "pyarrow",
    "av",
    "safetensors",
    "tyro",
    "msgspec",
    "rich",
    "pillow",
}


def name_of(requirement: str) -> str:
    """Return the normalized name of a distribution."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


MAKEFILE = (ROOT / "Makefile").read_text()
PINS = {
    name_of(line): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def test_the_core_needs_ten_packages_without_upper_bounds():
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


def hashed(name: str) -> dict[str, str]:
    """Return the requirements of a file in requirements/, each with its hashes, by name."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found = lock_requirements.blocks_of(text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == sum(block.count("\n") for block in found.values())
    return {name_of(block): block for block in found.values()}


def test_every_pinned_version_has_hashes():
    torch, everything, cpu = hashed("torch"), hashed("all"), hashed("torch-cpu")
    assert not everything.keys() & torch.keys()
    assert PINS.keys() <= everything.keys() | torch.keys()
    for name, block in [*torch.items(), *everything.items(), *cpu.items()]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), name
        version = block.split("==")[1].split()[0]
        if name in PINS:
            assert version == PINS[name], f"{name}: make lock"
        else:
            assert " ; " in block, f"{name}, for every system, is not in constraints.txt"


def test_the_demo_needs_a_part_of_everything_in_the_same_files():
    everything = hashed("all")
    demo = hashed("demo")
    assert demo.items() < everything.items()
    for name in ("demo", "all"):
        groups = [PROJECT["optional-dependencies"][extra] for extra in lock_requirements.SETS[name]]
        wanted = {name_of(r) for group in [PROJECT["dependencies"], *groups] for r in group}
        assert wanted <= hashed(name).keys() | {"torch"}


def test_setup_installs_nothing_without_a_hash_but_imitact():
    script = (ROOT / "scripts" / "install.sh").read_text()
    (pip,) = re.findall(r"^hashed\(\) \{ (.*) \}$", script, flags=re.MULTILINE)
    assert "--require-hashes --no-deps --only-binary :all:" in pip
    assert re.findall(r"pip install (?!--require-hashes)(.*)$", script, flags=re.MULTILINE) == [
        "--no-deps --no-build-isolation -e ."
    ]
    assert "pip install" not in re.sub(
        r"^(\$\((LEROBOT|OPENPI)_READY\)|build/uv).*?\n\n",
        "",
        MAKEFILE,
        flags=re.MULTILINE | re.DOTALL,
    )


PAGE = third_party.PAGE.read_text()


def test_the_licence_of_every_pinned_package_is_in_third_party_md():
    _, _, table = PAGE.partition("| package |")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \| .+ \|$", table, flags=re.MULTILINE))
    assert rows.keys() == PINS.keys()
    read = third_party.packages()
    assert len(read) > 50
    assert {name: licence for name, (licence, _) in read.items()} == {n: rows[n] for n in read}


@pytest.mark.parametrize("name", ["qpsolvers", "x264", "x265", "imageio-ffmpeg", "libquadmath"])
def test_gpl_and_lgpl_are_named_with_what_follows(name: str):
    before, _, _ = PAGE.partition("## Packages")
    assert name in before
    assert all(explained in before for explained in third_party.EXPLAINED)


def test_a_licence_that_nobody_explained_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(third_party, "EXPLAINED", ("certifi",))
    with pytest.raises(SystemExit, match="qpsolvers"):
        third_party.packages()


def test_a_library_of_unknown_owner_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(third_party, "LIBRARIES", {})
    monkeypatch.setattr(third_party, "_is_program", lambda path: True)
    with pytest.raises(SystemExit, match="whose is it"):
        third_party.binaries()


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="THIRD_PARTY.md tells what the wheels for Linux x86_64 hold",
)
def test_third_party_md_is_what_its_command_writes():
    assert third_party.filled(PAGE, third_party.tables()) == PAGE


needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git clone"
)
Build = Callable[[str], Path]


def git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a wheel or an sdist of the tracked files, beside which others lie."""
    folder = tmp_path_factory.mktemp("clone")
    for name in git("ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for command in ("init -q", "add -A"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    for litter in (".env", "secret.key", "secret.py", "viewer/web/secret.js"):
        (folder / "src" / "imitact" / litter).write_text("secret")
    (folder / "tests" / "secret.key").write_text("secret")

    def built(target: str) -> Path:
        out = folder.parent / f"{folder.name}-{target}"
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (file,) = out.iterdir()
        return file

    return built


@pytest.fixture(scope="module")
def wheel(build: Build) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel"))


@needs_git
def test_the_wheel_holds_the_tracked_files_of_the_package_and_nothing_else(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    ours = {name.removeprefix("src/") for name in git("ls-files", "src").split()}
    there = {name for name in ours if (ROOT / "src" / name).is_file()}
    assert {n for n in names if ".dist-info/" not in n} == there
    assert {"imitact/py.typed", "imitact/viewer/web/page.js"} <= names
    assert not [name for name in names if "secret" in name or name.endswith(".env")]
    licences = {n.split("/")[-1] for n in names if "/licenses/" in n}
    assert licences == {"LICENSE", "THIRD_PARTY.md"}


@needs_git
def test_the_sdist_holds_all_tracked_files_and_builds_the_same_wheel(
    build: Build, wheel: zipfile.ZipFile, tmp_path: Path
):
    with tarfile.open(build("sdist")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        sdist.extractall(tmp_path, filter="data")
    tracked = {name for name in git("ls-files").splitlines() if (ROOT / name).is_file()}
    assert names == tracked | {"PKG-INFO"}
    assert any(name.startswith("examples/") for name in names)
    (unpacked,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(wheel.namelist())


@needs_git
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
    """`make demo` needs 61 packages, `make test` 164."""
    assert "$(DEMO_READY): SET := demo\n$(READY): SET := all\n" in MAKEFILE
    assert "\ndemo: $(DEMO_READY)\n" in MAKEFILE
    assert lock_requirements.SETS["demo"] == ("sim",)
    extras = PROJECT["optional-dependencies"].keys() - {"runtime"}
    assert set(lock_requirements.SETS["all"]) == extras


def test_ci_runs_make_test():
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert commands == ["exec make test"]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert "make test" in workflow
    assert {"macos-14", "windows-latest"} <= set(re.findall(r"- os: (\S+)", workflow))
    named = re.findall(r"\btests(?:/\w+)+(?:\.py)?", workflow)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert "sh scripts/install.sh python all" in workflow


@pytest.mark.parametrize("system", ["Linux", "macOS", "Windows", "Intel Macs"])
def test_the_readme_says_whether_a_system_is_supported(system: str):
    table = (ROOT / "README.md").read_text().partition("| system | state |")[2]
    assert system in table.partition("## In Python")[0]
