"""(episode, tick) to state, frames, the next K actions and their padding, in a seeded order.

Legend: B batch, K chunk, S state, A action, H W pixels at input size.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, NotFinite, SpecMismatch
from imitact.core.statistics import Accumulator, Stats
from imitact.core.types import Dataset
from imitact.core.views import View
from imitact.training.frame_cache import (DecodedFrames, FrameReader, Say, first_rows, open_frames)

_AHEAD = 3  # batches prepared before they are asked for


@dataclass(frozen=True)
class GlobalBatch:
    """The batch that one rank's samples are a part of.

    first:         place in it of the first of them.
    valid:         ticks of all its chunks that are no padding.
    episode, tick: (B,) int64, of each of its samples.
    """

    first: int
    valid: int
    episode: NDArray[np.int64]
    tick: NDArray[np.int64]


@dataclass(frozen=True)
class SampleBatch:
    """B samples, in physical units.

    state:   (B, S) float32, at the tick of the sample.
    frames:  camera name to (B, H, W, 3) uint8 at input size.
    action:  (B, K, A) float32; action[b, k] was commanded k ticks later. Beyond the end of its
             episode the last action is repeated.
    is_pad:  (B, K) bool; True where action is such a repetition.
    episode: (B,) int64, number in the Source.
    tick:    (B,) int64, in that episode.
    whole:   the batch that these are a part of; None where they are all of it.
    """

    state: NDArray[np.float32]
    frames: dict[str, NDArray[np.uint8]]
    action: NDArray[np.float32]
    is_pad: NDArray[np.bool_]
    episode: NDArray[np.int64]
    tick: NDArray[np.int64]
    whole: GlobalBatch | None = None


class Sampler:
    """An endless, seeded stream of batches: every tick of every chosen episode once an epoch.

    The stream is the concatenation of the epochs, each a permutation of all ticks that is a pure
    function of (seed, epoch), cut into batches of `batch_size`: a batch may span two epochs, none
    is short, no tick is left out. Batch i is a pure function of (seed, i), so training resumes at
    any batch, and the number of workers changes nothing.

    source:      every episode must have at least one tick.
    episodes:    numbers of the episodes to draw from; None for all.
    chunk:       K, ticks; longer than an episode means padding.
    views:       what to see of each camera, by its name.
    ranks, rank: how many processes share each batch, and which of them this one is, from 0: it
                 gets batch_size * rank // ranks up to batch_size * (rank + 1) // ranks of it, so
                 that shares differ by one at most.
    cache_dir:   where the decoded frames are kept (data/cache.py).
    """

    def __init__(
        self,
        source: Dataset,
        *,
        chunk: int,
        views: Mapping[str, View],
        cache_dir: Path,
        cache_limit_bytes: int,
        batch_size: int,
        seed: int,
        workers: int,
        episodes: Sequence[int] | None = None,
        memory_limit_bytes: int = 256 << 20,
        ranks: int = 1,
        rank: int = 0,
        say: Say = lambda line: None,
    ) -> None:
        if chunk < 1 or batch_size < 1:
            raise BadInput(f"chunk is {chunk}, batch_size {batch_size}; both must be at least 1")
        if not 0 <= rank < ranks <= batch_size:
            raise BadInput(
                f"rank is {rank} of {ranks}, batch_size {batch_size}: batch_size counts the "
                "samples of all ranks together, and each needs one; use a larger batch or fewer "
                "ranks"
            )
        self.source = source
        self.chunk = chunk
        self.batch_size = batch_size
        self.seed = seed
        self.ranks, self.rank = ranks, rank
        self.cameras = tuple(views)
        self.episodes = tuple(range(len(source.lengths)) if episodes is None else episodes)
        self._load(source)
        self.frames: FrameReader = open_frames(
            source,
            views,
            cache_dir=cache_dir,
            cache_limit_bytes=cache_limit_bytes,
            memory_limit_bytes=memory_limit_bytes,
            workers=workers,
            say=say,
        )
        # Mapped frames are a copy away; decoding gains from threads (it leaves the interpreter).
        self._threads = max(1, workers) if isinstance(self.frames, DecodedFrames) else 1
        self._orders: dict[int, NDArray[np.int64]] = {}

    def _load(self, source: Dataset) -> None:
        if not self.episodes:
            raise BadInput("the dataset has no episode to draw samples from; record some first")
        lengths = [source.lengths[e] for e in self.episodes]
        for episode, length in zip(self.episodes, lengths, strict=True):
            if length < 1:
                raise BadInput(
                    f"episode {episode} has {length} ticks; remove it from the dataset, "
                    "an episode needs at least one"
                )
        blocks = [_rows(source, episode) for episode in self.episodes]
        self._state = np.concatenate([state for state, _ in blocks])
        self._action = np.concatenate([action for _, action in blocks])
        # Of each sample row: its episode, tick, row in the Source, last row of its episode here.
        self._episode = np.repeat(np.asarray(self.episodes, dtype=np.int64), lengths)
        ends = first_rows(lengths)
        self._tick = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        self._frame_row = first_rows(source.lengths)[self._episode] + self._tick
        self._last = np.repeat(ends[1:] - 1, lengths)

    def of(self, episodes: Sequence[int]) -> Sampler:
        """Samples of other episodes of the same Source, through the same frames."""
        other = copy.copy(self)
        other.episodes = tuple(episodes)
        other._orders = {}
        other._load(self.source)
        return other

    def __len__(self) -> int:
        """Ticks in an epoch."""
        return len(self._tick)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of all sample rows in that epoch: a pure function of (seed, epoch)."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        return rng.permutation(len(self))

    def rows(self, index: int) -> NDArray[np.int64]:
        """The sample rows of batch `index`, (B,), of all ranks."""
        first = index * self.batch_size
        parts = []
        while first < (index + 1) * self.batch_size:
            epoch, offset = divmod(first, len(self))
            part = self._cached_order(epoch)[
                offset : (index + 1) * self.batch_size - epoch * len(self)
            ]
            parts.append(part)
            first += len(part)
        return np.concatenate(parts)

    def _cached_order(self, epoch: int) -> NDArray[np.int64]:
        # Threads may compute the same order twice; they agree, so no lock is needed, as long as
        # the dict that others may be reading is replaced and never changed.
        order = self._orders.get(epoch)
        if order is None:
            order = self.order(epoch)
            recent = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders = {**recent, epoch: order}
        return order

    def batch(self, index: int) -> SampleBatch:
        """Batch `index` of the stream; this rank's share of it."""
        rows = self.rows(index)
        if self.ranks == 1:
            return self.at(rows)
        first, stop = (self.batch_size * rank // self.ranks for rank in (self.rank, self.rank + 1))
        valid = np.minimum(self._last[rows] - rows + 1, self.chunk).sum()
        whole = GlobalBatch(first, int(valid), self._episode[rows], self._tick[rows])
        return replace(self.at(rows[first:stop]), whole=whole)

    def at(self, rows: NDArray[np.int64]) -> SampleBatch:
        """The samples of those sample rows (0 to len), in that order."""
        ahead = rows[:, None] + np.arange(self.chunk)
        last = self._last[rows][:, None]
        return SampleBatch(
            state=self._state[rows],
            frames={c: self.frames.gather(c, self._frame_row[rows]) for c in self.cameras},
            action=self._action[np.minimum(ahead, last)],
            is_pad=ahead > last,
            episode=self._episode[rows],
            tick=self._tick[rows],
        )

    def stream(self, first: int = 0) -> Generator[SampleBatch, None, None]:
        """Batches `first`, `first` + 1, ... without end, prepared by threads before they are due.

        At most a few batches are held. Close the iterator to end the threads.
        """
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="samples")
        pending: deque[Future[SampleBatch]] = deque()
        index = first
        try:
            while True:
                while len(pending) < max(_AHEAD, self._threads):
                    pending.append(pool.submit(self.batch, index))
                    index += 1
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def evenly(self, count: int) -> Iterator[SampleBatch]:
        """About `count` samples spread evenly over all episodes, in order; the last batch may be
        short. All ticks where there are fewer. Ranks take these batches in turn."""
        number = min(count, len(self))
        rows = np.unique(np.linspace(0, len(self) - 1, number).round().astype(np.int64))
        for start in range(0, len(rows), self.batch_size)[self.rank :: self.ranks]:
            yield self.at(rows[start : start + self.batch_size])


