"""Dataset section: episodes of a dataset for the page, as curves, clips, lengths and starts.

Of a damaged dataset, the section has what can be read; a finding says what is wrong with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.camera_view import resize
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Camera, Dataset, Episode, Frame
from imitact.core.words import counted
from imitact.quality.dataset_check import damage_finding
from imitact.quality.findings import Finding, by_severity, errors, summary
from imitact.viewer.clips import clip_size, contact_sheet, encode_clip, spread_evenly
from imitact.viewer.page import Blobs

MAX_CURVE_BYTES = 9_000_000
"""States and actions in a page: 100 episodes of 800 ticks of two arms. Further episodes are left
out, with a note on the page."""

MAX_STARTS = 200
"""Episodes whose first state and first frame a page shows."""

MAX_FINDINGS = 2000
"""Findings in a page, the worst first; about 300 bytes each."""

_STILL_WIDTH = 112
_STILL_COLUMNS = 16
_FAILED_SHOWN = 12
_DAMAGE = ("damaged-file", "video-unreadable")


def dataset_section(
    dataset: Dataset,
    path: Path,
    blobs: Blobs,
    *,
    chosen: Sequence[int],
    found: Sequence[Finding] = (),
    was_checked: bool = True,
    width: int = 320,
    on_clip: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Return the section of a dataset; `blobs` takes its curves, clips and images.

    Args:
        chosen: indices of the episodes with clips, see `choose_episodes`.
        found: what opening and checking the dataset found.
        was_checked: whether it was checked, so that nothing found is worth saying.
        width: largest width of a clip, in pixels.
        on_clip: called with the number of clips that are done; there is one per episode and camera.

    Raises:
        DamagedFile: no episode can be read.
    """
    spec, lengths = dataset.spec, dataset.lengths
    sizes = {camera.name: clip_size(camera, width) for camera in spec.cameras}
    found = [*found]
    read = _read_episodes(dataset, chosen, found)
    chosen, with_curves, starts, episodes = (
        read.chosen,
        read.with_curves,
        read.starts,
        read.episodes,
    )
    jobs = [(index, camera) for index in chosen for camera in spec.cameras]

    def encode(job: tuple[int, Camera]) -> bytes | BadInput:
        try:
            return encode_clip(episodes[job[0]], job[1], spec.rate_hz, width)
        except BadInput as error:  # DamagedFile, or frames of another kind
            return error

    clips: dict[tuple[int, str], bytes] = {}
    done = 0
    damaged = {finding.episode for finding in found if finding.kind in _DAMAGE}
    found += [damage_finding(e, index) for index, e in read.unread.items() if index not in damaged]
    # Threads suffice: decoding and encoding release Python's global lock.
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        # `map` cancels what has not begun where one fails.
        for (index, camera), clip in zip(jobs, pool.map(encode, jobs), strict=True):
            if isinstance(clip, bytes):
                clips[index, camera.name] = clip
            elif index not in damaged:
                found.append(damage_finding(clip, index, camera.name))
            on_clip(done := done + 1)
    stages = _dict(dataset.facts.get("settings")).get("stages")
    first_states = np.stack([episodes[index].state[0] for index in starts])
    return {
        "kind": "dataset",
        "path": str(path),
        "badge": str(len(lengths)),
        "facts": [
            *_facts(dataset, episodes),
            *([["check", summary(found)]] if was_checked else []),
        ],
        "findings": _findings(found),
        "unread": sorted(read.unread),
        "rate_hz": spec.rate_hz,
        "cameras": [{"name": c.name, "height": c.height, "width": c.width} for c in spec.cameras],
        "state": {"names": list(spec.state_names), "units": list(spec.state_units)},
        "action": {"names": list(spec.action_names), "units": list(spec.action_units)},
        "lengths": list(lengths),
        "stages": [str(stage) for stage in stages] if isinstance(stages, list) else [],
        "notes": {str(index): _note(episode) for index, episode in episodes.items()},
        "episodes": [
            {
                "index": index,
                "ticks": lengths[index],
                "state": blobs.add(_float32_bytes(episodes[index].state)),
                "action": blobs.add(_float32_bytes(episodes[index].action)),
                "clips": {
                    camera.name: blobs.add(clips[index, camera.name])
                    for camera in spec.cameras
                    if (index, camera.name) in clips
                },
                "sizes": sizes,
            }
            for index in with_curves
        ],
        "left_out": _left_out(len(lengths) - len(read.unread), len(with_curves), len(chosen)),
        "starts": {
            "indices": starts,
            "state": blobs.add(_float32_bytes(first_states)),
            "ranges": _ranges([*(episodes[index].state for index in with_curves), first_states]),
        },
        "stills": _stills(episodes, starts, spec.cameras[0], blobs) if spec.cameras else None,
    }


