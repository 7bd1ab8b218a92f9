"""`imitact train` a second time: with more steps, from a policy, and refused before torch loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from imitact.cli import main
from imitact.models.interop import act_release, lerobot_writer
from imitact.models.policy import TorchPolicy
from tests.support.command_line import HEAVY, answer, cpu_cost, is_refused, tiny
from tests.support.demonstrations import demonstrate, write

CAMERAS = ("front",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demonstrations") / "data"
    return write(out, [demonstrate(seed, moves=2) for seed in range(3)], cameras=CAMERAS)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other demonstrations of the same arm, seen by one more camera."""
    out = tmp_path_factory.mktemp("demonstrations") / "more"
    episodes = [demonstrate(seed, moves=2) for seed in range(5, 7)]
    return write(out, episodes, cameras=(*CAMERAS, "wrist"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("trained") / "a"
    argv = ["train", str(data), "--out", str(out), *tiny("--train.final-lr-fraction", "1")]
    assert main.run(argv) == 0
    return out


# -- resuming --------------------------------------------------------------------------------------


def test_resuming_a_folder_that_does_not_exist_is_refused_and_makes_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    refusal = is_refused(capsys, "train", data, "--out", tmp_path / "mistyped", *tiny(), "--resume")
    assert f"nothing to resume in {tmp_path / 'mistyped'}" in refusal
    assert not (tmp_path / "mistyped").exists()


def test_a_new_schedule_needs_a_training_to_continue(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    argv = ["train", data, "--out", tmp_path / "a", *tiny(), "--new-schedule"]
    assert "--resume" in is_refused(capsys, *argv)
    assert not (tmp_path / "a").exists()


def test_a_finished_training_goes_on_with_more_steps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path, trained: Path
) -> None:
    out = shutil.copytree(trained, tmp_path / "a")
    longer = tiny("--train.final-lr-fraction", "1", "--train.steps", "5")
    code, _, err = answer(capsys, "train", data, "--out", out, *longer, "--resume")
    assert code == 0, err
    assert json.loads((out / "training.json").read_text())["steps"] == 5


# -- fine-tuning -----------------------------------------------------------------------------------

STEPS = ("--train.steps", "2", "--train.batch-size", "2", "--train.val-episodes", "0")


def test_a_fine_tuning_takes_the_network_of_the_policy_and_names_what_is_new(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: Path, trained: Path
) -> None:
    """A training stands for its policy, as everywhere."""
    policy = TorchPolicy.load(trained / "policy")
    for number, path in enumerate((trained, trained / "checkpoints" / "step-00000003")):
        out = tmp_path / str(number)
        code, _, err = answer(capsys, "train", more, "--out", out, "--from", path, *STEPS)
        assert code == 0, err
        assert "camera wrist is new: it shares the image backbone" in err
        tuned = TorchPolicy.load(out / "policy")
        assert tuned.config == policy.config
        assert tuned.parent == policy.identity
        assert [c.name for c in tuned.spec.cameras] == ["front", "wrist"]


def test_a_fine_tuning_resumes_where_its_policy_is_gone_with_the_option_or_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: Path, trained: Path
) -> None:
    policy, out = shutil.copytree(trained, tmp_path / "a"), tmp_path / "b"
    argv = ["train", more, "--out", out, *STEPS, "--statistics", "data", "--from", policy]
    changed = ["--model.state-noise", "0"]
    assert answer(capsys, *argv, *changed)[0] == 0
    before = (out / "policy" / "policy.json").read_bytes()
    shutil.rmtree(policy)
    for given in (argv, argv[:-2], argv[:-4]):
        code, _, err = answer(capsys, *given, "--resume")
        if given == argv[:-2]:  # --statistics alone means nothing
            assert code == 2
            continue
        assert code == 0, err
        assert (out / "policy" / "policy.json").read_bytes() == before


def test_a_damaged_checkpoint_of_a_fine_tuning_is_skipped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: Path, trained: Path
) -> None:
    argv = ["train", more, "--out", tmp_path / "a", "--from", trained, *STEPS]
    assert answer(capsys, *argv, "--train.checkpoint-every", "1")[0] == 0
    before = (tmp_path / "a" / "policy" / "model.safetensors").read_bytes()
    newest = tmp_path / "a" / "checkpoints" / "step-00000002" / "policy" / "policy.json"
    newest.write_text("{")
    code, _, err = answer(capsys, *argv, "--resume")
    assert code == 0, err
    assert "damaged checkpoint skipped" in err
    assert (tmp_path / "a" / "policy" / "model.safetensors").read_bytes() == before


def test_settings_that_the_policy_does_not_have_are_refused_without_torch(
    tmp_path: Path, more: Path, trained: Path
) -> None:
    argv = ["train", str(more), "--out", str(tmp_path / "a"), "--from", str(trained), *STEPS]
    for option in ("--model.hidden-dim", "32"), ("--from-scratch", "1"):
        code, _, imported = cpu_cost(*argv, *option)
        assert code == 2
        assert not imported & HEAVY - {"pyarrow", "av"}, option
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--from", "nowhere"], "nowhere: no such file or folder"),
        (["--statistics", "data"], "--statistics is for a fine-tuning; give --from"),
        (["--from", "{trained}", "--model.chunk-size", "8", "--model.encoder-layers", "3"],
         "--model.encoder-layers is 3, the policy's 1"),
        (["--from", "{data}"], "holds no policy"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_with_is_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: Path, data: Path, trained: Path,
    argv: list[str], words: str,
) -> None:  # fmt: skip
    given = [word.format(trained=trained, data=data) for word in argv]
    assert words in is_refused(capsys, "train", more, "--out", tmp_path / "a", *given, *STEPS)
    assert not (tmp_path / "a").exists()


def test_checkpoints_of_other_programs_are_fine_tuned_as_they_lie(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    """Their names, units and rate are the dataset's; the first answer is the checkpoint's."""
    published = [
        *("--preset", "released", "--model.pretrained-backbone", "none", "--model.chunk-size", "4"),
        *("--model.hidden-dim", "32", "--model.dim-feedforward", "8", "--model.num-heads", "8"),
        *("--model.encoder-layers", "1", "--model.vae-encoder-layers", "1"),
    ]
    assert answer(capsys, "train", data, "--out", tmp_path / "own", *published, *STEPS)[0] == 0
    policy = TorchPolicy.load(tmp_path / "own" / "policy")
    for writer in (lerobot_writer, act_release):
        name = writer.__name__.rpartition(".")[2]
        there = tmp_path / name
        writer.write(policy, there)
        (there / "imitact.json").unlink()  # they come without the names
        out = tmp_path / f"{name}-tuned"
        argv = ["train", data, "--out", out, "--from", there, "--preset", "released", *STEPS]
        code, _, err = answer(capsys, *argv, "--train.lr", "0", "--train.lr-backbone", "0",
                              "--train.weight-decay", "0")  # fmt: skip
        assert code == 0, err
        tuned = TorchPolicy.load(out / "policy")
        assert tuned.spec == policy.spec
        assert tuned.net.state_dict().keys() == policy.net.state_dict().keys()
        for key, tensor in policy.net.state_dict().items():
            assert bool((tuned.net.state_dict()[key] - tensor).abs().max() < 1e-6), key
