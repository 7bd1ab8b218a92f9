"""Recordings of a robot, live: LeRobot reads them, and takes no column of a tick for an input.

Run it with a Python that has LeRobot 0.6 and can import imitact (`make robot-parity` does):

    python scripts/parity_recording.py

A session of a made-up robot is recorded with holds and lost times, read by LeRobot, and given to
its ACT. Exit code 0 if state, action and frames are those of imitact's reader, the features of the
policy are observation.state, the images and the action, and nothing else, and a step of ACT's
training on them has a finite loss.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before LeRobot is imported: nothing may be fetched, no cache of the user's touched.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="imitact-parity-")

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.feature_utils import dataset_to_policy_features

from imitact.core import tick_columns as columns
from imitact.core.hold import Hold
from imitact.datasets.open import open_dataset
from imitact.recording.session import RecordingSession
from tests.support.tick_stream import CAMERAS, LOSSLESS, SPEC, TASK, frames_of, record_of

CHUNK = 5
INPUTS = {"observation.state", *(f"observation.images.{camera.name}" for camera in CAMERAS)}


def record(out: Path) -> None:
    """Record two episodes; the second has a hold, and a command that nobody saw sent."""
    hold = {"hold": Hold.STATE_OLD, "held": 1, "asked": np.full(3, np.nan), "stage": 11}
    with RecordingSession(out, SPEC, TASK, video=LOSSLESS) as session:
        for first, changed in ((0, {}), (100, {105: hold, 108: {"sent_tick": -1}})):
            session.begin()
            for tick in range(first, first + 12):
                session.add(record_of(tick, **changed.get(tick, {})), frames_of)
            session.keep()


def compare(theirs: LeRobotDataset, root: Path) -> None:
    """Compare every tick of LeRobot's reader with imitact's."""
    ours = open_dataset(root)
    row = 0
    for index, length in enumerate(ours.lengths):
        episode = ours.episode(index)
        values = episode.extra_values([*ours.extra_columns])
        frames = {c.name: [*episode.frames(c.name)] for c in CAMERAS}
        for tick in range(length):
            item = theirs[row]
            row += 1
            np.testing.assert_array_equal(item["observation.state"].numpy(), episode.state[tick])
            np.testing.assert_array_equal(item["action"].numpy(), episode.action[tick])
            for name, rows in values.items():
                found = np.asarray(item[name], np.float64).ravel()
                np.testing.assert_array_equal(found, np.ravel(rows[tick]).astype(np.float64), name)
            for camera in CAMERAS:
                image = item[f"observation.images.{camera.name}"].numpy()
                shown = np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)
                np.testing.assert_array_equal(shown, frames[camera.name][tick])
    assert row == len(theirs), (row, len(theirs))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        record(root)
        theirs = LeRobotDataset("imitact/recording", root=root, video_backend="pyav")
        assert columns.ASKED in theirs.meta.features
        compare(theirs, root)
        print(f"{len(theirs)} ticks equal")
        features = dataset_to_policy_features(theirs.meta.features)
        assert features.keys() == {*INPUTS, "action"}, features
        print(f"features of a policy: {', '.join(sorted(features))}")
        config = ACTConfig(
            input_features={name: features[name] for name in INPUTS},
            output_features={"action": features["action"]},
            chunk_size=CHUNK,
            n_action_steps=CHUNK,
            dim_model=32,
            n_heads=4,
            dim_feedforward=32,
            pretrained_backbone_weights=None,
            device="cpu",
        )
        ahead = [tick / theirs.fps for tick in range(CHUNK)]
        chunked = LeRobotDataset(
            "imitact/recording", root=root, video_backend="pyav", delta_timestamps={"action": ahead}
        )
        batch = next(iter(torch.utils.data.DataLoader(chunked, batch_size=4)))
        loss, _ = ACTPolicy(config).forward(batch)
        loss.backward()
        assert torch.isfinite(loss), loss
        print(f"ACT trains on them: loss {loss.item():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
