"""What the documents say of speed is what was recorded; a ratio that fell is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import augmentation
import bench
import pytest
import spread
import studies
import tables

from tests.support.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "bench"
README = (ROOT / "README.md").read_text()
# Each kind of processor has a file of its own; the documents quote the one that the README names.
(RECORDED,) = (file for file in RESULTS.glob("*.json") if f"results/bench/{file.name}`" in README)


def test_the_documents_quote_the_recorded_figures_and_nothing_else():
    whole = json.loads(RECORDED.read_text())
    for path, (name, block) in tables.blocks(whole, RECORDED.relative_to(ROOT).as_posix()).items():
        text = path.read_text()
        assert tables.placed(text, name, block) == text, f"{path}: run benchmarks/bench.py --record"


@pytest.mark.parametrize("study", [augmentation, spread])
def test_the_tables_of_the_studies_are_their_results(study: ModuleType):
    rows = json.loads((studies.RESULTS / f"{study.__name__}.json").read_text())["rows"]
    page = studies.PAGE.read_text()
    assert tables.placed(page, study.__name__, study.table(rows)) == page, "run the study again"


def test_a_block_that_is_missing_is_not_passed_over():
    with pytest.raises(ValueError, match="no block 'tables'"):
        tables.placed("nothing here", "tables", "new")


def test_a_ratio_that_fell_by_more_than_a_tenth_is_a_regression_and_no_other_figure_is():
    before = {"training": [{"work": "a", "ratio to lerobot": 2.0, "s/step": 1.0}]}

    def now(ratio: float) -> dict[str, list[dict[str, object]]]:
        return {"training": [{"work": "a", "ratio to lerobot": ratio, "s/step": 9.0}]}

    assert bench.regressions(now(1.81), before) == []
    assert bench.regressions(now(2.5), before) == []
    (line,) = bench.regressions(now(1.79), before)
    assert "a, ratio to lerobot: 1.79, recorded 2.00" in line
    assert bench.regressions({}, before), "a work that is no longer measured is not passed over"


def _told(place: Path, then: str) -> tuple[str, tuple[str, ...]]:
    """What os.execv is called with: tell the own process's number there, then do that."""
    return "/bin/sh", ("sh", "-c", f"echo $$ > {place}.tmp; mv {place}.tmp {place}; {then}")


def test_a_study_runs_all_of_its_line_each_in_a_process_of_its_own(tmp_path: Path):
    wanted = [_told(tmp_path / str(n), f"sleep 0.{n}") for n in range(3)]
    assert set(studies.side_by_side(os.execv, wanted, 2)) == set(wanted)
    assert len({(tmp_path / str(n)).read_text() for n in range(3)}) == 3


def test_a_study_runs_no_more_at_once_than_it_may(tmp_path: Path):
    busy = tmp_path / "busy"
    alone = f"mkdir {busy} && sleep 0.2 && rmdir {busy}"  # mkdir fails beside another
    wanted = [_told(tmp_path / str(n), alone) for n in range(3)]
    assert list(studies.side_by_side(os.execv, wanted, 1)) == wanted


@pytest.mark.parametrize("how", ["fails", "SIGTERM", "asked for no more"])
def test_a_study_that_ends_early_leaves_nothing_running_and_starts_nothing_more(
    tmp_path: Path, how: str
):
    first, beside, after = (tmp_path / name for name in ("first", "beside", "after"))
    both = f"while ! [ -e {beside} ]; do sleep 0.02; done; "
    end = {"fails": "exit 7", "SIGTERM": f"kill {os.getpid()}; exec sleep 60"}.get(how, "exit 0")
    wanted = [_told(first, both + end), _told(beside, "exec sleep 60"), _told(after, "exit 0")]
    ended = studies.side_by_side(os.execv, wanted, 2)
    if how == "asked for no more":
        assert next(ended) == wanted[0]
        ended.close()
    else:
        with pytest.raises(RuntimeError if how == "fails" else KeyboardInterrupt):
            list(ended)
    for place in (first, beside):
        with pytest.raises(ProcessLookupError):
            os.kill(int(place.read_text()), 0)
    assert not after.exists(), "the next was started all the same"
