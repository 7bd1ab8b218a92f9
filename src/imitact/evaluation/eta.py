"""How long an evaluation will still take, by what its episodes took so far."""

from __future__ import annotations

from imitact.evaluation.results import EvaluationPlan, Row

_PACE_TICKS = 5


class Pace:
    """Gathers what episodes took, and estimates.

    Filmed episodes are a kind of their own: they render. Within a kind, an episode to come takes
    as long as finished ones did on average; one that runs goes on at its own pace, to the average
    length or, beyond that, to the cap.
    """

    def __init__(self, plan: EvaluationPlan, workers: int) -> None:
        """`cap`, in ticks, is to be set once the world is known."""
        self.cap: int | None = None
        self._workers = workers
        self._filmed = frozenset(plan.seeds[: plan.videos])
        self._to_come = set(plan.seeds)
        self._running: dict[int, tuple[int, float]] = {}
        self._rows: list[Row] = []

    def running(self, seed: int, ticks: int, spent_s: float) -> None:
        """An episode is under way: ticks done, and seconds since its start."""
        self._running[seed] = ticks, spent_s
        self._to_come.discard(seed)

    def finished(self, row: Row) -> None:
        """An episode is over, in this run or in an earlier, interrupted one."""
        self._running.pop(row.seed, None)
        self._to_come.discard(row.seed)
        self._rows.append(row)

    def left_s(self) -> float | None:
        """Seconds; None while nothing is known."""
        if not self._to_come and not self._running:
            return 0.0
        lanes = [0.0] * self._workers
        for lane, (seed, (ticks, spent_s)) in enumerate(self._running.items()):
            total_s = self._total_s(ticks, spent_s)
            if total_s is None:
                total_s = self._takes_s(seed in self._filmed)
            if total_s is None:
                return None
            lanes[lane % self._workers] += max(0.0, total_s - spent_s)
        for seed in sorted(self._to_come, key=lambda seed: seed not in self._filmed):
            takes_s = self._takes_s(seed in self._filmed)
            if takes_s is None:
                return None
            # To the process that comes free first, as the crew gives them out.
            first = lanes.index(min(lanes))
            lanes[first] += takes_s
        return max(lanes)

    def _takes_s(self, filmed: bool) -> float | None:
        """Of an episode to come: as those of its kind, or of the other kind if there are none."""
        for kind in (filmed, not filmed):
            rows = [row.wall_s for row in self._rows if (row.seed in self._filmed) == kind]
            if rows:
                return sum(rows) / len(rows)
            running = [
                self._total_s(*state)
                for seed, state in self._running.items()
                if (seed in self._filmed) == kind
            ]
            known = [total_s for total_s in running if total_s is not None]
            if known:
                return sum(known) / len(known)
        return None

    def _total_s(self, ticks: int, spent_s: float) -> float | None:
        """Of a running episode, from start to end."""
        # The first ticks hold the start of everything: no pace can be read from a few.
        if self.cap is None or ticks < _PACE_TICKS:
            return None
        length = self.cap
        if self._rows:
            mean = sum(row.ticks for row in self._rows) / len(self._rows)
            length = mean if mean > ticks else self.cap
        return spent_s * max(1.0, length / ticks)
