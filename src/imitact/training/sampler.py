"""Sampler: seeded batches of state, frames, the next K actions and their padding.

Shapes: B batch, K chunk, S state, A action, H and W pixels of the network's input.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, NotFinite, SpecMismatch
from imitact.core.feature_statistics import Accumulator, Stats
from imitact.core.joint_limits import DemonstratedLimits, JointLimits
from imitact.core.types import Dataset, same_unit
from imitact.core.words import counted
from imitact.training.frame_cache import FrameReader, first_rows

_PREFETCH = 3
"""Batches prepared before they are needed."""


@dataclass(frozen=True)
class GlobalBatch:
    """The batch of all ranks, of which one rank has a share."""

    first: int  # position of the first sample of the share
    valid: int  # ticks of all chunks that are not padding
    episode: NDArray[np.int64]  # (B,), of each sample
    tick: NDArray[np.int64]  # (B,), in that episode


@dataclass(frozen=True)
class SampleBatch:
    """B samples, in physical units.

    action[b, k] was commanded k ticks after state[b]. After the end of the episode the last action
    is repeated, and `is_pad` is True. With several ranks this is a share of the batch `whole`.
    """

    state: NDArray[np.float32]  # (B, S)
    frames: dict[str, NDArray[np.uint8]]  # by camera, (B, H, W, 3)
    action: NDArray[np.float32]  # (B, K, A)
    is_pad: NDArray[np.bool_]  # (B, K)
    episode: NDArray[np.int64]  # (B,), number in the dataset
    tick: NDArray[np.int64]  # (B,), in that episode
    whole: GlobalBatch | None = None


class Sampler:
    """An endless, seeded stream of batches: every tick of every chosen episode once per epoch.

    The stream is a sequence of epochs, each a permutation of all ticks that is a pure function of
    (seed, epoch), cut into batches. A batch may span two epochs; none is short and no tick is left
    out; ticks with a weight come several times. Batch i is a pure function of (seed, i), so
    training can resume at any batch, and the number of threads has no effect.

    Args:
        dataset: every chosen episode must have at least one tick.
        open_frames: opens the frames of the cameras; called when all else is checked.
        chunk: K, ticks; a chunk that exceeds the episode is padded.
        batch_size: samples per batch, over all ranks.
        episodes: numbers of the episodes to draw from; None for all.
        tick_weights: how often an epoch has each tick of an episode, (T,) whole numbers, by its
            number; None: once.
        rank: this rank, from 0; it has samples batch_size * rank // ranks up to
            batch_size * (rank + 1) // ranks, so shares differ by one at most.

    Raises:
        BadInput: there is no episode, an episode has no tick, or a rank would have no sample.
        SpecMismatch: an episode does not fit the dataset's Spec.
        NotFinite: a state or an action is not finite.
    """

    def __init__(
        self,
        dataset: Dataset,
        open_frames: Callable[[], FrameReader],
        *,
        chunk: int,
        batch_size: int,
        seed: int,
        episodes: Sequence[int] | None = None,
        tick_weights: Callable[[int], NDArray[np.integer]] | None = None,
        ranks: int = 1,
        rank: int = 0,
    ) -> None:
        if chunk < 1 or batch_size < 1:
            raise BadInput(f"chunk is {chunk}, batch_size {batch_size}; both must be at least 1")
        if not 0 <= rank < ranks <= batch_size:
            raise BadInput(
                f"rank is {rank} of {ranks}, batch_size {batch_size}: batch_size counts the "
                "samples of all ranks together, and each needs one; use a larger batch or fewer "
                "ranks"
            )
        self.dataset = dataset
        self.chunk = chunk
        self.batch_size = batch_size
        self.seed = seed
        self.ranks, self.rank = ranks, rank
        self.episodes = tuple(range(len(dataset.lengths)) if episodes is None else episodes)
        self._tick_weights = tick_weights
        self._load_rows()
        self.frames = open_frames()

    def _load_rows(self) -> None:
        if not self.episodes:
            raise BadInput("the dataset has no episode to draw samples from; record some first")
        lengths = [self.dataset.lengths[e] for e in self.episodes]
        for episode, length in zip(self.episodes, lengths, strict=True):
            if length < 1:
                raise BadInput(
                    f"episode {episode} has {counted(length, 'tick')}; remove it from the dataset, "
                    "an episode needs at least one"
                )
        blocks = [_state_and_action(self.dataset, episode) for episode in self.episodes]
        self._state = np.concatenate([state for state, _ in blocks])
        self._action = np.concatenate([action for _, action in blocks])
        # For each row: episode, tick, row in the dataset, last row of its episode here.
        self._episode = np.repeat(np.asarray(self.episodes, dtype=np.int64), lengths)
        ends = first_rows(lengths)
        self._tick = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        self._frame_row = first_rows(self.dataset.lengths)[self._episode] + self._tick
        self._last = np.repeat(ends[1:] - 1, lengths)
        self._row = np.arange(ends[-1])  # of each sample
        if self._tick_weights is not None:
            weights = np.concatenate([self._tick_weights(episode) for episode in self.episodes])
            self._row = np.repeat(self._row, weights)

    def with_episodes(self, episodes: Sequence[int]) -> Sampler:
        """Return a sampler of other episodes, unweighted, with the same dataset and frames."""
        other = copy.copy(self)
        other.episodes, other._tick_weights = tuple(episodes), None
        other._load_rows()
        return other

    def __len__(self) -> int:
        """Samples in an epoch: ticks, those with a weight several times."""
        return len(self._row)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of all sample rows in an epoch: a function of (seed, epoch)."""
        return _order(self.seed, epoch, len(self))

    def rows(self, index: int) -> NDArray[np.int64]:
        """Return the sample rows of batch `index`, (B,), of all ranks."""
        first, stop = index * self.batch_size, (index + 1) * self.batch_size
        parts = []
        while first < stop:
            epoch, offset = divmod(first, len(self))
            parts.append(self.order(epoch)[offset : stop - epoch * len(self)])
            first += len(parts[-1])
        return np.concatenate(parts)

    def batch(self, index: int) -> SampleBatch:
        """Return this rank's share of batch `index`."""
        rows = self.rows(index)
        if self.ranks == 1:
            return self.at(rows)
        first, stop = (self.batch_size * rank // self.ranks for rank in (self.rank, self.rank + 1))
        own = self._row[rows]
        valid = np.minimum(self._last[own] - own + 1, self.chunk).sum()
        whole = GlobalBatch(first, int(valid), self._episode[own], self._tick[own])
        return replace(self.at(rows[first:stop]), whole=whole)

    def at(self, rows: NDArray[np.int64]) -> SampleBatch:
        """Return the samples of the given rows (0 to len(self) - 1), in that order."""
        rows = self._row[rows]
        ahead = rows[:, None] + np.arange(self.chunk)
        last = self._last[rows][:, None]
        return SampleBatch(
            state=self._state[rows],
            frames={c: self.frames.gather(c, self._frame_row[rows]) for c in self.frames.cameras},
            action=self._action[np.minimum(ahead, last)],
            is_pad=ahead > last,
            episode=self._episode[rows],
            tick=self._tick[rows],
        )

    def stream(self, first: int = 0) -> Generator[SampleBatch, None, None]:
        """Yield batches `first`, `first` + 1, ... without end, prepared in advance by threads.

        Close the generator to end the threads.
        """
        pool = ThreadPoolExecutor(self.frames.threads, thread_name_prefix="samples")
        pending: deque[Future[SampleBatch]] = deque()
        index = first
        try:
            while True:
                while len(pending) < max(_PREFETCH, self.frames.threads):
                    pending.append(pool.submit(self.batch, index))
                    index += 1
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def evenly_spaced(self, count: int) -> Iterator[SampleBatch]:
        """Yield batches of about `count` samples, evenly spaced over all episodes, in order.

        All ticks if there are fewer. The last batch may be short. Ranks take the batches in turn.
        """
        number = min(count, len(self))
        rows = np.unique(np.linspace(0, len(self) - 1, number).round().astype(np.int64))
        for start in range(0, len(rows), self.batch_size)[self.rank :: self.ranks]:
            yield self.at(rows[start : start + self.batch_size])


def dataset_statistics(
    dataset: Dataset, episodes: Sequence[int], *, delta_chunk: int = 0
) -> dict[str, Stats]:
    """Compute the normalization statistics of "state" and "action" over all ticks of episodes.

    No other episodes are read. A `delta_chunk` of K > 0 ticks adds "delta", the statistics of
    action[t + k] - state[t] over every t and every k < K within the episode; SpecMismatch where an
    action has no state of the same name.
    """
    spec = dataset.spec
    state, action = Accumulator(spec.state_size), Accumulator(spec.action_size)
    delta = Accumulator(spec.action_size)
    unmeasured = [n for n in spec.action_names if n not in spec.state_names]
    if delta_chunk and unmeasured:
        raise SpecMismatch(
            f"delta actions need a state of the same name; {', '.join(unmeasured)} have none. The "
            f"states are {', '.join(spec.state_names)}. Use --model.actions absolute"
        )
    measured = [spec.state_names.index(n) for n in spec.action_names if delta_chunk]
    for episode in episodes:
        states, actions = _state_and_action(dataset, episode)
        state.add(states)
        action.add(actions)
        for k in range(min(delta_chunk, len(actions))):
            delta.add(actions[k:].astype(np.float64) - states[: len(states) - k, measured])
    result = {"state": state.result(), "action": action.result()}
    if delta_chunk:
        result["delta"] = delta.result()
    return result


def episode_limits(dataset: Dataset, episodes: Sequence[int]) -> JointLimits:
    """Return the joint limits that the actions of episodes stayed within, widened.

    See `DemonstratedLimits`. No other episodes are read.
    """
    spec = dataset.spec
    learned = DemonstratedLimits(spec.action_names, spec.action_units, spec.rate_hz)
    where = {name: at for at, name in enumerate(spec.state_names)}
    pairs = [
        (joint, where[name])
        for joint, (name, unit) in enumerate(zip(spec.action_names, spec.action_units, strict=True))
        if name in where and same_unit(unit, spec.state_units[where[name]])
    ]
    for episode in episodes:
        states, actions = _state_and_action(dataset, episode)
        measured = np.full(actions.shape, np.nan)
        for joint, state in pairs:
            measured[:, joint] = states[:, state]
        learned.add(actions, measured)
    return learned.limits()


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
    order.setflags(write=False)
    return order


def _state_and_action(
    dataset: Dataset, index: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return state (T, S) and action (T, A) of an episode, checked against the Spec."""
    spec, length = dataset.spec, dataset.lengths[index]
    episode = dataset.episode(index)
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
                f"episode {index}, tick {tick}: {what} {names[column]} is {rows[tick, column]}; "
                "remove the episode from the dataset"
            )
        result.append(rows)
    return result[0], result[1]
