"""`imitact evaluate`: how often a policy succeeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.options import shallow_dict
from imitact.core.answer_delay import DELAY_RANGE
from imitact.core.errors import BadInput
from imitact.core.ranges import Count, CountOrNone, Seed, Workers
from imitact.deploy.load_policy import policy_path
from imitact.envs.gym import GymConfig
from imitact.envs.registry import check_env_name
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.serving.address import as_address
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.core.types import Env
    from imitact.evaluation.results import Evaluation
    from imitact.evaluation.runner import EvaluationProgress

RESUME_HINT = "finished episodes are kept; the same command continues"


@dataclass(frozen=True)
class Evaluate:
    """Run policies on fresh seeds of an environment, and count how often they succeed.

    Several policies run on the same seeds; a table shows them side by side, with the difference of
    each from the best and its interval.
    """

    policy: Annotated[Positional[tuple[Path, ...]], arg(metavar="POLICY")]
    """Policy: the folder of a training or of its policy, a checkpoint, or an exported file
    (policy.openvino, policy.onnx), which runs without torch; or ws://HOST:PORT, where `imitact
    serve` runs. Several may be given."""

    out: Path
    """Folder of the numbers (evaluation.json), the finished episodes and the videos; with several
    policies a folder in it for each. Interrupted, the same command continues."""

    checkpoints: Literal["none", "all"] = "none"
    """all: evaluate every checkpoint of the training, beside its policy."""

    env: str = ""
    """Environment: cube, insertion, gym:NAME (registered with Gymnasium), or FILE.py:NAME of your
    own (docs/own_environment.md). Empty: that of the demonstrations, cube where it is unknown."""

    episodes: Count = 100
    """Episodes, one per seed."""

    chunking: str | None = None
    """How chunks become actions: replay:N executes N ticks of a chunk, replay:N~F joins chunks
    smoothly over F ticks; ensemble:M/E averages with weights exp(-M*i), a query every E ticks.
    None: as tuned, else replay:50 (docs/tuning.md)."""

    videos: CountOrNone = 0
    """Number of episodes, from the first, to record as videos; about 0.1 s per picture on a CPU."""

    failure_videos: CountOrNone = 0
    """Number of failed episodes to record as videos, too; they run again for it. Given later, the
    same command adds the videos to a finished evaluation."""

    first_seed: Seed = 1000
    """Seed of the first episode; the others follow. Demonstrations use 0 to 999, so no start from
    1000 on was seen in training."""

    workers: Workers = 0
    """Processes, each held to one thread; 0 takes one per core. Results do not depend on it."""

    step_cap: CountOrNone = 0
    """Ticks after which an episode counts as failed; 0 takes the environment's own (400 for cube,
    500 for insertion, of 20 ms each)."""

    stop_on_success: bool = True
    """End an episode at its first success, as gym-aloha does; otherwise run to the step cap, and
    report whether success was held over the last 10 ticks."""

    delay_ticks: Annotated[int | str | None, DELAY_RANGE] = None
    """Simulated ticks from a query to its answer, during which the earlier chunk continues; 3..9
    draws one of 3 to 9 for each answer. None: as tuned for the policy's own chunking, else 0."""

    video: EpisodeVideoConfig = field(default_factory=EpisodeVideoConfig)
    """Content of the videos."""

    gym: GymConfig = field(default_factory=GymConfig)
    """Where a gym:NAME has its state, frames and success; as in the demonstrations."""


OPTIONS = Evaluate


def count(
    settings: Evaluate,
    make_env: Callable[[], Env] | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> dict[str, Evaluation]:
    """Evaluate, showing progress; return the evaluations by policy ("" for one alone).

    `make_env` and `on_progress` are as for `imitact.evaluate`.
    """
    check_output(settings.out, "evaluation")
    if not settings.policy:
        raise BadInput("POLICY is missing; give the folder of a training")
    if settings.env:
        check_env_name(settings.env)
    if settings.checkpoints == "none":
        for path in settings.policy:
            if as_address(path) is None:
                policy_path(path)
    from imitact.api import evaluate as api

    options = shallow_dict(settings)
    failure_videos = settings.failure_videos
    planned = api.plan_evaluations(
        options.pop("policy"), **options, make_env=make_env, on_line=print_progress
    )
    found: dict[str, Evaluation] = {}
    for number, each in enumerate(planned, 1):
        title = (
            f"evaluating {each.name} ({number} of {len(planned)})" if each.name else "evaluating"
        )
        with ProgressDisplay(title, settings.episodes, "episodes") as display:

            def show(progress: EvaluationProgress, display: ProgressDisplay = display) -> None:
                note = f"{progress.successes} succeeded"
                display.to(progress.done, note, left_s=progress.left_s)
                on_progress(progress)

            found[each.name] = evaluation = api.run_evaluation(each, **options, on_progress=show)
        if missing := api.failures_without_video(evaluation, each.out, failure_videos):
            with ProgressDisplay("videos of failures", len(missing), "episodes") as display:

                def show_video(
                    progress: EvaluationProgress, display: ProgressDisplay = display
                ) -> None:
                    display.to(progress.done, left_s=progress.left_s)
                    on_progress(progress)

                workers = settings.workers
                api.record_failures(each, evaluation, failure_videos, workers, show_video)
    return found


def run(settings: Evaluate) -> None:
    """Evaluate, and print the results."""
    found = count(settings)
    from imitact.evaluation import report
    from imitact.evaluation.episode_video import video_path

    if "" not in found:
        print_result(*report.side_by_side(found))
        print_result(f"numbers: {settings.out / '*' / report.FILE_NAME}")
        return
    evaluation = found[""]
    print_result(*report.table([evaluation]).splitlines(), "")
    print_result(f"success: {report.summary_line(evaluation)}")
    print_result(f"numbers: {settings.out / report.FILE_NAME}")
    if settings.videos or (settings.failure_videos and evaluation.successes < evaluation.episodes):
        print_result(f"videos:  {video_path(settings.out, settings.first_seed).parent}")
