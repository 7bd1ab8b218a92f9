"""What the documents say of speed is what was recorded; a ratio that fell is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench  # noqa: E402
import spread  # noqa: E402
import studies  # noqa: E402
import tables  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "bench"
README = (ROOT / "README.md").read_text()
# Each kind of processor has a file of its own; the documents quote the one that the README names.
(RECORDED,) = (file for file in RESULTS.glob("*.json") if f"results/bench/{file.name}`" in README)


def test_the_documents_quote_the_recorded_figures_and_nothing_else():
    whole = json.loads(RECORDED.read_text())
    for path, (name, block) in tables.blocks(whole, RECORDED.relative_to(ROOT).as_posix()).items():
        text = path.read_text()
        assert tables.placed(text, name, block) == text, f"{path}: run benchmarks/bench.py --record"


@pytest.mark.parametrize("study", [spread])
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
