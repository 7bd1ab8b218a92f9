"""Time left: an estimate from how long the episodes have taken so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from imitact.evaluation.episode import Job
from imitact.evaluation.results import EpisodeRow

_MIN_TICKS = 5  # the first ticks include the start of everything


class TimeLeft:
    """Estimates the time left from finished and running episodes.

    Episodes recorded as videos have an estimate of their own, since they render. A waiting
    episode takes the mean of the finished ones; a running one continues at its own speed to the
    mean number of ticks or, beyond that, to the step cap.

    Attributes:
        step_cap: step cap of the episodes, in ticks; None until the environment is known.
    """

    def __init__(self, workers: int, recorded_seeds: Collection[int] = ()) -> None:
        """Create an estimator; the episodes of `recorded_seeds` are recorded as videos."""
        self.step_cap: int | None = None
        self._workers = workers
        self._recorded_seeds = frozenset(recorded_seeds)
        self._expected: set[Job] = set()
        self._running: dict[Job, tuple[int, float]] = {}
        self._rows: dict[Job, EpisodeRow] = {}

    def expect(self, jobs: Iterable[Job]) -> None:
        """Add episodes that will run, or that have finished already."""
        self._expected.update(jobs)

    def running(self, job: Job, ticks: int, spent_s: float) -> None:
        """Note the ticks done in a running episode, and the seconds since its start."""
        self._running[job] = ticks, spent_s

    def finished(self, job: Job, row: EpisodeRow) -> None:
        """Note a finished episode, of this run or of an earlier one."""
        self._running.pop(job, None)
        self._rows[job] = row

    def left_s(self) -> float | None:
        """Return the estimated time left in s; None while nothing is known."""
        waiting = [j for j in self._expected if j not in self._rows and j not in self._running]
        if not waiting and not self._running:
            return 0.0
        typical_s = {recorded: self._typical_s(recorded) for recorded in (True, False)}
        lanes_s = [0.0] * max(1, min(self._workers, len(self._expected)))
        for lane, (job, (ticks, spent_s)) in enumerate(self._running.items()):
            total_s = self._total_s(ticks, spent_s)
            if total_s is None:
                total_s = typical_s[self._recorded(job)]
            if total_s is None:
                return None
            lanes_s[lane % len(lanes_s)] += max(0.0, total_s - spent_s)
        for recorded in sorted(map(self._recorded, waiting), reverse=True):
            episode_s = typical_s[recorded]
            if episode_s is None:
                return None
            # The worker that is free first takes the next job, as in the pool.
            lanes_s[lanes_s.index(min(lanes_s))] += episode_s
        return max(lanes_s)

    def _recorded(self, job: Job) -> bool:
        return job.seed in self._recorded_seeds

    def _typical_s(self, recorded: bool) -> float | None:
        """Duration of an episode of that kind, or of the other kind where there is none."""
        for kind in (recorded, not recorded):
            known = [row.wall_s for job, row in self._rows.items() if self._recorded(job) == kind]
            if not known:
                running = (
                    self._total_s(*progress)
                    for job, progress in self._running.items()
                    if self._recorded(job) == kind
                )
                known = [total_s for total_s in running if total_s is not None]
            if known:
                return sum(known) / len(known)
        return None

    def _total_s(self, ticks: int, spent_s: float) -> float | None:
        """Duration of a running episode, from start to end."""
        if self.step_cap is None or ticks < _MIN_TICKS:
            return None
        length = self.step_cap
        if self._rows:
            mean = sum(row.ticks for row in self._rows.values()) / len(self._rows)
            length = mean if mean > ticks else self.step_cap
        return spent_s * max(1.0, length / ticks)
