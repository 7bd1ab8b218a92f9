"""`imitact compare` over trainings: two settings, one setting, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from imitact.evaluation import report
from tests.evaluation.test_report import made
from tests.support.command_line import answer, is_refused


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Evaluations of three trainings of one setting and two of another, 100 seeds each."""
    found = {}
    for name, successes in {"a0": 90, "a1": 96, "a2": 93, "b0": 72, "b1": 84}.items():
        found[name] = tmp_path / name[0] / name
        report.write(made(successes), found[name])
    return found


def test_trainings_of_one_setting_have_an_interval_and_a_noise(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = answer(capsys, "compare", folders["a0"].parent, "--trainings")
    assert code == 0
    assert "success: 93.0 % over 3 trainings (95 % interval 85.5 to 100.0 %)" in out
    assert "90/100 96/100 93/100" in out
    assert "noise: 1.6 points between trainings, 2.6 from the episodes of each" in out
    assert "trainings a side settle a difference of 2 points with this noise" in out
    assert "McNemar" not in out


def test_two_settings_are_compared_by_their_trainings(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a = [folders[name] for name in ("a0", "a1", "a2")]
    code, out, _ = answer(capsys, "compare", *a, "--against", folders["b0"], folders["b1"])
    assert code == 0
    assert "A: 93.0 % over 3 trainings" in out
    assert "B: 78.0 % over 2 trainings" in out
    (line,) = [line for line in out.splitlines() if line.startswith("A minus B over trainings")]
    assert "+15.0 points (95 % interval " in line
    whole = answer(capsys, "compare", folders["a0"].parent, "--against", folders["b0"].parent)[1]
    assert line in whole.splitlines()


def test_a_comparison_needs_two_trainings_a_side_each_once(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a = [folders[name] for name in ("a0", "a1")]
    assert "at least two evaluations" in is_refused(
        capsys, "compare", *a, "--against", folders["b0"]
    )
    assert "given twice" in is_refused(capsys, "compare", *a, "--against", a[0], folders["b0"])
    assert "given twice" in is_refused(capsys, "compare", *a, a[0], "--trainings")
    assert "no such evaluation" in is_refused(capsys, "compare", *a, "--against", "no", "where")
