"""Studies: variants of the demo that differ in one thing, each trained with several seeds.

Each variant and seed is an `imitact demo` in its own folder, so that an interrupted study continues
and that command reproduces every row. Variants that differ only in training share one dataset.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import tables

from imitact.cli import demo, record
from imitact.cli.demo_report import DEMO_JSON
from imitact.core.cpu import available_cores
from imitact.evaluation.confidence_intervals import clopper_pearson
from imitact.parallel.worker_pool import inherited_environment

TASKS = ("cube", "insertion")
RESULTS = Path(__file__).parent / "results"
PAGE = tables.ROOT / "docs" / "studies.md"
PUBLISHED = {"cube": "demo", "insertion": "insertion"}
"""Task to the name of its demo's results with training seed 0."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of the demo of a task.

    Attributes:
        out: folder of its trainings, with a folder per training seed.
        data: dataset of its demonstrations, recorded if missing.
        task: task of the demo.
        model: model settings that differ from the preset's.
        train: training settings that differ from the preset's.
        settings: other settings of the demo.
    """

    out: Path
    data: Path
    task: str
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def demo(self, seed: int) -> demo.Demo:
        """Return the demo with a training seed.

        It has one training thread and one evaluation process: two trainings of one thread each are
        faster side by side than one after the other with two threads.
        """
        default = demo.with_preset(None, self.task)
        return dataclasses.replace(
            default,
            model=dataclasses.replace(default.model, **self.model),
            train=dataclasses.replace(default.train, seed=seed, **{"num_threads": 1, **self.train}),
            out=self.out / f"seed{seed}",
            data=self.data,
            compared_episodes=0,
            registered_episodes=0,
            videos=0,
            failure_videos=0,
            workers=1,
            **self.settings,
        )


def trained(variants: Sequence[Variant], seeds: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """Yield the numbers of the demos of each variant, a list over the training seeds.

    All demos share one queue, so that no core idles during the last training of a variant. Finished
    demos are kept, and published results are taken for the default demo.
    """
    published = {(v.out, seed): _published(v, seed) for v in variants for seed in seeds}
    waiting = [
        (variant, seed)
        for variant in variants
        for seed in seeds
        if not published[variant.out, seed] and not _numbers(variant, seed).exists()
    ]
    # Record with all cores first; the demos then find their demonstrations.
    for variant, seed in {variant.data: (variant, seed) for variant, seed in waiting}.values():
        options = demo.recording(variant.demo(seed), variant.data)
        record.make(dataclasses.replace(options, workers=0))
    left = {(variant.out, seed) for variant, seed in waiting}
    with contextlib.closing(side_by_side(_run, waiting, available_cores())) as ended:
        for variant in variants:
            while any((variant.out, seed) in left for seed in seeds):
                done, seed = next(ended)
                left.remove((done.out, seed))
            yield [published[variant.out, seed] or _figures(variant, seed) for seed in seeds]


def side_by_side(
    work: Callable[..., None], jobs: Sequence[tuple[Any, ...]], width: int
) -> Generator[tuple[Any, ...]]:
    """Call `work` with the arguments of each job, in `width` processes of one thread at a time.

    A job that fails, Ctrl-C, SIGTERM, and a caller that closes the generator end all running jobs
    by SIGTERM (a training then writes its checkpoint); no other job starts.

    Yields:
        The arguments of each job when it has ended.
    """
    # Not a pool: processes of multiprocessing's pool may not start processes, as an evaluation
    # does, and those of concurrent.futures take the next job when one is interrupted.
    spawn = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[int, tuple[SpawnProcess, tuple[Any, ...]]] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < width:
                process = spawn.Process(target=work, args=waiting[0])
                with inherited_environment({"OMP_NUM_THREADS": "1"}):
                    process.start()
                running[process.sentinel] = process, waiting.pop(0)
            for ready in connection.wait(list(running)):
                process, job = running.pop(cast("int", ready))
                process.join()
                if process.exitcode:
                    code = process.exitcode
                    raise RuntimeError(f"{job} ended with exit code {code}; its error is above")
                yield job
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _run(variant: Variant, seed: int) -> None:
    demo.run(variant.demo(seed))


def _numbers(variant: Variant, seed: int) -> Path:
    return variant.demo(seed).out / DEMO_JSON


def _published(variant: Variant, seed: int) -> dict[str, Any] | None:
    """Return the published result of a training; None if the variant is not the default demo."""
    default = demo.with_preset(None, variant.task)
    changed = [name for name, value in variant.settings.items() if getattr(default, name) != value]
    name = PUBLISHED[variant.task] + (f"-seed{seed}" if seed else "") + ".json"
    if variant.model or variant.train or changed or not (RESULTS / name).exists():
        return None
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    counts = {key: found[key] for key in ("successes", "episodes")}
    return {"task": variant.task, "seed": seed, **counts, "published": name}


def _figures(variant: Variant, seed: int) -> dict[str, Any]:
    settings = variant.demo(seed)
    found = json.loads(_numbers(variant, seed).read_text(encoding="utf-8"))
    file = settings.out / "evaluation/evaluation.json"
    evaluation = json.loads(file.read_text(encoding="utf-8"))
    reached = [row["highest_stage"] for row in evaluation["rows"] if not row["success"]]
    return {
        "task": variant.task,
        "seed": seed,
        "successes": found["successes"],
        "episodes": found["episodes"],
        "steps": settings.train.steps,
        "failures_by_stage": {str(stage): reached.count(stage) for stage in sorted(set(reached))},
        "held_out_l1_rad": found["training"]["held_out_l1_rad"],
    }


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of the successes over training seeds, with the exact interval, and each rate.

    The interval treats episodes as independent; the rates of the seeds show how trainings differ.
    """
    good = sum(row["successes"] for row in rows)
    count = sum(row["episodes"] for row in rows)
    return {
        "successes": good,
        "episodes": count,
        "interval": list(clopper_pearson(good, count)),
        "seeds": {str(row["seed"]): row["successes"] / row["episodes"] for row in rows},
        "trainings": list(rows),
    }


def show(path: Path, name: str, table: str) -> None:
    """Write the table into docs/studies.md, where `path` is the published file."""
    if path.resolve() == (RESULTS / f"{name}.json").resolve():
        PAGE.write_text(tables.placed(PAGE.read_text("utf-8"), name, table), encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that `write` stored; none where there is no file yet."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
