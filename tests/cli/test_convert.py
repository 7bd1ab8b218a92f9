"""Datasets of other layouts on the command line: every verb reads them, refusals are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imitact.datasets.open import open_dataset
from tests.support import foreign_files as foreign
from tests.support.command_line import TINY, answer, is_refused


@pytest.fixture(scope="module")
def aloha(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compressed files of a robot with a base, which need the most settings."""
    return foreign.aloha(
        tmp_path_factory.mktemp("verb") / "aloha", (30, 20, 25), jpeg=True, base=True, sim=False
    )


def test_a_policy_is_trained_on_aloha_files_without_conversion(
    aloha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, err = answer(
        capsys, "train", aloha, "--out", tmp_path / "t", *TINY, "--read.colour", "bgr"
    )
    assert code == 0, err
    policy = json.loads((tmp_path / "t/policy/policy.json").read_text())
    assert policy["spec"]["action_names"][14:] == ["base_linear", "base_angular"]
    assert "policy:" in out


def test_check_and_view_read_aloha_files(
    aloha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    read = ("--read.colour", "bgr")
    code, out, _ = answer(capsys, "check", aloha, *read)
    assert code in (0, 3)
    assert f"{aloha}:" in out
    code, _, err = answer(
        capsys, "view", aloha, "--out", tmp_path / "v.html", "--max-episodes", 1, *read
    )
    assert code == 0, err
    assert (tmp_path / "v.html").stat().st_size > 10_000
    one = aloha / "episode_1.hdf5"
    code, _, err = answer(capsys, "view", one, "--out", tmp_path / "1.html", *read)
    assert code == 0, err
    code, out, _ = answer(capsys, "check", aloha, *read, "--fix", tmp_path / "c")
    assert code in (0, 3)
    assert (
        f"copy of {len(open_dataset(tmp_path / 'c').lengths)} episodes in {tmp_path / 'c'}" in out
    )


def test_check_reports_a_damaged_episode_and_inspects_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    foreign.aloha(tmp_path / "a", (30, 20, 25))
    (tmp_path / "a/episode_1.hdf5").write_bytes(b"nothing")
    code, out, _ = answer(capsys, "check", tmp_path / "a")
    assert code == 3
    assert "error: episode 1: " in out
    assert "[damaged-file]" in out


def test_convert_writes_a_report_and_converts_back(
    aloha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lerobot, back = tmp_path / "lerobot", tmp_path / "back"
    code, out, err = answer(
        capsys, "convert", aloha, "--out", lerobot, "--read.colour", "bgr", "--task", "go",
        "--video.codec", "lossless",
    )  # fmt: skip
    assert code == 0, err
    assert "3 episodes, 75 ticks from aloha-hdf5 to lerobot: states and actions equal" in out
    assert "camera top: every frame equal" in out
    assert "read with colour: bgr" in out
    assert open_dataset(lerobot).episode(0).task == "go"  # type: ignore[attr-defined]
    code, out, err = answer(capsys, "convert", lerobot, "--out", back, "--to", "aloha-hdf5")
    assert code == 0, err
    assert json.loads((back / "conversion.json").read_text())["done"]
    base = open_dataset(back).episode(2).action[:, 14:]
    np.testing.assert_array_equal(base, foreign.walk(202, 25, 2).astype("f4"))


def test_the_colour_picture_shows_both_channel_orders(
    aloha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    picture = tmp_path / "colours.png"
    code, _, err = answer(capsys, "convert", aloha, "--colour-picture", picture)
    assert code == 0, err
    seen = np.asarray(Image.open(picture)).astype(int)
    half = seen.shape[1] // 2
    wrong, right = seen[24:48, :32], seen[24:48, half + 4 : half + 36]
    assert np.abs(right - foreign.picture(0, 0)).mean() < 4
    np.testing.assert_array_equal(wrong, right[..., ::-1])


def test_refusals_are_one_line(
    aloha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    assert "--colour-picture" in is_refused(
        capsys, "convert", aloha, "--out", out, "--colour-picture", tmp_path / "c.png"
    )
    assert "--out is missing" in is_refused(capsys, "convert", aloha)
    assert "there is no such dataset" in is_refused(
        capsys, "convert", tmp_path / "nowhere", "--out", out
    )
    assert "it must be from 0 to 100" in is_refused(
        capsys, "convert", aloha, "--out", out, "--read.colour", "bgr", "--min-psnr-db", "200"
    )
    assert not out.exists()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/h5py.py").write_text("raise ModuleNotFoundError('no', name='h5py')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    told = is_refused(capsys, "train", aloha, "--out", out)
    assert "h5py is not installed; pip install '.[formats]' installs it" in told


def test_datasets_of_one_robot_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parts = [
        foreign.aloha(tmp_path / name, lengths) for name, lengths in (("a", (9, 8)), ("b", (7,)))
    ]
    both = tmp_path / "both"
    code, out, err = answer(capsys, "convert", *parts, "--out", both, "--video.codec", "lossless")
    assert code == 0, err
    assert "3 episodes, 24 ticks" in out
    joined, opened = open_dataset(both), [open_dataset(part) for part in parts]
    assert joined.lengths == (9, 8, 7)
    assert np.array_equal(joined.episode(2).state, opened[1].episode(0).state)
    camera = joined.spec.cameras[0].name
    ours, theirs = (one.frames(camera) for one in (joined.episode(2), opened[1].episode(0)))
    assert np.array_equal([*ours], [*theirs])


def test_a_training_takes_several_datasets_with_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a, b = (foreign.aloha(tmp_path / name, (20, 20)) for name in "ab")
    train = ("train", a, b, "--out", tmp_path / "t", *TINY)
    code, _, err = answer(capsys, *train, "--weights", 3, 1)
    assert code == 0, err
    assert "4 episodes of 160 ticks" in err  # 3 * 40 + 40
    assert "--weights" in is_refused(capsys, *train, "--weights", 3)
    assert "given twice" in is_refused(capsys, "train", a, a, "--out", tmp_path / "u", *TINY)
    missing = tmp_path / "nothing"
    assert "nothing" in is_refused(capsys, "train", a, missing, "--out", tmp_path / "u", *TINY)
    assert "DATA" in is_refused(capsys, "train", "--out", tmp_path / "u", *TINY)
