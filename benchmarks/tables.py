"""Benchmark tables: the recorded numbers of `make bench` as Markdown for the documents."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench: {} -->", "<!-- bench: end -->"
TITLES = {
    "training": "Training (`released` unless named; dropout 0.1, chunk 100)",
    "inference": "Inference, captured frames to a chunk in rad (LeRobot: its network alone)",
    "loader": "Data loader, cache built",
    "simulator": "Simulator",
}
LABELS = {
    "gflop a sample": "GFLOP per sample",
    "processor's best rate GFLOP/s": "best rate of the processor, GFLOP/s",
    "building it s": "building the cache, s",
    "cache GB": "cache, GB",
    "largest process while building GB": "largest process while building, GB",
    "recording 50 min (from 4)": "recording 50 demonstrations, min (from 4)",
}
"""Key of a recorded row to its label in the documents, where they differ."""

Whole = dict[str, Any]


def number(value: float) -> str:
    """Return a number with three significant digits and no exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def named(machine: Whole) -> str:
    """Return the processor with its instruction set, since one product name covers several."""
    return f"{machine['processor']} ({machine['arithmetic']})"


def performance(whole: Whole) -> str:
    """Return all tables, for docs/performance.md."""
    machine = whole["machine"]
    versions = "; ".join(machine["versions"].values())
    parts = [f"Measured on: {named(machine)}, {machine['threads']} threads; {versions}."]
    for name, title in TITLES.items():
        if name not in whole["tables"]:
            continue
        parts.append(f"**{title}**")
        for row in whole["tables"][name]:
            lines = [f"| {row['work']} | |", "|---|---|"]
            lines += [
                f"| {LABELS.get(key, key)} | {number(value)} |"
                for key, value in row.items()
                if key != "work"
            ]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def readme(whole: Whole, file: str) -> str:
    """Return the rows of the README."""
    tables, machine = whole["tables"], whole["machine"]
    train, infer = tables["training"], tables["inference"]
    (load,), (sim,) = tables["loader"], tables["simulator"]

    def best(row: Whole) -> tuple[str, float]:
        made = {k: v for k, v in row.items() if k.endswith(" ms") and k.startswith("open")}
        return min(made.items(), key=lambda item: item[1])

    def beside_bf16(row: Whole) -> str:
        ratio = row.get("ratio to lerobot bf16")
        return f", {ratio:.2f} times its bf16 rate" if ratio else ""

    def precision(row: Whole) -> str:
        faster = row.get("imitact bf16 s/step", inf) < row["imitact fp32 s/step"]
        return "in bf16 " if faster else ""

    def exported(row: Whole) -> str:
        key, ms = best(row)
        theirs = row.get("lerobot fp32 ms")
        beside = f"; LeRobot's torch in fp32 {number(theirs)} ms" if theirs else ""
        return f"{number(ms)} ms ({key.removesuffix(' ms')}{beside})"

    rows = [
        (
            f"training, {row['work']}",
            f"{precision(row)}{row['ratio to lerobot fp32']:.2f} times LeRobot's fp32 rate"
            + beside_bf16(row),
        )
        for row in train
        if "ratio to lerobot fp32" in row
    ]
    rows += [
        (f"training, {r['work']}", f"{number(r['imitact samples/s'])} samples/s")
        for r in train
        if "imitact samples/s" in r
    ]
    rows += [(f"inference, {row['work']}", exported(row)) for row in infer]
    rows += [
        ("data loader, cache built, 480x640", f"{number(load['imitact samples/s'])} samples/s, "
         f"{number(load['ratio to lerobot'])} times LeRobot's"),
        ("recording 50 demonstrations, from 4",
         f"{sim['recording 50 min (from 4)']:.1f} min"),
        ("500 evaluations, `replay:50`, from 40",
         f"{sim['500 evaluations, replay:50, min (from 40)']:.1f} min"),
    ]  # fmt: skip
    versions = (version.split(", ") for version in machine["versions"].values())
    beside = " beside ".join(f"{name} ({torch})" for name, torch in versions)
    beside = beside.replace("lerobot", "LeRobot")
    head = (
        f"{beside}, on {named(machine)}, {machine['threads']} threads, "
        f"by `make bench` (`{file}`; all tables in `docs/performance.md`):\n\n"
        "| what | result |\n|---|---|\n"
    )
    return head + "\n".join(f"| {what} | {result} |" for what, result in rows)


def blocks(whole: Whole, file: str) -> dict[Path, tuple[str, str]]:
    """Return the name and the text of the generated block of each document."""
    return {
        ROOT / "docs" / "performance.md": ("tables", performance(whole)),
        ROOT / "README.md": ("summary", readme(whole, file)),
    }


def placed(text: str, name: str, block: str) -> str:
    """Return a document with the named block replaced."""
    before, found, rest = text.partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f'no block "{name}" in the document')
    return f"{before}{found}\n{block}\n{end}{after}"


def write(file: Path) -> None:
    """Write the recorded numbers into the documents, once all tables are recorded."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    if not TITLES.keys() <= whole["tables"].keys():
        return
    for path, (name, block) in blocks(whole, file.relative_to(ROOT).as_posix()).items():
        path.write_text(placed(path.read_text(encoding="utf-8"), name, block), encoding="utf-8")
