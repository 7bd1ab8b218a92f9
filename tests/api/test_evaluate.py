"""`imitact.evaluate`: policies by identity, several side by side, and what is known before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imitact
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.execution import Execution
from imitact.core.feature_statistics import Accumulator
from imitact.deploy.load_policy import list_checkpoints, policy_path, read_stored
from imitact.evaluation import report, runner
from imitact.evaluation.report import summary_line
from imitact.evaluation.results import Evaluation
from imitact.models import policy_folder
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from tests.support import dot_env
from tests.support.command_line import answer, is_refused

MODEL = ActConfig(
    chunk_size=8, input_height=24, input_width=32, backbone_width=8, backbone_stages=2,
    backbone_norm="batch", hidden_dim=16, num_heads=2, dim_feedforward=16, encoder_layers=1,
    random_shift=0,
)  # fmt: skip
DOT = "tests.support.dot_env:DotEnv"


def save(path: Path, seed: int) -> Path:
    """Save an untrained policy of the dot environment."""
    seen = Accumulator(2)
    seen.add(np.random.default_rng(0).uniform(0, 1, (50, 2)))
    stats = {"state": seen.result(), "action": seen.result()}
    spec = dot_env.dot_spec()
    return TorchPolicy.create(spec, stats, MODEL, seed=seed, fingerprint="none").save(path)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return save(tmp_path / "a" / "policy", 0), save(tmp_path / "b" / "policy", 1)


def replace_then(make: Callable[[], Any], policy: Path, other: Path) -> Any:
    """Put another policy in the place of one, as a training that finishes would, then make."""
    shutil.rmtree(policy)
    shutil.copytree(other, policy)
    return make()


def test_a_policy_that_is_replaced_while_workers_start_is_counted_nowhere(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    policy, other = two
    swap = partial(replace_then, dot_env.make_dot, policy, other)
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="replaced by another policy") as caught:
        imitact.evaluate(policy, out=out, make_env=swap, episodes=2, workers=1)
    assert "\n" not in str(caught.value)
    assert not (out / "evaluation.json").exists()
    assert b'"episode"' not in (out / "episodes.jsonl").read_bytes()


def test_videos_of_failures_show_the_policy_that_failed(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    policy, other = two
    stored = read_stored(policy)
    found = imitact.evaluate(policy, out=tmp_path / "out", env=DOT, episodes=1, workers=1)
    swap = partial(replace_then, dot_env.make_dot, policy, other)
    with pytest.raises(BadInput, match="replaced by another policy"):
        runner.record_videos(
            stored.loader, swap, found, seeds=[1000], out=tmp_path / "out", workers=1
        )
    assert not (tmp_path / "out" / "videos" / "seed-1000.mp4").exists()


def test_a_loaded_policy_whose_folder_is_replaced_is_refused(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    policy, other = two
    loaded = imitact.load_policy(policy)
    replace_then(object, policy, other)
    with pytest.raises(BadInput, match="since it was loaded"):
        imitact.evaluate(loaded, out=tmp_path / "out", env=DOT, episodes=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 0}, "episodes is 0; it must be at least 1"),
        ({"delay_ticks": -1}, "delay_ticks is -1; expected at least 0"),
        ({"workers": -1}, "workers is -1; it must be at least 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_the_name_of_its_option(
    options: dict[str, int], says: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"^{says}$"):
        imitact.evaluate(two[0], out=tmp_path / "out", env=DOT, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_execution_is_not_stored_in_another_policy(two: tuple[Path, Path]) -> None:
    policy, other = two
    chosen_for = policy_folder.identity(policy)
    replace_then(object, policy, other)
    before = (policy / "policy.json").read_bytes()
    with pytest.raises(BadInput, match="replaced by another policy"):
        policy_folder.set_execution(policy, Execution("replay:3"), of_identity=chosen_for)
    assert (policy / "policy.json").read_bytes() == before


def test_an_environment_file_that_changes_while_workers_start_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from tests.support.dot_env import DotEnv as Mine\n")
    from imitact.envs.registry import env_factory

    make = env_factory(f"{file}:Mine")
    make()
    file.write_text(file.read_text() + "# another one\n")
    with pytest.raises(BadInput, match="has changed since"):
        make()


def test_several_policies_run_on_the_same_seeds_and_are_compared_in_pairs(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["evaluate", two[0].parent, two[1], "--env", DOT, "--episodes", "2", "--workers", "1"]
    code, text, err = answer(capsys, *argv, "--out", out)
    assert code == 0, err
    assert text.splitlines()[0].split() == ["a", "b"]
    assert "a minus b on the same 2 seeds" in text
    assert "evaluating b (2 of 2): 2/2 episodes" in err
    journals = {name: (out / name / "episodes.jsonl").read_bytes() for name in "ab"}
    assert answer(capsys, *argv, "--out", out)[0] == 0, "continued"
    assert journals == {name: (out / name / "episodes.jsonl").read_bytes() for name in "ab"}
    found = imitact.evaluate(list(two), out=out, env=DOT, episodes=2, workers=1)
    assert list(found) == ["a", "b"]
    assert found["a"].rows != found["b"].rows
    code, text, _ = answer(capsys, "compare", out)
    assert code == 0
    assert f"{out / 'a'} minus {out / 'b'}" in text
    # One policy alone has its numbers in the folder itself, and gives the same rows.
    alone = imitact.evaluate(two[1], out=tmp_path / "alone", env=DOT, episodes=2, workers=1)
    assert alone.rows == found["b"].rows


def test_of_more_than_two_each_is_compared_with_the_best(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = save(tmp_path / "c" / "policy", 2)
    argv = ["evaluate", *two, third, "--env", DOT, "--episodes", "1", "--workers", "1"]
    code, text, err = answer(capsys, *argv, "--out", tmp_path / "out")
    assert code == 0, err
    assert text.count("on the same 1 seed") == 2
    assert "best of 3 on these seeds, which favours it" in text
    line = is_refused(capsys, "evaluate", two[0], two[0], "--env", DOT, "--out", tmp_path / "x")
    assert "given twice" in line


@pytest.mark.parametrize("finished", [False, True])
def test_all_checkpoints_of_a_training_are_evaluated(
    finished: bool, two: tuple[Path, Path], tmp_path: Path
) -> None:
    training = tmp_path / "t"
    for step, policy in ((8, two[0]), (16, two[1])):
        shutil.copytree(policy, training / "checkpoints" / f"step-{step:08d}" / "policy")
    if finished:  # its policy is that of the last checkpoint, which is not evaluated twice
        shutil.copytree(two[1], training / "policy")
    options = {"env": DOT, "episodes": 1, "workers": 1, "checkpoints": "all"}
    found = imitact.evaluate([training], out=tmp_path / "out", **options)
    assert list(found) == ["step-00000008", "step-00000016"]
    with pytest.raises(BadInput, match="no training with checkpoints"):
        imitact.evaluate([two[0]], out=tmp_path / "none", **options)


def test_a_training_that_has_not_finished_names_its_newest_checkpoint(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = tmp_path / "t"
    newest = training / "checkpoints" / "step-00000008"
    shutil.copytree(two[0], newest / "policy")
    (training / "metrics.jsonl").touch()
    for given in (training, training / "policy"):
        export = ["export", "--data", str(tmp_path)]
        for verb in (["evaluate"], export, ["export-policy", "--to", "act"], ["tune"]):
            line = is_refused(capsys, *verb, given, "--out", tmp_path / "x")
            assert f"has not finished; give {newest}" in line
    assert policy_path(newest) == newest / "policy"
    assert list_checkpoints(training) == [newest]


def test_damaged_weights_are_refused_before_the_environment_is_made(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = two[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        imitact.evaluate(two[0], out=tmp_path / "out", env="nothing:Here")


def test_a_replay_longer_than_the_chunk_is_told_and_stored_as_it_is_executed(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    options = {"env": DOT, "episodes": 1, "workers": 1, "on_line": told.append}
    found = imitact.evaluate(two[0], out=tmp_path / "a", chunking="replay:200", **options)
    assert told == ["chunks are 8 ticks long: replay:200 runs as replay:8"]
    assert isinstance(found, Evaluation)
    assert "replay:8" in summary_line(found)
    stored = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert stored["chunking"] == "replay:8"
    imitact.evaluate(two[0], out=tmp_path / "b", chunking="replay:8", **options)
    assert len(told) == 1
    # What is executed alike is one evaluation.
    assert imitact.evaluate(two[0], out=tmp_path / "b", chunking="replay:9", **options) == found


def test_drawn_delays_are_those_of_the_seed_for_any_number_of_workers(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    found = [
        imitact.evaluate(
            two[0], out=tmp_path / str(workers), env=DOT, episodes=6, workers=workers,
            chunking="replay:4", delay_ticks=delay,
        )
        for workers, delay in ((1, "0..3"), (2, "0..3"), (3, 0))
    ]  # fmt: skip
    assert [str(each.execution.delay_ticks) for each in found] == ["0..3", "0..3", "0"]
    assert found[0].rows == found[1].rows
    assert found[0].rows != found[2].rows
    assert report.read(tmp_path / "1").execution == Execution("replay:4", "0..3")
    with pytest.raises(BadInput, match=r'delay_ticks was "0\.\.3", is now "0\.\.2"'):
        imitact.evaluate(
            two[0], out=tmp_path / "1", env=DOT, episodes=6, chunking="replay:4",
            delay_ticks="0..2",
        )  # fmt: skip


def test_a_delay_that_is_none_is_refused_before_a_robot_is_opened(
    two: tuple[Path, Path],
) -> None:
    with pytest.raises(BadInput, match='delay_ticks is "3-9"; expected a number of ticks'):
        imitact.run_robot(two[0], robot="no such robot", delay_ticks="3-9")
