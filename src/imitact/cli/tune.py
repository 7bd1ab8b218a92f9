"""`imitact tune`: how a policy's chunks are best executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.envs import world_of
from imitact.cli.policies import loader
from imitact.core.errors import BadInput
from imitact.envs.gym import GymConfig
from imitact.evaluation.sweep import Sweep
from imitact.evaluation.tuning import plot, report
from imitact.evaluation.tuning import race as tuning
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.race import Race
from imitact.models.policy import TorchPolicy, identity, set_execution
from imitact.storage.lock import exclusive_writer

GO_ON = "finished episodes are kept and the policy is as it was; the same command goes on"


@dataclass(frozen=True)
class Tune:
    """Find how a policy's chunks are best executed in a simulated world; write it into the policy.

    All settings run on a few seeds, the better half on twice as many, and so on. Of the finalists
    the one with the most successes is taken; where another is not shown to succeed less, the
    smoother one, then the one that asks less often (docs/tuning.md). What was chosen is
    confirmed on other seeds.
    """

    policy: Path
    """Folder of the policy, as `imitact train` wrote it (OUT/policy). `imitact evaluate` and
    whoever loads it use what is written there; its weights stay as they are."""

    env: str = "cube"
    """World: cube (hand a cube over), insertion (put a peg into a socket), or gym:NAME, any
    environment that Gymnasium knows by that name (docs/own_environment.md)."""

    gym: GymConfig = field(default_factory=GymConfig)
    """What a gym:NAME shows where; as when the demonstrations were recorded."""

    out: Path | None = None
    """Folder for the numbers (tune.json), the figure (tune.svg) and the finished episodes; none:
    the policy's folder with -tune behind its name. Interrupted, the same command goes on there, and
    a larger grid or more seeds use what was run before."""

    grid: OmitArgPrefixes[Grid] = field(default_factory=Grid)
    """What is tried."""

    race: OmitArgPrefixes[Race] = field(default_factory=Race)
    """Seeds, and how many settings they are spent on."""

    step_cap: int = 0
    """Ticks after which an episode counts as failed; 0 takes the world's own."""

    workers: int = 0
    """Processes, each held to one thread; 0 takes one a core. Results do not depend on it."""

    write: bool = True
    """Write what was chosen into the policy; else only report it."""


def run(settings: Tune) -> None:
    """Tune, print what was found, write it into the policy."""
    policy = _tunable(settings.policy)
    if settings.workers < 0:
        raise BadInput(f"workers is {settings.workers}; it must be at least 0")
    real = settings.policy.resolve()
    out = settings.out or real.with_name(f"{real.name}-tune")
    total = tuning.episodes(settings.grid, settings.race, policy.config.chunk)
    names = {"env": settings.env, "policy": identity(settings.policy)}
    make_env = world_of(settings.env, policy.spec, settings.gym)
    with exclusive_writer(out, "tuning"), ProgressDisplay("tuning", total, "episodes") as waiting:
        stage = ""

        def begin(words: str) -> None:
            nonlocal stage
            stage = words
            print_progress(words)

        def show(done: int, each_s: float | None) -> None:
            waiting.to(done, stage, None if each_s is None else each_s * (total - done))

        with Sweep(
            loader(settings.policy),
            make_env,
            workers=settings.workers or None,
            names=names,
            step_cap=settings.step_cap or None,
            out=out,
            on_progress=show,
        ) as sweep:
            found = tuning.tune(
                sweep.evaluations, settings.grid, settings.race, policy.config.chunk, begin
            )
            waiting.to(total, "all")
        told = {
            **report.to_dict(found, settings.grid, settings.race, names),
            "written": settings.write,
            "workers": sweep.workers,
            "wall_s": round(sweep.wall_s, 1),
        }
        numbers = report.write(told, out)
        figure = plot.draw(found, out)
        if settings.write:
            set_execution(settings.policy, found.chosen)
    for line in report.lines(found, settings.race):
        print_result(line)
    print_result("")
    print_result(f"numbers: {numbers}")
    print_result(f"figure:  {figure}")
    if settings.write:
        print_result(f"policy:  {settings.policy} executes {found.chosen} from now on")
    else:
        print_result(f"policy:  as it was; imitact evaluate {report.setting(found.chosen)}")


def _tunable(path: Path) -> TorchPolicy:
    """The policy of that folder; refused if it may not be written into."""
    if path.is_file():
        raise BadInput(
            f"{path} is an exported file, which vouches for every byte of itself: tune the folder "
            "of the policy that it was exported from, then export again"
        )
    if (path.resolve().parent / "trainer.json").exists():
        raise BadInput(
            f"{path} belongs to a checkpoint, which a training goes on from only while nothing in "
            "it was changed; copy the folder to another place and tune the copy"
        )
    return TorchPolicy.load(path)
