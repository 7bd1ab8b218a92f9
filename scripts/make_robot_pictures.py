"""Screenshots for docs/robot.md: the page of a run and the page of virtual leaders, in Chromium.

    python scripts/make_robot_pictures.py runs/robot/LOG docs/images

Writes robot-run.png, of the log of a run, and robot-browser.png, on which a person leads both arms
of the simulated ALOHA.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import browser
import numpy as np
from make_view_picture import save

from imitact.cli import main as cli
from imitact.core.clock import WallClock
from imitact.core.robot import Reading
from imitact.envs.registry import make_env
from imitact.robots.timed_frames import frame_mailbox
from imitact.teleoperation.browser import browser_leader

WAIT_S = 120.0
HEIGHT, WIDTH = 480, 640
RUN_S = "#s=2.0"


class StillRobot:
    """The simulated ALOHA at its start: a state and a picture, and nothing moves."""

    def __init__(self) -> None:
        self.clock = WallClock()
        with closing(make_env("cube", cameras=("top",), height=HEIGHT, width=WIDTH)) as env:
            observation = env.reset(seed=1000)
            self.spec = env.spec
            self.state = np.asarray(observation.state, np.float64)
            self.picture = np.array(observation.frames["top"])

    def sent(self) -> None:
        return None

    def reading(self) -> Reading:
        now_s = self.clock.now_s()
        return Reading(self.state, now_s, now_s, sequence=1)


def save_run(running: browser.Browser, log: Path, folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "run.html"
        if cli.run(["view", str(log), "--out", str(file)]):
            sys.exit(2)
        page = running.open(file, width=1200, height=900, dark=False, fragment=RUN_S)
        page("new Promise((d) => setTimeout(d, 800))")
        save(page, folder / "robot-run.png")
        return page.errors


def save_browser(running: browser.Browser, folder: Path) -> list[str]:
    robot: Any = StillRobot()
    frames = frame_mailbox(HEIGHT, WIDTH)
    with browser_leader(robot, frames={"top": frames}) as served:
        target = running.call("Target.createTarget", url="about:blank")["targetId"]
        session = running.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = browser.Page(running, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.call("Page.navigate", url=served.url)
        running.wait("Page.loadEventFired", session)
        frames.post(robot.picture, robot.clock.now_s())
        page.until("document.querySelector('.hand .pad') !== null", WAIT_S)
        x, y = page(
            "(() => { const b = document.querySelector('.hand .pad').getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        page.call(
            "Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1
        )
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            frames.post(robot.picture, robot.clock.now_s())
            reading = served.leader.reading()
            if reading is not None and reading.engaged:
                break
            time.sleep(0.05)
        for _ in range(20):
            frames.post(robot.picture, robot.clock.now_s())
            time.sleep(0.05)
        save(page, folder / "robot-browser.png")
        return page.errors


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("log", type=Path, help="log of a run on a robot")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    program = browser.find()
    if program is None:
        raise SystemExit("no Chromium is installed (Debian: apt-get install chromium)")
    options.folder.mkdir(parents=True, exist_ok=True)
    with browser.Browser(program) as running:
        errors = save_run(running, options.log, options.folder)
        errors += save_browser(running, options.folder)
    if errors:
        raise SystemExit("a page logged errors: " + "; ".join(errors))


if __name__ == "__main__":
    main()
