"""Viewer: a page shows what is in a folder, loads nothing, and runs nothing from a dataset."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from imitact.cli import main
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Camera, Frame, Spec
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.evaluation import report, runner
from imitact.evaluation.episode_journal import read_unfinished
from imitact.quality.dataset_check import inspect_numbers, open_damaged
from imitact.quality.findings import Finding, summary
from imitact.recording.recorder import record
from imitact.viewer import clips, demonstrations, evaluations, page, trainings
from imitact.viewer.discover import find_items
from imitact.viewer.page import Blobs
from tests.support import dot_env, foreign_files
from tests.support.barcode import LENGTHS, Barcode, tick_of
from tests.support.demonstrations import demonstrate, rewrite, write
from tests.support.fake_dataset import FakeDataset, FakeEpisode

HOSTILE = "</script><img src=x onerror=hacked()>&\"'\u2028"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations of a dot, seen by two cameras."""
    out = tmp_path_factory.mktemp("view") / "data"
    record(
        out,
        make_env=dot_env.make_two_camera_dot,
        make_expert=dot_env.make_dot_expert,
        episodes=3,
        task="go to the mark",
        seeds=range(1000),
    )
    return out


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of an expert that fails at seed 3, with videos of the first four."""
    out = tmp_path_factory.mktemp("view") / "evaluation"
    found = runner.evaluate(
        dot_env.make_dot_expert, dot_env.make_dot, seeds=range(6), execution="replay:1", workers=1,
        videos=4, out=out,
    )  # fmt: skip
    report.write(found, out)
    return out


def training(folder: Path, *, steps: int = 40, matrix: bool = True) -> Path:
    """Write the files of a training as the training loop does."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        lines.append({"step": step, "loss": 1 / step, "l1": 1 / step, "kl": 0.0, "lr": 1e-3})
        if step % 20 == 0:
            lines.append(validation(step))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    held = validation(steps)
    if matrix:
        rows = {"joint_b": [2.0, 3.0, 4.0], "joint_a": [0.0, 1.0, 2.0]}
        held["held_out_l1_per_joint_per_tick"] = rows
    (folder / "held_out.json").write_text(json.dumps(held))
    (folder / "training.json").write_text(json.dumps({"wall_s": 60.0, "samples_per_s": 5.0}))
    return folder


def validation(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "held_out_l1_rad": 1.0 / step,
        "held_out_l1_per_joint": {"joint_a": 1.0, "joint_b": 3.0},
        "held_out_l1_rad_per_tick": [1.0, 2.0, 3.0],
    }


def of_dataset(source: Any, **settings: Any) -> tuple[dict[str, Any], Blobs]:
    blobs = Blobs()
    settings.setdefault("chosen", demonstrations.choose_episodes(source.lengths, None, 8))
    return {
        **demonstrations.dataset_section(source, Path("data"), blobs, **settings),
        "name": "d",
    }, blobs


def scripts(text: str) -> list[tuple[str, str]]:
    """Return attributes and contents of every script element, as a browser separates them."""
    return re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)


def data_of(text: str) -> dict[str, Any]:
    (data,) = [body for attributes, body in scripts(text) if 'id="data"' in attributes]
    return json.loads(data)