def dataset_statistics(
    source: Dataset, episodes: Sequence[int], *, delta_chunk: int = 0
) -> dict[str, Stats]:
    """ "state" and "action" over all ticks of those episodes, and no others.

    delta_chunk: K ticks; where above 0 also "delta", of action[t + k] - state[t] over every t and
    every k < K within the episode. Refused where an action is not named like a state.
    """
    spec = source.spec
    state, action = Accumulator(spec.state_size), Accumulator(spec.action_size)
    delta = Accumulator(spec.action_size)
    unmeasured = [n for n in spec.action_names if n not in spec.state_names]
    if delta_chunk and unmeasured:
        raise SpecMismatch(
            f"actions relative to the state need a state of each name; {unmeasured} have none, "
            f"the states are {list(spec.state_names)}. Use absolute actions."
        )
    measured = [spec.state_names.index(n) for n in spec.action_names if delta_chunk]
    for episode in episodes:
        states, actions = _rows(source, episode)
        state.add(states)
        action.add(actions)
        for k in range(min(delta_chunk, len(actions))):
            delta.add(actions[k:].astype(np.float64) - states[: len(states) - k, measured])
    result = {"state": state.result(), "action": action.result()}
    if delta_chunk:
        result["delta"] = delta.result()
    return result


def _rows(source: Dataset, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """State (T, S) and action (T, A) of an episode, checked against the Spec."""
    spec, length = source.spec, source.lengths[index]
    episode = source.episode(index)
    result = []
    for what, rows, names in (
        ("state", episode.state, spec.state_names),
        ("action", episode.action, spec.action_names),
    ):
        rows = np.asarray(rows, dtype=np.float32)
        if rows.shape != (length, len(names)):
            raise SpecMismatch(
                f"episode {index}: {what} has shape {rows.shape}, expected {(length, len(names))}"
            )
        if not np.all(np.isfinite(rows)):
            tick, column = np.argwhere(~np.isfinite(rows))[0]
            raise NotFinite(
                f"episode {index}, tick {tick}: {what} {names[column]!r} is {rows[tick, column]}; "
                "remove the episode from the dataset"
            )
        result.append(rows)
    return result[0], result[1]
