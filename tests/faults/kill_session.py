"""Kill test of the recorder: kill -9 at random ticks of a robot session, then record on.

    python -m tests.faults.kill_session [--kills 50] [--seed 0] [--out FILE.json]

A recorder process records episodes of a made-up robot and is killed at a random tick, or while it
writes an episode. Its death must be named. Then every finished episode must be whole, to the bit
and to the frame, and no other may be there; and the next recorder must go on after them. Exit code
0 if all of that holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from imitact.core.errors import RobotError
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.layout import finished
from imitact.datasets.open import open_dataset
from imitact.quality.dataset_check import open_damaged
from tests.support.tick_stream import (
    CAMERAS,
    TickStream,
    frame_number,
    frame_of,
    record_of,
    sent_at,
    state_at,
    wait_for,
)

TICKS = 10
"""Of an episode."""


def run(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Kill recorders of one dataset; return how many were killed where."""
    found: Counter[str] = Counter()
    rng = random.Random(seed)
    kept: list[int] = []  # first tick of each episode that the recorder said it had kept
    for number in range(kills):
        place, maybe = killed(folder, rng, kept, while_keeping=number % 3 == 2)
        episodes = checked(folder, kept, maybe)
        if len(episodes) > len(kept):
            place += ", which was whole"
        kept[:] = episodes
        found[place] += 1
    return {**found, "episodes at the end": len(kept)}


def killed(
    folder: Path, rng: random.Random, kept: list[int], *, while_keeping: bool
) -> tuple[str, int | None]:
    """Record up to two episodes, and kill the recorder in the next.

    Args:
        folder: of the dataset.
        rng: chooses the moment.
        kept: first ticks of the finished episodes; those that are finished now are added.
        while_keeping: kill it while it writes, not at a tick.

    Returns:
        Where it was killed, and the first tick of an episode that may have been finished.
    """
    stream = TickStream()
    stream.tick = rng.randrange(1, 100) * 100
    with stream.recorder(folder) as recorder:
        assert recorder.episodes == len(kept), (recorder.episodes, kept)
        for _ in range(rng.randrange(2)):
            first = stream.tick
            recorder.begin()
            stream.play(recorder, TICKS)
            stream.post(phase=0)
            stream.post(phase=0)
            recorder.keep()
            kept.append(first)
        first, pid = stream.tick, recorder.pid
        assert pid is not None
        recorder.begin()
        if not while_keeping:
            stream.play(recorder, rng.randrange(1, TICKS))
            os.kill(pid, signal.SIGKILL)
            place, maybe = "at a tick", None
        else:
            stream.play(recorder, TICKS)
            stream.post(phase=0)
            stream.post(phase=0)
            end_s = time.monotonic() + rng.uniform(0.0, 0.3)

            def kill() -> None:
                if time.monotonic() >= end_s:
                    os.kill(pid, signal.SIGKILL)

            recorder.on_wait = kill
            place, maybe = "while it wrote an episode", first
            with contextlib.suppress(RobotError):
                recorder.keep()
                kept.append(first)
                os.kill(pid, signal.SIGKILL)
                place, maybe = "after it wrote an episode", None
        wait_for(recorder.death)
        assert recorder.death() == "the recorder was killed by SIGKILL", recorder.death()
    return place, maybe


def checked(folder: Path, kept: list[int], maybe: int | None) -> list[int]:
    """Check that the finished episodes are whole; return their first ticks.

    The episode that was being written is there whole, or not at all.
    """
    count = finished(folder)[0]
    possible = [*kept, *([maybe] if maybe is not None else [])]
    assert len(kept) <= count <= len(possible), (count, kept, maybe)
    expected = possible[:count]
    if not count:
        return []
    dataset, findings = open_damaged(folder)
    assert not findings, findings
    assert dataset is not None
    check_dataset(dataset)
    assert len(dataset.facts["episodes"]) == count
    for index, first in enumerate(expected):
        if index < len(expected) - 3:
            continue  # has been checked after the kills before
        episode, ticks = open_dataset(folder).episode(index), range(first, first + TICKS)
        sent = np.array([sent_at(tick) for tick in ticks], np.float32)
        np.testing.assert_array_equal(episode.action, sent)
        state = np.array([state_at(tick) for tick in ticks], np.float32)
        np.testing.assert_array_equal(episode.state, state)
        asked = np.array([record_of(tick).asked for tick in ticks], np.float32)
        np.testing.assert_array_equal(episode.extra_values(["asked.action"])["asked.action"], asked)
        for camera in CAMERAS:
            frames = [*episode.frames(camera.name)]
            wanted = [frame_of(camera, frame_number(tick)) for tick in ticks]
            np.testing.assert_array_equal(np.array(frames), np.array(wanted))
    return expected


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.kills, args.seed, Path(folder) / "data")
    report = {"kills": args.kills, "seed": args.seed, "killed": found}
    text = json.dumps(report, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
