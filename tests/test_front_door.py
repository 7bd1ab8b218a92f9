"""`import imitact`: no time, no package, every name, and the README's example in small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imitact
from imitact.core.version import __version__
from tests.support.command_line import cpu_cost
from tests.support.dot_env import make_dot
from tests.support.paths import ROOT
from tests.support.tiny_model import TINY_MODEL

FRONT = ROOT / "src" / "imitact" / "__init__.py"
NAMES = {
    "run_robot", "replay_robot", "teleoperate", "record_robot", "RobotError",
    "load_policy", "open_dataset", "make_env", "record", "train", "evaluate", "ActionExecutor",
    "Spec", "Camera", "Observation", "StepResult", "Policy", "Env", "Robot", "Dataset", "Episode",
    "ImitactError", "BadInput", "SpecMismatch", "DamagedFile", "NotFinite", "DiskFull",
}  # fmt: skip
DOT = "tests.support.dot_env:DotEnv"


def test_importing_imitact_takes_no_time_and_no_package():
    code = (
        "import sys, time\nbegan = time.perf_counter()\nimport imitact\n"
        "print(time.perf_counter() - began, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    assert not {"numpy", "torch", "tyro", "rich", "msgspec"} & {m.split(".")[0] for m in modules}
    assert float(seconds) < 0.1


def test_every_public_name_is_found_listed_and_documented():
    assert set(imitact._MODULES) == NAMES
    assert set(dir(imitact)) >= NAMES | {"__version__"}
    for name in NAMES:
        assert getattr(imitact, name).__doc__
    assert imitact.__version__ == __version__


def test_type_checkers_see_every_public_name():
    """What `__getattr__` finds and what stands under TYPE_CHECKING are the same."""
    typing_only = next(n for n in ast.parse(FRONT.read_text()).body if isinstance(n, ast.If))
    seen = {
        alias.asname: node.module
        for node in typing_only.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == imitact._MODULES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute load_polici"):
        _ = imitact.load_polici  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of the dot, recorded in the words of the command line."""
    out = tmp_path_factory.mktemp("front") / "data"
    report = imitact.record(
        out, env=DOT, expert="tests.support.dot_env:make_expert_for", episodes=2, workers=1,
        hold=1, task="go to the mark",
    )  # fmt: skip
    assert report.saved == 2
    return out


@pytest.fixture(scope="module")
def training(data: Path) -> Path:
    """A training of three steps on them."""
    out = data.parent / "training"
    policy = imitact.train(
        str(data),
        out=str(out),
        preset="quick",
        model=TINY_MODEL,
        train={"steps": 3, "batch_size": 2, "val_episodes": 0, "warmup_steps": 0,
               "num_workers": 1, "checkpoint_every": 2},
    )  # fmt: skip
    assert policy == out / "policy"
    return out


def test_the_example_of_the_readme_runs_on_any_environment(training: Path):
    policy = imitact.load_policy(training)
    env = imitact.make_env(DOT)
    act = imitact.ActionExecutor(policy, "ensemble:0.01/10")
    observation = env.reset(seed=1000)
    for _ in range(env.step_cap):
        observation = env.step(act(observation)).observation
    assert np.isfinite(observation.state).all()


def test_a_policy_is_loaded_by_every_path_that_leads_to_it(training: Path):
    observation = make_dot().reset(0)
    answers = [
        imitact.load_policy(path).chunk(observation)
        for path in (training, str(training), training / "policy")
    ]
    checkpoint = max((training / "checkpoints").iterdir())
    assert imitact.load_policy(checkpoint).chunk(observation).shape == (8, 2)
    for other in answers[1:]:
        np.testing.assert_array_equal(answers[0], other)
    with pytest.raises(imitact.BadInput, match=r"no such file or folder"):
        imitact.load_policy(training / "nothing")
    with pytest.raises(imitact.BadInput, match=r"holds no policy\.json"):
        imitact.load_policy(training / "checkpoints")


def test_a_loaded_policy_is_evaluated_as_its_path_is(training: Path, tmp_path: Path):
    policy = imitact.load_policy(training)
    by_policy, by_path = (
        imitact.evaluate(
            which, env=DOT, episodes=2, workers=1, out=tmp_path / name, chunking="replay:4"
        )
        for which, name in ((policy, "a"), (str(training), "b"))
    )
    assert by_policy.rows == by_path.rows
    assert by_policy.plan.names == by_path.plan.names
    assert (tmp_path / "a" / "evaluation.json").is_file()


def test_a_policy_without_a_path_cannot_be_evaluated_in_other_processes(tmp_path: Path):
    from tests.support.dot_env import DotExpert

    with pytest.raises(imitact.BadInput, match="was not loaded from a path"):
        imitact.evaluate(DotExpert(), env=DOT, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_exist_are_refused_with_the_nearest(data: Path, tmp_path: Path):
    with pytest.raises(imitact.BadInput, match=r"setting in train \"step\".*Did you mean steps\?"):
        imitact.train(data, out=tmp_path / "t", train={"step": 3})
    with pytest.raises(imitact.BadInput, match=r"preset \"quik\".*Did you mean quick\?"):
        imitact.train(data, out=tmp_path / "t", preset="quik")
    with pytest.raises(imitact.BadInput, match=r"\"sucess\".*Did you mean success\?"):
        imitact.make_env("gym:a/b", gym={"sucess": "is_success"})


def test_an_environment_of_your_own_is_made_from_a_file(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tests.support.dot_env import DotEnv\n\n\nclass Mine(DotEnv):\n    pass\n\n\n"
        "def nothing():\n    return 3\n"
    )
    assert isinstance(imitact.make_env(f"{file}:Mine"), imitact.Env)
    for name, says in (
        (f"{file}:Mien", "Did you mean Mine?"),
        (f"{file}:nothing", "returns no Env"),
        (f"{tmp_path}/no.py:Mine", "there is no file"),
        ("no_such_module:Mine", "no Python module no_such_module, neither installed nor"),
        ("cubes", "Did you mean cube?"),
    ):
        with pytest.raises(imitact.BadInput) as error:
            imitact.make_env(name)
        assert says in str(error.value)


def test_the_command_line_takes_an_environment_of_your_own(training: Path, tmp_path: Path):
    code, _, _ = cpu_cost(
        "evaluate", str(training), "--env", DOT, "--episodes", "2", "--workers", "1", "--out",
        str(tmp_path / "out"), "--chunking", "replay:4",
    )  # fmt: skip
    assert code == 0
