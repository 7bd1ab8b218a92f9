"""Episode journals: each finished episode on disk, so that an interrupted evaluation continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.execution import Execution
from imitact.evaluation.episode import Job
from imitact.evaluation.results import EnvInfo, EpisodeRow, Evaluation, EvaluationPlan
from imitact.storage.journal import Journal
from imitact.storage.settings_diff import differences, plain_json

EVALUATION_JOURNAL = "episodes.jsonl"
"""File of an evaluation's finished episodes, in its output folder."""

TUNING_JOURNAL = "tune.jsonl"
"""File of a tuning's finished episodes, in its output folder."""


_ADDED_NAMES = frozenset({"gym", "env_sha256"})


@dataclass(frozen=True)
class _TunedEpisode:
    """Entry of a tuning's journal, which holds episodes of many executions."""

    execution: Execution
    row: EpisodeRow


class EpisodeJournal:
    """Finished episodes of an output folder, by job, and the seconds spent so far (`clock_s`).

    `env_info` is the environment that they ran in; None before the first. `names` are those of the
    settings, without what an older version did not store.
    """

    def __init__(
        self,
        path: Path,
        head: dict[str, Any],
        execution: Execution | None,
        chunk_size: int | None = None,
    ) -> None:
        """Open a journal that begins with the settings `head`, or begin one.

        A file of other settings is refused. `execution` is None where each entry names its own.
        Older files name an execution as it was given, also where it is longer than a chunk; with
        the policy's `chunk_size` they are continued.
        """
        self.folder = path.parent
        self.rows: dict[Job, EpisodeRow] = {}
        self._execution = execution
        self._journal = Journal(path)
        kept = self._journal.settings.get("names")
        if isinstance(kept, dict):  # older files do not tell environments of one name apart
            named = {k: v for k, v in head["names"].items() if k in kept or k not in _ADDED_NAMES}
            head = {**head, "names": named}
        stored = _stored_execution(self._journal.settings)
        if execution and stored and stored.within(chunk_size) == execution:
            head = {**head, "chunking": stored.chunking}
        self._journal.begin(head)
        self.names: dict[str, str] = head["names"]
        self.env_info = next(reversed(self._journal.entries("world", EnvInfo)), None)
        if execution:
            rows = self._journal.entries("episode", EpisodeRow)
            finished = [_TunedEpisode(execution, row) for row in rows]
        else:
            finished = self._journal.entries("episode", _TunedEpisode)
        for entry in finished:
            executed = entry.execution.within(chunk_size)
            self.rows.setdefault(Job(executed, entry.row.seed), entry.row)
        self.clock_s = max(self._journal.entries("clock_s", float), default=0.0)

    @classmethod
    def of_evaluation(
        cls, plan: EvaluationPlan, out: Path, chunk_size: int | None = None
    ) -> EpisodeJournal:
        """Open the journal of an evaluation in its output folder."""
        return cls(out / EVALUATION_JOURNAL, plan.to_json(), plan.execution, chunk_size)

    @classmethod
    def of_tuning(
        cls, plan: EvaluationPlan, out: Path, chunk_size: int | None = None
    ) -> EpisodeJournal:
        """Open the journal of a tuning in its output folder."""
        head = {"tune": 1, "names": dict(plan.names), "step_cap": plan.step_cap}
        return cls(out / TUNING_JOURNAL, head, None, chunk_size)

    def add_env(self, env_info: EnvInfo) -> None:
        """Store the environment, once; refuse another one than the finished episodes ran in."""
        if self.env_info is None:
            self._journal.add("world", env_info)
            self.env_info = env_info
        elif self.env_info != env_info:
            found = differences(plain_json(asdict(self.env_info)), plain_json(asdict(env_info)))
            raise BadInput(
                f"the environment differs from that of the finished episodes in {self.folder}: "
                f"{'; '.join(found)}; give another output folder"
            )

    def add(self, job: Job, row: EpisodeRow, clock_s: float) -> None:
        """Store a finished episode, and the seconds spent so far."""
        self.rows[job] = row
        entry = row if self._execution else _TunedEpisode(job.execution, row)
        self._journal.add("episode", entry)
        self._journal.add("clock_s", round(clock_s, 3))

    def add_error(self, job: Job, error: ImitactError) -> None:
        """Store what `episode_error` returned, for a reader; the episode will be run again."""
        text = {"message": str(error), "base": type(error).__name__, "trace": error.__notes__[0]}
        self._journal.add("error", {"seed": job.seed, **text})


def _stored_execution(settings: Mapping[str, Any]) -> Execution | None:
    """Return the execution in the settings of an evaluation's journal; None for a new one."""
    try:
        return Execution(settings["chunking"], settings.get("delay_ticks", 0))
    except (BadInput, KeyError, TypeError):
        return None


def read_unfinished(out: Path) -> tuple[Evaluation, int]:
    """Return the evaluation of the episodes finished so far, and the number of episodes planned.

    The evaluation may still run; its journal is not changed.
    """
    path = out / EVALUATION_JOURNAL
    journal = Journal(path, read_only=True)
    rows = {row.seed: row for row in journal.entries("episode", EpisodeRow)}
    env_infos = journal.entries("world", EnvInfo)
    if not env_infos or not rows:
        raise BadInput(f"{path} has no finished episode yet; try again later")
    try:
        plan = EvaluationPlan.from_json(journal.settings)
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is not the journal of an evaluation: {error}") from error
    seeds = tuple(seed for seed in plan.seeds if seed in rows)
    done = tuple(rows[seed] for seed in seeds)
    wall_s = sum(row.wall_s for row in done)
    return Evaluation(replace(plan, seeds=seeds), env_infos[-1], done, 1, wall_s), len(plan.seeds)
