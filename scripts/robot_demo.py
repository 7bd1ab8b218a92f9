"""Robot demo: ALOHA's teleoperation, recording, training and running, on emulated hardware.

Four emulated Dynamixel buses: the two followers move gym-aloha's arms, and a scripted hand moves
the two limp leaders. imitact's own driver speaks to the servos as to those of an arm. 50 cube
transfers are led by the hand and recorded at 50 Hz; a policy is trained on them and runs on the
same buses from 100 starts; the same policy is evaluated in the environment beside it.

    python scripts/robot_demo.py --out runs/robot-demo

On the virtual clock, which is the default, the result does not depend on the computer. With --clock
wall the buses are pseudo-terminals, and every part is a process of its own.

Interrupted, the same command continues. The numbers go to OUT/robot_demo.json and to --result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imitact
from imitact.api.robot_session import RobotSession
from imitact.api.run_robot import run_robot
from imitact.api.session_parts import quiet
from imitact.api.teleoperate import Person, record_robot
from imitact.control.ages import AgeBounds
from imitact.core.errors import RobotError
from imitact.envs.registry import RECOMMENDED_MODEL
from imitact.robots.config import read_config
from imitact.robots.emulation.bench import Bench
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.registry import BENCH_PATIENCE, SimOptions, robot_of
from imitact.robots.setup import RobotSetup

TASK = "Pick up the cube with the right arm and hand it over to the left arm."
SUCCESS = 4
FIRST_EVALUATED = 1000
SETTLE_S = 0.5


class Desk:
    """The emulated robot, with its hand and its cube."""

    def __init__(self, out: Path, args: argparse.Namespace) -> None:
        self.bench = Bench(
            "aloha",
            cameras=("top",),
            height=args.height,
            width=args.width,
            camera_hz=args.camera_hz,
            exact_pictures=True,
        )
        self.toml = out / "robot.toml"
        self.ages = AgeBounds(args.state_ticks, args.picture_s, args.leader_s)
        self.watchdog_s = args.watchdog_s
        self.person = Person()
        self.path: Any = None
        self.phase = ""
        self.since_s = 0.0

    def setup(self) -> RobotSetup:
        self.bench.robot_toml(self.toml)
        config = read_config(self.toml)
        # Of a busy computer, where emulated servos wait for a core.
        arms = {side: replace(arm, watchdog_s=self.watchdog_s) for side, arm in config.arms.items()}
        config = replace(config, arms=arms)
        return robot_of(config, patience=BENCH_PATIENCE, on_line=quiet(say))

    # -- the hand ------------------------------------------------------------------------------

    def place(self, session: RobotSession, seed: int) -> None:
        """Put the cube to a start, and the leaders to where the followers are."""
        self.path = expert_trajectory("cube", seed)
        self.bench.reset(seed, arms=False)
        self.bench.hand(self.path[:1])
        self.phase, session.deadman = "gripping", False
        self.since_s = time.monotonic()

    def lead(self, session: RobotSession) -> None:
        """Do what a person does: engage, lead, and judge."""
        if session.phase != "leader" or not self.phase:
            return
        truth = self.bench.truth()
        now_s = time.monotonic()
        if self.phase == "gripping" and truth.hand == "holding":
            session.deadman, self.phase, self.since_s = True, "engaging", now_s
        elif self.phase == "engaging" and session.recording and now_s - self.since_s > SETTLE_S:
            self.bench.hand(self.path, 50.0)
            self.phase = "leading"
        elif self.phase == "leading" and truth.hand == "holding":
            self.phase, self.since_s = "judging", now_s
        elif self.phase == "judging" and now_s - self.since_s > SETTLE_S:
            self.phase = ""
            good = truth.best_reward >= SUCCESS
            say(f"the hand: {truth.stage}, {'kept' if good else 'dropped'}")
            self.person.decide(session, "keep" if good else "drop")


@contextlib.contextmanager
def desk_of(out: Path, args: argparse.Namespace) -> Iterator[Desk | None]:
    """Yield the emulated robot of the wall clock; None on the virtual one, which needs none."""
    if args.clock == "virtual":
        yield None
        return
    desk = Desk(out, args)
    with desk.bench:
        yield desk


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def record(desk: Desk | None, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Record what is missing of the demonstrations."""
    have = len(imitact.open_dataset(data).lengths) if (data / "meta/info.json").exists() else 0
    if have >= args.episodes:
        return {}
    common: dict[str, Any] = {"task": TASK, "episodes": args.episodes, "seconds": 30.0}
    if desk is None:
        sim = SimOptions(seed=have, cameras=("top",), height=args.height, width=args.width)
        report = record_robot(
            data, robot="virtual:cube", leader="expert", sim=sim, on_line=say, **common
        )
    else:
        report = record_robot(
            data,
            robot=desk.setup,
            ages=desk.ages,
            person=desk.person,
            on_episode=lambda session, number: desk.place(session, have + number),
            on_poll=desk.lead,
            on_line=say,
            **common,
        )
    return {"kept": report.kept, "dropped": report.dropped, **report.statistics}


