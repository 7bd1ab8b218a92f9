"""`imitact tune`: how a policy's chunks are best executed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.core.errors import BadInput
from imitact.core.ranges import CountOrNone, Workers
from imitact.deploy.load_policy import policy_path
from imitact.envs.gym import GymConfig
from imitact.envs.registry import check_env_name
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.successive_halving import RaceConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.evaluation.runner import EvaluationProgress

RESUME_HINT = "finished episodes are kept and the policy is unchanged; the same command continues"


@dataclass(frozen=True)
class Tune:
    """Find how a policy's chunks are best executed in an environment, and store it in the policy.

    Settings compete on the same seeds; of the finalists the most successful is chosen, where
    several are as good the smoothest (docs/tuning.md). The choice is confirmed on other seeds.
    """

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Folder of a training or of its policy. The choice is stored beside its weights, which do not
    change."""

    out: Path | None = None
    """Folder of the numbers (tune.json), the figure (tune.svg) and the finished episodes. None: the
    policy's folder with -tune appended. Interrupted, the same command continues."""

    env: str = ""
    """Environment: cube, insertion, gym:NAME (registered with Gymnasium), or FILE.py:NAME of your
    own (docs/own_environment.md). Empty: that of the demonstrations, cube where it is unknown."""

    write: bool = True
    """Store the choice in the policy; otherwise only report it."""

    workers: Workers = 0
    """Processes, each held to one thread; 0 takes one per core. Results do not depend on it."""

    step_cap: CountOrNone = 0
    """Ticks after which an episode counts as failed; 0 takes the environment's own."""

    race: OmitArgPrefixes[RaceConfig] = field(default_factory=RaceConfig)
    """Seeds, and the number of settings that run on them."""

    grid: OmitArgPrefixes[Grid] = field(default_factory=Grid)
    """Settings that are tried."""

    gym: GymConfig = field(default_factory=GymConfig)
    """Where a gym:NAME has its state, frames and success; as in the demonstrations."""


OPTIONS = Tune


def run(settings: Tune) -> None:
    """Tune, print the result, and store the choice in the policy."""
    if settings.out:
        check_output(settings.out, "tuning")
    path = _tunable(settings.policy)
    if settings.env:
        check_env_name(settings.env)
    from imitact.core.execution import Execution
    from imitact.deploy.load_policy import read_stored
    from imitact.envs.registry import env_for_policy, env_name_for
    from imitact.evaluation.episode_journal import EpisodeJournal
    from imitact.evaluation.results import EvaluationPlan
    from imitact.evaluation.runner import Evaluator
    from imitact.evaluation.tuning import plot, report, successive_halving
    from imitact.models.policy_folder import set_execution
    from imitact.storage.lock import exclusive_writer

    real = path.resolve()
    out = settings.out or real.with_name(f"{real.name}-tune")
    policy = read_stored(path)
    assert policy.chunk_size is not None  # a policy folder says it
    total = successive_halving.count_episodes(settings.grid, settings.race, policy.chunk_size)
    env = env_name_for(settings.env, policy.recorded_in)
    make_env, env_identity = env_for_policy(
        env,
        policy.spec,
        settings.gym,
        recorded_in=policy.recorded_in,
        on_line=print_progress,
    )
    names = {"env": env, "policy": policy.identity, **env_identity}
    plan = EvaluationPlan((0,), Execution(), step_cap=settings.step_cap or None, names=names)
    with exclusive_writer(out, "tuning"), ProgressDisplay("tuning", total, "episodes") as display:
        stage = ""

        def begin(words: str) -> None:
            nonlocal stage
            stage = words
            print_progress(words)

        def show(progress: EvaluationProgress) -> None:
            done, episode_s = progress.done, progress.episode_s
            display.to(done, stage, None if episode_s is None else episode_s * (total - done))

        journal = EpisodeJournal.of_tuning(plan, out, policy.chunk_size)
        with Evaluator(
            policy.loader,
            make_env,
            replace(plan, names=journal.names),
            workers=settings.workers or None,
            journal=journal,
            on_progress=show,
        ) as evaluator:
            found = successive_halving.tune(
                evaluator.evaluations, settings.grid, settings.race, policy.chunk_size, begin
            )
            display.to(total, "all")
        record = {
            **report.to_dict(found, settings.grid, settings.race, journal.names),
            "written": settings.write,
            "workers": evaluator.workers,
            "wall_s": round(evaluator.wall_s, 1),
        }
        numbers = report.write(record, out)
        figure = plot.draw(found, out)
        if settings.write:
            set_execution(path, found.chosen, of_identity=policy.identity)
    print_result(*report.report_lines(found, settings.race), "")
    print_result(f"numbers: {numbers}")
    print_result(f"figure:  {figure}")
    if settings.write:
        print_result(f"policy:  {path} executes {found.chosen} from now on")
    else:
        chosen = report.evaluate_options(found.chosen)
        print_result(f"policy:  unchanged; imitact evaluate {path} {chosen}")


def _tunable(given: Path) -> Path:
    """Return the folder of the policy; refuse one that must not be changed."""
    path = policy_path(given)
    if path.is_file():
        raise BadInput(
            f"{path} is an exported file, whose checksum covers all of it: tune the folder of the "
            "policy that it was exported from, then export again"
        )
    if (path.resolve().parent / "trainer.json").exists():
        raise BadInput(
            f"{path} belongs to a checkpoint, from which a training continues only while nothing "
            "in it was changed; copy the folder to another place and tune the copy"
        )
    return path
