"""`imitact evaluate`: how often a policy succeeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from imitact.cli.console import ProgressDisplay, print_result
from imitact.cli.envs import world_of
from imitact.cli.policies import executed, identity, loader
from imitact.core.chunking import Execution
from imitact.core.errors import BadInput
from imitact.core.types import Env, Policy
from imitact.envs.gym import GymConfig
from imitact.evaluation import report, runner
from imitact.evaluation.results import Evaluation
from imitact.evaluation.runner import EvaluationProgress
from imitact.evaluation.video import Filming, video_path

GO_ON = "finished episodes are kept; the same command goes on"


@dataclass(frozen=True)
class Evaluate:
    """Run a policy on many fresh seeds of a simulated world, and count."""

    policy: Path
    """The policy: the folder that `imitact train` wrote (OUT/policy), or the file that `imitact
    export` wrote (OUT/policy.openvino, OUT/policy.onnx), which is run without torch."""

    out: Path
    """Folder for the numbers (evaluation.json), the finished episodes and the videos. Interrupted,
    the same command goes on there."""

    env: str = "cube"
    """World: cube (hand a cube over), insertion (put a peg into a socket), or gym:NAME, any
    environment that Gymnasium knows by that name (docs/own_environment.md)."""

    gym: GymConfig = field(default_factory=GymConfig)
    """What a gym:NAME shows where; as when the demonstrations were recorded."""

    episodes: int = 100
    """Episodes, one a seed."""

    first_seed: int = 1000
    """Seed of the first episode; the others follow. Demonstrations use 0 to 999, so from 1000 on
    no start was seen in training."""

    chunking: str | None = None
    """How chunks become actions; none: as the policy itself says, where `imitact tune` wrote it
    there, else replay:50. replay:N executes N ticks of a chunk, then asks again;
    ensemble:M averages all predictions of a tick with weights exp(-M*i), asking at every tick;
    ensemble:M/E asks every E ticks. A query renders and infers, so ensemble:M takes far longer."""

    delay: int | None = None
    """Ticks from a query to its answer, simulated: meanwhile the earlier chunk goes on, and before
    the first answer the robot holds its joints. None: that which the policy was tuned for, where
    its own chunking is taken, else 0."""

    step_cap: int = 0
    """Ticks (20 ms each) after which an episode counts as failed; 0 takes the world's own, 400
    for cube and 500 for insertion."""

    stop_on_success: bool = True
    """End an episode at its first success, as gym-aloha does; else run to the cap and report too
    whether success held over the last 10 ticks."""

    workers: int = 0
    """Processes, each held to one thread; 0 takes one a core. Results do not depend on it."""

    videos: int = 0
    """Film the first so many episodes: the frame, its reward stage, the predicted chunk as joint
    curves. Costs about 0.1 s a picture on a CPU."""

    film_failures: int = 0
    """Film so many failed episodes as well, the first ones: when all are counted their seeds run
    once more. Given later, the same command with it films those of the finished evaluation."""

    filming: Filming = field(default_factory=Filming)
    """How they are filmed."""


def count(
    settings: Evaluate,
    make_env: Callable[[], Env] | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Evaluate, showing progress; the numbers go to evaluation.json.

    make_env: another world than the one that settings.env names, with the same Spec.
    """
    check_films(settings.film_failures)
    make_policy = loader(settings.policy)
    policy = make_policy()
    make_env = make_env or world_of(settings.env, policy.spec, settings.gym)
    execution = wanted(settings.chunking, settings.delay, executed(policy))
    first, many = settings.first_seed, settings.episodes
    with ProgressDisplay("evaluating", many, "episodes") as waiting:

        def show(progress: EvaluationProgress) -> None:
            note = f"{progress.successes} succeeded"
            waiting.to(progress.done, note, left_s=progress.left_s)
            on_progress(progress)

        evaluation = runner.evaluate(
            make_policy,
            make_env,
            seeds=range(first, first + many),
            chunking=execution.chunking,
            delay_ticks=execution.delay_ticks,
            step_cap=settings.step_cap or None,
            stop_on_success=settings.stop_on_success,
            workers=settings.workers or None,
            videos=settings.videos,
            filming=settings.filming,
            names={"env": settings.env, "policy": identity(settings.policy)},
            out=settings.out,
            on_progress=show,
        )
    report.write(evaluation, settings.out)
    _film_failures(settings, evaluation, make_policy, make_env, on_progress)
    return evaluation


def check_films(failures: int) -> None:
    """Refuse a number of failures to film that is none."""
    if failures < 0:
        raise BadInput(f"film_failures is {failures}; 0 films none")


def _film_failures(
    settings: Evaluate,
    evaluation: Evaluation,
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    on_progress: Callable[[EvaluationProgress], None],
) -> None:
    """Film what is asked for and not there yet."""
    failed = [row.seed for row in evaluation.rows if not row.success][: settings.film_failures]
    seeds = [seed for seed in failed if not video_path(settings.out, seed).exists()]
    if not seeds:
        return
    with ProgressDisplay("filming failures", len(seeds), "episodes") as waiting:

        def show(progress: EvaluationProgress) -> None:
            waiting.to(progress.done, left_s=progress.left_s)
            on_progress(progress)

        runner.film(
            make_policy,
            make_env,
            evaluation,
            seeds=seeds,
            out=settings.out,
            workers=settings.workers or None,
            on_progress=show,
        )


def wanted(chunking: str | None, delay_ticks: int | None, own: Execution | None) -> Execution:
    """What is given, and for what is not, what the policy says of itself.

    A delay belongs to the chunking that was chosen for it: another chunking has none of its own.
    """
    usual = Execution(chunking) if chunking is not None else own or Execution()
    return usual if delay_ticks is None else replace(usual, delay_ticks=delay_ticks)


def run(settings: Evaluate) -> None:
    """Evaluate, and print the result."""
    evaluation = count(settings)
    print_result(report.table([evaluation]))
    print_result("")
    print_result(f"success: {report.summary_line(evaluation)}")
    print_result(f"numbers: {settings.out / report.NAME}")
    if settings.videos or (settings.film_failures and evaluation.successes < evaluation.episodes):
        print_result(f"videos:  {video_path(settings.out, settings.first_seed).parent}")
