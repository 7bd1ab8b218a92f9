"""The command line: cheap help, refusals in one line, exit codes, and verbs from end to end."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from imitact.api import record as api_record
from imitact.cli import (
    compare,
    demo,
    main,
    options,
    train,
)
from imitact.cli import record as record_verb
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError
from imitact.core.field_texts import field_texts
from imitact.core.types import Camera, Spec
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.envs import registry
from imitact.envs.experts.registry import EXPERTS
from imitact.recording.manifest import read_report
from imitact.recording.recorder import record
from imitact.training.config import PRESETS
from tests.support import dot_env as worlds
from tests.support.command_line import HEAVY, TINY, answer, cpu_cost, is_refused, tiny
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of 30 ticks of a dot that goes to its mark."""
    out = tmp_path_factory.mktemp("doors") / "data"
    record(
        out,
        make_env=worlds.make_dot,
        make_expert=worlds.make_dot_expert,
        episodes=2,
        task="go to the mark",
        seeds=range(1000),
    )
    return out


@pytest.fixture(scope="module")
def policy(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doors") / "training"
    assert main.run(["train", str(dataset), "--out", str(out), *TINY]) == 0
    return out / "policy"


# --- help --------------------------------------------------------------------------------------


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]):
    code, out, err = answer(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"  {verb}" in out for verb in main.VERBS)


def test_help_answers_in_half_a_second_of_cpu_without_torch():
    code, seconds, packages = cpu_cost("--help")
    assert code == 0
    assert not (HEAVY | {"tyro", "numpy"}) & packages
    assert seconds < 0.5  # of the processor: the clock would measure other tests, too


def test_every_verb_shows_its_help(capsys: pytest.CaptureFixture[str]):
    for verb in main.VERBS:
        code, out, err = answer(capsys, verb, "--help")
        assert (code, err) == (0, "")
        assert out.startswith(f"usage: imitact {verb}")


@pytest.mark.parametrize("verb", sorted(main.VERBS))
def test_help_of_a_verb_imports_nothing_heavy(verb: str):
    code, seconds, packages = cpu_cost(verb, "--help")
    assert code == 0
    assert not HEAVY & packages
    assert seconds < 2  # 0.5 on an idle machine


@pytest.mark.parametrize(
    "line",
    [
        "recrod",
        "record --out o --episode 3",
        "record --out o --env cubes",
        "record --out o --cameras tops",
        "train nowhere --out o",
        "train nowhere --out o --preset quik",
        "train nowhere --out o --model.chunk 8",
        "evaluate nowhere --out o",
        "evaluate . --out o --env lift",
        "compare nowhere elsewhere",
        "tune nowhere",
        "tune . --env lift",
        "export nowhere --data d --out o",
        "export . --data nowhere --out o",
        "import-policy nowhere --out o",
        "export-policy nowhere --out o --to lerobot",
        "view nowhere",
        "check no/where",
        "check cubes",
        "convert nowhere --out o",
        "demo --preset quik",
        "demo --task knot",
        "demo --episodes 0",
        "completion basch",
    ],
)
def test_a_refusal_imports_nothing_heavy(line: str):
    code, seconds, packages = cpu_cost(*line.split())
    assert code == 2
    assert not HEAVY & packages
    assert seconds < 2  # 0.5 on an idle machine


def every_verb() -> list[tuple[str, type]]:
    """Return each verb with the dataclass of its settings."""
    found = []
    for name, verb in main.VERBS.items():
        start = verb.start()
        found.append((name, start if isinstance(start, type) else type(start)))
    return found


def test_every_option_has_a_help_text():
    owners = {option.owner for _, kind in every_verb() for option in options.options(kind)}
    texts = {owner: field_texts(owner) for owner in owners}
    unexplained = [
        f"{name}: {option.name}"
        for name, kind in every_verb()
        for option in options.options(kind)
        if not texts[option.owner].get(option.field.name)
    ]
    assert unexplained == []


