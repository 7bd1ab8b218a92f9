"""Cost benchmark: training and inference time over cameras, image size, chunk and width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# One setting varies at a time; the others are `released` with one camera of 240x320, batches of 2.
BASE = {"cameras": 1, "height": 240, "width": 320, "chunk": 100, "model": {}}
AXES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "cameras": [(str(n), {"cameras": n}) for n in (1, 2, 4)],
    "image size": [
        (f"{h}x{w}", {"height": h, "width": w})
        for h, w in ((120, 160), (240, 320), (360, 480), (480, 640))
    ],
    "chunk": [(str(k), {"chunk": k}) for k in (25, 100, 200)],
    "width": [
        (str(d), {"model": {"hidden_dim": d, "dim_feedforward": d * 25 // 4}})
        for d in (128, 256, 512)
    ],
}


def measure(sides: Any, precision: str) -> list[dict[str, Any]]:
    """Return a row per axis and value: ms per trained sample, and ms per inference with torch."""
    rows: list[dict[str, Any]] = []
    seen: dict[str, tuple[float, float]] = {}
    for axis, values in AXES.items():
        for label, change in values:
            work = {**BASE, **change}
            key = repr(sorted(work.items(), key=str))
            if key not in seen:
                step_s = sides.median_s(
                    "imitact", "train", **work, precision=precision, batch=2, repeats=3
                )
                answer_s = sides.median_s("imitact", "infer", **work, precision="fp32", repeats=5)
                seen[key] = step_s / 2, answer_s
            sample_s, answer_s = seen[key]
            rows.append(
                {
                    "work": f"{axis} {label}",
                    "axis": axis,
                    "value": label,
                    "training ms a sample": 1e3 * sample_s,
                    "answer ms": 1e3 * answer_s,
                }
            )
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw both costs as bars, a panel per axis, as SVG."""
    colours = {"training ms a sample": "#2a6f97", "answer ms": "#e07a5f"}
    labels = {"training ms a sample": "training, ms per sample", "answer ms": "inference, ms"}
    width, height, left, base = 230, 200, 40, 165
    parts = []
    for panel, axis in enumerate(AXES):
        chosen = [row for row in rows if row["axis"] == axis]
        top = max(row[key] for row in chosen for key in colours)
        x0 = panel * width + left
        step = (width - left - 10) / len(chosen)
        parts.append(f'<text x="{x0}" y="16" font-weight="bold">{axis}</text>')
        for n, row in enumerate(chosen):
            for k, (key, colour) in enumerate(colours.items()):
                tall = 125 * row[key] / top
                x = x0 + n * step + k * step * 0.4
                parts.append(
                    f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{step * 0.38:.1f}" '
                    f'height="{tall:.1f}" fill="{colour}"/>'
                    f'<text x="{x:.1f}" y="{base - tall - 3:.1f}" font-size="9">'
                    f"{row[key]:.0f}</text>"
                )
            parts.append(f'<text x="{x0 + n * step:.1f}" y="{base + 14}">{row["value"]}</text>')
    for k, (key, colour) in enumerate(colours.items()):
        parts.append(
            f'<rect x="{left + 200 * k}" y="{height - 12}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{left + 14 + 200 * k}" y="{height - 3}">{labels[key]}</text>'
        )
    size = f'width="{4 * width}" height="{height}" viewBox="0 0 {4 * width} {height}"'
    style = 'font-family="sans-serif" font-size="11"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )
