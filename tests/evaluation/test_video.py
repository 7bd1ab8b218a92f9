"""Laws of the films of episodes, read back from the file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from imitact.core.chunking import parse
from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.rollout import rollout
from imitact.evaluation import drawing
from imitact.evaluation.video import Film, Filming, video_path
from tests.support.tiny_arm import Reacher, TinyArm

CAP = 20


def shoot(path: Path, filming: Filming, *, seed: int = 1, k: int = 6) -> list[np.ndarray]:
    """Film an episode of 20 ticks at 10 Hz; the pictures, as a player shows them."""
    env, policy = TinyArm(), Reacher()
    policy.k = k
    with Film(path, env.spec, env.stages, filming, f"seed {seed}") as film:
        for tick in rollout(
            policy,
            env,
            seed=seed,
            chunking=parse("replay:3"),
            step_cap=CAP,
            keep=filming.chosen(env.spec),
            keep_every=filming.every,
        ):
            film.take(tick)
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate or 0) == 10 / filming.every
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def looks_written(picture: np.ndarray, words: str, top: int, left: int, scale: int) -> bool:
    """Whether those words stand there in light letters on a dark ground."""
    page = np.zeros_like(picture)
    drawing.text(page, top, left, words, (255, 255, 255), scale=scale)
    where = np.s_[top : top + 7 * scale, left : left + drawing.text_width(words, scale)]
    letters = page[where][:, :, 0] > 0
    light = picture[where].max(axis=2)
    return bool(np.mean((light > 110) == letters) > 0.97)


def test_a_film_has_a_picture_every_n_ticks_and_a_still_at_the_end(tmp_path: Path) -> None:
    for every, still in ((1, 15), (4, 4)):
        pictures = shoot(tmp_path / "a.mp4", Filming(every=every))
        assert len(pictures) == CAP / every + still
        np.testing.assert_allclose(pictures[-1].astype(int), pictures[-2], atol=12)


def test_each_picture_shows_the_frame_of_its_own_tick(tmp_path: Path) -> None:
    for at, picture in enumerate(shoot(tmp_path / "a.mp4", Filming(every=4))[: CAP // 4]):
        # Below the labels; the tiny frame of 24x32 is enlarged 15 times.
        view = picture[24 + 80 : 24 + 24 * 15 - 4, 4:476]
        assert abs(view.mean() - 5 * 4 * at) < 4
        assert view.std() < 6


def test_cameras_stand_in_a_row_and_tall_ones_are_reduced(tmp_path: Path) -> None:
    pictures = shoot(tmp_path / "a.mp4", Filming(("eye", "wrist"), every=4, height=16))
    # eye 24x32 is reduced to 16x21, wrist 12x16 stays; 37 across, enlarged 13 times.
    assert pictures[0].shape[1] in (37 * 13, 37 * 13 + 1)
    last = pictures[CAP // 4 - 1]
    left, right = last[150:170, 10:260], last[150:170, 290:470]
    assert abs(left.mean() - 80) < 5
    assert abs(right.mean() - 80) < 5


def test_the_stage_and_the_outcome_stand_on_the_picture(tmp_path: Path) -> None:
    # On an odd seed the arm stops short: it starts in stage 0, and gets to 1.
    pictures = shoot(tmp_path / "a.mp4", Filming(every=2), seed=5)
    assert looks_written(pictures[0], "0/3 away", 36, 12, 2)
    assert looks_written(pictures[-1], f"no success in {CAP} ticks", 64, 12, 2)
    assert looks_written(pictures[-1], "1/3 near", 36, 12, 2)
    assert not looks_written(pictures[0], "1/3 near", 36, 12, 2)
    assert looks_written(pictures[3], "seed 5", 9, 8, 1)
    assert looks_written(pictures[3], "tick    6    0.60 s", 9, 480 - 8 - 6 * 19 + 1, 1)


def test_the_newest_chunk_is_drawn_ahead_of_now(tmp_path: Path) -> None:
    def drawn_ahead(picture: np.ndarray) -> int:
        # Of the left arm's panel the half right of now, between legend and axis: no axis is
        # there, and thin lines lose colour in a video, but not light.
        panel = picture[-168 + 32 : -30, 126:228]
        return int((panel.max(axis=2) > 110).sum())

    chunks = shoot(tmp_path / "a.mp4", Filming(every=1), k=6)
    single = shoot(tmp_path / "b.mp4", Filming(every=1), k=1)
    assert drawn_ahead(chunks[9]) > 100  # tick 9 asked for a chunk
    assert drawn_ahead(chunks[9]) > drawn_ahead(chunks[11]) > 0  # two of it are executed by then
    assert drawn_ahead(single[9]) == 0


def test_a_film_that_an_error_ends_leaves_nothing(tmp_path: Path) -> None:
    env = TinyArm()
    stream = rollout(Reacher(), env, seed=0, chunking=parse("replay:1"), keep=("eye",))

    def film_and_fail() -> None:
        with Film(tmp_path / "a.mp4", env.spec, env.stages, Filming(every=1), "x") as film:
            for tick in stream:
                film.take(tick)
            assert len(list(tmp_path.iterdir())) == 1
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        film_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_filming_refuses_what_cannot_be_shown() -> None:
    spec = TinyArm.spec
    assert Filming().chosen(spec) == ("eye",)
    with pytest.raises(SpecMismatch, match=r"no camera 'ear'; there are .'eye', 'wrist'."):
        Filming(("ear",)).chosen(spec)
    with pytest.raises(BadInput, match="every 0 ticks"):
        Filming(every=0)
    with pytest.raises(BadInput, match="8 pixels high"):
        Filming(height=8)


def test_a_film_lies_where_it_is_said_to_lie() -> None:
    assert video_path(Path("out"), 1000) == Path("out/videos/seed-1000.mp4")
