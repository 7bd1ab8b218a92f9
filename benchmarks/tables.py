"""The tables of `make bench` as text for the documents: from the recorded file, none by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench: {} -->", "<!-- bench: end -->"
TITLES = {
    "training": "Training (`released` unless said; dropout 0.1, chunk 100)",
    "inference": "Inference, captured frames to a chunk in rad (LeRobot: its network alone)",
    "loader": "The loader, warm",
    "simulator": "The simulator",
}

Whole = dict[str, Any]


def number(value: float) -> str:
    """Three figures, without an exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def named(machine: Whole) -> str:
    """The processor and what it multiplies with: one name sells both."""
    return f"{machine['processor']} ({machine['arithmetic']})"


def performance(whole: Whole) -> str:
    """All tables, for docs/performance.md."""
    machine = whole["machine"]
    versions = "; ".join(machine["versions"].values())
    parts = [f"Measured on: {named(machine)}, {machine['threads']} threads; {versions}."]
    for name, title in TITLES.items():
        if name not in whole["tables"]:
            continue
        parts.append(f"**{title}**")
        for row in whole["tables"][name]:
            lines = [f"| {row['work']} | |", "|---|---|"]
            lines += [f"| {key} | {number(v)} |" for key, v in row.items() if key != "work"]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def readme(whole: Whole, file: str) -> str:
    """The few rows of the README."""
    tables, machine = whole["tables"], whole["machine"]
    train, answer = tables["training"], tables["inference"]
    (load,), (sim,) = tables["loader"], tables["simulator"]

    def best(row: Whole) -> tuple[str, float]:
        made = {k: v for k, v in row.items() if k.endswith(" ms") and k.startswith("open")}
        return min(made.items(), key=lambda item: item[1])

    def beside_bf16(row: Whole) -> str:
        ratio = row.get("ratio to lerobot bf16")
        return f", {ratio:.2f} times its bf16 rate" if ratio else ""

    def exported(row: Whole) -> str:
        key, ms = best(row)
        theirs = row.get("lerobot fp32 ms")
        beside = f"; LeRobot's torch in fp32 {number(theirs)} ms" if theirs else ""
        return f"{number(ms)} ms ({key.removesuffix(' ms')}{beside})"

    rows = [
        (
            f"training, {row['work']}",
            f"{row['ratio to lerobot fp32']:.2f} times LeRobot's fp32 rate" + beside_bf16(row),
        )
        for row in train
        if "ratio to lerobot fp32" in row
    ]
    rows += [
        (f"training, {r['work']}", f"{number(r['imitact samples/s'])} samples/s")
        for r in train
        if "imitact samples/s" in r
    ]
    rows += [(f"an answer, {row['work']}", exported(row)) for row in answer]
    rows += [
        ("loader, warm, 480x640", f"{number(load['imitact samples/s'])} samples/s, "
         f"{number(load['ratio to lerobot'])} times LeRobot's"),
        ("recording 50 demonstrations, from 4",
         f"{sim['recording 50 min (from 4)']:.1f} min"),
        ("500 evaluations, `replay:50`, from 40",
         f"{sim['500 evaluations, replay:50, min (from 40)']:.1f} min"),
    ]  # fmt: skip
    head = (
        f"On {named(machine)}, {machine['threads']} threads, by `make bench` (`{file}`; all "
        "of it in `docs/performance.md`):\n\n| what | result |\n|---|---|\n"
    )
    return head + "\n".join(f"| {what} | {result} |" for what, result in rows)


def blocks(whole: Whole, file: str) -> dict[Path, tuple[str, str]]:
    """Document to the name of its block and what belongs there."""
    return {
        ROOT / "docs" / "performance.md": ("tables", performance(whole)),
        ROOT / "README.md": ("summary", readme(whole, file)),
    }


def placed(text: str, name: str, block: str) -> str:
    """The document with that block in its place."""
    before, found, rest = text.partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"no block {name!r} in the document")
    return f"{before}{found}\n{block}\n{end}{after}"


def write(file: Path) -> None:
    """Put the recorded figures into the documents, once there are all of them."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    if not TITLES.keys() <= whole["tables"].keys():
        return
    for path, (name, block) in blocks(whole, file.relative_to(ROOT).as_posix()).items():
        path.write_text(placed(path.read_text(encoding="utf-8"), name, block), encoding="utf-8")
