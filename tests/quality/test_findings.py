"""Findings: order and counts."""

from __future__ import annotations

from imitact.quality.findings import Finding, by_severity, summary


def test_findings_are_sorted_by_severity_and_counted():
    def finding(severity: str, episode: int | None) -> Finding:
        return Finding("kind", severity, "what", "remedy", episode)  # type: ignore[arg-type]

    given = [finding("note", 1), finding("error", 3), finding("warning", None), finding("error", 2)]
    assert [(f.severity, f.episode) for f in by_severity(given)] == [
        ("error", 2), ("error", 3), ("warning", None), ("note", 1),
    ]  # fmt: skip
    assert summary(given) == "2 errors in 2 episodes, 1 warning, 1 note in 1 episode"
    assert summary([]) == "nothing found"