def run(desk: Desk | None, policy: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the policy from the starts that have no result yet; they are run in order."""
    journal = out / "starts.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    done: list[dict[str, Any]] = [json.loads(line) for line in lines]
    first = FIRST_EVALUATED + len(done)
    missing = args.starts - len(done)
    statistics: dict[str, Any] = {}

    def best_reward(session: RobotSession) -> float:
        outcome = session.setup.outcome
        return outcome.highest_reward if outcome else desk.bench.truth().best_reward if desk else 0

    def begin(session: RobotSession, number: int) -> None:
        if desk is not None:
            desk.bench.reset(first + number, arms=False)

    def poll(session: RobotSession) -> None:
        if desk is not None and session.phase == "policy" and best_reward(session) >= SUCCESS:
            session.finish("success")

    def end(session: RobotSession, number: int) -> None:
        best = best_reward(session)
        row = {"seed": first + number, "success": best >= SUCCESS, "reward": best}
        with journal.open("a") as file:
            file.write(json.dumps(row) + "\n")
        done.append(row)
        say(f"start {row['seed']}: reward {best:g}")
        if desk is not None:  # a gripper that still held the cube would not close at the start
            desk.bench.reset(row["seed"] + 1, arms=False)

    if missing > 0:
        report = run_robot(
            policy,
            robot="virtual:cube" if desk is None else desk.setup,
            episodes=missing,
            seconds=args.seconds,
            chunking=args.chunking,
            ages=None if desk is None else desk.ages,
            sim=SimOptions(seed=first, cameras=("top",), height=args.height, width=args.width),
            on_episode=begin,
            on_end=end,
            on_poll=poll,
            on_line=say,
        )
        statistics = report.statistics
    good = sum(row["success"] for row in done)
    return {"starts": len(done), "successes": good, **statistics}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/robot-demo"))
    parser.add_argument("--result", type=Path, default=None)
    parser.add_argument("--clock", choices=("virtual", "wall"), default="virtual")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=0, help="of the training; 0: the preset's")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--chunking", default="ensemble:0.01/10")
    parser.add_argument("--camera-hz", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="longest run of the policy")
    parser.add_argument("--state-ticks", type=float, default=3.0)
    parser.add_argument("--picture-s", type=float, default=0.2)
    parser.add_argument("--leader-s", type=float, default=0.1)
    parser.add_argument("--watchdog-s", type=float, default=0.2, help="of the servos")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    data, training = out / "data", out / "training"
    result_file = out / "robot_demo.json"
    numbers = json.loads(result_file.read_text()) if result_file.exists() else {}

    def keep(name: str, values: dict[str, Any]) -> None:
        if values:
            numbers[name] = values
        text = json.dumps(numbers, indent=2) + "\n"
        result_file.write_text(text)
        if args.result:
            args.result.write_text(text)

    numbers["settings"] = {k: v for k, v in vars(args).items() if k not in ("out", "result")}
    numbers["cores"] = os.cpu_count()
    try:
        with desk_of(out, args) as desk:
            keep("record", record(desk, data, args))
        say("training")
        settings: Any = {"train": {"steps": args.steps}} if args.steps else {}
        if (args.height, args.width) == (480, 640):
            settings["model"] = RECOMMENDED_MODEL["cube"]
        imitact.train(data, out=training, preset="quick", resume=training.exists(), **settings)
        with desk_of(out, args) as desk:
            keep("run", run(desk, training, out, args))
    except RobotError as error:
        raise SystemExit(f"robot_demo: {error}; the same command continues") from None
    env = imitact.evaluate(
        training, out=out / "evaluation", env="cube", episodes=args.starts, chunking=args.chunking
    )
    keep("evaluate", {"starts": env.episodes, "successes": env.successes})
    for name in ("run", "evaluate"):
        say(f"{name}: {numbers[name]['successes']} of {numbers[name]['starts']}")


if __name__ == "__main__":
    main()
