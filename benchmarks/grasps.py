"""Grasp prediction: how exactly an insertion policy predicts the hand poses of its grasps.

    python benchmarks/grasps.py --policy runs/insertion/training/policy --data runs/insertion/data
        [--write benchmarks/results/grasps.json --name "hands rest"]

A grasp is the tick of a demonstration at which a gripper's target falls below 0.35. The policy
predicts the hand of that tick from the observations 20, 60 and 90 ticks before. Reported is the
difference from the demonstrated hand along x, y and z of the scene: mean and standard deviation in
mm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.types import Observation
from imitact.datasets.open import open_dataset
from imitact.envs.experts.insertion import InsertionExpert
from imitact.envs.experts.kinematics import Kinematics
from imitact.models.policy import TorchPolicy

AHEAD = (20, 60, 90)
ARMS = {"left": (slice(0, 6), 6), "right": (slice(7, 13), 13)}
CLOSING = 0.35  # target of a gripper, which moves from 1 to 0


def prediction_errors(policy: TorchPolicy, data: Path) -> list[dict[str, Any]]:
    """Return mean and standard deviation of the error in mm, by arm and ticks ahead."""
    dataset, arms = open_dataset(data), Kinematics(InsertionExpert._INITIAL_JOINTS)
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for index in range(len(dataset.lengths)):
        episode = dataset.episode(index)
        for side, (joints, gripper) in ARMS.items():
            # The grippers start closed, and are open by tick 60.
            closing = 60 + int((episode.action[60:, gripper] < CLOSING).argmax())
            demonstrated = arms.hand(side, episode.action[closing, joints].astype(np.float64))
            for ahead in AHEAD:
                tick = closing - ahead
                frames = {
                    camera.name: next(episode.frames(camera.name, tick, tick + 1))
                    for camera in dataset.spec.cameras
                }
                chunk = policy.chunk(Observation(episode.state[tick], frames))
                hand = arms.hand(side, chunk[ahead, joints].astype(np.float64))
                found.setdefault((side, ahead), []).append(1e3 * (hand - demonstrated)[:3, 3])
    return [
        {
            "arm": side,
            "ticks ahead": ahead,
            "mean mm": np.mean(rows, axis=0).round(2).tolist(),
            "std mm": np.std(rows, axis=0).round(2).tolist(),
        }
        for (side, ahead), rows in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--name", default="policy", help="key of the rows in the file of --write")
    given = parser.parse_args()
    rows = prediction_errors(TorchPolicy.load(given.policy), given.data)
    for row in rows:
        print(f"{row['arm']:5}  {row['ticks ahead']} ahead  {row['mean mm']} +- {row['std mm']}")
    if given.write:
        stored = json.loads(given.write.read_text()) if given.write.exists() else {}
        given.write.write_text(json.dumps({**stored, given.name: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
