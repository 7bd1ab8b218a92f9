"""A dataset of demonstrations, as what a page shows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput
from imitact.core.types import Camera, Dataset, Episode, Frame
from imitact.core.views import resize
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.viewer.clips import clip, sheet, small, spread
from imitact.viewer.page import Blobs

NUMBERS_BYTES = 9_000_000
"""Of states and actions that a page carries: 100 episodes of 800 ticks of two arms. Beyond it,
episodes are left out, and the page says so."""

STARTS = 200
"""Episodes at most whose first state and first frame a page shows."""

_STILL_WIDTH = 112
_STILL_COLUMNS = 16


def section(
    source: Dataset,
    path: Path,
    blobs: Blobs,
    *,
    chosen: Sequence[int],
    width: int = 320,
    on_clip: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """What a page shows of a dataset; its bytes go to `blobs`.

    chosen:  episodes to show with their videos, see `choose`.
    width:   of a video, pixels.
    on_clip: told how many clips are made; there is one a chosen episode and camera.
    """
    spec, lengths = source.spec, source.lengths
    carried = _carried(lengths, chosen, 4 * (spec.state_size + spec.action_size))
    starts = spread(lengths, STARTS)
    read = {index: source.episode(index) for index in sorted({*carried, *starts})}
    jobs = [(index, camera) for index in chosen for camera in spec.cameras]
    clips = _clips(read, jobs, spec.rate_hz, width, on_clip)
    meta = source.meta if isinstance(source, LeRobotDataset) else {}
    low, high = _range(read[index].state for index in carried)
    first = np.stack([read[index].state[0] for index in starts])
    return {
        "kind": "dataset",
        "path": str(path),
        "badge": str(len(lengths)),
        "facts": _facts(source, meta),
        "rate_hz": spec.rate_hz,
        "cameras": [{"name": c.name, "height": c.height, "width": c.width} for c in spec.cameras],
        "state": {"names": list(spec.state_names), "units": list(spec.state_units)},
        "action": {"names": list(spec.action_names), "units": list(spec.action_units)},
        "lengths": list(lengths),
        "stages": _strings(_dict(meta.get("settings")).get("stages")),
        "notes": {str(index): _note(read[index], meta) for index in read},
        "episodes": [
            {
                "index": index,
                "ticks": lengths[index],
                "state": blobs.add(_bytes(read[index].state)),
                "action": blobs.add(_bytes(read[index].action)),
                "clips": {
                    camera.name: blobs.add(clips[index, camera.name])
                    for camera in spec.cameras
                    if (index, camera.name) in clips
                },
                "sizes": {camera.name: small(camera, width) for camera in spec.cameras},
            }
            for index in carried
        ],
        "left_out": _left_out(len(lengths), carried, chosen),
        "starts": {
            "indices": starts,
            "state": blobs.add(_bytes(first)),
            "ranges": [_ends(*each) for each in zip(low, high, first.T, strict=True)],
        },
        "stills": _stills(read, starts, spec.cameras[0], blobs) if spec.cameras else None,
    }


def choose(lengths: Sequence[int], asked: Sequence[int] | None, most: int) -> list[int]:
    """The episodes to show with their videos: those asked for, else `most`, spread over lengths.

    Refuses episodes that there are not.
    """
    if asked is None:
        if most < 1:
            raise BadInput(f"most is {most}; a page shows at least 1 episode")
        return spread(lengths, most)
    for index in asked:
        if not 0 <= index < len(lengths):
            raise BadInput(f"no episode {index} to show; there are 0 to {len(lengths) - 1}")
    return sorted(set(asked))


def _carried(lengths: Sequence[int], chosen: Sequence[int], tick_bytes: int) -> list[int]:
    """The chosen episodes, and as many others, evenly spread, as there is room for."""
    room = NUMBERS_BYTES - sum(lengths[index] for index in chosen) * tick_bytes
    others = [index for index in range(len(lengths)) if index not in set(chosen)]
    mean = max(1.0, sum(lengths) / len(lengths) * tick_bytes)
    picked = spread([0] * len(others), max(0, min(len(others), int(room / mean)))) if others else []
    carried = list(chosen)
    for place in picked:
        index = others[place]
        room -= lengths[index] * tick_bytes
        if room < 0:
            break
        carried.append(index)
    return sorted(carried)


def _left_out(total: int, carried: Sequence[int], chosen: Sequence[int]) -> str:
    told = []
    if len(chosen) < len(carried):
        told.append(
            f"{len(chosen)} of {total} episodes have their videos in this page, chosen from the "
            "shortest to the longest unless told otherwise; --episodes and --most choose others."
        )
    if len(carried) < total:
        told.append(
            f"Curves of {len(carried)} of {total} episodes are in this page: a page carries "
            f"{NUMBERS_BYTES / 1e6:.0f} MB of them. --episodes chooses."
        )
    return " ".join(told)


def _clips(
    read: Mapping[int, Episode],
    jobs: Sequence[tuple[int, Camera]],
    rate_hz: float,
    width: int,
    on_clip: Callable[[int], None],
) -> dict[tuple[int, str], bytes]:
    made: dict[tuple[int, str], bytes] = {}
    # Threads: decoding and encoding run outside Python's lock.
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        todo = [pool.submit(clip, read[index], camera, rate_hz, width) for index, camera in jobs]
        try:
            for (index, camera), done in zip(jobs, todo, strict=True):
                made[index, camera.name] = done.result()
                on_clip(len(made))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _stills(
    read: Mapping[int, Episode], starts: Sequence[int], camera: Camera, blobs: Blobs
) -> dict[str, Any]:
    height, width = small(camera, _STILL_WIDTH)
    columns = min(_STILL_COLUMNS, len(starts))

    def first(index: int) -> Frame:
        return resize(next(read[index].frames(camera.name, 0, 1)), height, width)

    return {
        "blob": blobs.add(sheet((first(index) for index in starts), columns)),
        "columns": columns,
        "width": width,
        "height": height,
        "indices": list(starts),
        "camera": camera.name,
    }


def _facts(source: Dataset, meta: Mapping[str, Any]) -> list[list[str]]:
    spec, lengths = source.spec, source.lengths
    ticks = sum(lengths)
    facts = [
        ["episodes", f"{len(lengths):,}"],
        ["ticks", f"{ticks:,}"],
        ["rate", f"{spec.rate_hz:g} Hz"],
        ["time", _time(ticks / spec.rate_hz)],
        ["state", f"{spec.state_size} values"],
        ["action", f"{spec.action_size} values"],
        ["cameras", ", ".join(f"{c.name} {c.height}×{c.width}" for c in spec.cameras) or "none"],
    ]
    task = _dict(meta.get("settings")).get("task") or getattr(source.episode(0), "task", "")
    if task:
        facts.append(["task", str(task)])
    failed = meta.get("failed")
    if isinstance(failed, list) and failed:
        seeds = ", ".join(str(_dict(failure).get("seed")) for failure in failed[:12])
        facts.append(["tried and not saved", f"{len(failed)} (seeds {seeds})"])
    return facts


def _note(episode: Episode, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a recording of imitact tells of an episode: its seed, and when stages were reached."""
    note: dict[str, Any] = {}
    told = meta.get("episodes")
    if isinstance(told, list) and episode.index < len(told):
        mine = _dict(told[episode.index])
        if isinstance(mine.get("seed"), int):
            note["seed"] = mine["seed"]
        marks = [
            [int(stage), tick]
            for stage, tick in _dict(mine.get("first_ticks")).items()
            if str(stage).isdecimal() and isinstance(tick, int)
        ]
        note["marks"] = sorted(marks)
    elif task := getattr(episode, "task", ""):
        note["task"] = str(task)
    return note


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _bytes(rows: NDArray[np.floating[Any]]) -> bytes:
    """Row by row as little-endian float32; what is not finite stays so, and leaves a gap."""
    return np.ascontiguousarray(rows, dtype="<f4").tobytes()


def _range(
    rows: Iterable[NDArray[np.floating[Any]]],
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    lows, highs = [], []
    for one in rows:
        lows.append(np.min(one, axis=0, initial=np.inf, where=np.isfinite(one)))
        highs.append(np.max(one, axis=0, initial=-np.inf, where=np.isfinite(one)))
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _ends(low: float, high: float, starts: NDArray[np.floating[Any]]) -> list[float]:
    """The range to draw starts on; 0 to 1 where no value is finite."""
    known = np.array([low, high, *starts])
    known = known[np.isfinite(known)]
    return [float(known.min()), float(known.max())] if len(known) else [0.0, 1.0]


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
