"""`imitact evaluate`: how often a policy succeeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import ProgressDisplay, print_result
from imitact.cli.options import shallow_dict
from imitact.deploy.load_policy import policy_path
from imitact.envs.gym import GymConfig
from imitact.envs.registry import check_env_name
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.core.types import Env
    from imitact.evaluation.results import Evaluation
    from imitact.evaluation.runner import EvaluationProgress

RESUME_HINT = "finished episodes are kept; the same command continues"


@dataclass(frozen=True)
class Evaluate:
    """Run a policy on fresh seeds of an environment, and count how often it succeeds."""

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Policy: the folder of a training or of its policy, or an exported file (policy.openvino,
    policy.onnx), which runs without torch."""

    out: Path
    """Folder of the numbers (evaluation.json), the finished episodes and the videos. Interrupted,
    the same command continues."""

    env: str = "cube"
    """Environment: cube, insertion, gym:NAME (registered with Gymnasium), or FILE.py:NAME of your
    own (docs/own_environment.md)."""

    episodes: int = 100
    """Episodes, one per seed."""

    chunking: str | None = None
    """How chunks become actions: replay:N executes N ticks of a chunk; ensemble:M/E averages with
    weights exp(-M*i), a query every E ticks. None: as tuned, else replay:50 (docs/tuning.md)."""

    videos: int = 0
    """Number of episodes, from the first, to record as videos; about 0.1 s per picture on a CPU."""

    failure_videos: int = 0
    """Number of failed episodes to record as videos, too; they run again for it. Given later, the
    same command adds the videos to a finished evaluation."""

    first_seed: int = 1000
    """Seed of the first episode; the others follow. Demonstrations use 0 to 999, so no start from
    1000 on was seen in training."""

    workers: int = 0
    """Processes, each held to one thread; 0 takes one per core. Results do not depend on it."""

    step_cap: int = 0
    """Ticks after which an episode counts as failed; 0 takes the environment's own (400 for cube,
    500 for insertion, of 20 ms each)."""

    stop_on_success: bool = True
    """End an episode at its first success, as gym-aloha does; otherwise run to the step cap, and
    report whether success was held over the last 10 ticks."""

    delay_ticks: int | None = None
    """Simulated ticks from a query to its answer, during which the earlier chunk continues. None:
    as tuned for the policy's own chunking, else 0."""

    video: EpisodeVideoConfig = field(default_factory=EpisodeVideoConfig)
    """Content of the videos."""

    gym: GymConfig = field(default_factory=GymConfig)
    """Where a gym:NAME has its state, frames and success; as in the demonstrations."""


OPTIONS = Evaluate


def count(
    settings: Evaluate,
    make_env: Callable[[], Env] | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Evaluate, showing progress; the numbers go to evaluation.json.

    `make_env` and `on_progress` are as for `imitact.evaluate`.
    """
    check_output(settings.out, "evaluation")
    check_env_name(settings.env)
    path = policy_path(settings.policy)
    from imitact.api import evaluate as api
    from imitact.deploy.load_policy import policy_loader
    from imitact.envs import registry
    from imitact.evaluation import runner

    api.check_failure_videos(settings.failure_videos)
    with ProgressDisplay("evaluating", settings.episodes, "episodes") as display:

        def show(progress: EvaluationProgress) -> None:
            display.to(progress.done, f"{progress.successes} succeeded", left_s=progress.left_s)
            on_progress(progress)

        options = {**shallow_dict(settings), "failure_videos": 0}
        evaluation = api.evaluate(**options, make_env=make_env, on_progress=show)
    seeds = api.failures_without_video(evaluation, settings.out, settings.failure_videos)
    if not seeds:
        return evaluation
    with ProgressDisplay("videos of failures", len(seeds), "episodes") as display:

        def show_video(progress: EvaluationProgress) -> None:
            display.to(progress.done, left_s=progress.left_s)
            on_progress(progress)

        make_policy = policy_loader(path)
        runner.record_videos(
            make_policy,
            make_env or registry.env_factory_for(settings.env, make_policy().spec, settings.gym),
            evaluation,
            seeds=seeds,
            out=settings.out,
            workers=settings.workers or None,
            on_progress=show_video,
        )
    return evaluation


def run(settings: Evaluate) -> None:
    """Evaluate, and print the result."""
    evaluation = count(settings)
    from imitact.evaluation import report
    from imitact.evaluation.episode_video import video_path

    print_result(report.table([evaluation]), "")
    print_result(f"success: {report.summary_line(evaluation)}")
    print_result(f"numbers: {settings.out / report.FILE_NAME}")
    if settings.videos or (settings.failure_videos and evaluation.successes < evaluation.episodes):
        print_result(f"videos:  {video_path(settings.out, settings.first_seed).parent}")
