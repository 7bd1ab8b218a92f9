"""`imitact check`: what is wrong with a dataset, a policy or an environment, before it costs a day.

Ends with exit code 3 where it finds errors, so that a script can tell them from a path that cannot
be checked at all (2).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.core.errors import BadInput, DamagedFile, NotFinite, SpecMismatch, nearest
from imitact.core.ranges import Count, Workers
from imitact.core.words import counted
from imitact.datasets.read_config import ReadConfig
from imitact.envs.gym import GymConfig
from imitact.envs.registry import FORMS, is_env_name
from imitact.quality.findings import CONTRACT, SEVERITIES, Finding, by_severity, errors, summary
from imitact.quality.limits import Limits
from imitact.storage.output_guard import check_output

RESUME_HINT = "nothing was changed"
ERRORS_FOUND = 3
"""Exit code where there are errors."""


@dataclass(frozen=True)
class Check:
    """Find what is wrong with a dataset, a policy or an environment, and say what to do about it.

    Exit code 0: nothing worse than warnings; 3: errors; 2: it cannot be checked.
    """

    path: Positional[Path]
    """Dataset of any layout (docs/formats.md), folder of a policy, exported file, or environment:
    cube, insertion, gym:NAME, FILE.py:NAME."""

    fix: Path | None = None
    """New folder for a copy of the dataset without damaged, duplicate and out-of-step episodes and
    idle ends; of a recording that LeRobot never finished, all that can be recovered."""

    json: Path | None = None
    """File for all findings, as JSON."""

    frames: bool = True
    """Decode every video, too; otherwise only numbers are checked, as `imitact train` does."""

    lines: Count = 5
    """Findings of one kind that are shown; the JSON file has all."""

    workers: Workers = 0
    """Threads that decode; 0 takes one per core."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset's layout leaves open."""

    limits: Limits = field(default_factory=Limits)
    """Thresholds of the findings."""

    gym: GymConfig = field(default_factory=GymConfig)
    """Where a gym:NAME has its state, frames and success."""


OPTIONS = Check


def run(settings: Check) -> int:
    """Check, print what was found, and return the exit code."""
    if settings.fix:
        check_output(settings.fix, "copy", option="--fix")
    if settings.json:
        check_output(settings.json, option="--json", is_file=True, starts=b'{\n  "path": ')
    path, name = settings.path, str(settings.path)
    is_env = not path.exists() and (is_env_name(name) or path.name == name)
    if settings.fix and is_env:
        raise BadInput(f"{path} is not a dataset; --fix copies datasets only")
    if is_env:
        return _check_contract(settings, lambda: _check_env(name, settings.gym))
    if not path.exists():
        raise BadInput(f"{path}: no such folder or file")
    from imitact.datasets.open import is_dataset

    holds_dataset = is_dataset(path)
    if not holds_dataset and (path.is_file() or (path / "policy.json").is_file()):
        if settings.fix:
            raise BadInput(f"{path} is not a dataset; --fix copies datasets only")
        return _check_contract(settings, lambda: _check_policy(path))
    if not holds_dataset and (path / "policy" / "policy.json").is_file():
        raise BadInput(f"{path} is a training; its policy is {path / 'policy'}, check that")
    if settings.fix:
        return _fix(settings, settings.fix)
    began_s = time.monotonic()
    found = inspect_dataset(path, settings.read, settings)
    _print(found, settings.lines)
    from imitact.training.metrics import format_duration

    print_progress(f"checked in {format_duration(time.monotonic() - began_s)}")
    return _end(settings, found)


def inspect_dataset(path: Path, read: ReadConfig, settings: Check) -> list[Finding]:
    """Return every finding of a dataset, the worst first."""
    from imitact.quality import dataset_check

    dataset, found = dataset_check.open_damaged(path, read)
    if dataset is None:
        return found
    count = len(dataset.lengths)
    damaged = dataset_check.unusable_episodes(found)
    with ProgressDisplay("numbers", count, "episodes") as display:
        found += dataset_check.inspect_numbers(
            dataset, settings.limits, damaged=damaged, on_progress=display.to
        )
    if settings.frames and dataset.spec.cameras:
        damaged = dataset_check.unusable_episodes(found)
        with ProgressDisplay("frames", count - len(damaged), "episodes") as display:
            found += dataset_check.inspect_frames(
                dataset,
                settings.limits,
                damaged=damaged,
                workers=settings.workers,
                on_progress=display.to,
            )
    return by_severity(found)


def _print(found: Sequence[Finding], lines: int) -> None:
    """Print a line per finding; of many of one kind only the first."""
    for severity in SEVERITIES:
        kinds = dict.fromkeys(f.kind for f in found if f.severity == severity)
        for kind in kinds:
            some = [f for f in found if (f.severity, f.kind) == (severity, kind)]
            print_result(*(finding.line for finding in some[:lines]))
            if len(some) > lines:
                more = len(some) - lines
                print_result(f"{severity}: and {more} more of these; --json lists all. [{kind}]")


def _end(settings: Check, found: Sequence[Finding], subject: str = "") -> int:
    """Print the last line, write the JSON file, and return the exit code."""
    from imitact.storage.atomic import make_folder, write_json

    if settings.json:
        contents = {
            "path": str(settings.path),
            "summary": summary(found),
            "findings": [f.to_dict() for f in found],
        }
        folder = settings.json.absolute().parent
        make_folder(folder)
        write_json(settings.json, contents, staging=folder)
    print_result(f"{subject or settings.path}: {summary(found)}")
    return ERRORS_FOUND if errors(found) else 0