def decoded(data: bytes) -> tuple[list[float], list[Frame]]:
    """Return the times in s and the frames of a video."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        times = [float(p.pts * stream.time_base) for p in pictures]  # type: ignore[operator]
        return times, [p.to_ndarray(format="rgb24") for p in pictures]  # type: ignore[misc]


# --- the page ----------------------------------------------------------------------------------


def test_a_page_loads_nothing_and_forbids_it_to_the_browser(dataset: Path, tmp_path: Path):
    out = tmp_path / "page.html"
    assert main.run(["view", str(dataset), "--out", str(out)]) == 0
    text = out.read_text()
    assert not re.search(r"(?<!xmlns=\")\b(https?|ftp|wss?):", text)
    assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", text)
    assert not re.search(r"@import|url\(\s*[\"']?(?!\$)[a-z./]", text.split("</style>")[0])
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    assert policy.startswith("default-src 'none';")
    running = [body for attributes, body in scripts(text) if "type=" not in attributes]
    assert len(running) == 1
    digest = base64.b64encode(hashlib.sha256(running[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy


def test_names_from_a_dataset_are_text_and_never_markup():
    spec = Spec((HOSTILE, "b"), (HOSTILE, "c"), ("rad", HOSTILE), ("rad", "1"),
                (Camera(HOSTILE, 32, 32),), rate_hz=10.0)  # fmt: skip
    section, blobs = of_dataset(Renamed((4, 5), (HOSTILE,), 32, 32, size=2, names=spec))
    text = page.render_page(HOSTILE, [section], blobs)
    assert "<img" not in text
    assert "hacked()>" not in text.replace("&gt;", "")
    shown = data_of(text)
    assert shown["title"] == HOSTILE
    assert shown["sections"][0]["state"]["names"] == [HOSTILE, "b"]
    assert shown["sections"][0]["cameras"][0]["name"] == HOSTILE
    for file in Path(page.__file__).with_name("web").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", file.read_text()
        )


@dataclass(frozen=True)
class Renamed(FakeDataset):
    """A dataset under another Spec."""

    names: Spec | None = None

    @property
    def spec(self) -> Spec:
        assert self.names
        return self.names


def test_a_page_replaces_a_page_and_no_other_file(dataset: Path, tmp_path: Path):
    out = tmp_path / "page.html"
    page.write_page(out, page.render_page("first", [], Blobs()))
    page.write_page(out, page.render_page("second", [], Blobs()))
    assert "<title>second</title>" in out.read_text()
    out.write_text("a letter")
    assert main.run(["view", str(dataset), "--out", str(out)]) == 2
    assert out.read_text() == "a letter"
    with pytest.raises(BadInput, match="is a folder"):
        page.check_page_path(tmp_path)


def test_by_default_the_page_is_written_beside_the_folder_and_not_in_it(tmp_path: Path):
    folder = training(tmp_path / "run")
    before = sorted(p.name for p in folder.iterdir())
    assert main.run(["view", str(folder)]) == 0
    assert (tmp_path / "run.html").is_file()
    assert sorted(p.name for p in folder.iterdir()) == before


# --- discovery --------------------------------------------------------------------------------


def test_a_demo_gives_one_section_per_folder(dataset: Path, evaluation: Path, tmp_path: Path):
    demo = tmp_path / "demo"
    demo.mkdir()
    shutil.copytree(dataset, demo / "data")
    shutil.copytree(evaluation, demo / "evaluation")
    shutil.copytree(evaluation, demo / "compared")
    training(demo / "training")
    (demo / "demo.json").write_text("{}")
    found = find_items([demo])
    assert [(each.kind, each.name) for each in found] == [
        ("dataset", "data"),
        ("training", "training"),
        ("evaluation", "evaluation"),
        ("evaluation", "compared"),
    ]
    out = tmp_path / "demo.html"
    assert main.run(["view", str(demo)]) == 0
    assert [s["kind"] for s in data_of(out.read_text())["sections"]] == [e.kind for e in found]


def test_two_folders_of_the_same_name_get_different_names(tmp_path: Path):
    paths = [training(tmp_path / name / "training") for name in ("a", "b")]
    assert [each.name for each in find_items(paths)] == ["a/training", "b/training"]
    assert len({each.name for each in find_items([paths[0], paths[0]])}) == 2


def test_a_folder_without_anything_to_show_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main.run(["view", str(tmp_path)]) == 2
    assert "meta/info.json" in capsys.readouterr().err
    assert main.run(["view", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


# --- demonstrations ----------------------------------------------------------------------------


def test_every_number_of_an_episode_is_in_the_page(dataset: Path):
    source = open_dataset(dataset)
    section, blobs = of_dataset(source)
    assert [e["index"] for e in section["episodes"]] == [0, 1, 2]
    for shown in section["episodes"]:
        episode = source.episode(shown["index"])
        for what in ("state", "action"):
            rows = np.frombuffer(blobs.by_name[shown[what]], "<f4").reshape(shown["ticks"], -1)
            np.testing.assert_array_equal(rows, getattr(episode, what))
    first = np.frombuffer(blobs.by_name[section["starts"]["state"]], "<f4").reshape(3, -1)
    np.testing.assert_array_equal(first, [source.episode(i).state[0] for i in range(3)])
    assert section["lengths"] == list(source.lengths)
    assert [section["notes"][str(i)]["seed"] for i in range(3)] == [0, 1, 2]
    assert all(section["notes"][str(i)]["marks"] for i in range(3))


ROBOMIMIC = ReadConfig(state=("robot0_eef_pos", "robot0_gripper_qpos"))
DIFFUSION_POLICY = ReadConfig(state=("state",), rate_hz=10)


@pytest.mark.parametrize(
    ("make", "read", "name"),
    [
        (foreign_files.aloha, ReadConfig(), "episode_1.hdf5"),
        (lambda folder: foreign_files.robomimic(folder / "demo.hdf5"), ROBOMIMIC, "demo_1"),
        (foreign_files.replay_buffer, DIFFUSION_POLICY, None),
    ],
)
def test_a_dataset_of_another_layout_is_shown_with_the_names_of_its_episodes(
    make: Callable[[Path], Path], read: ReadConfig, name: str | None, tmp_path: Path
):
    (tmp_path / "data").mkdir()
    source = open_dataset(make(tmp_path / "data"), read)
    section, _ = of_dataset(source)
    assert section["lengths"] == list(source.lengths)
    assert all(
        set(e["clips"]) == {c.name for c in source.spec.cameras} for e in section["episodes"]
    )
    assert section["notes"]["1"].get("name") == name
    assert "seed" not in section["notes"]["1"]


def test_frame_i_of_a_clip_is_the_camera_frame_of_tick_i():
    section, blobs = of_dataset(Barcode())
    for shown, length in zip(section["episodes"], LENGTHS, strict=True):
        times, frames = decoded(blobs.by_name[shown["clips"]["top"]])
        assert times == pytest.approx(np.arange(length) / 50)
        assert [tick_of(frame) for frame in frames] == list(range(length))


def test_every_camera_has_a_clip(dataset: Path):
    section, blobs = of_dataset(open_dataset(dataset))
    for shown in section["episodes"]:
        shapes = {
            name: decoded(blobs.by_name[blob])[1][0].shape for name, blob in shown["clips"].items()
        }
        assert shapes == {"top": (24, 32, 3), "wrist": (32, 24, 3)}  # never enlarged


def test_a_clip_has_the_requested_width_and_even_sides():
    assert clips.clip_size(Camera("top", 480, 640), 320) == (240, 320)
    assert clips.clip_size(Camera("top", 333, 501), 301) == (200, 302 - 2)
    assert clips.clip_size(Camera("top", 60, 80), 320) == (60, 80)
    with pytest.raises(BadInput, match="at least 16"):
        clips.clip_size(Camera("top", 60, 80), 3)


def test_a_clip_has_a_key_frame_every_eight_frames():
    section, blobs = of_dataset(FakeDataset((40,)))
    (blob,) = section["episodes"][0]["clips"].values()
    with av.open(io.BytesIO(blobs.by_name[blob])) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert len(keys) == 40
    assert max(np.diff(np.flatnonzero([*keys, True]))) <= 8


def test_chosen_episodes_are_spread_over_the_lengths():
    lengths = [30, 10, 50, 20, 40]
    assert clips.spread_evenly(lengths, 3) == [0, 1, 2]
    assert clips.spread_evenly(lengths, 2) == [1, 2]
    assert clips.spread_evenly(lengths, 9) == [0, 1, 2, 3, 4]
    assert clips.spread_evenly([7] * 9, 3) == [0, 4, 8]


def test_episodes_can_be_chosen_and_must_exist(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = str(tmp_path / "page.html")
    assert main.run(["view", str(dataset), "--out", out, "--episodes", "2,0"]) == 0
    (section,) = data_of(Path(out).read_text())["sections"]
    assert [e["index"] for e in section["episodes"] if e["clips"]] == [0, 2]
    assert "2 of 3 episodes have videos" in section["left_out"]
    capsys.readouterr()
    assert main.run(["view", str(dataset), "--out", out, "--episodes", "3"]) == 2
    assert "no episode 3" in capsys.readouterr().err
    assert main.run(["view", str(dataset), "--out", out, "--episodes", "a"]) == 2
    assert "0,5,9" in capsys.readouterr().err


def test_curves_beyond_the_limit_are_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
):
    source = FakeDataset((10,) * 20, height=32, width=32)
    monkeypatch.setattr(demonstrations, "MAX_CURVE_BYTES", 8 * 10 * 4 * 6)
    section, _ = of_dataset(source, chosen=[3, 9])
    assert len(section["episodes"]) == 8
    assert {3, 9} <= {e["index"] for e in section["episodes"]}
    assert "Curves of 8 of 20 episodes" in section["left_out"]
    assert len(section["lengths"]) == len(section["starts"]["indices"]) == 20


def test_a_dataset_with_values_that_are_not_finite_can_be_shown():
    section, blobs = of_dataset(WithGaps((6, 5), size=2, height=32, width=32))
    text = page.render_page("holes", [section], blobs)
    shown = data_of(text)["sections"][0]
    rows = np.frombuffer(blobs.by_name[shown["episodes"][0]["state"]], "<f4").reshape(6, 2)
    assert np.isnan(rows[2, 0])
    assert np.isfinite(shown["starts"]["ranges"]).all()


class WithGaps(FakeDataset):
    """A dataset with a NaN at tick 2, and a dimension that is never finite."""

    def episode(self, index: int) -> FakeEpisode:
        return EpisodeWithGaps(index, self.lengths[index], self.height, self.width, self.size)


class EpisodeWithGaps(FakeEpisode):
    @property
    def state(self) -> np.ndarray:
        state = super().state
        state[2, 0] = np.nan
        state[:, 1] = np.inf
        return state


@dataclass(frozen=True)
class Spiked(FakeDataset):
    """Twelve episodes; in the ninth, a joint reads 90 rad at tick 20. Frames cannot be read."""

    lengths: tuple[int, ...] = tuple(range(40, 52))

    def episode(self, index: int) -> FakeEpisode:
        return SpikedEpisode(index, self.lengths[index], self.height, self.width, self.size)


class SpikedEpisode(FakeEpisode):
    @property
    def state(self) -> np.ndarray:
        rows = super().state.copy()
        rows[20, 1] += 90.0 * (self.index == 8)
        return rows


def test_what_a_check_finds_is_in_the_page_with_its_episode_and_ticks():
    source = Spiked()
    found = inspect_numbers(source)
    section, _ = of_dataset(source, found=found)
    spike = section["findings"][0]
    assert (spike["kind"], spike["severity"], spike["episode"], spike["ticks"]) == (
        "jump", "error", 8, (20, 21),
    )  # fmt: skip
    assert spike["part"] == "joint_1"
    assert ["check", summary(found)] in section["facts"]


def test_episodes_with_errors_are_among_those_with_videos():
    source = Spiked()
    found = inspect_numbers(source)
    assert 8 in demonstrations.choose_episodes(source.lengths, None, 2, found)
    assert 8 not in demonstrations.choose_episodes(source.lengths, None, 2)
    assert len(demonstrations.choose_episodes(source.lengths, None, 5, found)) == 5


def test_a_page_keeps_the_worst_of_many_findings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demonstrations, "MAX_FINDINGS", 3)
    found = [Finding.of("idle-head", "it waits", index) for index in range(9)]
    section, _ = of_dataset(Spiked(), found=[*found, Finding.of("jump", "it jumps", 2)])
    assert [f["kind"] for f in section["findings"]] == ["jump", "idle-head", "idle-head"]


def test_a_dataset_is_checked_without_decoding_frames_unless_asked(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    called: list[str] = []
    for name in ("inspect_numbers", "inspect_frames"):
        monkeypatch.setattr(
            f"imitact.quality.dataset_check.{name}",
            lambda *_, name=name, **__: called.append(name) or [],
        )
    for how, expected in (
        ("numbers", ["inspect_numbers"]), ("none", []),
        ("frames", ["inspect_numbers", "inspect_frames"]),
    ):  # fmt: skip
        called.clear()
        out = str(tmp_path / f"{how}.html")
        assert main.run(["view", str(dataset), "--out", out, "--check", how]) == 0
        assert called == expected


def test_first_frames_are_on_one_sheet_in_the_order_of_the_episodes():
    source = FakeDataset((3,) * 5, height=32, width=32)
    section, blobs = of_dataset(source)
    stills = section["stills"]
    assert (stills["height"], stills["width"], stills["columns"]) == (32, 32, 5)
    with av.open(io.BytesIO(blobs.by_name[stills["blob"]])) as container:
        sheet = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)
    assert sheet.shape == (32, 160, 3)  # type: ignore[union-attr]
    for place, index in enumerate(stills["indices"]):
        own = sheet[:, 32 * place : 32 * place + 32]
        far = [np.abs(own - next(source.episode(i).frames("top"))).mean() for i in range(5)]
        assert int(np.argmin(far)) == index


# --- damaged datasets ---------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lerobot(root: Path, *paths: str) -> Path:
    """Five demonstrations; the files at `paths` are cut short."""
    episodes = [demonstrate(seed, moves=2) for seed in range(5)]
    write(root, episodes, cameras=("top", "wrist"))
    for path in paths:
        cut(root / path)
    return root


def aloha(root: Path) -> Path:
    foreign_files.aloha(root, [5, 6, 7])
    cut(sorted(root.glob("*.hdf5"))[1])
    return root


DAMAGED_FILES: dict[str, tuple[Callable[[Path], Path], list[int], list[int]]] = {
    # the dataset, its episodes that cannot be read, and those that lack a clip
    "data": (lambda root: lerobot(root, "data/chunk-000/file-001.parquet"), [1], []),
    "first": (lambda root: lerobot(root, "data/chunk-000/file-000.parquet"), [0], []),
    "metadata": (
        lambda root: lerobot(root, "meta/episodes/chunk-000/file-003.parquet"), [3], [],
    ),
    "video": (
        lambda root: lerobot(root, "videos/observation.images.top/chunk-000/file-002.mp4"), [], [2],
    ),
    "tasks": (lambda root: lerobot(root, "meta/tasks.parquet"), [], []),
    "hdf5": (aloha, [1], []),
}  # fmt: skip


@pytest.mark.parametrize("check", ["numbers", "none", "frames"])
@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_of_a_damaged_dataset_all_that_can_be_read_is_shown_and_the_rest_is_marked(
    name: str, check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make, unread, without_clip = DAMAGED_FILES[name]
    root, out = make(tmp_path / "data"), tmp_path / "page.html"
    command = ["view", str(root), "--out", str(out), "--check", check]
    assert main.run(command) == 0
    (section,) = data_of(out.read_text())["sections"]
    count = 3 if name == "hdf5" else 5
    assert section["unread"] == unread
    assert [e["index"] for e in section["episodes"]] == [i for i in range(count) if i not in unread]
    assert [e["index"] for e in section["episodes"] if "top" not in e["clips"]] == without_clip
    errors = {f["episode"] for f in section["findings"] if f["severity"] == "error"}
    assert errors - {None} == {*unread, *without_clip}
    assert (None in errors) == (name in ("metadata", "tasks"))  # files of all episodes
    assert ("cannot be read" in capsys.readouterr().err) == bool(unread)
    # The check names the same episodes.
    _, found = open_damaged(root)
    assert {f.episode for f in found if f.severity == "error"} == errors


def test_damage_that_only_reading_shows_is_marked_and_takes_one_episode(tmp_path: Path):
    root = write(tmp_path / "data", [demonstrate(seed, moves=2) for seed in range(3)])
    rewrite(root, 1, lambda columns: columns.update(frame_index=columns["frame_index"] + 3))
    out = tmp_path / "page.html"
    for check in ("numbers", "none"):
        assert main.run(["view", str(root), "--out", str(out), "--check", check]) == 0
        (section,) = data_of(out.read_text())["sections"]
        assert section["unread"] == [1]
        assert [f["episode"] for f in section["findings"] if f["severity"] == "error"] == [1]


def test_a_dataset_of_which_nothing_can_be_read_is_refused_with_the_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = [f"data/chunk-000/file-{i:03d}.parquet" for i in range(5)]
    root, out = lerobot(tmp_path / "data", *files), tmp_path / "page.html"
    assert main.run(["view", str(root), "--out", str(out)]) == 2
    assert "file-000.parquet" in capsys.readouterr().err
    assert not out.exists()


def test_one_damaged_item_of_several_is_named_and_the_others_are_shown(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = training(tmp_path / "run")
    (run / "metrics.jsonl").write_text("no metrics\n")
    out = tmp_path / "page.html"
    assert main.run(["view", str(dataset), str(run), "--out", str(out)]) == 0
    shown, unreadable = data_of(out.read_text())["sections"]
    assert (shown["kind"], unreadable["kind"], unreadable["of"]) == (
        "dataset", "unreadable", "training",
    )  # fmt: skip
    assert "metrics.jsonl, line 1" in unreadable["why"]
    assert "metrics.jsonl, line 1" in capsys.readouterr().err


# --- trainings ---------------------------------------------------------------------------------


def test_validation_errors_keep_their_joints_and_ticks(tmp_path: Path):
    section = trainings.training_section(training(tmp_path / "run"))
    assert section["joints"] == ["joint_a", "joint_b"]
    assert section["matrix"] == [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]  # by name, not by position
    assert [v["step"] for v in section["validations"]] == [20, 40]
    curves = {curve["key"]: curve for curve in section["curves"]}
    assert curves["loss"]["x"] == [10, 20, 30, 40]
    assert curves["held_out_l1_rad"]["y"] == pytest.approx([1 / 20, 1 / 40])
    assert "kl" not in curves  # always zero
    assert "l1" not in curves  # equal to the loss


def test_a_training_that_still_runs_can_be_shown(tmp_path: Path):
    folder = training(tmp_path / "run")
    (folder / "training.json").unlink()
    (folder / "held_out.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    section = trainings.training_section(folder)
    assert "not finished" in section["note"]
    assert max(section["curves"][0]["x"]) == 40
    assert section["matrix"] is None
    (folder / "metrics.jsonl").write_text("")
    assert trainings.training_section(folder)["curves"] == []


def test_an_unfinished_training_shows_how_many_of_its_steps_are_done(tmp_path: Path):
    folder = training(tmp_path / "new", steps=240)
    (folder / "training.json").unlink()
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines.replace('"loss"', '"steps": 800, "loss"'))
    section = trainings.training_section(folder)
    assert ["steps", "240 of 800"] in section["facts"]
    assert section["badge"] == "240 of 800 steps"
    (folder / "training.json").write_text('{"wall_s": 60.0}')
    assert ["steps", "240"] in trainings.training_section(folder)["facts"]


def test_the_steps_of_an_older_training_come_from_its_newest_checkpoint(tmp_path: Path):
    folder = training(tmp_path / "old", steps=240)
    (folder / "training.json").unlink()
    for step in (120, 240):
        record = folder / f"checkpoints/step-{step:08d}/trainer.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"numbers": {"settings": {"train": {"steps": 800}}}}))
    assert ["steps", "240 of 800"] in trainings.training_section(folder)["facts"]


@pytest.mark.parametrize(
    ("units", "expected"),
    [(("rad", "1"), "rad"), (("deg", "deg"), "deg"), (("unknown",) * 2, ""), (("px", "m"), "")],
)
def test_validation_errors_have_the_unit_of_the_actions(
    units: tuple[str, str], expected: str, tmp_path: Path
):
    folder = training(tmp_path / "t")
    spec = {"action_names": ["joint_a", "joint_b"], "action_units": units}
    (folder / "policy").mkdir()
    (folder / "policy/policy.json").write_text(json.dumps({"spec": spec}))
    section = trainings.training_section(folder)
    assert section["unit"] == expected
    curve = next(c for c in section["curves"] if c["key"] == "held_out_l1_rad")
    assert curve["unit"] == expected
    assert ["validation L1, last", f"0.0250 {expected}".strip()] in section["facts"]


def test_the_error_per_joint_and_tick_of_another_validation_is_not_shown(tmp_path: Path):
    folder = training(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(validation(60)) + "\n")  # resumed and validated again
    assert trainings.training_section(folder)["matrix"] is None


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path):
    folder = training(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(DamagedFile, match=r"metrics\.jsonl, line 2"):
        trainings.training_section(folder)


def test_a_long_curve_is_reduced_to_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(trainings, "MAX_POINTS", 5)
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [json.dumps({"step": s, "loss": float(s % 2)}) for s in range(1, 101)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (curve,) = trainings.training_section(folder)["curves"]
    assert curve["x"] == [20, 40, 60, 80, 100]
    assert curve["y"] == [0.5] * 5


# --- evaluations -------------------------------------------------------------------------------


def test_videos_of_failures_come_first(evaluation: Path, monkeypatch: pytest.MonkeyPatch):
    kept = report.read(evaluation)
    assert kept.failed_seeds == [3]
    monkeypatch.setattr(evaluations, "MAX_VIDEOS", 1)
    blobs = Blobs()
    section = evaluations.evaluation_section(evaluation, blobs)
    assert [row["seed"] for row in section["rows"] if row["video"]] == [3]
    video = (evaluation / "videos" / "seed-3.mp4").read_bytes()
    assert list(blobs.by_name.values()) == [video]
    assert (section["successes"], section["episodes"]) == (5, 6)
    assert tuple(section["interval"]) == kept.interval


def test_videos_beyond_the_limit_of_a_page_are_left_out(
    evaluation: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluations, "MAX_VIDEO_BYTES", 10)
    section = evaluations.evaluation_section(evaluation, Blobs())
    assert not any(row["video"] for row in section["rows"])


def test_an_evaluation_that_still_runs_can_be_shown_and_is_not_changed(
    evaluation: Path, tmp_path: Path
):
    folder = tmp_path / "running"
    folder.mkdir()
    lines = (evaluation / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    rows = [at for at, line in enumerate(lines) if line.startswith(b'{"episode"')]
    torn = b"".join(lines[: rows[3]]) + lines[rows[3]][:20]
    (folder / "episodes.jsonl").write_bytes(torn)
    found, planned = read_unfinished(folder)
    assert (found.episodes, planned) == (3, 6)
    whole = report.read(evaluation)
    assert found == replace(whole.only(found.seeds), plan=found.plan)
    assert (folder / "episodes.jsonl").read_bytes() == torn
    assert main.run(["view", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    (section,) = data_of((tmp_path / "page.html").read_text())["sections"]
    assert "3 of 6 episodes so far" in section["note"]


# --- Rerun -------------------------------------------------------------------------------------


def test_an_invalid_rerun_target_is_refused(dataset: Path, capsys: pytest.CaptureFixture[str]):
    assert main.run(["view", str(dataset), "--rerun", "file.mp4"]) == 2
    assert "ends in .rrd" in capsys.readouterr().err


@dataclass
class Entity:
    """An entity of an .rrd file: its timelines, and its values at each row of them."""

    timelines: dict[str, np.ndarray]
    values: dict[str, list[Any]]


def read_rerun(file: Path) -> dict[str, Entity]:
    """Read every entity of a file with Rerun's own reader; static ones have no timelines."""
    from rerun.chunk import RrdReader

    parts: dict[str, list[tuple[dict[str, np.ndarray], dict[str, list[Any]]]]] = {}
    for chunk in RrdReader(file).stream():
        batch = chunk.to_record_batch()
        times = {name: np.asarray(batch.column(name)) for name in chunk.timeline_names}
        columns = {
            name.rsplit(":", 1)[1]: batch.column(name).to_pylist()
            for name in batch.schema.names
            if ":" in name
        }
        parts.setdefault(chunk.entity_path.strip("/"), []).append((times, columns))
    found: dict[str, Entity] = {}
    for path, chunks in parts.items():
        row = found[path] = Entity({}, {})
        for times, columns in chunks:  # those of one path are in the order of sending
            for name, part in times.items():
                before = row.timelines.get(name, part[:0])
                row.timelines[name] = np.concatenate([before, part])
            for name, part in columns.items():
                row.values.setdefault(name, []).extend(part)
    return found