def test_a_field_is_explained_by_the_text_below_it():
    @dataclasses.dataclass
    class Two:
        """What it is."""

        first: int = 0
        """On its
        own."""
        second: int = 0

    assert field_texts(Two) == {"first": "On its own."}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_and_options(shell: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = answer(capsys, "completion", shell)
    assert code == 0
    assert all(verb in out for verb in main.VERBS)
    assert "model.chunk-size" in out
    assert "failure-videos" in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_verb_and_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = tmp_path / "imitact.bash"
    script.write_text(answer(capsys, "completion", "bash")[1])
    complete = (
        f"source {script}; COMP_WORDS=(imitact $1 $2); COMP_CWORD=$((COMP_CWORD_WANTED));"
        'COMP_LINE="imitact $1 $2"; COMP_POINT=${#COMP_LINE};'
        "f=$(complete -p imitact | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f imitact \"${2:-$1}\" x;"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )

    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", complete, "bash", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "COMP_CWORD_WANTED": str(len(words))},
        )
        return done.stdout.split()

    assert "evaluate" in completed("eval")
    assert "--failure-videos" in completed("evaluate", "--failure")


# --- parsing -----------------------------------------------------------------------------------


def parsed(monkeypatch: pytest.MonkeyPatch, room: Any, *argv: str) -> Any:
    """Return the settings with which a verb would have run."""
    got: list[Any] = []
    monkeypatch.setattr(room, "run", got.append)
    assert main.run(list(argv)) == 0
    return got[0]


def test_an_option_changes_one_setting_of_a_preset(monkeypatch: pytest.MonkeyPatch):
    paper_model, paper_train = PRESETS["paper"]
    given = parsed(
        monkeypatch, train, "train", "d", "--model.chunk-size", "7", "--out", "o",
        "--preset", "paper", "--train.lr", "0.5",
    )  # fmt: skip
    assert given.model == dataclasses.replace(paper_model, chunk_size=7)
    assert given.train == dataclasses.replace(paper_train, lr=0.5)
    assert (given.data, given.out, given.preset) == ((Path("d"),), Path("o"), "paper")


def test_the_demo_starts_from_the_quick_preset(monkeypatch: pytest.MonkeyPatch):
    given = parsed(monkeypatch, demo, "demo", "--train.seed", "2", "--train.steps", "9")
    model, training = PRESETS["quick"]
    assert given.model == dataclasses.replace(model, crop="top=165:405,180:500")
    assert demo.with_preset("released").model == PRESETS["released"][0]
    assert given.train == dataclasses.replace(training, seed=2, steps=9)
    given = parsed(monkeypatch, demo, "demo", "--train.steps", "9", "--task=insertion")
    assert given.model == dataclasses.replace(model, **registry.RECOMMENDED_MODEL["insertion"])
    assert given.task == "insertion"


