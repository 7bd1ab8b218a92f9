"""Tests of the benchmarks: documents quote the recorded numbers, and regressions are reported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import augmentation
import bench
import delay
import fine_tune
import numpy as np
import prefix
import pytest
import spread
import studies
import tables
import torch

from imitact.core.execution import parse
from imitact.models.act import Prediction
from tests.models import test_policy
from tests.support.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "bench"
README = (ROOT / "README.md").read_text()
# Each kind of processor has its own file; the documents quote the one that the README names.
(RECORDED,) = (file for file in RESULTS.glob("*.json") if f"results/bench/{file.name}`" in README)


def test_the_documents_quote_the_recorded_numbers():
    whole = json.loads(RECORDED.read_text())
    for path, (name, block) in tables.blocks(whole, RECORDED.relative_to(ROOT).as_posix()).items():
        text = path.read_text()
        assert tables.placed(text, name, block) == text, f"{path}: run benchmarks/bench.py --record"


@pytest.mark.parametrize("study", [augmentation, fine_tune, spread])
def test_the_tables_of_the_studies_match_their_results(study: ModuleType):
    rows = json.loads((studies.RESULTS / f"{study.__name__}.json").read_text())["rows"]
    page = studies.PAGE.read_text()
    assert tables.placed(page, study.__name__, study.table(rows)) == page, "run the study again"


def test_the_table_of_the_study_of_seams_matches_its_results():
    rows = json.loads((studies.RESULTS / "delay.json").read_text())["rows"]
    page = studies.PAGE.read_text()
    table = delay.table(delay.pooled(rows))
    assert tables.placed(page, "delay", table) == page, "run benchmarks/delay.py again"


def test_a_missing_block_of_a_document_is_an_error():
    with pytest.raises(ValueError, match='no block "tables"'):
        tables.placed("nothing here", "tables", "new")


def test_only_a_ratio_that_fell_by_more_than_a_tenth_is_a_regression():
    before = {"training": [{"work": "a", "ratio to lerobot": 2.0, "s/step": 1.0}]}

    def now(ratio: float) -> dict[str, list[dict[str, object]]]:
        return {"training": [{"work": "a", "ratio to lerobot": ratio, "s/step": 9.0}]}

    assert bench.regressions(now(1.81), before) == []
    assert bench.regressions(now(2.5), before) == []
    (line,) = bench.regressions(now(1.79), before)
    assert "a, ratio to lerobot: 1.79, recorded 2.00" in line
    assert bench.regressions({}, before), "a work that is no longer measured is a regression"


def _job(pid_file: Path, script: str) -> tuple[str, tuple[str, ...]]:
    """Return arguments of os.execv for a shell that writes its process id, then runs a script."""
    write_pid = f"echo $$ > {pid_file}.tmp; mv {pid_file}.tmp {pid_file}"
    return "/bin/sh", ("sh", "-c", f"{write_pid}; {script}")


def test_a_study_runs_every_job_in_its_own_process(tmp_path: Path):
    jobs = [_job(tmp_path / str(n), f"sleep 0.{n}") for n in range(3)]
    assert set(studies.side_by_side(os.execv, jobs, 2)) == set(jobs)
    assert len({(tmp_path / str(n)).read_text() for n in range(3)}) == 3


def test_a_study_runs_no_more_jobs_at_once_than_its_width(tmp_path: Path):
    busy = tmp_path / "busy"
    exclusive = f"mkdir {busy} && sleep 0.2 && rmdir {busy}"  # mkdir fails beside another job
    jobs = [_job(tmp_path / str(n), exclusive) for n in range(3)]
    assert list(studies.side_by_side(os.execv, jobs, 1)) == jobs


@pytest.mark.parametrize("how", ["a job fails", "SIGTERM", "the caller closes it"])
def test_a_study_that_ends_early_ends_its_jobs_and_starts_no_other(tmp_path: Path, how: str):
    first, beside, after = (tmp_path / name for name in ("first", "beside", "after"))
    wait = f"while ! [ -e {beside} ]; do sleep 0.02; done; "
    ends = {"a job fails": "exit 7", "SIGTERM": f"kill {os.getpid()}; exec sleep 60"}
    jobs = [
        _job(first, wait + ends.get(how, "exit 0")),
        _job(beside, "exec sleep 60"),
        _job(after, "exit 0"),
    ]
    ended = studies.side_by_side(os.execv, jobs, 2)
    if how == "the caller closes it":
        assert next(ended) == jobs[0]
        ended.close()
    else:
        with pytest.raises(RuntimeError if how == "a job fails" else KeyboardInterrupt):
            list(ended)
    for pid_file in (first, beside):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)
    assert not after.exists(), "another job was started"


def test_the_network_of_the_prefix_study_is_the_usual_one_without_a_prefix():
    usual = test_policy.made()
    with prefix.network("prefix"):
        prefixed = test_policy.made()
    assert isinstance(prefixed.net, prefix.PrefixAct)
    observation = test_policy.observed()
    np.testing.assert_array_equal(prefixed.chunk(observation), usual.chunk(observation))
    prefixed.net.prefix = torch.ones(2, 3)
    np.testing.assert_array_equal(
        prefixed.chunk(observation), usual.chunk(observation)
    )  # W = b = 0
    torch.nn.init.ones_(prefixed.net.prefix_proj.weight)
    assert not np.array_equal(prefixed.chunk(observation), usual.chunk(observation))
    prefixed.net.prefix = None
    np.testing.assert_array_equal(prefixed.chunk(observation), usual.chunk(observation))


def test_a_tick_of_the_prefix_is_not_in_the_loss(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prefix, "LONGEST", 3)
    monkeypatch.setattr(prefix, "ABSENT", 0.0)
    with prefix.network("prefix"):
        prefixed = test_policy.made()
    prefixed.net.train()
    torch.manual_seed(0)
    batch = test_policy.batch_of()
    prefixed.loss(batch)
    net = prefixed.net
    assert isinstance(net, prefix.PrefixAct)
    assert net._in_prefix is not None
    lengths = net._in_prefix.sum(dim=1)
    assert 1 <= int(lengths.min()) <= int(lengths.max()) <= 3
    action, is_pad = batch["action"], batch["is_pad"]
    wrong = torch.where(net._in_prefix[..., None], action + 9, action)
    assert net.losses(Prediction(wrong, None, None), action, is_pad).l1 == 0


def test_a_prefix_is_what_is_executed_until_the_answer_comes():
    for text in ("replay:10", "replay:10~5", "ensemble:0.1/4"):
        chunking, rng = parse(text, 4), np.random.default_rng(0)
        found: dict[int, np.ndarray] = {}
        executed = []
        for tick in range(60):
            if chunking.wants_chunk:
                found[tick] = prefix.prefix_of(chunking, 4)
                chunking.feed(rng.normal(size=(20, 2)))
            executed.append(chunking.next())
        assert len(found.pop(0)) == 0
        assert len(found) > 1
        for tick, actions in found.items():
            if tick + 4 <= len(executed):
                np.testing.assert_array_equal(actions, np.array(executed[tick : tick + 4]))
