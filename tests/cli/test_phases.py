"""Phases: times add up over interruptions, and a file of another job is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from imitact.cli.phases import STORE_EVERY_S, Phases
from imitact.core.errors import BadInput, DamagedFile


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_a_phase_adds_up_over_interruptions(tmp_path: Path):
    clock = Clock()
    begin = partial(Phases, tmp_path / "phases.json", {"seed": 1}, clock)
    phases = begin()

    def stopped() -> None:
        with phases.phase("train"):
            clock.now += 10
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not phases.done("train")

    again = begin()
    assert not again.done("train")
    with again.phase("train"):
        clock.now += 5
    assert again.done("train")
    assert begin().wall_s == {"train": 15.0}
    assert begin().done("train")


def test_a_kill_loses_a_few_seconds_at_most(tmp_path: Path):
    clock = Clock()
    begin = partial(Phases, tmp_path / "phases.json", {}, clock)
    phases = begin()
    with phases.phase("record"):
        for _ in range(100):
            clock.now += 1
            phases.still_running()
            if clock.now % 7 == 0:  # as if it were killed here
                assert clock.now - begin().wall_s.get("record", 0.0) <= STORE_EVERY_S
    assert begin().wall_s == {"record": 100.0}


def test_other_settings_are_refused(tmp_path: Path):
    phases = Phases(tmp_path / "phases.json", {"train": {"steps": 1, "lr": 2}, "seed": 0})
    with phases.phase("record"):
        pass
    with pytest.raises(BadInput, match=r"train\.steps was 1, is now 9\. Give the same"):
        Phases(tmp_path / "phases.json", {"train": {"steps": 9, "lr": 2}, "seed": 0})


@pytest.mark.parametrize("text", ["{", "[]", '{"done": []}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "phases.json").write_text(text)
    with pytest.raises(DamagedFile, match="Remove it"):
        Phases(tmp_path / "phases.json", {})
