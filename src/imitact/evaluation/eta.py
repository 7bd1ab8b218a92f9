"""Time left: an estimate from how long the episodes have taken so far."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from imitact.evaluation.episode import Job
from imitact.evaluation.results import EpisodeRow

_MIN_TICKS = 5  # the first ticks include the start of everything


@dataclass
class TimeLeft:
    """Estimates the time left from finished and running episodes.

    Episodes recorded as videos have an estimate of their own, since they render. A waiting
    episode takes the mean of the finished ones; a running one continues at its own speed to the
    mean number of ticks or, beyond that, to the step cap.
    """

    workers: int
    recorded_seeds: Collection[int] = ()
    expected: set[Job] = field(default_factory=set)  # will run, or have finished
    running: dict[Job, tuple[int, float]] = field(default_factory=dict)  # ticks done, s spent
    rows: dict[Job, EpisodeRow] = field(default_factory=dict)  # finished, earlier runs included
    step_cap: int | None = None  # in ticks; None until the environment is known

    def left_s(self) -> float | None:
        """Return the estimated time left in s; None while nothing is known."""
        waiting = [j for j in self.expected if j not in self.rows and j not in self.running]
        if not waiting and not self.running:
            return 0.0
        typical_s = {recorded: self._typical_s(recorded) for recorded in (True, False)}
        lanes_s = [0.0] * max(1, min(self.workers, len(self.expected)))
        for lane, (job, (ticks, spent_s)) in enumerate(self.running.items()):
            total_s = self._total_s(ticks, spent_s) or typical_s[self._recorded(job)]
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
        return job.seed in self.recorded_seeds

    def _typical_s(self, recorded: bool) -> float | None:
        """Duration of an episode of that kind, or of the other kind where there is none."""
        for kind in (recorded, not recorded):
            known = [row.wall_s for job, row in self.rows.items() if self._recorded(job) == kind]
            jobs = [job for job in self.running if self._recorded(job) == kind]
            running = [self._total_s(*self.running[job]) for job in jobs]
            known = known or [total_s for total_s in running if total_s is not None]
            if known:
                return sum(known) / len(known)
        return None

    def _total_s(self, ticks: int, spent_s: float) -> float | None:
        """Duration of a running episode, from start to end."""
        if self.step_cap is None or ticks < _MIN_TICKS:
            return None
        mean = sum(row.ticks for row in self.rows.values()) / max(1, len(self.rows))
        length = mean if mean > ticks else self.step_cap
        return spent_s * max(1.0, length / ticks)
