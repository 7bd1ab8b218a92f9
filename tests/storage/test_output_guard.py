"""Output guard: nothing of one kind is written into something of another kind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imitact.core.errors import BadInput
from imitact.storage.output_guard import DATASETS, KINDS, check_output, kind_of
from tests.support.command_line import answer, cpu_cost, is_refused
from tests.support.paths import ROOT

VERSION_0 = ROOT / "tests" / "fixtures" / "version_0"

SAMPLES = {
    "checkpoint": "trainer.json",
    "demo": "phases.json",
    "training": "metrics.jsonl",
    "policy": "policy.json",
    "checkpoint of another program": "train_config.json",
    "conversion": "conversion.json",
    "recording": "meta/imitact.json",
    "dataset": "meta/info.json",
    "evaluation": "evaluation.json",
    "tuning": "tune.jsonl",
    "export": "policy.onnx",
    "cache": "frames-0123456789abcdef/cache.json",
}
"""A file by which a folder of each kind is recognised."""

LAYOUTS = ("meta/info.json", "episode_3.hdf5", "demo.hdf5", "meta/episode_ends/.zarray")
"""Files of datasets of each layout."""

VERBS = {
    "record": ("recording", ["record", "--out"]),
    "train": ("training", ["train", "data", "--out"]),
    "train's cache": ("cache", ["train", "data", "--out", "new", "--train.cache-dir"]),
    "evaluate": ("evaluation", ["evaluate", "policy", "--out"]),
    "tune": ("tuning", ["tune", "policy", "--out"]),
    "convert": ("conversion", ["convert", "data", "--out"]),
    "check": ("copy", ["check", "data", "--fix"]),
    "export": ("export", ["export", "policy", "--data", "data", "--out"]),
    "import-policy": ("policy", ["import-policy", "checkpoint", "--out"]),
    "export-policy": ("checkpoint of another program", ["export-policy", "policy", "--to", "act",
                                                        "--out"]),
    "demo": ("demo", ["demo", "--out"]),
    "demo's data": ("recording", ["demo", "--out", "new", "--data"]),
}  # fmt: skip
"""The kind that each verb writes, and its command line up to the output."""

FILES = {
    "view": ["view", "data", "--out"],
    "view's recording": ["view", "data", "--rerun"],
    "check's findings": ["check", "data", "--json"],
    "convert's picture": ["convert", "data", "--colour-picture"],
}
"""Command lines of the verbs that write one file, up to its path."""


def make(folder: Path, sample: str) -> Path:
    (folder / sample).parent.mkdir(parents=True, exist_ok=True)
    (folder / sample).write_text("{}")
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def admitted(own: str, kind: str) -> bool:
    return own in KINDS[kind].admits or "*" in KINDS[kind].admits


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_writes_into_something_of_another_kind(
    verb: str,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    own, argv = VERBS[verb]
    make(tmp_path / "there", SAMPLES[kind])
    before = tree(tmp_path)
    is_input = verb == "demo's data" and kind in DATASETS
    outputs = [] if own == kind or is_input else ["there"]
    outputs += [] if admitted(own, kind) else ["there/new", "there/a/b/c"]
    for out in outputs:
        line = is_refused(capsys, *argv, out)
        assert kind in line
        assert argv[-1] in line  # the option to change
        assert f"there-{own.split()[0]}" in line  # the path to give instead
        assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("verb", FILES)
def test_no_file_is_written_into_something_of_another_kind(
    verb: str,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "there", SAMPLES[kind])
    if KINDS[kind].admits == ("*",):
        return
    for out in ("there/new.rrd", "there/a/b.rrd"):
        line = is_refused(capsys, *FILES[verb], out)
        assert kind in line
        assert f"{FILES[verb][-1]} a new file, such as there-" in line


@pytest.mark.parametrize("sample", LAYOUTS)
def test_a_dataset_of_every_layout_is_recognised(sample: str, tmp_path: Path) -> None:
    make(tmp_path / "there", sample)
    with pytest.raises(BadInput, match="is a dataset"):
        check_output(tmp_path / "there", "training")


def test_an_aloha_dataset_is_recognised_from_within(tmp_path: Path) -> None:
    make(make(tmp_path / "there", "episode_0.hdf5"), "episode_1.hdf5")
    with pytest.raises(BadInput, match=r"lies in .*there, a dataset"):
        check_output(tmp_path / "there" / "run", "training")


@pytest.mark.parametrize("file", ["demo.hdf5", "episode_0.hdf5", "pusht.zarr.zip"])
def test_an_output_beside_a_dataset_that_is_one_file_is_allowed(file: str, tmp_path: Path) -> None:
    make(tmp_path, file)
    check_output(tmp_path / "run", "training")
    for out in (tmp_path / file, tmp_path / file / "run"):
        with pytest.raises(BadInput, match="is a file"):
            check_output(out, "training")


@pytest.mark.parametrize("own", SAMPLES)
def test_what_a_verb_began_can_be_continued(own: str, tmp_path: Path) -> None:
    check_output(make(tmp_path / "there", SAMPLES[own]), own)


def test_a_folder_that_holds_things_of_other_kinds_is_a_fine_output(tmp_path: Path) -> None:
    for number, sample in enumerate(SAMPLES.values()):
        if not sample.startswith("frames-"):
            make(tmp_path / "runs" / f"thing-{number}", sample)
    for own in SAMPLES:
        check_output(tmp_path / "runs", own)


def test_the_message_names_the_training_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a", SAMPLES["training"])
    step = "a/checkpoints/step-00000006"
    make(tmp_path / step, SAMPLES["checkpoint"])
    make(tmp_path / step / "policy", SAMPLES["policy"])
    message = f"{step} is a checkpoint of the training a, .*; give --out a to continue"
    with pytest.raises(BadInput, match=message):
        check_output(step, "training")
    with pytest.raises(BadInput, match=r"is a policy of the training a.* such as a-evaluation"):
        check_output(f"{step}/policy", "evaluation")
    with pytest.raises(BadInput, match="is a policy"):
        check_output(f"{step}/policy", "policy")  # it would be replaced


def test_the_suggested_path_does_not_exist(tmp_path: Path) -> None:
    make(tmp_path / "there", SAMPLES["dataset"])
    (tmp_path / "there-training").mkdir()
    with pytest.raises(BadInput, match=r"such as .*there-training-2$"):
        check_output(tmp_path / "there", "training")


@pytest.mark.parametrize("out", ["link", "link/new", "checkpoint/../link/new"])
def test_an_output_is_judged_by_where_it_leads(out: str, tmp_path: Path) -> None:
    make(tmp_path / "checkpoint", SAMPLES["checkpoint"])
    (tmp_path / "link").symlink_to(tmp_path / "checkpoint")
    with pytest.raises(BadInput, match="checkpoint"):
        check_output(tmp_path / out, "training")


def test_an_output_is_judged_by_where_it_was_put(tmp_path: Path) -> None:
    make(tmp_path / "a", SAMPLES["recording"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="a recording"):
        check_output(tmp_path / "a" / "link" / "new", "training")


@pytest.mark.parametrize("name", ["checkpoints", "cache", "policy"])
def test_a_training_is_not_written_through_a_link_in_its_folder(name: str, tmp_path: Path) -> None:
    make(tmp_path / "a", SAMPLES["training"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "a" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match=f"{name} is a link to .*mine"):
        check_output(tmp_path / "a", "training")


def test_a_recording_is_not_written_through_a_link_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path / "a", SAMPLES["recording"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "a" / "videos" / "top").mkdir(parents=True)
    (tmp_path / "a" / "videos" / "top" / "chunk-000").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="chunk-000 is a link"):
        check_output(tmp_path / "a", "recording")


def test_a_training_does_not_replace_a_policy_that_it_did_not_write(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "policy", SAMPLES["policy"])
    with pytest.raises(BadInput, match="policy is a policy, which this training would replace"):
        check_output(tmp_path / "runs", "training")


def test_what_older_versions_wrote_is_recognised() -> None:
    wholes = {
        "conversions": "conversion",
        "evaluations": "evaluation",
        "exports": "export",
        "policies": "policy",
        "recordings": "recording",
        "trainings": "training",
        "tunings": "tuning",
    }
    for group, kind in wholes.items():
        for folder in (VERSION_0 / group).iterdir():
            if folder.is_dir() and folder.name != "source":
                assert kind_of(folder) == kind, folder


def test_an_output_is_judged_in_milliseconds(tmp_path: Path) -> None:
    began_s = time.process_time()
    for number in range(20):
        check_output(tmp_path / "a" / "b" / "c" / f"run-{number}", "training")
    assert time.process_time() - began_s < 1


def test_a_refused_output_costs_no_heavy_import(tmp_path: Path) -> None:
    make(tmp_path / "there", SAMPLES["checkpoint"])
    code, _, packages = cpu_cost("train", "data", "--out", str(tmp_path / "there"))
    assert code == 2
    assert "torch" not in packages


def test_findings_replace_findings_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    (tmp_path / "data").mkdir()
    assert "thesis.txt" in is_refused(capsys, "check", tmp_path / "data", "--json", thesis)
    assert thesis.read_text() == "years of work"
    assert answer(capsys, "convert", tmp_path / "data", "--colour-picture", thesis)[0] == 2
    assert thesis.read_text() == "years of work"
