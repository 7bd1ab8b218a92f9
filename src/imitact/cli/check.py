"""`imitact check`: what is wrong with a dataset, a policy or an environment, before it costs a day.

Ends with exit code 3 where errors are found, so that a script can tell them from a path that
cannot be checked at all (2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.policies import loader
from imitact.core import validate
from imitact.core.errors import BadInput, DamagedFile, NotFinite, SpecMismatch
from imitact.core.types import Observation, Policy
from imitact.datasets.lerobot import repair as salvage
from imitact.datasets.lerobot.reader import LeRobotDataset, finished
from imitact.datasets.open import is_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.envs.gym import GYM, GymConfig
from imitact.quality import fix as mend
from imitact.quality import inspect
from imitact.quality.findings import CONTRACT, SEVERITIES, Finding, errors, in_order, tally
from imitact.quality.inspect import Limits
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.atomic_folder import check_output_folder
from imitact.training.metrics import duration

GO_ON = "nothing was changed"
FOUND = 3
"""Exit code where there are errors."""


@dataclass(frozen=True)
class Check:
    """Look over a dataset, a policy or an environment, and say what to do about what is wrong.

    Exit code 0: nothing worse than warnings; 3: errors; 2: it cannot be checked.
    """

    path: Positional[Path]
    """A dataset of any layout that is read (docs/formats.md), folder of a policy (OUT/policy), an
    exported file, or the name of an environment: cube, insertion, gym:NAME."""

    fix: Path | None = None
    """New folder for a copy of the dataset without what can be left out safely: damaged, duplicate
    and out-of-step episodes, idle ticks at either end. The dataset itself is never altered."""

    repair: Path | None = None
    """New folder for what can be saved of a recording that LeRobot never finished (v3.0): every
    episode whose data file has its footer. The dataset itself is never altered."""

    json: Path | None = None
    """File for all findings, as JSON."""

    frames: bool = True
    """Decode every video too; without, numbers alone are looked at, as `imitact train` does."""

    workers: int = 0
    """Threads that decode; 0 takes one a core."""

    lines: int = 5
    """Findings of one kind that are shown; the JSON has all."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset does not say of itself."""

    limits: Limits = field(default_factory=Limits)
    """What counts as wrong."""

    gym: GymConfig = field(default_factory=GymConfig)
    """What a gym:NAME shows where."""


def run(settings: Check) -> int:
    """Check, print what was found; gives the exit code."""
    if settings.workers < 0 or settings.lines < 1:
        raise BadInput(
            f"workers is {settings.workers} and lines {settings.lines}; expected workers of at "
            "least 0 and lines of at least 1"
        )
    path = settings.path
    of_dataset = is_dataset(path) or (path.is_dir() and not (path / "policy.json").is_file())
    if settings.fix and settings.repair:
        raise BadInput("both --fix and --repair are given; repair first, then fix what came of it")
    if (settings.fix or settings.repair) and not of_dataset:
        name = "--fix" if settings.fix else "--repair"
        raise BadInput(f"{path} is no dataset; {name} copies datasets only")
    if path.is_file() or (path.is_dir() and not of_dataset):
        return _contract(settings, lambda: _check_policy(path))
    name = str(path)
    if name.startswith(GYM) or (not path.exists() and path.name == name):
        return _contract(settings, lambda: _check_env(name, settings.gym))
    if of_dataset and not is_dataset(path) and (path / "policy" / "policy.json").is_file():
        raise BadInput(f"{path} is a training; its policy is {path / 'policy'}, check that")

    if settings.repair:
        return _repair(settings, settings.repair)
    began = time.monotonic()
    found = look_over(path, settings)
    _show(found, settings.lines)
    print_progress(f"looked over in {duration(time.monotonic() - began)}")
    if settings.fix is None:
        return _end(settings, found)
    return _fix(settings, found)


def look_over(path: Path, settings: Check) -> list[Finding]:
    """Every finding of a dataset, the worst first."""
    source, found = inspect.open_damaged(path, settings.read)
    if source is None:
        return found
    count = len(source.lengths)
    damaged = inspect.unusable(found)
    with ProgressDisplay("numbers", count, "episodes") as waiting:
        found += inspect.inspect_numbers(
            source, settings.limits, damaged=damaged, on_progress=waiting.to
        )
    if settings.frames and source.spec.cameras:
        damaged = inspect.unusable(found)
        with ProgressDisplay("frames", count - len(damaged), "episodes") as waiting:
            found += inspect.inspect_frames(
                source,
                settings.limits,
                damaged=damaged,
                workers=settings.workers,
                on_progress=waiting.to,
            )
    return in_order(found)


