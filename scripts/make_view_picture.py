"""Screenshots for docs/view.md: the page of a demo in a headless Chromium.

    python scripts/make_view_picture.py runs/demo docs/images

Writes view-demonstrations.png, view-curves.png, view-training.png, view-evaluation.png and
view-dark.png, and prints how long the page took to open and to move by a tick, with the default
episodes and with all.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import browser
from PIL import Image

from imitact.cli import main as cli

LARGEST_BYTES = 300_000

MOVE_CURSOR = """new Promise((done) => {
    const slider = document.querySelector('.bar input');
    const last = Number(slider.max);
    const times = [];
    let tick = 0;
    const step = () => {
        const began = performance.now();
        slider.value = tick;
        slider.dispatchEvent(new Event('input'));
        times.push(performance.now() - began);
        tick += 7;
        if (tick < last) requestAnimationFrame(step);
        else done(times.sort((a, b) => a - b));
    };
    step();
})"""

CHOOSE_ALL = """{
    const began = performance.now();
    [...document.querySelectorAll('.picker .text')].at(-1).click();
    document.body.getBoundingClientRect();
    performance.now() - began
}"""

TRAINING_END = "[...document.querySelectorAll('[data-kind=training] figure')].at(-1)"
EVALUATION_END = "document.querySelectorAll('[data-kind=evaluation] tbody tr')[8]"


def bottom_of(page: browser.Page, element: str, margin: int = 0) -> int:
    """Return the bottom of an element, in pixels from the top of the page."""
    return round(page(f"{element}.getBoundingClientRect().bottom + scrollY")) + margin


def wait_for_videos(page: browser.Page) -> None:
    page.until("""[...document.querySelectorAll('.card video')]
        .every((video) => video.readyState >= 2 && !video.seeking)""")
    page("new Promise((d) => setTimeout(d, 400))")


def save(page: browser.Page, path: Path, *, height: int | None = None) -> None:
    """Save the window, or the page down to `height`, as a PNG of few colours below 300 kB."""
    whole = path.with_suffix(".whole.png")
    page.screenshot(whole, height=height)
    picture = Image.open(io.BytesIO(whole.read_bytes())).convert("RGB")
    whole.unlink()
    for colours in (256, 128, 64):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            break
    else:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes; take less of the page")
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def open_tab(page: browser.Page, kind: str) -> None:
    panel = f"document.querySelector('[data-kind={kind}]')"
    page(f"document.getElementById({panel}.getAttribute('aria-labelledby')).click()")
    page("scrollTo(0, 0)")
    page("new Promise((d) => setTimeout(d, 500))")


def time_cursor(page: browser.Page, what: str) -> None:
    times = page(MOVE_CURSOR)
    median, slow = times[len(times) // 2], times[int(0.95 * len(times))]
    print(f"{what}: {len(times)} moves of the cursor, median {median:.1f} ms, 95 % {slow:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path, help="an existing page to use as it is")
    options = parser.parse_args()
    program = browser.find()
    if program is None:
        raise SystemExit("no Chromium is installed (Debian: apt-get install chromium)")
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, browser.Browser(program) as running:
        file = options.page or Path(scratch) / "demo.html"
        if not options.page and cli.run(["view", str(options.demo), "--out", str(file)]):
            sys.exit(2)
        page = running.open(file, width=1280, height=860, dark=False, fragment="#tick=120")
        took = page("performance.getEntriesByType('navigation')[0].loadEventEnd")
        print(f"{file.stat().st_size / 1e6:.1f} MB, opened in {took / 1000:.2f} s")
        wait_for_videos(page)
        save(page, options.folder / "view-demonstrations.png")
        page("document.querySelector('.arms, .panels').scrollIntoView()")
        page("scrollBy(0, -140)")  # its heading, below the sticky bar
        wait_for_videos(page)
        save(page, options.folder / "view-curves.png")
        page("scrollTo(0, 0)")
        time_cursor(page, "episodes with video")
        open_tab(page, "training")
        save(page, options.folder / "view-training.png", height=bottom_of(page, TRAINING_END, 12))
        open_tab(page, "evaluation")
        save(page, options.folder / "view-evaluation.png", height=bottom_of(page, EVALUATION_END))
        dark = running.open(file, width=1280, height=860, dark=True, fragment="#tick=200")
        wait_for_videos(dark)
        save(dark, options.folder / "view-dark.png")
        print(f"all episodes chosen in {dark(CHOOSE_ALL):.0f} ms")
        time_cursor(dark, "all episodes")
        errors = page.errors + dark.errors
        if errors:
            raise SystemExit("the page logged errors: " + "; ".join(errors))


if __name__ == "__main__":
    main()