def test_nested_settings_and_lists_are_read(monkeypatch: pytest.MonkeyPatch):
    given = parsed(
        monkeypatch, record_verb, "record", "--out", "o", "--cameras", "top", "angle",
        "--video.codec", "av1",
    )  # fmt: skip
    assert given.cameras == ("top", "angle")
    assert given.video.codec == "av1"
    assert given.video.gop == record_verb.VideoConfig().gop


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("recrod", f'no verb "recrod"; expected {", ".join(main.VERBS)}. Did you mean record?'),
        ("record", "--out is missing"),
        ("record --out x --episode 3", "no option --episode. Did you mean --episodes?"),
        ("record --out x --codec h264", "no option --codec. Did you mean --video.codec?"),
        ("record --out x --episodes 3 --episodes 4", "--episodes given twice"),
        ("record --out x --episodes", "--episodes needs a value: an integer"),
        ("record --out x more", "more is not expected here"),
        ("record --out x --episodes three", '--episodes is "three"; expected an integer'),
        (
            "record --out x --env lift",
            'no environment "lift"; expected cube, insertion, gym:NAME, FILE.py:NAME',
        ),
        ("record --out x --cameras up", 'no camera of the ALOHA scene "up"'),
        ("record --out x --height 0", "--height is 0; it must be from 1 to 16384"),
        ("record --out x --spread 3", "spread is 3"),
        ("record --out x --video.crf 99", "--video.crf is 99"),
        ("record --out x --video.codec h265", "expected h264, lossless, av1. Did you mean h264?"),
        ("train --out x", "DATA is missing"),
        (
            "train --read.state a b . --out x",
            "DATA is missing; give it before --read.state, which takes all words that follow it",
        ),
        (
            "train --train.trackers tensorboard . --out x",
            '--train.trackers is "."; expected tensorboard, trackio, wandb',
        ),
        ("train nowhere --out x", "nowhere: there is no such dataset"),
        (
            "train nowhere --out x --preset slow",
            'no preset "slow"; expected paper, released, quick',
        ),
        ("train nowhere --out x --model.chunk-size 0", "--model.chunk-size is 0"),
        ("train nowhere --out x --train.lr -1", "--train.lr is -1"),
        ("evaluate nowhere --out x", "nowhere: no such file or folder"),
        ("train nowhere --out x --model.crop top", '--model.crop "top" is not of the form'),
        ("compare nowhere elsewhere", "nowhere"),
        ("demo --out x --chunking sometimes", '--chunking "sometimes" is not known'),
        ("demo --out x --height 240", "480x640"),
        ("demo --out x --model.crop up=0:9,0:9", 'names camera "up"; the cameras are top'),
        ("demo --out x --model.crop top=0:481,0:9", "exceeds the 480x640 pixels"),
        ("demo --out x --preset released", 'backbone_norm "frozen" keeps the statistics'),
        ("demo --out x --train.val-episodes 50", "--train.val-episodes is 50 of 50"),
        (
            "demo --out x --model.chunk-size 401",
            "--model.chunk-size is 401 ticks, a demonstration has 400",
        ),
        ("demo --out x --task insertion --model.chunk-size 501", "a demonstration has 500"),
        ("demo --out x --task=knot", 'no task of the demo "knot"'),
        ("demo --out x --train.device cuda:99", "CUDA GPU"),
        ("demo --out x --train.seed 9223372036854775808", "seed is 9223372036854775808"),
        ("demo --out x --compared-episodes 101", "--compared-episodes is 101"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in is_refused(capsys, *argv.split())
    assert list(tmp_path.iterdir()) == []  # and nothing was begun


def test_without_a_verb_the_help_is_printed_with_exit_code_2(capsys: pytest.CaptureFixture[str]):
    code, out, err = answer(capsys)
    assert (code, out) == (2, "")
    assert err == main.HELP


def test_an_empty_dataset_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "data").mkdir()
    assert "holds no" in is_refused(capsys, "train", tmp_path / "data", "--out", tmp_path / "out")


def test_an_episode_shorter_than_a_chunk_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, dataset: Path
):
    line = is_refused(
        capsys, "train", dataset, "--out", tmp_path / "out", *tiny("--model.chunk-size", "31"),
    )  # fmt: skip
    assert "--model.chunk-size is 31" in line
    assert "30" in line


@pytest.mark.parametrize("name", ["model.safetensors", "policy.json"])
def test_a_policy_with_a_missing_file_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
):
    broken = shutil.copytree(policy, tmp_path / "policy")
    (broken / name).unlink()
    line = is_refused(capsys, "evaluate", broken, "--out", tmp_path / "out")
    assert name in line


