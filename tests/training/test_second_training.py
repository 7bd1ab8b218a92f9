"""The second training: more steps, a new schedule, the best checkpoint, and fine-tuning."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imitact.core.errors import BadInput
from imitact.core.types import Spec
from imitact.deploy.load_policy import load_policy
from imitact.models.fine_tuning import Parent
from imitact.models.policy import TorchPolicy
from imitact.training import checkpoint
from imitact.training.config import TrainConfig
from imitact.training.loop import train
from imitact.training.optimizer_step import lr_scale
from tests.support.fake_dataset import FakeDataset
from tests.training.test_loop import (
    CONFIG,
    DATASET,
    TINY,
    config,
    equal,
    everything,
    lines,
    weights,
)


def flat(**changes: Any) -> TrainConfig:
    """Return settings of a constant learning rate after the warm-up."""
    return config(final_lr_fraction=1.0, **changes)


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "training.json").read_text())


# -- more steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"ema_decay": 0.9}, {"ema_decay": 0.0}, {"warmup_steps": 0}, {"warmup_steps": 10}]
)
def test_more_steps_at_a_constant_rate_give_the_weights_of_the_longer_training(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(DATASET, tmp_path / "once", TINY, flat(steps=13, **changes))
    train(DATASET, tmp_path / "twice", TINY, flat(steps=7, **changes))
    assert not equal(weights(tmp_path / "once"), weights(tmp_path / "twice"))
    train(DATASET, tmp_path / "twice", TINY, flat(steps=13, **changes), resume=True)
    assert equal(weights(tmp_path / "once"), weights(tmp_path / "twice"))
    assert equal(everything(tmp_path / "once", 13), everything(tmp_path / "twice", 13))
    assert summary(tmp_path / "twice")["steps"] == 13
    assert "schedule_starts" not in summary(tmp_path / "twice")


def test_a_falling_rate_goes_on_where_only_the_warm_up_is_done(tmp_path: Path) -> None:
    """The warm-up does not depend on the number of steps."""
    longer, shorter = (config(steps=steps, warmup_steps=6) for steps in (13, 6))
    train(DATASET, tmp_path / "once", TINY, longer)
    train(DATASET, tmp_path / "twice", TINY, shorter)
    train(DATASET, tmp_path / "twice", TINY, longer, resume=True)
    assert equal(weights(tmp_path / "once"), weights(tmp_path / "twice"))


def test_fewer_steps_than_done_are_refused(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, flat(steps=7))
    for new_schedule in (False, True):
        with pytest.raises(BadInput, match=r"--train\.steps is 5, .* has done 7 steps"):
            train(
                *(DATASET, tmp_path, TINY, flat(steps=5)),
                resume=True,
                new_schedule=new_schedule,
            )
    assert summary(tmp_path)["steps"] == 7


def test_more_steps_of_a_falling_rate_are_refused_with_the_rates_and_the_option_that_does_it(
    tmp_path: Path,
) -> None:
    train(DATASET, tmp_path, TINY, config(steps=7))
    before = weights(tmp_path)
    with pytest.raises(BadInput, match=r"--train\.steps was 7, is now 13.*--new-schedule") as error:
        train(DATASET, tmp_path, TINY, config(steps=13), resume=True)
    for steps in (7, 13):
        rate = f"{1e-2 * lr_scale(config(steps=steps), 6):.3g} after 7 of {steps}"
        assert rate in str(error.value)
    assert "\n" not in str(error.value)
    assert equal(before, weights(tmp_path))


# -- a new schedule --------------------------------------------------------------------------------


def test_a_new_schedule_spans_the_steps_left_and_is_recorded(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, config(steps=7))
    longer, said = config(steps=17, lr=5e-3), list[str]()
    train(
        *(DATASET, tmp_path, TINY, longer), resume=True, new_schedule=True, on_line=said.append
    )  # fmt: skip
    assert "a new schedule of the learning rate spans steps 8 to 17" in said
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    first = [1e-2 * lr_scale(config(steps=7), step) for step in range(7)]
    second = [5e-3 * lr_scale(config(steps=10), step) for step in range(10)]
    assert rates == pytest.approx(first + second)
    assert summary(tmp_path)["schedule_starts"] == [7]
    # The same command continues it, with the option or without.
    after = weights(tmp_path)
    for new_schedule in (True, False):
        train(DATASET, tmp_path, TINY, longer, resume=True, new_schedule=new_schedule)
        assert equal(after, weights(tmp_path))
        assert summary(tmp_path)["schedule_starts"] == [7]


def test_an_interrupted_new_schedule_resumes_to_the_same_weights(tmp_path: Path) -> None:
    once, halves = tmp_path / "once", tmp_path / "halves"
    train(DATASET, once, TINY, config(steps=7))
    train(DATASET, once, TINY, config(steps=17), resume=True, new_schedule=True)
    shutil.copytree(once, halves)
    shutil.rmtree(halves / "checkpoints" / "step-00000017")
    newest = checkpoint.list_checkpoints(halves / "checkpoints")[0].name
    assert "step-00000007" < newest < "step-00000017"
    train(DATASET, halves, TINY, config(steps=17), resume=True, new_schedule=True)
    assert equal(weights(once), weights(halves))
    assert summary(halves)["schedule_starts"] == [7]


def test_another_rate_is_refused_unless_a_new_schedule_is_asked_for(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, flat(steps=7))
    with pytest.raises(BadInput, match=r"--train\.lr was 0\.01, is now 0\.001.*--new-schedule"):
        train(DATASET, tmp_path, TINY, flat(steps=9, lr=1e-3), resume=True)
    with pytest.raises(BadInput, match=r"--train\.seed was 5, is now 6"):
        train(
            *(DATASET, tmp_path, TINY, flat(steps=9, lr=1e-3, seed=6)),
            resume=True,
            new_schedule=True,
        )


# -- nothing to resume -----------------------------------------------------------------------------


def test_a_training_that_finds_nothing_to_resume_says_so(tmp_path: Path) -> None:
    said = list[str]()
    train(DATASET, tmp_path, TINY, config(steps=1), resume=True, on_line=said.append)
    assert f"nothing to resume in {tmp_path}: training begins at step 1" in said
    said.clear()
    train(DATASET, tmp_path, TINY, config(steps=1), resume=True, on_line=said.append)
    assert not any("nothing to resume" in line for line in said)


# -- checkpoints -----------------------------------------------------------------------------------


def a_falling_then_rising_validation(monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    from imitact.training import loop

    def validate(updater: Any, *given: Any) -> dict[str, Any]:
        step = int(next(iter(updater.optimizer.state.values()))["step"].item())
        return {
            "held_out_l1_rad": 1.0 + abs(step - best),
            "held_out_l1_per_joint": {},
            "held_out_l1_rad_per_tick": [],
        }

    monkeypatch.setattr(loop, "validate", validate)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_checkpoints_and_the_best_are_kept_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    a_falling_then_rising_validation(monkeypatch, best=4)
    settings = config(steps=13, val_every=2, checkpoint_every=3, keep=keep)
    said = list[str]()
    train(DATASET, tmp_path, TINY, settings, on_line=said.append)
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")]
    want = [*[13, 12, 9, 6, 3][:keep], 4]
    assert names == [f"step-{step:08d}" for step in want]
    assert summary(tmp_path)["best_step"] == 4
    assert any("lowest validation error" in line and "step-00000004" in line for line in said)


def test_the_best_checkpoint_outlives_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_falling_then_rising_validation(monkeypatch, best=2)
    settings = {"val_every": 2, "checkpoint_every": 1, "keep": 1}
    train(DATASET, tmp_path, TINY, flat(steps=5, **settings))
    train(DATASET, tmp_path, TINY, flat(steps=9, **settings), resume=True)
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000009", "step-00000002"]


def test_the_number_of_checkpoints_kept_may_change_on_resuming_and_is_at_least_one(
    tmp_path: Path,
) -> None:
    train(DATASET, tmp_path, TINY, config(keep=5, checkpoint_every=2))
    assert len(checkpoint.list_checkpoints(tmp_path / "checkpoints")) >= 5
    train(DATASET, tmp_path, TINY, config(keep=1), resume=True)
    with pytest.raises(BadInput, match=r"--train\.keep is 0"):
        config(keep=0)
    # Files from before it was a setting have no such key, and continue.
    assert "keep" not in config().to_json()
    assert config(keep=5).to_json()["keep"] == 5


def test_a_checkpoint_is_loaded_as_a_policy(tmp_path: Path) -> None:
    train(DATASET, tmp_path, TINY, dataclasses.replace(config(), keep=3, checkpoint_every=6))
    policy = load_policy(tmp_path / "checkpoints" / "step-00000006")
    assert policy.spec == DATASET.spec
    newest = load_policy(tmp_path / "checkpoints" / "step-00000013")
    last = load_policy(tmp_path)
    state = DATASET.episode(0).state[0]
    frames = {"top": next(DATASET.episode(0).frames("top"))}
    from imitact.core.types import Observation

    chunks = [np.array(p.chunk(Observation(state, frames))) for p in (policy, newest, last)]
    assert np.array_equal(chunks[1], chunks[2])
    assert not np.array_equal(chunks[0], chunks[2])


# -- fine-tuning -----------------------------------------------------------------------------------


class Wider(FakeDataset):
    """A dataset with a fourth joint."""

    @property
    def spec(self) -> Spec:
        units = (*DATASET.spec.state_units, "rad")
        return dataclasses.replace(super().spec, state_units=units, action_units=units)


WIDER = Wider(DATASET.lengths, ("top", "wrist"), size=4, fingerprint="wider")


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    policy = TorchPolicy.load(train(DATASET, tmp_path / "parent", TINY, config(steps=3)))
    return Parent(policy, str(tmp_path / "parent" / "policy"), policy.identity)


def test_a_fine_tuning_begins_with_the_weights_of_the_policy(
    tmp_path: Path, parent: Parent
) -> None:
    """With a rate of 0 they stay."""
    still = config(steps=2, lr=0.0, lr_backbone=0.0, weight_decay=0.0, ema_decay=0.0)
    train(DATASET, tmp_path / "a", TINY, still, parent=parent)
    have, want = weights(tmp_path / "a"), weights(tmp_path / "parent")
    trained = {name for name in want if "running" not in name and "tracked" not in name}
    assert len(trained) > 20
    assert all(torch.equal(have[name], want[name]) for name in trained)


def test_a_fine_tuning_is_recorded_with_what_is_new(tmp_path: Path, parent: Parent) -> None:
    out, said = tmp_path / "a", list[str]()
    model = dataclasses.replace(TINY, state_noise=0.0)
    train(WIDER, out, model, config(steps=2), parent=parent, on_line=said.append)
    origin = summary(out)["from"]
    assert origin["path"] == parent.path
    assert origin["identity"] == parent.identity
    assert origin["statistics"] == "policy"
    for part in (
        "state joint_3 is new",
        "action joint_3 is new",
        "camera wrist is new",
        "--model.state-noise is 0.0, the policy's 0.1",
    ):
        assert sum(part in line for line in origin["changes"]) == 1, part
        assert sum(part in line for line in said) == 1, part
    policy = TorchPolicy.load(out / "policy")
    assert policy.parent == parent.identity
    assert policy.spec == WIDER.spec
    # What is not a fine-tuning has no such record.
    assert "from" not in summary(tmp_path / "parent")


@pytest.mark.parametrize("statistics", ["policy", "data"])
@pytest.mark.parametrize("dataset", [DATASET, WIDER], ids=["same", "wider"])
def test_a_fine_tuning_resumes_to_the_same_weights_without_its_parent(
    tmp_path: Path, parent: Parent, statistics: Any, dataset: Any
) -> None:
    parent = dataclasses.replace(parent, statistics=statistics)
    once, halves = tmp_path / "once", tmp_path / "halves"
    train(dataset, once, TINY, CONFIG, parent=parent)
    shutil.copytree(once, halves)
    shutil.rmtree(halves / "checkpoints" / "step-00000013")
    shutil.rmtree(halves / "policy")
    train(dataset, halves, TINY, CONFIG, resume=True)
    assert equal(everything(once, 13), everything(halves, 13))
    assert equal(weights(once), weights(halves))
    one, other = (json.loads((f / "policy" / "policy.json").read_text()) for f in (once, halves))
    assert one == other
    assert summary(once)["from"] == summary(halves)["from"]


def test_a_fine_tuning_is_resumed_with_the_same_parent_only(tmp_path: Path, parent: Parent) -> None:
    train(DATASET, tmp_path / "a", TINY, config(steps=2), parent=parent)
    other = dataclasses.replace(parent, identity="other")
    with pytest.raises(BadInput, match=r"--from was .*parent/policy"):
        train(DATASET, tmp_path / "a", TINY, config(steps=2), resume=True, parent=other)
    other = dataclasses.replace(parent, statistics="data")
    with pytest.raises(BadInput, match=r"--statistics was policy"):
        train(DATASET, tmp_path / "a", TINY, config(steps=2), resume=True, parent=other)
    with pytest.raises(BadInput, match="its training began without --from"):
        train(DATASET, tmp_path / "parent", TINY, config(steps=3), resume=True, parent=parent)
    train(DATASET, tmp_path / "a", TINY, config(steps=2), resume=True, parent=parent)


def test_a_fine_tuned_policy_can_be_fine_tuned(tmp_path: Path, parent: Parent) -> None:
    first = TorchPolicy.load(train(WIDER, tmp_path / "a", TINY, config(steps=2), parent=parent))
    again = Parent(first, "a", first.identity, "data")
    second = TorchPolicy.load(train(WIDER, tmp_path / "b", TINY, config(steps=2), parent=again))
    assert second.parent == first.identity


# -- threads ---------------------------------------------------------------------------------------


def test_a_change_of_the_number_of_threads_is_told_and_recorded_over_resumptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imitact.training import thread_count

    torch.set_num_threads(2)
    monkeypatch.setattr(thread_count, "LOOK_S", 0.0)
    monkeypatch.setattr(thread_count.OtherProcesses, "cores", lambda self: 1.0)
    said = list[str]()
    train(DATASET, tmp_path, TINY, flat(steps=3), on_line=said.append)
    assert any("step 1: 1 instead of 2 threads" in line for line in said)
    assert summary(tmp_path)["thread_changes"] == [[1, 1]]
    torch.set_num_threads(2)
    train(DATASET, tmp_path, TINY, flat(steps=5), resume=True)
    assert summary(tmp_path)["thread_changes"] == [[1, 1], [4, 1]]
