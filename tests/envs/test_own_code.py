"""Own code: files and modules of a user, found where Python itself would find them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imitact
from imitact.envs.own_code import import_named, member
from imitact.envs.registry import make_env

ARM = """\
from __future__ import annotations
import gymnasium
from dataclasses import dataclass
from gym_dot import Dot
import {helper}


@dataclass
class Setting:
    value: int = 3


gymnasium.register("{name}/Dot-v0", entry_point="{name}:Dot", max_episode_steps=60)
"""


@pytest.fixture(autouse=True)
def _path_and_modules() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str) -> Path:
    """Write a module that registers an environment and imports another file beside it."""
    folder.mkdir(exist_ok=True)
    (folder / f"helper_of_{name}.py").write_text("")
    file = folder / f"{name}.py"
    file.write_text(ARM.format(name=name, helper=f"helper_of_{name}"))
    return file


def test_a_module_of_the_current_folder_registers_its_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "arm_here")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    assert make_env("gym:arm_here/Dot-v0").spec.state_size == 2


def test_a_file_elsewhere_registers_its_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "elsewhere", "arm_there")
    with pytest.raises(imitact.BadInput, match=r"arm_there, neither.*--gym\.module FILE\.py"):
        make_env("gym:arm_there/Dot-v0")
    env = make_env("gym:arm_there/Dot-v0", gym={"module": str(file)})
    assert env.spec.state_size == 2
    monkeypatch.chdir(tmp_path)
    with pytest.raises(imitact.BadInput, match=r"no file other\.py"):
        make_env("gym:arm_there/Dot-v0", gym={"module": "other.py"})


def test_the_command_finds_both_in_its_worker_processes_too(tmp_path: Path) -> None:
    write(tmp_path, "arm_of_command")
    (tmp_path / "pick.py").write_text("from gym_dot import Expert\n")
    support = Path(__file__).parents[1] / "support"
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(support)!r}]\n"
        "from imitact.cli.main import run\n"
        "if __name__ == '__main__': sys.exit(run(sys.argv[1:]))"
    )
    script = tmp_path / "bin" / "command.py"
    script.parent.mkdir()
    script.write_text(code)
    record = ["record", "--env", "gym:arm_of_command/Dot-v0", "--expert", "pick.py:Expert"]
    done = subprocess.run(
        [sys.executable, script, *record, "--episodes", "1", "--workers", "1", "--out", "data"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Overriding" not in done.stderr, "the module is imported once"


def test_nobody_is_told_to_install_a_name_that_may_be_anybodys(tmp_path: Path) -> None:
    for make in (
        lambda: make_env("gym:my_own_arm/Pick-v0"),
        lambda: make_env("my_own_arm:Pick"),
        lambda: import_named("my_own_arm", "--gym.module"),
    ):
        with pytest.raises(imitact.BadInput) as caught:
            make()
        assert "pip install" not in str(caught.value)
        assert "FILE.py" in str(caught.value)


def test_a_file_is_executed_once_and_again_only_if_it_changed(tmp_path: Path) -> None:
    file, count = tmp_path / "counted.py", tmp_path / "count"
    append = f"with open({str(count)!r}, 'a') as counted: counted.write('x')"
    file.write_text(f"{append}\nclass Mine: ...\n")
    for _ in range(2):
        member(f"{file}:Mine", "environment")
    assert count.read_text() == "x"
    file.write_text(file.read_text() + "class Other: ...\n")
    member(f"{file}:Other", "environment")
    assert count.read_text() == "xx"


def test_a_file_named_as_a_module_that_is_in_use_does_not_replace_it(tmp_path: Path) -> None:
    import json

    (tmp_path / "json.py").write_text("class Mine: ...\n")
    member(f"{tmp_path / 'json.py'}:Mine", "environment")
    assert sys.modules["json"] is json


def test_a_mistake_in_a_file_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(imitact.BadInput, match=r"ZeroDivisionError: .*wrong\.py:2\)") as caught:
        member(f"{tmp_path / 'wrong.py'}:Mine", "environment")
    assert "\n" not in str(caught.value)
