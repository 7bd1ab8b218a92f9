"""SO-101, led, recorded, learned and run on emulated servos through LeRobot's own drivers.

    python scripts/robot_learn_so101.py --out runs/so101 --lerobot-python PATH

A scripted hand moves the limp leader along one motion; imitact records what the follower is sent,
with LeRobot's camera, trains a policy for a few steps, and runs it on the same arm. It shows that
every step works; a policy that does something useful needs a task and more of both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import imitact
from imitact.api.robot_session import RobotSession
from imitact.api.run_robot import run_robot
from imitact.api.session_parts import quiet
from imitact.api.teleoperate import Person, record_robot
from imitact.control.ages import AgeBounds
from imitact.robots.config import read_config
from imitact.robots.emulation.bench import Bench
from imitact.robots.registry import BENCH_PATIENCE, robot_of
from imitact.robots.setup import RobotSetup

TASK = "Wave."
RATE_HZ, SECONDS, SETTLE_S = 30.0, 4.0, 0.5
SWING_RAD = np.array([0.6, 0.3, 0.4, 0.3, 0.5, 0.4])


def motion(number: int) -> Any:
    """Return the motion of an episode, (T, 6) rad: there and back, a little different each time."""
    rows = np.linspace(0, 1, round(RATE_HZ * SECONDS))[:, None]
    return SWING_RAD * (1 + 0.05 * number) * np.sin(np.pi * rows) ** 2


class Desk:
    """The emulated arms and the hand."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.person = bench, Person()
        # Of a busy computer, where emulated servos and cameras wait for a core.
        self.ages = AgeBounds(15.0, 1.0, 0.5)
        self.path, self.phase, self.since_s = motion(0), "", 0.0

    def setup(self) -> RobotSetup:
        """Make the robot as `imitact run --robot robot.toml` does."""
        path = Path(self.bench.folder) / "robot.toml"
        self.bench.robot_toml(path)
        return robot_of(read_config(path), patience=BENCH_PATIENCE, on_line=quiet(say))

    def place(self, session: RobotSession, number: int) -> None:
        """Let the hand hold the leader where the motion begins."""
        self.path = motion(number)
        self.bench.hand(self.path[:1])
        self.phase, session.deadman, self.since_s = "gripping", False, time.monotonic()

    def lead(self, session: RobotSession) -> None:
        """Do what a person does: engage, lead, and keep."""
        if session.phase != "leader" or not self.phase:
            return
        hand, now_s = self.bench.truth().hand, time.monotonic()
        if self.phase == "gripping" and hand == "holding":
            session.deadman, self.phase, self.since_s = True, "engaging", now_s
        elif self.phase == "engaging" and session.recording and now_s - self.since_s > SETTLE_S:
            self.bench.hand(self.path, RATE_HZ)
            self.phase = "leading"
        elif self.phase == "leading" and hand == "holding":
            self.phase, self.since_s = "judging", now_s
        elif self.phase == "judging" and now_s - self.since_s > SETTLE_S:
            self.phase = ""
            self.person.decide(session, "keep")


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> int:
    """Record, train and run; the exit status says whether all of it worked."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/so101"))
    parser.add_argument("--lerobot-python", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--write", type=Path, help="JSON file for what was found")
    args = parser.parse_args()
    os.environ["IMITACT_LEROBOT_PYTHON"] = str(args.lerobot_python.absolute())
    args.out.mkdir(parents=True, exist_ok=True)
    with Bench("so101", cameras=("front",), height=96, width=128, camera_hz=15.0) as bench:
        desk = Desk(bench)
        recorded = record_robot(
            args.out / "data",
            robot=desk.setup,
            task=TASK,
            episodes=args.episodes,
            seconds=30.0,
            ages=desk.ages,
            person=desk.person,
            on_episode=desk.place,
            on_poll=desk.lead,
            on_line=say,
        )
        say("training")
        # On a busy computer ticks are skipped, and such episodes are marked.
        few = {"steps": args.steps, "batch_size": 4, "val_episodes": 0, "marked": True}
        settings: Any = {"train": few}
        imitact.train(args.out / "data", out=args.out / "training", preset="quick", **settings)
        bench.let_go()
        run = run_robot(
            args.out / "training",
            robot=desk.setup,
            seconds=args.seconds,
            ages=desk.ages,
            on_line=say,
        )
        limp = all(truth.is_limp for truth in bench.truth().buses.values())
    dataset = imitact.open_dataset(args.out / "data")
    result = {
        "recorded": {"episodes": len(dataset.lengths), **recorded.statistics},
        "run": run.statistics,
        "limp at the end": limp,
    }
    text = json.dumps(result, indent=2, default=str)
    print(text)
    if args.write:
        args.write.write_text(text + "\n")
    return 0 if limp and len(dataset.lengths) >= args.episodes else 1


if __name__ == "__main__":
    sys.exit(main())
