"""Episode videos, read back from the file: pictures, labels and curves of each tick."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.execution import parse
from imitact.core.rollout import rollout
from imitact.evaluation.drawing import BACKGROUND, TEXT, draw_label, font, text_width
from imitact.evaluation.episode_video import episode_video, video_path
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from tests.support.tiny_arm import Reacher, TinyArm

CAP = 20


def record(
    path: Path, config: EpisodeVideoConfig, *, seed: int = 1, k: int = 6
) -> list[np.ndarray]:
    """Record an episode of 20 ticks at 10 Hz; return the pictures as a player shows them."""
    env, policy = TinyArm(), Reacher()
    policy.k = k
    with episode_video(path, env.spec, env.stages, config, f"seed {seed}") as video:
        for tick in rollout(
            policy,
            env,
            seed=seed,
            chunking=parse("replay:3"),
            step_cap=CAP,
            keep=config.cameras_in(env.spec),
            keep_every=config.every,
        ):
            video.add(tick)
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate or 0) == 10 / config.every
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def shows(picture: np.ndarray, page: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether a box of the picture equals that of the page, except in brightness."""
    left, top, right, bottom = box
    expected = np.asarray(page).astype(float)[top:bottom, left:right].max(axis=2)
    seen = picture[top:bottom, left:right].astype(float).max(axis=2)
    return bool(np.corrcoef(expected.ravel(), seen.ravel())[0, 1] > 0.95)


def shows_label(picture: np.ndarray, text: str, top: int) -> bool:
    page = Image.new("RGB", (picture.shape[1], picture.shape[0]), BACKGROUND)
    bottom = draw_label(page, top, text, TEXT)
    return shows(picture, page, (8, top, 8 + text_width(text, 20), bottom))


def shows_text(picture: np.ndarray, text: str, anchor: str) -> bool:
    page = Image.new("RGB", (picture.shape[1], picture.shape[0]), BACKGROUND)
    width = page.width
    x = 8 if anchor == "lm" else width - 8
    ImageDraw.Draw(page).text((x, 12), text, TEXT, font(13), anchor=anchor)
    return shows(picture, page, (0, 0, 90, 24) if anchor == "lm" else (width - 50, 0, width, 24))


def test_a_video_has_a_picture_every_n_ticks_and_a_still_at_the_end(tmp_path: Path) -> None:
    for every, still in ((1, 15), (4, 4)):
        pictures = record(tmp_path / "a.mp4", EpisodeVideoConfig(every=every))
        assert len(pictures) == CAP / every + still
        np.testing.assert_allclose(pictures[-1].astype(int), pictures[-2], atol=12)


def test_each_picture_shows_the_frame_of_its_own_tick(tmp_path: Path) -> None:
    for at, picture in enumerate(
        record(tmp_path / "a.mp4", EpisodeVideoConfig(every=4))[: CAP // 4]
    ):
        # Below the labels; the tiny frame of 24x32 is enlarged 15 times.
        view = picture[24 + 80 : 24 + 24 * 15 - 4, 4:476]
        assert abs(view.mean() - 5 * 4 * at) < 4
        assert view.std() < 6


def test_cameras_are_side_by_side_and_tall_ones_are_reduced(tmp_path: Path) -> None:
    pictures = record(tmp_path / "a.mp4", EpisodeVideoConfig(("eye", "wrist"), every=4, height=16))
    # eye 24x32 is reduced to 16x21, wrist 12x16 stays; 37 across, enlarged 13 times.
    assert pictures[0].shape[1] in (37 * 13, 37 * 13 + 1)
    last = pictures[CAP // 4 - 1]
    left, right = last[150:170, 10:260], last[150:170, 290:470]
    assert abs(left.mean() - 80) < 5
    assert abs(right.mean() - 80) < 5


def test_the_stage_and_the_result_are_written_on_the_picture(tmp_path: Path) -> None:
    # On an odd seed the arm stops short: it starts in stage 0 and reaches stage 1.
    pictures = record(tmp_path / "a.mp4", EpisodeVideoConfig(every=2), seed=5)
    assert shows_label(pictures[0], "0/3 away", 32)
    assert shows_label(pictures[-1], f"no success in {CAP} ticks", 64)
    assert shows_label(pictures[-1], "1/3 near", 32)
    assert not shows_label(pictures[0], "1/3 near", 32)
    assert not shows_label(pictures[-2 - 15], f"no success in {CAP} ticks", 64)
    assert shows_text(pictures[3], "seed 5", "lm")
    assert not shows_text(pictures[3], "seed 8", "lm")
    assert shows_text(pictures[3], "0.60 s", "rm")
    assert not shows_text(pictures[-1], "0.60 s", "rm")


def test_the_newest_chunk_is_drawn_ahead_of_now(tmp_path: Path) -> None:
    def drawn_ahead(picture: np.ndarray) -> int:
        # Of the left arm's panel the half right of now, between legend and axis: no axis is
        # there, and thin lines lose colour in a video, but not light.
        panel = picture[-168 + 32 : -30, 126:228]
        return int((panel.max(axis=2) > 110).sum())

    chunks = record(tmp_path / "a.mp4", EpisodeVideoConfig(every=1), k=6)
    single = record(tmp_path / "b.mp4", EpisodeVideoConfig(every=1), k=1)
    assert drawn_ahead(chunks[9]) > 100  # the policy was queried at tick 9
    assert (
        drawn_ahead(chunks[9]) > drawn_ahead(chunks[11]) > 0
    )  # two of its actions are executed by then
    assert drawn_ahead(single[9]) == 0


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    env = TinyArm()
    stream = rollout(Reacher(), env, seed=0, chunking=parse("replay:1"), keep=("eye",))

    def record_and_fail() -> None:
        with episode_video(
            tmp_path / "a.mp4", env.spec, env.stages, EpisodeVideoConfig(every=1), "x"
        ) as video:
            for tick in stream:
                video.add(tick)
            assert len(list(tmp_path.iterdir())) == 1
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        record_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_settings_that_show_nothing_are_refused() -> None:
    spec = TinyArm.spec
    assert EpisodeVideoConfig().cameras_in(spec) == ("eye",)
    with pytest.raises(SpecMismatch, match=r"no camera ear; there are eye, wrist"):
        EpisodeVideoConfig(("ear",)).cameras_in(spec)
    with pytest.raises(BadInput, match="every is 0"):
        EpisodeVideoConfig(every=0)
    with pytest.raises(BadInput, match="height is 8"):
        EpisodeVideoConfig(height=8)


def test_the_path_of_a_video_is_that_of_its_seed() -> None:
    assert video_path(Path("out"), 1000) == Path("out/videos/seed-1000.mp4")