def _fix(settings: Check, out: Path) -> int:
    """Write the copy, check it, and end with what is left to do in it."""
    from imitact.datasets.lerobot.repair import is_unfinished
    from imitact.storage.atomic_folder import check_output_folder

    check_output_folder(out, settings.path, option="--fix")
    if not is_unfinished(settings.path):
        found = inspect_dataset(settings.path, settings.read, settings)
        _print(found, settings.lines)
        return _fix_findings(settings, out, settings.path, settings.read, found)
    recovered = out.absolute().with_name(f".{out.name}.recovered")
    try:
        if not _recover(settings.path, recovered):
            print_result(f"{settings.path}: nothing can be recovered")
            return ERRORS_FOUND
        found = inspect_dataset(recovered, ReadConfig(), settings)
        return _fix_findings(settings, out, recovered, ReadConfig(), found)
    finally:
        shutil.rmtree(recovered, ignore_errors=True)


def _recover(path: Path, out: Path) -> bool:
    """Copy all that can be recovered of an unfinished recording; return whether there is any."""
    from imitact.datasets.lerobot.layout import finished
    from imitact.datasets.lerobot.repair import plan_repair
    from imitact.datasets.lerobot.repair_copy import write_repaired

    shutil.rmtree(out, ignore_errors=True)  # left by a killed process
    with ProgressDisplay("looking for whole episodes", finished(path)[0], "episodes") as display:
        plan = plan_repair(path, display.to)
    print_result(*plan.lines())
    if not plan.recoverable:
        return False
    with ProgressDisplay("comparing", len(plan.recoverable), "episodes") as display:
        write_repaired(plan, out, display.to)
    return True


def _fix_findings(
    settings: Check, out: Path, path: Path, read: ReadConfig, found: Sequence[Finding]
) -> int:
    """Copy a dataset, which has these findings, without what is safe to leave out; check the copy.

    `path` is that of the options, or what was recovered of it.
    """
    from imitact.quality import dataset_check, fix
    from imitact.storage.atomic import move_into_place

    dataset, _ = dataset_check.open_damaged(path, read)
    if dataset is None:
        print_progress("no copy: the damage concerns every episode")
        return _end(settings, found)
    plan = fix.plan_fix(dataset.lengths, found)
    lost = any(f.kind == "damaged-file" and f.episode is None for f in found)
    if not plan.has_changes and not lost:
        if path == settings.path:
            print_progress("no copy: there is nothing that can be left out safely")
            return _end(settings, found)
        move_into_place(path, out)
        kept, again = len(dataset.lengths), found
    else:
        with ProgressDisplay("copying", len(plan.kept), "episodes") as display:
            missing = fix.write_fixed(dataset, plan, out, display.to)
        print_result("", *plan.lines(), *missing)
        kept, again = len(plan.kept), inspect_dataset(out, ReadConfig(), settings)
        if settings.json and path == settings.path:
            print_result(f"{settings.path}: {summary(found)}")
    _print(again, settings.lines)
    return _end(settings, again, f"copy of {kept} episode{'s' * (kept != 1)} in {out}")


def _check_contract(settings: Check, check: Callable[[], None]) -> int:
    """Check a policy or an environment, print its first breach, and return the exit code."""
    found: list[Finding] = []
    try:
        check()
    except (DamagedFile, SpecMismatch, NotFinite) as error:
        remedy = "docs/checking.md has the contract"
        name = str(settings.path)
        found = [Finding(CONTRACT, "error", str(error).rstrip("."), remedy, part=name)]
    _print(found, settings.lines)
    return _end(settings, found)


def _check_policy(path: Path) -> None:
    import numpy as np

    from imitact.core import validate
    from imitact.core.types import Observation
    from imitact.deploy.load_policy import load_policy

    policy = load_policy(path)
    spec = policy.spec
    frames = {c.name: np.full((c.height, c.width, 3), 128, np.uint8) for c in spec.cameras}
    validate.check_policy(policy, Observation(np.zeros(spec.state_size), frames))
    cameras = ", ".join(map(str, spec.cameras)) or "no cameras"
    print_progress(
        f"{path}: returns (K, {spec.action_size}) actions for {counted(spec.state_size, 'state')} "
        f"and {cameras} at {spec.rate_hz:g} Hz"
    )


def _check_env(name: str, gym: GymConfig) -> None:
    from imitact.core import validate
    from imitact.envs.registry import make_env, try_first_ticks

    if not is_env_name(name):
        meant = nearest(name, FORMS)
        question = f". Did you mean {meant}?" if meant else ""
        raise BadInput(
            f"{name} is neither a folder nor a file, nor an environment: expected "
            f"{', '.join(FORMS)}{question}"
        )
    with closing(make_env(name, gym=gym)) as env:
        validate.check_env(env)
        spec = env.spec
        for what, names, units in (
            ("measures", spec.state_names, spec.state_units),
            ("takes", spec.action_names, spec.action_units),
        ):
            values = ", ".join(f"{n} ({u})" for n, u in zip(names, units, strict=True))
            print_progress(f"{name} {what} {values or 'nothing'}")
        print_progress(
            f"{name}: cameras {', '.join(map(str, spec.cameras)) or 'none'}; {spec.rate_hz:g} Hz, "
            f"step cap {env.step_cap}, {len(env.stages)} stages"
        )
        try_first_ticks(name, env, on_line=print_progress)
