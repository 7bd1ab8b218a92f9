"""The pictures of docs/view.md: the page of a demo, opened in a headless Chromium.

    python scripts/make_view_picture.py runs/demo docs/images

Writes view-demonstrations.png, view-curves.png, view-training.png, view-evaluation.png and
view-dark.png, and says how long the page took to open and to move by a tick, with the chosen
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

MOVE = """new Promise((done) => {
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


def below(page: browser.Page, what: str, room: int = 0) -> int:
    """Where the page is cut, so that `what` is the last in it: pixels from its top."""
    return round(page(f"{what}.getBoundingClientRect().bottom + scrollY")) + room


def settled(page: browser.Page) -> None:
    page.until("""[...document.querySelectorAll('.card video')]
        .every((video) => video.readyState >= 2 && !video.seeking)""")
    page("new Promise((d) => setTimeout(d, 400))")


def save(page: browser.Page, path: Path, *, height: int | None = None) -> None:
    """The window (or so much of the page from its top) as a PNG of few colours, below 300 kB."""
    whole = path.with_suffix(".whole.png")
    page.picture(whole, height=height)
    picture = Image.open(io.BytesIO(whole.read_bytes())).convert("RGB")
    whole.unlink()
    for colours in (256, 128, 64):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            break
    else:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes; take less of the page")
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def tab(page: browser.Page, kind: str) -> None:
    panel = f"document.querySelector('[data-kind={kind}]')"
    page(f"document.getElementById({panel}.getAttribute('aria-labelledby')).click()")
    page("scrollTo(0, 0)")
    page("new Promise((d) => setTimeout(d, 500))")


def move(page: browser.Page, what: str) -> None:
    times = page(MOVE)
    median, slow = times[len(times) // 2], times[int(0.95 * len(times))]
    print(f"{what}: {len(times)} moves of the cursor, median {median:.1f} ms, 95 % {slow:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path, help="a page that was made before, to be used as is")
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
        settled(page)
        save(page, options.folder / "view-demonstrations.png")
        page("document.querySelector('.arms, .panels').scrollIntoView()")
        page("scrollBy(0, -140)")  # its heading, below the bar that stays
        settled(page)
        save(page, options.folder / "view-curves.png")
        page("scrollTo(0, 0)")
        move(page, "episodes with video")
        tab(page, "training")
        save(page, options.folder / "view-training.png", height=below(page, TRAINING_END, 12))
        tab(page, "evaluation")
        save(page, options.folder / "view-evaluation.png", height=below(page, EVALUATION_END))
        dark = running.open(file, width=1280, height=860, dark=True, fragment="#tick=200")
        settled(dark)
        save(dark, options.folder / "view-dark.png")
        print(f"all episodes chosen in {dark(CHOOSE_ALL):.0f} ms")
        move(dark, "all episodes")
        complaints = page.complaints + dark.complaints
        if complaints:
            raise SystemExit("the page complains: " + "; ".join(complaints))


if __name__ == "__main__":
    main()
