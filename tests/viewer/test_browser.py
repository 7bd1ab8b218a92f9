"""A page in a real browser: all videos, cursors and values show the same tick.

Needs Chromium (Debian: apt-get install chromium; IMITACT_CHROMIUM names another one); without it
all tests here are skipped. test_viewer.py tests pages without a browser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest

from imitact.quality.findings import Finding
from imitact.viewer import demonstrations, page
from imitact.viewer.page import Blobs
from tests.support.barcode import BITS, HOSTILE, LENGTHS, SIDE, Barcode

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None,
    reason="no Chromium (Debian: apt-get install chromium)",
)


FOUND = [
    Finding.of("jump", HOSTILE, 2, ticks=(75, 76), part="left_waist"),
    Finding.of("idle-head", "it stands still", 2, ticks=(0, 30)),
    Finding.of("lag-differs", "it follows late", 1),
    Finding.of("tracking-lag", "its state follows late", part="left_waist"),
]


@pytest.fixture(scope="module")
def program() -> Iterator[browser.Browser]:
    assert PROGRAM
    with browser.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, blobs = Barcode(), Blobs()
    section = demonstrations.dataset_section(
        source, Path(HOSTILE), blobs, chosen=[0, 1, 2], found=FOUND
    )
    path = tmp_path_factory.mktemp("browser") / "page.html"
    unread = {"unread": [7], "lengths": [*section["lengths"], 0]}
    broken = page.unreadable_section("training", Path(HOSTILE), HOSTILE)
    sections = [{**section, **unread, "name": "data"}, {**broken, "name": "run"}]
    page.write_page(path, page.render_page(HOSTILE, sections, blobs))
    return path


@pytest.fixture
def shown(program: browser.Browser, file: Path) -> browser.Page:
    return program.open(file, width=1200, height=900, dark=False, fragment="#tick=0")


IS_STILL = """[...document.querySelectorAll('.card video')]
    .every((video) => video.readyState >= 2 && !video.seeking && video.paused)"""

READ = f"""[...document.querySelectorAll('.card')].map((card) => {{
    const canvas = new OffscreenCanvas({SIDE}, {SIDE});
    const context = canvas.getContext('2d');
    context.drawImage(card.querySelector('video'), 0, 0, {SIDE}, {SIDE});
    const wide = {SIDE // BITS};
    let tick = 0;
    for (let bit = 0; bit < {BITS}; bit++) {{
        const pixel = context.getImageData(bit * wide + wide / 2, {SIDE // 2}, 1, 1).data;
        tick += (pixel[0] > 128) << bit;
    }}
    return tick;
}})"""

CURSORS = "[...document.querySelectorAll('.cursor')].map((cursor) => Number(cursor.dataset.at))"
CLAIMS = "[...document.querySelectorAll('.card')].map((card) => Number(card.dataset.tick))"


def pictures(shown: browser.Page) -> list[int]:
    """Return the tick that each video shows once all videos are still."""
    shown.until(IS_STILL)
    # A seek ends before its frame is composed, so wait for two frames of the screen.
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    shown(frames)
    return shown(READ)


def is_at(shown: browser.Page, tick: int) -> None:
    own = [min(tick, length - 1) for length in LENGTHS]
    assert shown(CLAIMS) == own
    assert set(shown(CURSORS)) == {tick}
    assert pictures(shown) == own
    assert shown("document.querySelector('.bar input').value") == str(tick)
    assert f"tick {tick} " in shown("document.querySelector('.clock').textContent")


@pytest.mark.parametrize("tick", [0, 1, 17, 88, 89, 90, 149])
def test_every_video_shows_its_frame_of_the_tick(shown: browser.Page, tick: int):
    shown(f"location.hash = '#tick={tick}'")
    shown.until(f"document.querySelector('.card').dataset.tick == {min(tick, LENGTHS[0] - 1)}")
    is_at(shown, tick)


def test_arrow_keys_step_one_tick_and_ten_with_shift(shown: browser.Page):
    for _ in range(3):
        shown.key("ArrowRight")
    is_at(shown, 3)
    shown.key("ArrowRight", shift=True)
    is_at(shown, 13)
    shown.key("ArrowLeft")
    is_at(shown, 12)
    shown.key("End")
    is_at(shown, 149)
    shown.key("ArrowRight")
    is_at(shown, 149)
    shown.key("Home")
    is_at(shown, 0)


def test_dragging_in_a_chart_moves_all_videos_and_cursors(shown: browser.Page):
    box = shown("JSON.parse(JSON.stringify(document.querySelector('.plot canvas')"
                ".getBoundingClientRect()))")  # fmt: skip
    shown(f"scrollTo(0, {box['top'] - 200})")
    top = box["top"] - shown("scrollY") + 40
    inside = box["width"] - 46 - 6
    shown.drag((box["left"] + 46 + inside * 0.1, top), (box["left"] + 46 + inside * 0.5, top))
    at = shown(CURSORS)[0]
    assert abs(at - 149 / 2) <= 1
    is_at(shown, at)


def test_playing_keeps_videos_and_cursors_together_and_pausing_stops_at_one_tick(
    shown: browser.Page,
):
    shown.until(IS_STILL)
    shown.key(" ")
    shown.until("Number(document.querySelector('.cursor').dataset.at) > 20")
    shown.key(" ")
    at = shown(CURSORS)[0]
    assert 20 < at < 149
    is_at(shown, at)
    shown("document.querySelector('.bar input').value = 140;"
          "document.querySelector('.bar input').dispatchEvent(new Event('input'))")  # fmt: skip
    shown.key(" ")
    shown.until("document.querySelector('.cursor').dataset.at == 149")
    is_at(shown, 149)  # playing stops at the end


def test_values_beside_the_names_are_those_of_the_episode_in_focus(shown: browser.Page):
    shown.key("]")
    shown(f"location.hash = '#tick=30&episodes={0},{1},{2}'")
    shown.until("document.querySelector('.cursor').dataset.at == 30")
    values = shown("[...document.querySelectorAll('.chart .value')].map((v) => v.textContent)")
    episode = Barcode().episode(1)
    expected = [f"{s:.3f} → {a:.3f}" for s, a in zip(episode.state[30], episode.action[30],
                                                  strict=True)]  # fmt: skip
    order = shown("[...document.querySelectorAll('.chart .name')].map((n) => n.textContent)")
    names = list(Barcode().spec.state_names)
    assert [values[order.index(name)] for name in names] == expected


def test_episodes_can_be_hidden_and_shown_again(shown: browser.Page):
    chip = "[...document.querySelectorAll('.chip')].find((c) => c.textContent === '1')"
    shown(f"{chip}.click()")
    assert shown("[...document.querySelectorAll('.card')].map((c) => c.dataset.episode)") == [
        "0",
        "2",
    ]
    assert shown(f"{chip}.getAttribute('aria-pressed')") == "false"
    shown(f"{chip}.click()")
    shown.key("ArrowRight")
    is_at(shown, 1)


CARDS = "[...document.querySelectorAll('.card')].map((card) => card.dataset.episode)"
CHIPS = """[...document.querySelectorAll('.chip:enabled')]
    .filter((c) => !c.hidden).map((c) => c.textContent)"""


def choose(shown: browser.Page, label: str, value: str) -> None:
    shown(f"""{{const found = [...document.querySelectorAll('.choice')]
        .find((choice) => choice.textContent.startsWith('{label}')).querySelector('select, input');
        found.value = '{value}'; found.dispatchEvent(new Event('change'));}}""")


def test_findings_are_marked_on_their_card_and_at_their_tick(shown: browser.Page):
    card = "document.querySelector('.card[data-episode=\"2\"]')"
    assert shown(f"{card}.querySelector('header .found').textContent") == "1 error"
    marks = (
        f"[...{card}.querySelectorAll('.ribbon .found')].map((m) => [m.className, m.style.left])"
    )
    assert shown(marks) == [["found error", f"{100 * 75 / 149:.4f}%"], ["found warning", "0%"]]
    assert shown("document.querySelector('.card[data-episode=\"0\"] .found')") is None
    assert shown("document.querySelector('main .finding').textContent").startswith(
        "all episodes, left_waist: its state follows late"
    )
    shown(f"{card}.querySelector('.finding button').click()")
    is_at(shown, 75)
    assert shown(f"{card}.classList.contains('front')") is True


def test_episodes_are_sorted_and_filtered_by_findings_and_length(shown: browser.Page):
    choose(shown, "sort by", "findings")
    assert shown(CHIPS) == shown(CARDS) == ["2", "1", "0"]
    choose(shown, "sort by", "shortest")
    assert shown(CARDS) == ["1", "0", "2"]
    choose(shown, "only", "error")
    assert shown(CHIPS) == shown(CARDS) == ["2"]
    choose(shown, "only", "kind lag-differs")
    assert shown(CARDS) == ["1"]
    choose(shown, "only", "none")
    assert shown(CARDS) == ["0"]
    choose(shown, "only", "")
    choose(shown, "from", "100")
    assert shown(CARDS) == ["0", "2"]
    choose(shown, "to", "120")
    assert shown(CHIPS) == ["0"]
    choose(shown, "to", "110")
    assert shown(CHIPS) == []
    assert "no episode" in shown("document.querySelector('main').textContent")


def test_the_page_requests_nothing_and_logs_no_error(shown: browser.Page, file: Path):
    pictures(shown)
    assert [url for url in shown.requests if not url.startswith(file.as_uri())] == []
    assert shown.errors == []


def test_markup_in_a_name_is_shown_as_text_and_never_runs(shown: browser.Page):
    pictures(shown)
    assert shown("typeof window.hacked") == "undefined"
    assert shown("document.querySelectorAll('main img').length") == 0
    assert shown("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in shown("document.querySelector('main').textContent")
    # If markup did enter the page, its content security policy would block the script.
    shown("""{const made = document.createElement('script');
           made.textContent = 'window.hacked = 2'; document.body.append(made);}""")
    assert shown("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in message for message in shown.errors)


def test_the_light_and_the_dark_theme_have_their_own_colours(program: browser.Browser, file: Path):
    background = "getComputedStyle(document.body).backgroundColor"
    light = program.open(file, width=800, height=600, dark=False)(background)
    dark = program.open(file, width=800, height=600, dark=True)(background)
    brightness = [sum(json.loads(c.replace("rgb(", "[").replace(")", "]"))) for c in (light, dark)]
    assert brightness[0] > 600
    assert brightness[1] < 150
