"""`imitact check`: findings, exit codes, the fixed copy, and the check before a training."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imitact.cli import demo, main
from imitact.core.errors import BadInput
from imitact.core.validate import check_dataset
from imitact.datasets.open import open_dataset
from imitact.deploy import load_policy
from imitact.envs import registry
from imitact.quality import dataset_check, fix
from imitact.quality.dataset_check import inspect_numbers, open_damaged, unusable_episodes
from imitact.recording.manifest import read_report
from imitact.recording.recorder import record
from imitact.training import loop
from tests.support.command_line import TINY, answer, is_refused
from tests.support.demonstrations import demonstrate, picture, rewrite, write
from tests.support.paths import FIXTURES
from tests.support.tiny_arm import SPEC, TinyArm

LEROBOT = FIXTURES / "lerobot"


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def spoil(root: Path, index: int = 1, tick: int = 9) -> None:
    rewrite(root, index, lambda columns: columns["action"].__setitem__((tick, 0), np.nan))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six demonstrations: 1 has a NaN, 2 starts idle, 4 repeats 0, 5 lacks ticks."""
    episodes = [demonstrate(seed) for seed in range(6)]
    episodes[2] = demonstrate(2, head=30)
    episodes[4] = episodes[0]
    root = write(tmp_path_factory.mktemp("check") / "data", episodes, cameras=["top"])
    spoil(root)

    def cut(columns: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            columns[name] = values[:-3]

    rewrite(root, 5, cut)
    return root


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [demonstrate(seed) for seed in range(3)]
    return write(tmp_path_factory.mktemp("check") / "sound", episodes, cameras=["top"])


# --- findings ----------------------------------------------------------------------------------


def test_errors_are_printed_with_place_and_remedy_and_give_exit_code_3(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = digests(faulty)
    code, out, _ = answer(capsys, "check", faulty, "--json", tmp_path / "new" / "found.json")
    assert code == 3
    lines = out.splitlines()
    assert lines[-1] == f"{faulty}: 2 errors in 2 episodes, 2 warnings in 2 episodes"
    assert lines[0].startswith("error: episode 5: ")
    assert lines[1].startswith("error: episode 1, tick 9, shoulder: action is nan at 1 of")
    assert "Leave the episode out or record it again" in lines[1]
    assert "warning: episode 4, ticks 0 to " in out
    assert "warning: episode 2, ticks 0 to " in out
    told = json.loads((tmp_path / "new" / "found.json").read_text())
    assert told["summary"] == "2 errors in 2 episodes, 2 warnings in 2 episodes"
    assert [(f["kind"], f["episode"]) for f in told["findings"]] == [
        ("damaged-file", 5), ("not-finite", 1), ("duplicate", 4), ("idle-head", 2),
    ]  # fmt: skip
    assert told["findings"][1]["ticks"] == [9, 10]
    assert digests(faulty) == before


def test_a_sound_dataset_gives_exit_code_0(sound: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = answer(capsys, "check", sound)
    assert (code, out) == (0, f"{sound}: nothing found\n")


def test_warnings_alone_give_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write(tmp_path / "data", [demonstrate(1), demonstrate(2, head=30)])
    code, out, _ = answer(capsys, "check", root)
    assert code == 0
    assert "1 warning in 1 episode" in out


def test_limits_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write(tmp_path / "data", [demonstrate(1), demonstrate(2, head=30)])
    code, out, _ = answer(capsys, "check", root, "--limits.motion.idle-head-s", "3")
    assert (code, out) == (0, f"{root}: nothing found\n")


def test_without_frames_no_video_is_decoded(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*given: object) -> None:
        raise AssertionError("a video was decoded")

    monkeypatch.setattr("imitact.datasets.lerobot.reader.read_frames", refuse)
    assert answer(capsys, "check", sound, "--no-frames")[0] == 0
    with pytest.raises(AssertionError, match="a video was decoded"):
        main.run(["check", str(sound)])


def test_of_many_findings_of_one_kind_the_first_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = write(tmp_path / "data", [demonstrate(seed, head=30) for seed in range(7)])
    _, out, _ = answer(capsys, "check", root, "--lines", "2")
    assert out.count("idle-head") == 3
    assert "warning: and 5 more of these" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["check", "nowhere/at/all"], "no such folder or file"),
        (["check", "cubes"], "cubes is neither a folder nor a file, nor an environment"),
        (["check", "."], "holds no finished dataset"),
        (["check", ".", "--lines", "0"], "lines is 0"),
        (["check", "cube", "--fix", "out"], "--fix copies datasets only"),
    ],
)
def test_a_path_that_cannot_be_checked_is_refused_in_one_line(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in is_refused(capsys, *argv)


def test_an_unreadable_info_is_an_error_of_all_episodes(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = Path(shutil.copytree(sound, tmp_path / "data"))
    (root / "meta/info.json").write_text("{")
    code, out, _ = answer(capsys, "check", root, "--fix", tmp_path / "copy")
    assert code == 3
    assert "error: all episodes: " in out
    assert not (tmp_path / "copy").exists()


# --- the copy ----------------------------------------------------------------------------------


def test_a_fixed_copy_has_the_safe_remedies_applied_and_passes(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = digests(faulty)
    copy = tmp_path / "copy"
    code, out, _ = answer(capsys, "check", faulty, "--fix", copy)
    assert code == 0, out
    assert digests(faulty) == before
    assert "left out: episode 1 (not-finite)" in out
    assert "left out: episode 4 (duplicate)" in out
    assert "left out: episode 5 (damaged-file)" in out
    assert out.splitlines()[-1] == f"copy of 3 episodes in {copy}: nothing found"
    check_dataset(open_dataset(copy))

    source, mended = open_damaged(faulty)[0], open_dataset(copy)
    assert source is not None
    assert len(mended.lengths) == 3
    (cut,) = (int(words.split()[3]) for words in out.splitlines() if words.startswith("cut: "))
    assert f"cut: episode 2, {cut} ticks at its start" in out
    assert mended.lengths == (source.lengths[0], source.lengths[2] - cut, source.lengths[3])
    for new, old, start in ((0, 0, 0), (1, 2, cut), (2, 3, 0)):
        one, other = mended.episode(new), source.episode(old)
        np.testing.assert_array_equal(one.state, other.state[start:])
        np.testing.assert_array_equal(one.action, other.action[start:])
        frames, shown = list(one.frames("top")), list(other.frames("top", start))
        assert len(frames) == len(one.state)
        # Encoded again where ticks were cut off; the same bytes elsewhere.
        most = max(np.abs(f.astype(int) - s).mean() for f, s in zip(frames, shown, strict=True))
        assert most < (3 if start else 1e-9)
    # The recording report describes the copy.
    report = read_report(copy)
    assert [d.seed for d in report.demonstrations] == [0, 2, 3]
    assert report.demonstrations[1].first_ticks == {1: 40 - cut}
    assert mended.spec == source.spec
    assert json.loads((copy / "meta/imitact.json").read_text())["mended"][0].startswith("left out")


def test_a_fixed_copy_cannot_be_continued_as_a_recording(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = tmp_path / "copy"
    assert answer(capsys, "check", faulty, "--fix", copy)[0] == 0
    before = digests(copy)
    with pytest.raises(BadInput):
        record(
            copy, make_env=TinyArm, make_expert=TinyArm, episodes=5, task="another",  # type: ignore
            seeds=range(9),
        )  # fmt: skip
    assert digests(copy) == before


def test_findings_that_cannot_be_fixed_are_printed_for_the_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    episodes = [demonstrate(seed) for seed in range(5)]
    episodes = [(state + np.array([0, 0.3, 0, 0]), action) for state, action in episodes]
    root = write(tmp_path / "data", [*episodes, episodes[0]])
    code, out, _ = answer(capsys, "check", root, "--fix", tmp_path / "copy")
    assert code == 3
    assert len(open_dataset(tmp_path / "copy").lengths) == 5
    assert out.splitlines()[-1].endswith("1 error")
    assert "tracking-offset" in out


def test_without_anything_to_fix_nothing_is_written(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, _, err = answer(capsys, "check", sound, "--fix", tmp_path / "copy")
    assert code == 0
    assert "nothing that can be left out safely" in err
    assert not (tmp_path / "copy").exists()


def refused(root: Path, out: Path) -> str:
    source, found = open_damaged(root)
    assert source is not None
    found += inspect_numbers(source, damaged=unusable_episodes(found))
    with pytest.raises(BadInput) as error:
        fix.write_fixed(source, fix.plan_fix(source.lengths, found), out)
    return str(error.value)


def test_a_copy_needs_a_new_folder_outside_the_dataset(faulty: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "work.txt").write_text("mine")
    assert "not empty" in refused(faulty, tmp_path / "full")
    assert "never altered" in refused(faulty, faulty / "copy")
    assert "not empty" in refused(faulty, faulty)
    assert (tmp_path / "full" / "work.txt").read_text() == "mine"


def test_a_copy_without_episodes_is_refused(tmp_path: Path):
    root = write(tmp_path / "data", [demonstrate(seed) for seed in range(3)])
    for index in range(3):
        spoil(root, index)
    assert "would be empty" in refused(root, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_keeps_the_task_of_every_episode(tmp_path: Path):
    source = open_dataset(LEROBOT / "h264")
    todo = fix.FixPlan(
        (fix.KeptTicks(0, 0, 5), fix.KeptTicks(1, 0, 8)), {2: ("x",)}, source.lengths
    )
    fix.write_fixed(source, todo, tmp_path / "copy")
    copy = open_dataset(tmp_path / "copy")
    told = [copy.episode(index).task for index in range(2)]
    assert len(set(told)) == 2
    assert told == [source.episode(index).task for index in range(2)]


def test_episodes_that_share_a_video_are_encoded_separately(tmp_path: Path):
    source = open_dataset(LEROBOT / "h264")
    todo = fix.FixPlan(
        (fix.KeptTicks(0, 1, 5), fix.KeptTicks(2, 0, 6)), {1: ("x",)}, source.lengths
    )
    assert fix.write_fixed(source, todo, tmp_path / "copy") == []
    copy = open_dataset(tmp_path / "copy")
    assert copy.lengths == (4, 6)
    assert copy.spec == source.spec
    for new, old, start in ((0, 0, 1), (1, 2, 0)):
        assert copy.episode(new).task == source.episode(old).task
        for camera in ("top", "wrist"):
            pairs = zip(
                copy.episode(new).frames(camera), source.episode(old).frames(camera, start),
                strict=True,
            )  # fmt: skip
            assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 4


def test_an_interrupted_copy_leaves_nothing_and_can_be_repeated(faulty: Path, tmp_path: Path):
    source, found = open_damaged(faulty)
    assert source is not None
    found += inspect_numbers(source, damaged=unusable_episodes(found))
    todo = fix.plan_fix(source.lengths, found)

    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix.write_fixed(source, todo, tmp_path / "copy", stop)
    assert not (tmp_path / "copy").exists()
    fix.write_fixed(source, todo, tmp_path / "copy")
    assert len(open_dataset(tmp_path / "copy").lengths) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


# --- training ----------------------------------------------------------------------------------


def test_training_refuses_a_dataset_with_errors_unless_they_are_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    episodes = [demonstrate(seed) for seed in range(3)]
    root = write(
        tmp_path / "data",
        [(state + np.array([0, 0.3, 0, 0]), action) for state, action in episodes],
        cameras=["top"],
    )
    argv = ["train", root, "--out", tmp_path / "out", *TINY]
    line = is_refused(capsys, *argv)
    assert "has 1 error, the first: all episodes, elbow: its settled state is off its" in line
    assert "action by 0.3 rad" in line
    assert f"imitact check {root}" in line
    assert "--ignore-errors" in line
    assert not (tmp_path / "out").exists()
    assert answer(capsys, *argv, "--ignore-errors")[0] == 0
    assert (tmp_path / "out" / "policy").is_dir()


def test_training_prints_warnings_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write(tmp_path / "data", [demonstrate(1), demonstrate(2, head=30)], cameras=["top"])
    code, _, err = answer(capsys, "train", root, "--out", tmp_path / "out", *TINY)
    assert code == 0
    assert "dataset: 1 warning in 1 episode" in err


@pytest.mark.parametrize("verb", ["train", "demo"])
def test_the_check_before_a_training_covers_the_dataset_that_is_trained_on(
    verb: str, sound: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        dataset_check, "inspect_numbers", lambda dataset: seen.update(checked=dataset) or []
    )
    monkeypatch.setattr(
        loop, "train", lambda dataset, *given, **named: seen.update(trained=dataset) or tmp_path
    )
    if verb == "train":
        assert main.run(["train", str(sound), "--out", str(tmp_path / "out")]) == 0
    else:
        phases = demo.Phases(tmp_path / "phases.json", {})
        demo._train(demo.with_preset(None), sound, tmp_path / "training", phases)
    assert seen["checked"] is seen["trained"]


# --- policies and environments -----------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("check") / "training"
    assert main.run(["train", str(sound), "--out", str(out), *TINY]) == 0
    return out / "policy"


def test_a_policy_that_keeps_the_contract_passes(policy: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = answer(capsys, "check", policy)
    assert (code, out) == (0, f"{policy}: nothing found\n")
    assert "for 4 states and top (" in err
    assert str(policy) in is_refused(capsys, "check", policy.parent)


def test_a_policy_that_breaks_the_contract_is_an_error(
    policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):  # fmt: skip
    class Moody:
        spec = SPEC
        asked = 0

        def reset(self, seed: int) -> None:
            pass

        def chunk(self, observation: object) -> np.ndarray:
            self.asked += 1
            return np.full((4, SPEC.action_size), float(self.asked))

    with monkeypatch.context() as patch:
        patch.setattr(load_policy, "policy_loader", lambda path: Moody)
        code, out, _ = answer(capsys, "check", policy)
    assert code == 3
    assert "two answers to one observation" in out
    broken = Path(shutil.copytree(policy, tmp_path / "policy"))
    (broken / "model.safetensors").write_bytes(b"")
    code, out, _ = answer(capsys, "check", broken)
    assert code == 3
    assert "model.safetensors" in out


class Drifting(TinyArm):
    """An environment whose start does not follow from the seed."""

    resets = 0

    def reset(self, seed: int):
        Drifting.resets += 1
        return super().reset(seed + Drifting.resets)


@pytest.mark.parametrize(("world", "code"), [(TinyArm, 0), (Drifting, 3)])
def test_an_environment_is_checked_by_its_name(
    world: type[TinyArm], code: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    asked: Sequence[object] = []

    def make(*given: object):
        asked.append(given[0])  # type: ignore[attr-defined]
        return world

    monkeypatch.setattr(registry, "make_env", lambda *given, **named: make(*given)())
    found, out, _ = answer(capsys, "check", "tiny:arm")
    assert (found, asked) == (code, ["tiny:arm"])
    assert ("two episodes from seed 0" in out) == (code == 3)


def test_the_picture_in_these_tests_moves_with_its_joints():
    """The assumption of these tests: another state gives another picture."""
    assert not np.array_equal(picture(np.zeros(4)), picture(np.full(4, 0.3)))
