"""What a dataset has beside state, action and frames: columns of numbers with a row for each tick.

A Source may have `extras` (name to Extra), and its episodes `extras` (name to values). In LeRobot's
layout they are features like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile, SpecMismatch
from imitact.core.types import Dataset, Episode, Spec
from imitact.datasets.formats.aloha import Extra
from imitact.datasets.lerobot.reader import ACTION, MOST_VALUES, STATE, LeRobotDataset, as_promised
from imitact.datasets.lerobot.stats import FeatureStats
from imitact.datasets.lerobot.writer import LeRobotWriter

Values = Mapping[str, NDArray[Any]]

_NO_EXTRA = {STATE, ACTION, "timestamp", "frame_index", "episode_index", "index", "task_index"}
_STORED = {"float32": np.float32, "float64": np.float64, "int64": np.int64}
"""The types of LeRobot's that hold every value of the others."""


def columns_of(source: Dataset) -> dict[str, Extra]:
    """The extra columns of a Source by name."""
    if not isinstance(source, LeRobotDataset):
        return dict(getattr(source, "extras", {}))
    found: dict[str, Extra] = {}
    told = source.meta.get("settings", {}).get("extras", {})
    for name, feature in source.features.items():
        shape, dtype = list(feature.get("shape") or []), feature.get("dtype")
        if name in _NO_EXTRA or dtype not in (*_STORED, "bool", "int32", "float16"):
            continue
        if len(shape) != 1 or not isinstance(shape[0], int) or not 1 <= shape[0] <= MOST_VALUES:
            continue
        extra = Extra(np.dtype(dtype).str, None if shape == [1] else shape[0])
        found[name] = _told(told, name, extra)
    return found


def values_of(source: Dataset, index: int, columns: Mapping[str, Extra]) -> dict[str, NDArray[Any]]:
    """Those columns of one episode, each of its Extra's type: (T,) or (T, width)."""
    if not columns:
        return {}
    if not isinstance(source, LeRobotDataset):
        given: Values = getattr(source.episode(index), "extras", {})
        return {name: np.asarray(given[name]) for name in columns}
    table, length = source.episode(index).columns([*columns]), source.lengths[index]
    with as_promised(source.path):
        return {
            name: _column(table[name], extra, length, f"{source.path}, episode {index}: {name}")
            for name, extra in columns.items()
        }


class WideWriter(LeRobotWriter):
    """A LeRobotWriter that writes extra columns too."""

    def __init__(self, *args: Any, columns: Mapping[str, Extra], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._more = dict(columns)
        self._values: Values = {}

    def append_wide(
        self,
        episode: Episode,
        values: Values,
        videos: Mapping[str, Any],
        pixels: Mapping[str, FeatureStats],
        facts: Mapping[str, Any],
        task: str = "",
    ) -> None:
        """`append` of an Episode, with a row of each extra column for each tick."""
        for name in self._more:
            if len(values[name]) != len(episode.state):
                raise SpecMismatch(
                    f"{name} has {len(values[name])} rows, the episode has {len(episode.state)}"
                )
        self._values = values
        self.append(episode.state, episode.action, videos, pixels, facts, task)

    def _columns(
        self, state: NDArray[np.floating[Any]], action: NDArray[np.floating[Any]]
    ) -> dict[str, pa.Array]:
        columns = super()._columns(state, action)
        for name, extra in self._more.items():
            values = np.ascontiguousarray(self._values[name], _stored(extra))
            flat = pa.array(values.ravel())
            width = extra.width or 1
            columns[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
        return columns

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        for name, extra in self._more.items():
            dtype = np.dtype(_stored(extra)).name
            info["features"][name] = {"dtype": dtype, "shape": [extra.width or 1], "names": None}
        return info


def named_for_lerobot(
    columns: Mapping[str, Extra], spec: Spec
) -> tuple[dict[str, Extra], set[str]]:
    """The columns that a LeRobot dataset can hold, and the names of those that it cannot."""
    refused = {
        name
        for name, extra in columns.items()
        if name in _NO_EXTRA or "/" in name or name.startswith("observation.images.")
        or np.dtype(extra.dtype) == np.uint64
    }  # fmt: skip
    return {n: e for n, e in columns.items() if n not in refused}, refused


def _stored(extra: Extra) -> type[np.generic]:
    dtype = np.dtype(extra.dtype)
    if dtype.kind == "f":
        return np.float64 if dtype.itemsize > 4 else np.float32
    return np.int64


def _told(told: Any, name: str, usual: Extra) -> Extra:
    """As the conversion that wrote the dataset told it; what does not fit is not believed."""
    about = told.get(name) if isinstance(told, dict) else None
    if not isinstance(about, dict):
        return usual
    try:
        extra = Extra(np.dtype(str(about["dtype"])).str, about["width"])
    except (KeyError, TypeError):
        return usual
    same = extra.width in ((None, 1) if usual.width is None else (usual.width,))
    return extra if same and np.dtype(extra.dtype).kind in "biuf" else usual


def _column(column: pa.ChunkedArray, extra: Extra, length: int, where: str) -> NDArray[Any]:
    flat = column.combine_chunks()
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    if values.size != length * (extra.width or 1):
        raise DamagedFile(f"{where} has {values.size} values over {length} ticks")
    shape = (length,) if extra.width is None else (length, extra.width)
    return values.reshape(shape).astype(extra.dtype)
