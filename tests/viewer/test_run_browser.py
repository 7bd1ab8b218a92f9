"""The page of a run in a real browser: one cursor for all charts, keys, marks, a narrow screen.

Needs Chromium, as test_browser.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest

from imitact.viewer import page, runs
from imitact.viewer.page import Blobs
from tests.viewer.test_runs import write_log

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium (Debian: apt-get install chromium)"
)

CURSORS = "[...new Set([...document.querySelectorAll('.cursor')].map((c) => +c.dataset.at))]"
VALUE = """[...document.querySelectorAll('.chart')].find((chart) =>
    chart.querySelector('.name').textContent === '{}').querySelector('.value').textContent"""


@pytest.fixture(scope="module")
def program() -> Iterator[browser.Browser]:
    assert PROGRAM
    with browser.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, blobs = tmp_path_factory.mktemp("run"), Blobs()
    section = {**runs.run_section(write_log(folder / "log"), blobs), "name": "log"}
    page.write_page(folder / "page.html", page.render_page("a run", [section], blobs))
    return folder / "page.html"


@pytest.fixture
def shown(program: browser.Browser, file: Path) -> browser.Page:
    return program.open(file, width=1200, height=900, dark=False, fragment="#s=0")


def at(shown: browser.Page) -> float:
    (found,) = shown(CURSORS)  # one for all charts
    return found


def test_keys_move_all_cursors_by_ticks_and_from_mark_to_mark(shown: browser.Page):
    shown.key("ArrowRight")
    assert at(shown) == pytest.approx(0.02)
    shown.key("ArrowRight", shift=True)
    assert at(shown) == pytest.approx(0.22)
    for begins in (0.4, 0.8, 1.6):
        shown.key("]")
        assert at(shown) == pytest.approx(begins)
    shown.key("[")
    assert at(shown) == pytest.approx(0.8)
    shown.key("End")
    assert at(shown) == pytest.approx(1.98)
    shown.key("Home")
    assert at(shown) == 0
    assert shown.errors == []


def test_the_words_of_a_hold_and_the_values_of_the_tick_are_shown(shown: browser.Page):
    shown("location.hash = '#s=0.42'")
    shown.until("document.querySelector('.clock').textContent.startsWith('0.42 s')")
    assert shown(VALUE.format("what happened")) == "policy; answer late: no answer for 0.4 s"
    assert "asked –" in shown(VALUE.format("elbow"))
    shown("document.querySelector('[data-mark=\"filter motion\"] button').click()")
    assert at(shown) == pytest.approx(0.8)
    assert "too fast 40" in shown(VALUE.format("what happened"))


def test_zoom_keeps_the_cursor_in_the_window_and_0_shows_all(shown: browser.Page):
    view = "tabs[open].view"
    shown("location.hash = '#s=1.2'")
    shown.until("document.querySelector('.clock').textContent.startsWith('1.20 s')")
    shown.key("+")
    shown.key("+")
    low, high = shown(f"[{view}.from, {view}.to]")
    assert low < 1.2 < high
    assert high - low == pytest.approx(1.98 / 4, abs=0.01)
    for _ in range(8):
        shown.key("End")  # the window follows
        assert at(shown) == pytest.approx(1.98)
        shown.key("+")
    shown.key("Home")
    assert shown(f"{view}.from") == 0
    shown.key("0")
    assert shown(f"{view}.to") == pytest.approx(1.98)
    assert shown.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_screen_of_400_pixels_needs_no_sideways_scrolling(
    program: browser.Browser, file: Path, dark: bool
):
    shown = program.open(file, width=400, height=800, dark=dark)
    assert shown("document.documentElement.scrollWidth") <= 400
    assert shown.errors == []
    assert shown.requests == [] or all(url.startswith(file.as_uri()) for url in shown.requests)