def choose_episodes(
    lengths: Sequence[int],
    requested: Sequence[int] | None,
    most: int,
    found: Sequence[Finding] = (),
) -> list[int]:
    """Return the episodes to show with clips: those requested; unknown ones are refused.

    Where `requested` is None, `most` episodes are chosen: up to half of them are those with the
    worst findings, the others are spread over the lengths. Those with damaged files come last.
    """
    if requested is None:
        if most < 1:
            raise BadInput(f"--max-episodes is {most}; it must be at least 1")
        damaged = {f.episode for f in found if f.kind in _DAMAGE}
        whole = [index for index in range(len(lengths)) if index not in damaged]
        whole = whole or [*range(len(lengths))]
        named = _episodes_of(f for f in found if f.severity != "note")
        marked = [index for index in named if index in whole][: most // 2]
        others = [index for index in whole if index not in marked]
        spread = spread_evenly([lengths[index] for index in others], most - len(marked))
        return sorted([*marked, *(others[place] for place in spread)])
    for index in requested:
        if not 0 <= index < len(lengths):
            raise BadInput(f"no episode {index} in the dataset; it has 0 to {len(lengths) - 1}")
    return sorted(set(requested))


@dataclass(frozen=True)
class _ReadEpisodes:
    """The episodes of a page whose numbers could be read, and the damage of the others."""

    chosen: list[int]
    with_curves: list[int]
    starts: list[int]
    episodes: dict[int, Episode]
    unread: dict[int, BadInput]


def _read_episodes(
    dataset: Dataset, chosen: Sequence[int], found: Sequence[Finding]
) -> _ReadEpisodes:
    """Read the numbers of the episodes that fit into a page; others replace damaged ones."""
    lengths, spec = dataset.lengths, dataset.spec
    tick_bytes = 4 * (spec.state_size + spec.action_size)
    without_ticks = f"{dataset.path}: the episode has no ticks that can be read"
    unread: dict[int, BadInput] = {
        index: DamagedFile(without_ticks) for index, length in enumerate(lengths) if not length
    }
    episodes: dict[int, Episode] = {}
    while left := [index for index in range(len(lengths)) if index not in unread]:
        place = {index: at for at, index in enumerate(left)}
        ticks = [lengths[index] for index in left]
        wanted, marked = (
            [place[index] for index in some if index in place]
            for some in (chosen, _episodes_of(found))
        )
        with_curves = [left[at] for at in _with_curves(ticks, wanted, tick_bytes, marked)]
        starts = [left[at] for at in spread_evenly(ticks, MAX_STARTS)]
        damaged = len(unread)
        for index in sorted({*with_curves, *starts} - episodes.keys()):
            try:
                episodes[index] = dataset.episode(index)
                _ = episodes[index].state, episodes[index].action
            except BadInput as error:  # DamagedFile, or SpecMismatch for the columns of one file
                unread[index] = error
                episodes.pop(index, None)
        if damaged == len(unread):
            shown = [left[at] for at in wanted]
            return _ReadEpisodes(shown, with_curves, starts, episodes, unread)
    first = next(iter(errors(by_severity(found))), None)
    why = f"{first.what}. {first.remedy}" if first else str(unread[min(unread)])
    raise DamagedFile(f"no episode of {dataset.path} can be read: {why}")


def _episodes_of(findings: Iterable[Finding]) -> list[int]:
    """Episodes with findings, those with the worst first."""
    episodes = [f.episode for f in by_severity(findings) if f.episode is not None]
    return [*dict.fromkeys(episodes)]


def _findings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """What the page has of each finding."""
    return [
        {
            "kind": f.kind,
            "severity": f.severity,
            "episode": f.episode,
            "ticks": f.ticks,
            "part": f.part,
            "where": f.where,
            "what": f.what,
            "remedy": f.remedy,
        }
        for f in by_severity(found)[:MAX_FINDINGS]
    ]


def _with_curves(
    lengths: Sequence[int], chosen: Sequence[int], tick_bytes: int, marked: Sequence[int]
) -> list[int]:
    """Return the chosen episodes and as many others as fit: those marked, then evenly spread."""
    found = list(chosen)
    left_bytes = MAX_CURVE_BYTES - sum(lengths[index] for index in chosen) * tick_bytes
    for index in marked:
        if index not in found and (left_bytes := left_bytes - lengths[index] * tick_bytes) >= 0:
            found.append(index)
    others = [index for index in range(len(lengths)) if index not in set(found)]
    mean_bytes = max(1.0, sum(lengths) / len(lengths) * tick_bytes)
    count = max(0, min(len(others), int(left_bytes / mean_bytes)))
    for place in spread_evenly([0] * len(others), count) if others else []:
        left_bytes -= lengths[others[place]] * tick_bytes
        if left_bytes < 0:
            break
        found.append(others[place])
    return sorted(found)


def _left_out(total: int, with_curves: int, with_clips: int) -> str:
    notes = []
    if with_clips < with_curves:
        notes.append(
            f"{with_clips} of {counted(total, 'episode')} have videos in this page, by default "
            "spread from the shortest to the longest; --episodes and --max-episodes choose others."
        )
    if with_curves < total:
        notes.append(
            f"Curves of {with_curves} of {counted(total, 'episode')} are in this page, which holds "
            f"at most {MAX_CURVE_BYTES / 1e6:.0f} MB of them; --episodes chooses."
        )
    return " ".join(notes)


def _stills(
    episodes: Mapping[int, Episode], starts: Sequence[int], camera: Camera, blobs: Blobs
) -> dict[str, Any] | None:
    """Return the first frames of the episodes as one image; None where none can be read."""
    height, width = clip_size(camera, _STILL_WIDTH)
    frames: dict[int, Frame] = {}
    for index in starts:
        with suppress(BadInput):  # the check of its frames, or its clip, says what is wrong
            first = next(episodes[index].frames(camera.name, 0, 1))
            frames[index] = resize(first, height, width)
    if not frames:
        return None
    columns = min(_STILL_COLUMNS, len(frames))
    return {
        "blob": blobs.add(contact_sheet(frames.values(), columns)),
        "columns": columns,
        "width": width,
        "height": height,
        "indices": list(frames),
        "camera": camera.name,
    }


def _facts(dataset: Dataset, episodes: Mapping[int, Episode]) -> list[list[str]]:
    spec, lengths = dataset.spec, dataset.lengths
    ticks = sum(lengths)
    facts = [
        ["episodes", f"{len(lengths):,}"],
        ["ticks", f"{ticks:,}"],
        ["rate", f"{spec.rate_hz:g} Hz"],
        ["time", _duration(ticks / spec.rate_hz)],
        ["state", f"{counted(spec.state_size, 'value')}"],
        ["action", f"{counted(spec.action_size, 'value')}"],
        ["cameras", ", ".join(f"{c.name} {c.height}×{c.width}" for c in spec.cameras) or "none"],
    ]
    first = episodes[min(episodes)]
    if task := _dict(dataset.facts.get("settings")).get("task") or _task(first):
        facts.append(["task", str(task)])
    failed = dataset.facts.get("failed")
    if isinstance(failed, list) and failed:
        seeds = ", ".join(str(_dict(failure).get("seed")) for failure in failed[:_FAILED_SHOWN])
        facts.append(["attempts not saved", f"{len(failed)} (seeds {seeds})"])
    return facts


def _note(episode: Episode) -> dict[str, Any]:
    """Return the origin of an episode: seed and ticks of its stages, or its file, name and task."""
    note: dict[str, Any] = {}
    origin = episode.origin
    if isinstance(origin.get("seed"), int):
        note["seed"] = origin["seed"]
    if "first_ticks" in origin:
        note["marks"] = sorted(
            [int(stage), tick]
            for stage, tick in _dict(origin["first_ticks"]).items()
            if str(stage).isdecimal() and isinstance(tick, int)
        )
        return note
    name = str(origin.get("file") or origin.get("name") or episode.index)
    if name != str(episode.index):
        note["name"] = name
    if task := _task(episode):
        note["task"] = task
    return note


def _task(episode: Episode) -> str:
    """Return the task of an episode; "" where its description is damaged."""
    with suppress(DamagedFile):
        return episode.task
    return ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _float32_bytes(rows: NDArray[np.floating[Any]]) -> bytes:
    """Return rows as little-endian float32; values that are not finite leave gaps in a curve."""
    return np.ascontiguousarray(rows, dtype="<f4").tobytes()


def _ranges(arrays: Sequence[NDArray[np.floating[Any]]]) -> list[list[float]]:
    """Return the lowest and highest finite value of each column; 0 and 1 where there is none."""
    lows, highs = [], []
    for rows in arrays:
        lows.append(np.min(rows, axis=0, initial=np.inf, where=np.isfinite(rows)))
        highs.append(np.max(rows, axis=0, initial=-np.inf, where=np.isfinite(rows)))
    ends = np.array([np.min(lows, axis=0), np.max(highs, axis=0)], np.float64)
    return np.where(np.isfinite(ends), ends, [[0.0], [1.0]]).T.tolist()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
