"""A training by preset: its values fit small datasets, chosen ones stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imitact.api.train import fit_preset, preset
from imitact.core.types import Spec
from tests.support.fake_dataset import FakeDataset


class Slow(FakeDataset):
    """A FakeDataset of 10 Hz."""

    @property
    def spec(self) -> Spec:
        return replace(super().spec, rate_hz=10.0)


def fitted(dataset: FakeDataset, **train: object) -> tuple[int, int, list[str]]:
    lines: list[str] = []
    model, settings = preset("quick")
    settings = replace(settings, **train)
    model, settings = fit_preset(model, settings, "quick", dataset, None, lines.append)
    return model.chunk_size, settings.val_episodes, lines


@pytest.mark.parametrize(
    ("dataset", "chunk_size"),
    [
        (FakeDataset(lengths=(400,) * 9), 100),
        (FakeDataset(lengths=(100,) * 9), 100),
        (FakeDataset(lengths=(99,) * 9), 99),
        (FakeDataset(lengths=(30, *(20,) * 8)), 30),
        (FakeDataset(lengths=(*(20,) * 8, 400)), 20),  # the longest is held out
        (Slow(lengths=(41,) * 9), 20),
        (Slow(lengths=(400,) * 9), 20),
        (Slow(lengths=(7,) * 9), 7),
    ],
)
def test_a_chunk_that_fits_neither_rate_nor_episodes_becomes_two_seconds(
    dataset: FakeDataset, chunk_size: int
) -> None:
    found, _, lines = fitted(dataset)
    assert found == chunk_size
    assert any("--model.chunk-size" in line for line in lines) == (found != 100)


def test_a_chunk_that_was_chosen_stays() -> None:
    model, train = preset("quick")
    model = replace(model, chunk_size=60)
    found, _ = fit_preset(model, train, "quick", Slow(lengths=(20,) * 9), None, pytest.fail)
    assert found.chunk_size == 60


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 2), (50, 2)])
def test_a_preset_holds_no_episode_out_where_none_would_be_left(count: int, expected: int) -> None:
    _, val_episodes, lines = fitted(FakeDataset(lengths=(120,) * count))
    assert val_episodes == expected
    assert any("--train.val-episodes" in line for line in lines) == (expected == 0)


def test_validation_episodes_that_were_chosen_stay() -> None:
    assert fitted(FakeDataset(lengths=(120,) * 3), val_episodes=1)[1] == 1
    assert fitted(FakeDataset(lengths=(120,) * 2), val_choice="1")[1] == 2


def test_a_resumed_training_keeps_its_chunk(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "trainer.json").write_text('{"numbers": {"settings": {"model": {"chunk": 100}}}}')
    model, train = preset("quick")
    slow = Slow(lengths=(400,) * 9)
    assert fit_preset(model, train, "quick", slow, tmp_path, pytest.fail)[0].chunk_size == 100