def _show(found: Sequence[Finding], lines: int) -> None:
    """A line a finding; of many of one kind the first few."""
    for severity in SEVERITIES:
        kinds = dict.fromkeys(f.kind for f in found if f.severity == severity)
        for kind in kinds:
            some = [f for f in found if (f.severity, f.kind) == (severity, kind)]
            for finding in some[:lines]:
                print_result(finding.line)
            if len(some) > lines:
                rest = len(some) - lines
                print_result(f"{severity}: and {rest} more of these; --json tells all. [{kind}]")


def _end(settings: Check, found: Sequence[Finding], about: str = "") -> int:
    """The last line, the file, the exit code."""
    if settings.json:
        told = {
            "path": str(settings.path),
            "summary": tally(found),
            "findings": [f.to_dict() for f in found],
        }
        make_folder(settings.json.absolute().parent)
        write_json(settings.json, told, staging=settings.json.absolute().parent)
    print_result(f"{about or settings.path}: {tally(found)}")
    return FOUND if errors(found) else 0


def _fix(settings: Check, found: Sequence[Finding]) -> int:
    """Write the copy, look it over too, and end with what is left there."""
    assert settings.fix
    source, _ = inspect.open_damaged(settings.path, settings.read)
    if source is None:
        print_progress("no copy: what is damaged concerns every episode")
        return _end(settings, found)
    if not isinstance(source, LeRobotDataset):
        raise BadInput(
            f"--fix copies datasets of LeRobot's layout; make one of it first: imitact convert "
            f"{settings.path} DST"
        )
    todo = mend.plan(source.lengths, found)
    lost = any(f.kind == "damaged-file" and f.episode is None for f in found)
    if not todo.changes and not lost:
        print_progress("no copy: there is nothing that can be left out safely")
        return _end(settings, found)
    with ProgressDisplay("copying", len(todo.kept), "episodes") as waiting:
        missing = mend.mend(source, todo, settings.fix, waiting.to)
    print_result("")
    for line in [*todo.lines(), *missing]:
        print_result(line)
    again = look_over(settings.fix, replace(settings, read=ReadConfig()))
    _show(again, settings.lines)
    if settings.json:
        print_result(f"{settings.path}: {tally(found)}")
    return _end(settings, again, f"copy of {len(todo.kept)} episodes in {settings.fix}")


def _repair(settings: Check, out: Path) -> int:
    """Write what can be saved, look it over, and end with what is left there."""
    check_output_folder(out, settings.path)
    total, _ = finished(settings.path)
    with ProgressDisplay("looking for whole episodes", total, "episodes") as waiting:
        found = salvage.survey(settings.path, waiting.to)
    for line in found.lines():
        print_result(line)
    if found.is_whole:
        print_progress("no copy: there is nothing to repair")
        return _end(settings, look_over(settings.path, settings))
    if not found.saved:
        print_result(f"{settings.path}: nothing can be saved")
        return FOUND
    with ProgressDisplay("comparing", len(found.saved), "episodes") as waiting:
        salvage.save(found, out, waiting.to)
    print_result("")
    again = look_over(out, replace(settings, read=ReadConfig()))
    _show(again, settings.lines)
    return _end(settings, again, f"copy of {len(found.saved)} episodes in {out}")


def _contract(settings: Check, check: Callable[[], None]) -> int:
    """Run a check of the contract and tell its first breach; gives the exit code."""
    found: list[Finding] = []
    try:
        check()
    except (DamagedFile, SpecMismatch, NotFinite) as error:
        remedy = "docs/checking.md has the contract"
        name = str(settings.path)
        found = [Finding(CONTRACT, "error", str(error).rstrip("."), remedy, part=name)]
    _show(found, settings.lines)
    return _end(settings, found)


def _check_policy(path: Path) -> None:
    policy = loader(path)()
    validate.check_policy(policy, _plain(policy))
    spec = policy.spec
    print_progress(
        f"{path}: answers (K, {spec.action_size}) to {spec.state_size} states and the cameras "
        f"{[c.name for c in spec.cameras]} at {spec.rate_hz:g} Hz"
    )


def _plain(policy: Policy) -> Observation:
    """An observation that fits: all joints at 0, every frame grey."""
    spec = policy.spec
    frames = {c.name: np.full((c.height, c.width, 3), 128, np.uint8) for c in spec.cameras}
    return Observation(np.zeros(spec.state_size), frames)


def _check_env(name: str, gym: GymConfig) -> None:
    from imitact.cli.envs import world  # needs the simulator, which datasets do not

    try:
        make = world(name, ("top",), 480, 640, gym)
    except BadInput as error:
        raise BadInput(f"{name} is neither a folder nor a file, and there is {error}") from error
    with closing(make()) as env:
        validate.check_env(env)
        print_progress(f"{name}: {len(env.stages)} stages, step cap {env.step_cap}")
