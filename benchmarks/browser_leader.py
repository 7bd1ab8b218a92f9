"""Browser leader: the time until a robot is held after a person or a page lets go, by wall clock.

    python benchmarks/browser_leader.py [--repeats 10] [--write FILE.json]

A headless Chromium holds a pad of the page; a loop asks `LeaderSource` every 2 ms. Each way to let
go is timed from the moment at which it was asked for to the first answer that does not follow:

- released: the pointer is lifted;
- blurred: the window loses the focus;
- navigated: the page is left; until the browser has the next one, it still leads;
- frozen: every renderer of the browser gets SIGSTOP, so that no message says that it lets go;
- closed: the tab is closed.

Beside them: the time between two messages that arrive, and how old a message is when it is posted.
Needs Chromium and the extra "sim". Meaningful on a computer that does nothing else; the load is
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import browser  # noqa: E402

from imitact.control.engagement import Engagement  # noqa: E402
from imitact.control.sources import LeaderSource  # noqa: E402
from imitact.core.clock import WallClock  # noqa: E402
from imitact.teleoperation.browser import BrowserPage, browser_leader  # noqa: E402
from tests.support.control import RATE_HZ, SPEC, ObedientRobot, moment  # noqa: E402

START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5] * 2)
ASK_S = 0.002
PATIENCE_S = 60.0


class Session:
    """The page in a browser, and a source that follows its leader."""

    def __init__(self, program: browser.Browser, served: BrowserPage) -> None:
        self.program, self.served = program, served
        engagement = Engagement(SPEC.action_names, SPEC.action_units, RATE_HZ)
        self.source = LeaderSource(served.leader, SPEC, engagement)

    def follows(self) -> bool:
        now = replace(moment(), now_s=time.monotonic(), command=START)
        return self.source.action(now).engaged is True

    def wait(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("did not happen")
            time.sleep(ASK_S)

    def open(self) -> None:
        """Open the page, and hold its pad until the robot follows."""
        self.wait(lambda: "no page" in self.served.leader.fault())
        self.target = self.program.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.program.call(
            "Target.attachToTarget", targetId=self.target, flatten=True
        )["sessionId"]  # fmt: skip
        self.page = browser.Page(self.program, session)
        for domain in ("Page", "Runtime"):
            self.page.call(f"{domain}.enable")
        self.page.call("Page.navigate", url=self.served.url)
        self.page.until("window.document.querySelectorAll('.pad').length === 2", PATIENCE_S)
        self.mouse("mousePressed")
        self.wait(self.follows)

    def mouse(self, kind: str) -> None:
        place = self.page(
            "(() => { const b = document.querySelector('.pad').getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        self.page.call(
            "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
            buttons=int(kind != "mouseReleased"), clickCount=1,
        )  # fmt: skip

    def renderers(self) -> list[int]:
        found = self.program.call("SystemInfo.getProcessInfo")["processInfo"]
        return [process["id"] for process in found if process["type"] == "renderer"]

    def close(self) -> None:
        for pid in self.renderers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        with contextlib.suppress(RuntimeError):  # it was closed
            self.close_tab()

    def close_tab(self) -> None:
        self.program.call("Target.closeTarget", targetId=self.target)


def signal_all(session: Session, number: int) -> Callable[[], None]:
    pids = session.renderers()

    def send() -> None:
        for pid in pids:
            os.kill(pid, number)

    return send


WAYS: dict[str, Callable[[Session], Callable[[], object]]] = {
    "released": lambda session: lambda: session.mouse("mouseReleased"),
    "blurred": lambda session: lambda: session.page("dispatchEvent(new Event('blur'))"),
    "navigated": lambda session: lambda: session.page.call("Page.navigate", url="about:blank"),
    "frozen": lambda session: signal_all(session, signal.SIGSTOP),
    "closed": lambda session: session.close_tab,
}


def held_after_ms(session: Session, way: str) -> float:
    """Return the time from letting go to the first answer that does not follow, ms."""
    session.open()
    try:
        let_go = WAYS[way](session)
        begin_s = time.monotonic()
        # What waits for the browser's answer would hide the end; the law is asked right after.
        let_go()
        while session.follows():
            time.sleep(ASK_S)
        return (time.monotonic() - begin_s) * 1000
    finally:
        session.close()


def messages(session: Session, seconds: float) -> dict[str, list[float]]:
    """Return p50, p90, p99 and largest of gaps between messages and of their ages, ms."""
    session.open()
    box = session.served.leader._boxes.goal
    times = []
    end = time.monotonic() + seconds
    newest = 0
    while time.monotonic() < end:
        found = box.times()
        if found is not None and found[0] != newest:
            newest = found[0]
            times.append(found[1][:2])
        time.sleep(ASK_S)
    session.close()
    rows = np.array(times) * 1000

    def spread(values: np.ndarray) -> list[float]:
        return [round(float(v), 1) for v in (*np.percentile(values, [50, 90, 99]), values.max())]

    return {"gap_ms": spread(np.diff(rows[:, 1])), "age_ms": spread(rows[:, 1] - rows[:, 0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the messages")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    program = browser.find()
    if program is None:
        raise SystemExit("no Chromium (Debian: apt-get install chromium)")
    robot = ObedientRobot(WallClock(), SPEC)
    robot.state[:] = START
    result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with browser_leader(robot) as served, browser.Browser(program) as running:
        session = Session(running, served)
        result["messages"] = messages(session, options.seconds)
        for way in WAYS:
            times = [held_after_ms(session, way) for _ in range(options.repeats)]
            result[way] = {
                "p50_ms": round(float(np.median(times)), 1),
                "largest_ms": round(max(times), 1),
            }
            print(way, result[way], flush=True)
    print(json.dumps(result))
    if options.write:
        options.write.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