def scalars(row: Entity) -> np.ndarray:
    assert all(len(value) == 1 for value in row.values["scalars"])
    return np.array([value[0] for value in row.values["scalars"]])


def blob(row: Entity) -> bytes:
    (value,) = row.values["blob"]
    (held,) = value
    return bytes(held)


def to_rerun(tmp_path: Path, *paths: Path) -> dict[str, Entity]:
    file = tmp_path / "sent.rrd"
    assert main.run(["view", *map(str, paths), "--rerun", str(file)]) == 0
    assert [p.name for p in tmp_path.glob("*.rrd*")] == ["sent.rrd"]  # and no partial file
    return read_rerun(file)


def test_rerun_reads_back_the_states_actions_and_frames_of_every_episode(
    dataset: Path, tmp_path: Path
):
    found = to_rerun(tmp_path, dataset)
    source = open_dataset(dataset)
    spec = source.spec
    for index, length in enumerate(source.lengths):
        episode = source.episode(index)
        ticks = np.arange(length)
        time_ns = np.round(ticks / spec.rate_hz * 1e9).astype(np.int64)
        rows = {"state": (spec.state_names, episode.state),
                "action": (spec.action_names, episode.action)}  # fmt: skip
        under = f"data/episode_{index:04d}"
        for what, (names, values) in rows.items():
            for column, name in enumerate(names):
                row = found[f"{under}/{what}/{name}"]
                np.testing.assert_array_equal(row.timelines["tick"], ticks)
                np.testing.assert_array_equal(row.timelines["time"].astype(np.int64), time_ns)
                np.testing.assert_array_equal(scalars(row), values[:, column].astype(np.float32))
        for camera in spec.cameras:
            row = found[f"{under}/camera/{camera.name}"]
            np.testing.assert_array_equal(row.timelines["tick"], ticks)
            shown = [value[0] for value in row.values["timestamp"] if value]
            np.testing.assert_array_equal(shown, time_ns)
            times, frames = decoded(blob(row))
            np.testing.assert_allclose(times, ticks / spec.rate_hz, atol=1e-6)
            assert len(frames) == length
    episodes = {path.split("/")[1] for path in found if path.startswith("data/episode_")}
    assert len(episodes) == len(source.lengths) == 3


def test_rerun_reads_back_a_training_and_an_evaluation(evaluation: Path, tmp_path: Path):
    folder = training(tmp_path / "act")
    found = to_rerun(tmp_path, folder, evaluation)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    row = found["act/loss"]
    assert row.timelines["step"].tolist() == list(losses)
    np.testing.assert_allclose(scalars(row), list(losses.values()), rtol=1e-5)  # six digits
    validated = [line for line in lines if "held_out_l1_per_joint" in line]
    row = found["act/validation_l1/joint_b"]
    assert row.timelines["step"].tolist() == [line["step"] for line in validated]
    assert scalars(row).tolist() == [line["held_out_l1_per_joint"]["joint_b"] for line in validated]
    kept = report.read(evaluation)
    row = found["evaluation/success"]
    assert row.timelines["seed"].tolist() == list(kept.seeds)
    assert scalars(row).tolist() == [float(seed != 3) for seed in kept.seeds]
    video = (evaluation / "videos" / "seed-3.mp4").read_bytes()
    assert blob(found["evaluation/videos/seed_3"]) == video
