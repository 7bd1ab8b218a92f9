"""Blind training: refused where there is what looks like cameras, unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import imitact
from imitact.core.errors import BadInput
from imitact.core.validate import check_dataset
from imitact.datasets.joined import Joined
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.subset import Subset
from imitact.datasets.without_cameras import WithoutCameras, cameras_line, seen_by_policy
from tests.support.fake_dataset import FakeDataset
from tests.support.lerobot_files import arm, v21

DEPTH = "observation.images.depth"


def blind(root: Path) -> Path:
    about = {DEPTH: {"dtype": "uint16", "shape": [24, 32]}}
    return v21(root, arm(**about), {DEPTH: lambda i, n: np.zeros((n, 24, 32), np.uint16)})


def test_cameras_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path):
    dataset = open_dataset(blind(tmp_path / "d"))
    thinned = open_dataset(tmp_path / "d", ReadConfig(every=2))
    for each in (dataset, thinned, Subset(dataset, [0]), Joined([dataset, dataset], ["a", "b"])):
        with pytest.raises(BadInput, match=rf"{DEPTH} is left out .*depth.*--no-cameras"):
            seen_by_policy(each, no_cameras=False)
        assert seen_by_policy(each, no_cameras=True) is each


def test_train_refuses_before_anything_is_written(tmp_path: Path):
    with pytest.raises(BadInput, match="--no-cameras"):
        imitact.train(blind(tmp_path / "d"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_joints_alone_needs_no_option():
    dataset = FakeDataset(cameras=())
    assert seen_by_policy(dataset, no_cameras=False) is dataset
    assert cameras_line(dataset.spec) == "no cameras: the policy is trained on joints alone"
    with_goal = FakeDataset(cameras=(), environment_size=1)
    assert "joints and the environment's state" in cameras_line(with_goal.spec)


def test_the_cameras_that_a_policy_sees_are_told_in_one_line():
    dataset = FakeDataset(cameras=("front", "wrist"))
    assert cameras_line(dataset.spec) == "cameras: front (64x64), wrist (64x64)"


def test_without_cameras_only_the_cameras_are_gone():
    dataset = FakeDataset()
    found = seen_by_policy(dataset, no_cameras=True)
    assert isinstance(found, WithoutCameras)
    check_dataset(found)
    assert found.spec.cameras == ()
    assert (found.lengths, found.weights) == (dataset.lengths, dataset.weights)
    assert found.fingerprint != dataset.fingerprint
    np.testing.assert_array_equal(found.episode(2).state, dataset.episode(2).state)