@pytest.mark.parametrize("name", ["model.safetensors", "policy.json"])
def test_an_altered_policy_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
):
    broken = shutil.copytree(policy, tmp_path / "policy")
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2 :: 97] = b"?" * len(data[len(data) // 2 :: 97])
    (broken / name).write_bytes(data)
    line = is_refused(capsys, "evaluate", broken, "--out", tmp_path / "out")
    assert str(broken) in line


def test_a_policy_with_one_altered_number_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
):
    broken = shutil.copytree(policy, tmp_path / "policy")
    about = json.loads((broken / "policy.json").read_text())
    about["stats"]["action"]["mean"][0] += 0.5
    (broken / "policy.json").write_text(json.dumps(about, indent=2))
    line = is_refused(capsys, "evaluate", broken, "--out", tmp_path / "out")
    assert "policy.json is not what was written" in line


@pytest.mark.parametrize(
    ("cameras", "says"),
    [
        ((("side", 24, 32),), "cameras are side (24x32), expected top (24x32)"),
        ((("top", 48, 64),), "24x32"),
    ],
)
def test_a_missing_camera_or_another_size_is_refused(
    cameras: Any, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(
        registry, "env_for_policy", lambda *_, **__: (partial(worlds.DotEnv, cameras), {})
    )
    line = is_refused(capsys, "evaluate", policy, "--out", tmp_path / "out", "--workers", "1")
    assert says in line


def test_the_scene_renders_the_cameras_of_the_policy():
    def spec(*cameras: tuple[str, int, int]) -> Spec:
        joints = (ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS)
        return Spec(*joints, tuple(Camera(*camera) for camera in cameras), ALOHA_RATE_HZ)

    make, _ = registry.env_for_policy("cube", spec(("top", 24, 32), ("angle", 24, 32)))
    assert make.args == ("cube", ("top", "angle"), 24, 32)  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="several sizes"):
        registry.env_for_policy("cube", spec(("top", 24, 32), ("angle", 32, 24)))


def test_a_policy_of_another_robot_is_told_that_first():
    so101 = replace(worlds.dot_spec(worlds.TWO_CAMERAS), rate_hz=30.0)
    with pytest.raises(BadInput, match=r"another robot .*14 actions, expected 2; 14 states"):
        registry.env_for_policy("cube", so101)


def test_aloha4_stands_for_the_four_views_of_the_real_robot():
    assert registry.camera_names(["aloha4"]) == ("top", "front_close", "left_wrist", "right_wrist")
    assert registry.camera_names(["angle", "aloha4"])[:2] == ("angle", "top")


@pytest.mark.parametrize(
    ("seeds", "says"),
    [(("5", "4"), "0 <= first_seed <= last_seed"), (("0", "1000000"), "at most 2000 seeds")],
)
def test_a_range_of_seeds_that_is_empty_or_too_long_is_refused(
    seeds: tuple[str, str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    first, last = seeds
    line = is_refused(
        capsys, "record", "--out", tmp_path / "o", "--first-seed", first, "--last-seed", last
    )
    assert says in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("verb", ["record", "train"])
def test_a_full_disk_is_reported_in_one_line(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def full(given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "file"))

    monkeypatch.setattr(f"imitact.cli.{verb}.run", full)
    line = is_refused(capsys, verb, "--out", tmp_path, *(["d"] if verb == "train" else []))
    assert "the disk is full" in line
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "out/x; make it readable"),
        (OSError(errno.EROFS, "Read-only file system", "out/x"), "give another path"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "set TMPDIR",
        ),
    ],
)
def test_errors_of_the_system_name_a_remedy(
    error: OSError, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(given: Any) -> None:
        raise error

    monkeypatch.setattr(record_verb, "run", failing)
    line = is_refused(capsys, "record", "--out", "x")
    assert says in line
    assert str(error.strerror) in line


@pytest.mark.parametrize("verb", ["record", "train"])
def test_a_file_size_limit_ends_in_one_line_and_keeps_finished_work(
    verb: str, tmp_path: Path, dataset: Path
):
    """A limit on file sizes stands in for a full disk: it fails in the same system calls."""
    limited = (
        "import resource, sys\nfrom imitact.cli import main\n"
        "from imitact.envs import registry\nfrom tests.support import dot_env\n"
        "registry.env_factory = lambda *given: dot_env.make_dot\n"
        "registry.expert_factory = lambda *_, **__: dot_env.make_dot_expert\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        "    sys.exit(main.run(sys.argv[1:]))\n"
    )
    script = tmp_path / "limited.py"
    script.write_text(limited)
    out = tmp_path / "out"
    argv = [dataset, *TINY] if verb == "train" else ["--episodes", "2", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, script, verb, "--out", out, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"imitact {verb}: ")
    assert "room" in last or "full" in last or "large" in last
    assert "Traceback" not in done.stderr
    assert len(LeRobotDataset(dataset).lengths) == 2


def test_an_error_of_several_lines_is_printed_as_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fail(given: Any) -> None:
        raise ImitactError("first\n   second")

    monkeypatch.setattr(compare, "run", fail)
    assert is_refused(capsys, "compare", "a", "b") == "imitact compare: first second"


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail(given: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(compare, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main.run(["compare", "a", "b"])


# --- results ------------------------------------------------------------------------------------


def test_recording_reports_what_was_saved_and_what_failed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "env_factory", lambda *given: worlds.make_dot)
    monkeypatch.setattr(registry, "expert_factory", lambda *_, **__: worlds.make_dot_expert)
    code, out, _ = answer(
        capsys, "record", "--out", tmp_path / "data", "--episodes", "3", "--first-seed", "1",
        "--workers", "1", "--starts", "random",
    )  # fmt: skip
    assert code == 0
    assert "demonstrations: 3" in out
    assert "failed and not saved: seeds 3 (stage" in out
    assert "at the mark: first at tick" in out
    assert LeRobotDataset(tmp_path / "data").facts["settings"]["extra"] == {
        "env": "cube",
        "spread": 1.0,
        "expert": EXPERTS["cube"].REVISION,
        "mujoco": metadata.version("mujoco"),
        "gym-aloha": metadata.version("gym-aloha"),
        "mink": metadata.version("mink"),
        "daqp": metadata.version("daqp"),
        "starts": "random",
    }


def test_the_seeds_recorded_first_cover_the_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "env_factory", lambda *given: worlds.make_dot)
    monkeypatch.setattr(registry, "expert_factory", lambda *_, **__: worlds.make_dot_expert)
    common = ["record", "--out", tmp_path / "data", "--workers", "1", "--first-seed", "20"]
    assert answer(capsys, *common, "--last-seed", "60", "--episodes", "2")[0] == 0
    tried = {d.seed for d in read_report(tmp_path / "data").demonstrations}
    tried |= {f.seed for f in read_report(tmp_path / "data").failures}
    assert tried == {*api_record.even_starts("cube", range(20, 61))[: len(tried)]}
    assert sorted(api_record.even_starts("cube", range(20, 61))) == [*range(20, 61)]
    # Growing the dataset continues in that order; other seeds give another order.
    assert answer(capsys, *common, "--last-seed", "60", "--episodes", "4")[0] == 0
    code, _, err = answer(capsys, *common, "--last-seed", "600", "--episodes", "5")
    assert code == 2
    assert "begun with other seeds or in another order" in err


def test_evaluations_are_counted_compared_and_continued(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(registry, "env_for_policy", lambda *_, **__: (worlds.make_dot, {}))
    common = [policy, "--workers", "1", "--episodes"]
    for name, episodes, chunking in (("a", 4, "replay:4"), ("b", 3, "ensemble:0.1/2")):
        code, out, _ = answer(
            capsys, "evaluate", "--out", tmp_path / name, *common, str(episodes),
            "--chunking", chunking,
        )  # fmt: skip
        assert code == 0
        assert f"of {episodes} (95 % interval" in out
        assert f"seeds 1000 to {999 + episodes}, {chunking}" in out
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text())["names"]["env"] == "cube"
    code, out, _ = answer(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "on the same 3 seeds" in out

    # The same folder under another policy is another evaluation.
    other = shutil.copytree(policy, tmp_path / "policy")
    about = json.loads((other / "policy.json").read_text())
    del about["sha256"]
    about["fingerprint"] = "another"
    digest = hashlib.sha256(msgspec.json.encode(about, order="sorted")).hexdigest()
    (other / "policy.json").write_text(json.dumps({**about, "sha256": digest}))
    line = is_refused(
        capsys, "evaluate", "--out", tmp_path / "a", other, "--workers", "1",
        "--episodes", "4", "--chunking", "replay:4",
    )  # fmt: skip
    assert "episodes.jsonl was begun with other settings: " in line
    assert "names.policy was " in line


def test_an_exported_policy_is_certified_and_evaluated_like_the_original(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, dataset: Path, policy: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(registry, "env_for_policy", lambda *_, **__: (worlds.make_dot, {}))
    argv = [
        "export", policy, "--data", dataset, "--out", tmp_path / "out", "--episodes", "3",
        "--workers", "1", "--observations", "4", "--calls", "5", "--torch-calls", "2",
        "--chunking", "replay:4",
    ]  # fmt: skip
    # Three seeds cannot rule out a loss: the file is removed, the episodes are kept.
    line = is_refused(capsys, *argv)
    assert "a loss of more than 4 points is not ruled out" in line
    kept = ["evaluation-openvino-fp32", "evaluation-torch"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == kept
    began = [(tmp_path / "out" / name / "episodes.jsonl").read_bytes() for name in kept]
    code, out, _ = answer(capsys, *argv, "--margin", "100")
    assert code == 0
    assert "openvino fp32" in out
    assert "observations spread over all 2 episodes of its training's dataset" in out
    assert "without torch" in out
    assert "file minus torch on the same 3 seeds: +0.0 points" in out
    # The second export made the same file, so no episode ran again.
    assert began == [(tmp_path / "out" / name / "episodes.jsonl").read_bytes() for name in kept]
    rows = [json.loads(b.splitlines()[2]) for b in began]
    assert rows[0]["episode"]["ticks"] == rows[1]["episode"]["ticks"]
    file = tmp_path / "out" / "policy.openvino"
    code, out, _ = answer(
        capsys, "evaluate", file, "--out", tmp_path / "again", "--workers", "1",
        "--episodes", "3", "--chunking", "replay:4",
    )  # fmt: skip
    assert code == 0
    assert "of 3 (95 % interval" in out
    file.write_bytes(file.read_bytes()[:-1])
    assert "Copy it again" in is_refused(capsys, "evaluate", file, "--out", tmp_path / "cut")


def test_evaluating_a_file_loads_no_torch():
    code = "import sys, imitact.cli.evaluate\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- interruption ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["record", "train", "evaluate", "tune", "demo"])
def test_ctrl_c_prints_how_to_continue_and_exits_with_130(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def stop(given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"imitact.cli.{verb}.run", stop)
    needed = {"record": ["--out", "o"], "train": ["d", "--out", "o"],
              "evaluate": ["p", "--out", "o"], "tune": ["p"],
              "demo": []}  # fmt: skip
    code, _, err = answer(capsys, verb, *needed[verb])
    assert code == 130
    assert err.startswith(f"imitact {verb}: interrupted; ")
    assert "command" in err
    assert err.count("\n") == 1


def test_ctrl_c_before_a_verb_runs_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def stop(argv: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", stop)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "imitact: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_continues_with_resume(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, dataset: Path,
):  # fmt: skip
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("step ") and len(lines) < 100:
            lines.extend([""] * 100)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(train, "print_progress", say)
    argv = ["train", dataset, "--out", tmp_path / "out", *tiny("--train.steps", "20")]
    code, _, err = answer(capsys, *argv)
    assert code == 130
    assert f"stopped by {signal.Signals(number).name}" in err
    assert "--resume" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "policy").exists()

    assert "resume" in is_refused(capsys, *argv)
    code, out, _ = answer(capsys, *argv, "--resume")
    assert code == 0
    assert any(line.startswith("resuming from") for line in lines)
    assert f"policy:  {tmp_path / 'out' / 'policy'}" in out


def test_a_trained_policy_has_its_datasets_fingerprint_and_returns_chunks(
    dataset: Path, policy: Path
):
    from imitact.models.policy import TorchPolicy

    loaded = TorchPolicy.load(policy)
    assert loaded.fingerprint == LeRobotDataset(dataset).fingerprint
    env = worlds.make_dot()
    assert loaded.chunk(env.reset(0)).shape == (8, 2)
    assert np.all(np.isfinite(loaded.chunk(env.reset(0))))


def test_a_text_that_no_file_can_store_is_refused_and_a_path_may_have_any_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for robot in ([], ["--robot", "sim:cube"]):
        line = is_refused(
            capsys, "record", *robot, "--task", "caf\udce9", "--out", tmp_path / "out"
        )
        assert line == "imitact record: --task has bytes that are no UTF-8 text: 'caf\\udce9'"
    assert "no such" in is_refused(capsys, "check", tmp_path / "caf\udce9")
