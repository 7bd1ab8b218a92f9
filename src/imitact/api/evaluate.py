"""Evaluation by environment name: how often policies succeed on fresh seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.types import Env, Policy
from imitact.core.words import counted
from imitact.deploy.load_policy import StoredPolicy, list_checkpoints, read_stored
from imitact.envs import registry
from imitact.envs.gym import GymConfig
from imitact.evaluation import report, runner
from imitact.evaluation.episode_video import video_path
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.evaluation.results import Evaluation, EvaluationPlan
from imitact.evaluation.runner import EvaluationProgress
from imitact.storage.output_guard import check_output

OnProgress = Callable[[EvaluationProgress], None]

PolicyLike = Path | str | Policy
"""Path of a policy, as for `load_policy`, or what `load_policy` returned."""


@overload
def evaluate(policy: PolicyLike, *, out: Path | str, **options: Any) -> Evaluation: ...
@overload
def evaluate(
    policy: Sequence[PolicyLike], *, out: Path | str, **options: Any
) -> dict[str, Evaluation]: ...


def evaluate(  # type: ignore[misc]  # the overloads do not repeat the options
    policy: PolicyLike | Sequence[PolicyLike],
    *,
    out: Path | str,
    checkpoints: Literal["none", "all"] = "none",
    env: str = "",
    gym: GymConfig | Mapping[str, Any] | None = None,
    episodes: int = 100,
    first_seed: int = 1000,
    chunking: str | None = None,
    delay_ticks: int | str | None = None,
    step_cap: int = 0,
    stop_on_success: bool = True,
    workers: int = 0,
    videos: int = 0,
    failure_videos: int = 0,
    video: EpisodeVideoConfig | None = None,
    make_env: Callable[[], Env] | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_line: Callable[[str], object] = lambda line: None,
) -> Evaluation | dict[str, Evaluation]:
    """Run policies on fresh seeds of an environment and count how often they succeed.

    The arguments are the options of `imitact evaluate` (docs/settings.md). Interrupted, the same
    call continues.

    Args:
        policy: path of a policy, as for `load_policy`, or what `load_policy` returned; or several
            of them in a sequence, which run one after the other on the same seeds.
        make_env: picklable function that makes another environment than `env` names, of the same
            Spec.
        on_progress: called as episodes finish, and about once a second in between.
        on_line: receives what is to be known about policy and environment, before they begin.

    Returns:
        The episodes and their success rate, which are also in out/evaluation.json; of a sequence
        by the name of each policy, which is that of its folder in `out`.
    """
    options: dict[str, Any] = {
        "episodes": episodes,
        "first_seed": first_seed,
        "chunking": chunking,
        "delay_ticks": delay_ticks,
        "step_cap": step_cap,
        "stop_on_success": stop_on_success,
        "workers": workers,
        "videos": videos,
        "video": video or EpisodeVideoConfig(),
    }
    planned = plan_evaluations(
        [policy] if isinstance(policy, Path | str | Policy) else policy,
        out=Path(out),
        checkpoints=checkpoints,
        env=env,
        gym=gym,
        make_env=make_env,
        failure_videos=failure_videos,
        on_line=on_line,
        **options,
    )
    found = {}
    for each in planned:
        found[each.name] = run_evaluation(each, **options, on_progress=on_progress)
        record_failures(each, found[each.name], failure_videos, workers)
    is_one = isinstance(policy, Path | str | Policy) and checkpoints == "none"
    return found[planned[0].name] if is_one else found


@dataclass(frozen=True)
class PlannedEvaluation:
    """One policy of an evaluation, after it was found to fit the environment.

    Attributes:
        name: name among the policies; empty where there is one alone.
        out: its folder.
        names: what distinguishes policy and environment, as the results store it.
    """

    name: str
    policy: StoredPolicy
    make_env: Callable[[], Env]
    out: Path
    names: Mapping[str, str]
    execution: Execution


def plan_evaluations(
    policies: Sequence[PolicyLike],
    *,
    out: Path,
    checkpoints: Literal["none", "all"],
    env: str,
    gym: GymConfig | Mapping[str, Any] | None,
    make_env: Callable[[], Env] | None,
    failure_videos: int,
    on_line: Callable[[str], object],
    episodes: int,
    first_seed: int,
    chunking: str | None,
    delay_ticks: int | str | None,
    step_cap: int,
    workers: int,
    videos: int,
    **_: Any,
) -> list[PlannedEvaluation]:
    """Check everything that an evaluation needs before it begins; arguments as for `evaluate`."""
    for option, value in (("failure_videos", failure_videos), ("workers", workers)):
        if value < 0:
            raise BadInput(f"{option} is {value}; it must be at least 0")
    if episodes < 1:
        raise BadInput(f"episodes is {episodes}; it must be at least 1")
    seeds = tuple(range(first_seed, first_seed + episodes))
    EvaluationPlan(seeds, chosen_execution(chunking, delay_ticks, None), step_cap or None,
                   videos=videos)  # fmt: skip
    if env:
        registry.check_env_name(env)
    if checkpoints == "all":
        stored = [each for policy in policies for each in _all_of_training(policy)]
    else:
        stored = [_stored(policy) for policy in policies]
    names = _names(stored) if len(policies) > 1 or checkpoints == "all" else [""]
    planned = []
    for name, policy in zip(names, stored, strict=True):
        folder = out / name
        check_output(folder, "evaluation")
        chosen = registry.env_name_for(env, policy.recorded_in)
        make, settings = make_env, {}
        if make is None:
            make, settings = registry.env_for_policy(
                chosen, policy.spec, gym, recorded_in=policy.recorded_in, on_line=on_line
            )
        execution = chosen_execution(chunking, delay_ticks, policy.execution)
        _tell_queries(name, execution, policy.chunk_size, on_line)
        identity = {"env": chosen, "policy": policy.identity, **settings}
        planned.append(PlannedEvaluation(name, policy, make, folder, identity, execution))
    return planned


def run_evaluation(
    planned: PlannedEvaluation,
    *,
    episodes: int,
    first_seed: int,
    step_cap: int,
    stop_on_success: bool,
    workers: int,
    videos: int,
    video: EpisodeVideoConfig,
    on_progress: OnProgress,
    **_: Any,
) -> Evaluation:
    """Evaluate one policy and write its evaluation.json; arguments as for `evaluate`."""
    evaluation = runner.evaluate(
        planned.policy.loader,
        planned.make_env,
        seeds=range(first_seed, first_seed + episodes),
        execution=planned.execution,
        chunk_size=planned.policy.chunk_size,
        step_cap=step_cap or None,
        stop_on_success=stop_on_success,
        workers=workers or None,
        videos=videos,
        video=video,
        names=planned.names,
        out=planned.out,
        on_progress=on_progress,
    )
    report.write(evaluation, planned.out)
    return evaluation


def record_failures(
    planned: PlannedEvaluation,
    evaluation: Evaluation,
    count: int,
    workers: int,
    on_progress: OnProgress = lambda progress: None,
) -> None:
    """Record the first `count` failed episodes as videos, those that have none yet."""
    if seeds := failures_without_video(evaluation, planned.out, count):
        runner.record_videos(
            planned.policy.loader,
            planned.make_env,
            evaluation,
            seeds=seeds,
            out=planned.out,
            workers=workers or None,
            on_progress=on_progress,
        )


def failures_without_video(evaluation: Evaluation, out: Path, count: int) -> list[int]:
    """Return which of the first `count` failed seeds have no video in the output folder yet."""
    failed = [row.seed for row in evaluation.rows if not row.success][:count]
    return [seed for seed in failed if not video_path(out, seed).exists()]


def chosen_execution(
    chunking: str | None, delay_ticks: int | str | None, own: Execution | None
) -> Execution:
    """Return the execution that is given, completed by what the policy was tuned for.

    A delay belongs to the chunking that was tuned for it: another chunking has a delay of 0.
    """
    usual = Execution(chunking) if chunking is not None else own or Execution()
    return usual if delay_ticks is None else replace(usual, delay_ticks=delay_ticks)


def _stored(policy: PolicyLike) -> StoredPolicy:
    """Read what is known of a policy; each worker process loads it from where it is stored."""
    if isinstance(policy, str | Path):
        return read_stored(policy)
    path = getattr(policy, "path", None)
    if path is None:
        raise BadInput(
            f"evaluate loads the policy in each worker process, and this {type(policy).__name__} "
            "was not loaded from a path; give the path, or a policy that load_policy returned. For "
            "a Policy of your own there is imitact.evaluation.runner.evaluate"
        )
    stored = read_stored(path)
    if stored.identity != getattr(policy, "identity", stored.identity):
        raise BadInput(f"{path} was replaced by another policy since it was loaded; load it again")
    return stored


def _all_of_training(policy: PolicyLike) -> list[StoredPolicy]:
    """Return the policies of all checkpoints of a training, then its own if it is another one."""
    path = Path(policy) if isinstance(policy, str | Path) else _stored(policy).path
    training = path.parent if path.name == "policy" else path
    found = [read_stored(checkpoint) for checkpoint in list_checkpoints(training)]
    if not found:
        raise BadInput(
            f"{path} is no training with checkpoints; give the folder of a training, or leave out "
            "--checkpoints"
        )
    if (training / "policy" / "policy.json").is_file():
        own = read_stored(training)
        found += [own] if own.identity not in {each.identity for each in found} else []
    return found


def _names(policies: Sequence[StoredPolicy]) -> list[str]:
    """Return a name for each policy: the last parts of its path, as many as distinguish them."""
    skipped = ("policy", "checkpoints")
    parts = [[p for p in Path(os.path.abspath(each.path)).parts if p not in skipped]
             for each in policies]  # fmt: skip
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(each[-count:]).strip("/-") for each in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(each.path for each in policies if [p.path for p in policies].count(each.path) > 1)
    raise BadInput(f"{twice} is given twice; give each policy once")


def _tell_queries(
    name: str, execution: Execution, chunk: int | None, on_line: Callable[[str], object]
) -> None:
    """Tell where chunks are shorter than the execution wants, and are executed whole."""
    if chunk is not None and (executed := execution.within(chunk)) != execution:
        what = f"{name}: " if name else ""
        on_line(
            f"{what}chunks are {counted(chunk, 'tick')} long: {execution} runs as "
            f"{executed.chunking}"
        )
