"""Evaluation by environment name: how often a policy succeeds on fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.executor import execution_of
from imitact.core.types import Env, Policy
from imitact.deploy.load_policy import policy_identity, policy_loader
from imitact.envs import registry
from imitact.envs.gym import GymConfig
from imitact.evaluation import report, runner
from imitact.evaluation.episode_video import video_path
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.evaluation.results import Evaluation
from imitact.evaluation.runner import EvaluationProgress

OnProgress = Callable[[EvaluationProgress], None]


def evaluate(
    policy: Path | str | Policy,
    *,
    out: Path | str,
    env: str = "cube",
    gym: GymConfig | Mapping[str, Any] | None = None,
    episodes: int = 100,
    first_seed: int = 1000,
    chunking: str | None = None,
    delay_ticks: int | None = None,
    step_cap: int = 0,
    stop_on_success: bool = True,
    workers: int = 0,
    videos: int = 0,
    failure_videos: int = 0,
    video: EpisodeVideoConfig | None = None,
    make_env: Callable[[], Env] | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Evaluation:
    """Run a policy on fresh seeds of an environment and count how often it succeeds.

    The arguments are the options of `imitact evaluate` (docs/settings.md). Interrupted, the same
    call continues.

    Args:
        policy: path of a policy, as for `load_policy`, or what `load_policy` returned.
        make_env: picklable function that makes another environment than `env` names, of the same
            Spec.
        on_progress: called as episodes finish, and about once a second in between.

    Returns:
        The episodes and their success rate, which are also in out/evaluation.json.
    """
    check_failure_videos(failure_videos)
    if workers < 0:
        raise BadInput(f"workers is {workers}; it must be at least 0")
    path, out = _path_of(policy), Path(out)
    make_policy = policy_loader(path)
    loaded = policy if isinstance(policy, Policy) else make_policy()
    make_env = make_env or registry.env_factory_for(env, loaded.spec, gym)
    evaluation = runner.evaluate(
        make_policy,
        make_env,
        seeds=range(first_seed, first_seed + episodes),
        execution=chosen_execution(chunking, delay_ticks, execution_of(loaded)),
        step_cap=step_cap or None,
        stop_on_success=stop_on_success,
        workers=workers or None,
        videos=videos,
        video=video or EpisodeVideoConfig(),
        names={"env": env, "policy": policy_identity(path)},
        out=out,
        on_progress=on_progress,
    )
    report.write(evaluation, out)
    if seeds := failures_without_video(evaluation, out, failure_videos):
        runner.record_videos(
            make_policy, make_env, evaluation, seeds=seeds, out=out, workers=workers or None
        )
    return evaluation


def check_failure_videos(count: int) -> None:
    """Refuse a negative number of failed episodes to record as videos."""
    if count < 0:
        raise BadInput(f"failure_videos is {count}; it must be at least 0")


def failures_without_video(evaluation: Evaluation, out: Path, count: int) -> list[int]:
    """Return which of the first `count` failed seeds have no video in the output folder yet."""
    failed = [row.seed for row in evaluation.rows if not row.success][:count]
    return [seed for seed in failed if not video_path(out, seed).exists()]


def chosen_execution(
    chunking: str | None, delay_ticks: int | None, own: Execution | None
) -> Execution:
    """Return the execution that is given, completed by what the policy was tuned for.

    A delay belongs to the chunking that was tuned for it: another chunking has a delay of 0.
    """
    usual = Execution(chunking) if chunking is not None else own or Execution()
    return usual if delay_ticks is None else replace(usual, delay_ticks=delay_ticks)


def _path_of(policy: Path | str | Policy) -> Path:
    """Return where a policy is stored; each worker process loads it from there."""
    if isinstance(policy, str | Path):
        return Path(policy)
    path = getattr(policy, "path", None)
    if path is None:
        raise BadInput(
            f"evaluate loads the policy in each worker process, and this {type(policy).__name__} "
            "was not loaded from a path; give the path, or a policy that load_policy returned. For "
            "a Policy of your own there is imitact.evaluation.runner.evaluate"
        )
    return path
