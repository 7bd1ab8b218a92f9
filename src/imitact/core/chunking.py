"""Chunking: from chunks of K future actions to the one action of each tick.

Two ways, as in the ACT paper (Zhao et al. 2023, section IV-A): execute a part of each chunk, then
query the policy again (`Replay`), or query often and average all predictions for this tick
(`Ensemble` in temporal_ensemble.py). Both take a delay into account: with a delay of d ticks, the
chunk queried at a tick arrives d ticks later, and until then the earlier chunks are executed.
`Replay` can let each chunk begin where the one before would have gone on (`fade_ticks`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.types import FloatArray
from imitact.core.words import counted


class Chunking:
    """Decides when a policy is queried, and which action is executed.

    At each tick: if `wants_chunk`, query the policy with the observation of this tick; then `next`
    returns the action of this tick. An answer comes in one of two ways:

    - `ask(tick)`, and `feed(chunk, asked_tick)` whenever the answer is there, as on a robot;
    - `feed(chunk)` at once: `delay_ticks` are simulated, and the chunk is held back until then.

    One query at a time: while an answer is on its way the policy is not queried, as with one
    network on one computer. Ticks in which the robot waits do not count here, because nothing is
    executed: the first chunk begins at its row 0 after the wait, and a chunk that arrives while an
    earlier one is executed drops a row for each tick since its query. Skipped ticks count
    (`skip_to`): on a robot time goes on. Where chunks are longer than the delay, the policy is
    queried early enough for the next chunk to arrive as the last one runs out.

    Attributes:
        delay_ticks: from a query to its answer; simulated by `feed(chunk)`, and expected where
            answers come by `feed(chunk, asked_tick)`, for which it may change at any tick.
    """

    def __init__(self, delay_ticks: int) -> None:
        """Begin an episode; with a delay of 0 a query is answered within the same tick."""
        if delay_ticks < 0:
            raise BadInput(f"delay_ticks is {delay_ticks}; expected at least 0")
        self.delay_ticks = delay_ticks
        self.reset()

    def reset(self, tick: int = 0) -> None:
        """Begin an episode, at this tick; a query that is not answered is dropped."""
        # (executed ticks at row 0, chunk), oldest first
        self._live: list[tuple[int, NDArray[np.float64]]] = []
        self._now = tick
        self._executed = 0
        self._queried = self._queried_before = 0  # executed ticks at the last queries
        self._asked: int | None = None
        self._late: tuple[int, NDArray[np.float64]] | None = None  # tick of arrival, chunk

    @property
    def tick(self) -> int:
        """The tick whose action `next` returns; waits and skipped ticks count."""
        return self._now

    @property
    def asked_tick(self) -> int | None:
        """The tick of the query that is not answered yet; None where there is none."""
        return self._asked

    @property
    def wants_chunk(self) -> bool:
        """Whether this tick needs a chunk from the policy."""
        if self._asked is not None:
            return False
        last_calls = map(self._last_call, self._live)
        return not self._live or self._due() or self._executed >= max(last_calls)

    def ask(self, tick: int) -> None:
        """Begin a query with the observation of this tick; `feed(chunk, tick)` ends it.

        Raises:
            ImitactError: another query is not answered yet, or it is another tick's turn.
        """
        if self._asked is not None:
            raise ImitactError(f"the query of tick {self._asked} is not answered yet")
        if tick != self._now:
            raise ImitactError(f"a query at tick {tick}, but it is the turn of tick {self._now}")
        self._asked, self._queried, self._queried_before = tick, self._executed, self._queried

    def drop_query(self) -> None:
        """Take the open query back, as where the policy refused its observation; ask anew."""
        if self._asked is not None:
            self._queried = self._queried_before
        self._asked = self._late = None

    def feed(self, chunk: FloatArray, asked_tick: int | None = None) -> None:
        """Take a chunk, (K, A), whose row 0 is for the tick of its query.

        Args:
            asked_tick: the tick of the query that the chunk answers now. None asks at this tick,
                and lets the chunk arrive after `delay_ticks`.

        Raises:
            BadInput: the chunk has another shape than (K, A), or another width than before.
            NotFinite: it holds a NaN or an infinity.
            ImitactError: it answers another query than the one that is open.
        """
        if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] < 1:
            raise BadInput(f"the chunk has shape {chunk.shape}, expected (K, A) with K, A >= 1")
        if not np.all(np.isfinite(chunk)):
            row, column = np.argwhere(~np.isfinite(chunk))[0]
            raise NotFinite(f"the chunk is {chunk[row, column]} at row {row}, dimension {column}")
        if self._live and chunk.shape[1] != self._live[-1][1].shape[1]:
            raise BadInput(
                f"the chunk has {chunk.shape[1]} action dimensions, "
                f"the one before it {self._live[-1][1].shape[1]}"
            )
        values = np.array(chunk, dtype=np.float64)
        if asked_tick is None:
            self.ask(self._now)
            self._late = self._now + self.delay_ticks, values
            self._arrive()
            return
        if asked_tick != self._asked:
            raise ImitactError(
                f"a chunk for the query of tick {asked_tick}, but "
                + ("none is open" if self._asked is None else f"that of {self._asked} is open")
            )
        self._take(values)

    def next(self) -> NDArray[np.float64] | None:
        """Return the action of this tick, (A,), and end the tick.

        None where no chunk has arrived yet: the robot waits.
        """
        if self.wants_chunk:
            raise ImitactError("no action is left; feed a chunk when wants_chunk is true")
        action = self._action() if self._live else None
        self._end_tick()
        return action

    def wait(self) -> None:
        """End the tick without an action; no row passes, because the robot holds."""
        self._end_tick(waits=True)

    def skip_to(self, tick: int) -> None:
        """End the ticks before `tick`, which were skipped; their rows pass."""
        while self._now < tick:
            self._end_tick()

    def _due(self) -> bool:
        """Whether it is time for the next query, although an action is left."""
        raise NotImplementedError

    def _action(self) -> NDArray[np.float64]:
        """Return the action of this tick, from the chunks that reach it."""
        raise NotImplementedError

    def _last_call(self, live: tuple[int, NDArray[np.float64]]) -> int:
        """Return the last tick for a query whose answer arrives before this chunk runs out."""
        start, chunk = live
        return start + len(chunk) - (self.delay_ticks if len(chunk) > self.delay_ticks else 0)

    def _end_tick(self, waits: bool = False) -> None:
        if self._live and not waits:
            self._executed += 1
            self._drop_past()
        self._now += 1
        self._arrive()

    def _arrive(self) -> None:
        """Take the chunk that was held back, if its time has come."""
        if self._late is not None and self._now >= self._late[0]:
            self._take(self._late[1])
            self._late = None

    def _take(self, chunk: NDArray[np.float64]) -> None:
        self._live.append((self._queried, chunk))
        self._asked = None
        self._drop_past()

    def _drop_past(self) -> None:
        self._live = [(start, c) for start, c in self._live if self._executed - start < len(c)]


GRIPPER_FADE_TICKS = 5
"""Most ticks over which the shift of a gripper fades, where they are not given: a grasp whose
command fades in is a late grasp."""


class Replay(Chunking):
    """Executes n of K actions, then queries again (n = 100 = K in the released code).

    A chunk shorter than n is executed whole.

    With `fade_ticks` F the seam is smooth: where a new chunk takes over, its actions are shifted so
    that it begins where the one before would have gone on, and the shift fades as a raised cosine,
    gap * (1 + cos(pi * k / (F + 1))) / 2 at its tick k <= F. A chunk is then replaced before its
    last row, which tells where it would have gone on. A chunk that nothing came before, or that
    arrives after the one before has run out, is not shifted.
    """

    def __init__(
        self,
        n: int,
        delay_ticks: int = 0,
        fade_ticks: int = 0,
        gripper_fade_ticks: int | None = None,
        grippers: Sequence[bool] = (),
    ) -> None:
        """Begin an episode.

        Args:
            n: ticks of a chunk that are executed before the next query.
            delay_ticks: from a query to its answer.
            fade_ticks: over which the shift of a new chunk fades; 0 does not shift.
            gripper_fade_ticks: the same for grippers; None takes `fade_ticks`, at most 5.
            grippers: (A,), which actions are grippers; empty where nobody knows. Chunks of several
                robots side by side, (K, B * A), repeat it.
        """
        if n < 1:
            raise BadInput(f"replay:{n} executes nothing; n must be at least 1 tick")
        usual = min(fade_ticks, GRIPPER_FADE_TICKS)
        fades = fade_ticks, usual if gripper_fade_ticks is None else gripper_fade_ticks
        if min(fades) < 0:
            raise BadInput(
                f"a seam fades over {counted(fades[0], 'tick')}, that of a gripper over "
                f"{fades[1]}; expected at least 0"
            )
        self._n, self._fades, self._usual = n, fades, usual
        self._grippers = np.array(grippers, dtype=bool)
        super().__init__(delay_ticks)

    def reset(self, tick: int = 0) -> None:
        super().reset(tick)
        # (A,) by which the live chunk is shifted, and the executed ticks at which it took over
        self._gap: NDArray[np.float64] | None = None
        self._since = 0

    @property
    def text(self) -> str:
        """The setting as in `--chunking`, without its delay; `parse` reads it back."""
        fade, gripper = self._fades
        if fade == gripper == 0:
            return f"replay:{self._n}"
        own = "" if gripper == self._usual else f",{gripper}"
        return f"replay:{self._n}~{fade}{own}"

    def _due(self) -> bool:
        return self._executed >= self._queried + self._n

    def _action(self) -> NDArray[np.float64]:
        start, chunk = self._live[-1]
        action = chunk[self._executed - start].copy()
        return action if self._gap is None else action + self._gap * self._shares(action.size)

    def _shares(self, size: int) -> NDArray[np.float64]:
        """Return the share of the gap that is left at this tick, (A,)."""
        fades = np.full(size, self._fades[0])
        if self._grippers.size:
            fades[np.resize(self._grippers, size)] = self._fades[1]
        k = self._executed - self._since
        return np.where(k <= fades, 0.5 + 0.5 * np.cos(np.pi * k / (fades + 1)), 0.0) * (fades > 0)

    def _last_call(self, live: tuple[int, NDArray[np.float64]]) -> int:
        # One tick earlier where chunks are joined: the last row tells where this one would go on.
        _, chunk = live
        joins = any(self._fades) and len(chunk) > self.delay_ticks + 1
        return super()._last_call(live) - int(joins)

    def _take(self, chunk: NDArray[np.float64]) -> None:
        if self._grippers.size and chunk.shape[1] % self._grippers.size:
            raise BadInput(
                f"the chunk has {chunk.shape[1]} action dimensions, expected "
                f"{self._grippers.size} for each robot"
            )
        before = self._action() if any(self._fades) and self._live else None
        super()._take(chunk)
        if not self._live or self._live[-1][1] is not chunk:
            return  # all its rows have passed
        row = self._executed - self._live[-1][0]
        self._gap = None if before is None else before - chunk[row]
        self._since = self._executed

    def _drop_past(self) -> None:
        super()._drop_past()
        self._live = self._live[-1:]
