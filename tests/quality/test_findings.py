"""Findings: order and counts."""

from __future__ import annotations

import re

from imitact.quality.findings import KINDS, Finding, by_severity, summary
from tests.support.paths import ROOT


def test_findings_are_sorted_by_severity_and_counted():
    def finding(severity: str, episode: int | None) -> Finding:
        return Finding("kind", severity, "what", "remedy", episode)  # type: ignore[arg-type]

    given = [finding("note", 1), finding("error", 3), finding("warning", None), finding("error", 2)]
    assert [(f.severity, f.episode) for f in by_severity(given)] == [
        ("error", 2), ("error", 3), ("warning", None), ("note", 1),
    ]  # fmt: skip
    assert summary(given) == "2 errors in 2 episodes, 1 warning, 1 note in 1 episode"
    assert summary([]) == "nothing found"


def test_every_finding_is_a_line_whose_sentences_end_once():
    for kind in KINDS:
        line = Finding.of(kind, "what was found", 1).line
        assert re.search(r"[^.?!][.?] \[[a-z-]+\]$", line), line


def test_every_kind_of_finding_is_documented():
    rows = re.findall(
        r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", (ROOT / "docs/checking.md").read_text(), re.M
    )
    documented = {kind for row in rows for kind in re.findall(r"`([a-z-]+)`", row)}
    assert documented == set(KINDS)
