"""Demos that differ in one thing, trained with several seeds: what the studies have in common.

Each variant and seed is an `imitact demo` of its own, in a folder of its own, so that an
interrupted study goes on, and so that every row can be made again by that command. Variants that
differ in training only share one set of demonstrations.
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
from imitact.core.cpu import available_cores
from imitact.evaluation.statistics import wilson
from imitact.parallel.worker_pool import inherited

TASKS = ("cube", "insertion")
RESULTS = Path(__file__).parent / "results"
PAGE = tables.ROOT / "docs" / "studies.md"
PUBLISHED = {"cube": "demo", "insertion": "insertion"}
"""Task to the name of its demo's figures, of training seed 0, among the results."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A demo that differs from the usual one of its task.

    out:          folder of its trainings, one below it a seed.
    data:         its demonstrations, recorded there unless they are there.
    model, train: what differs from the preset's.
    settings:     of the demo itself.
    """

    out: Path
    data: Path
    task: str
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def demo(self, seed: int) -> demo.Demo:
        """The demo with that training seed. Two trainings of a thread each get through more
        samples than one after the other with two, so each has one, and one process that
        evaluates."""
        usual = demo.with_preset(None, self.task)
        return dataclasses.replace(
            usual,
            model=dataclasses.replace(usual.model, **self.model),
            train=dataclasses.replace(usual.train, seed=seed, **{"threads": 1, **self.train}),
            out=self.out / f"seed{seed}",
            data=self.data,
            compared_episodes=0,
            registered_episodes=0,
            videos=0,
            film_failures=0,
            workers=1,
            **self.settings,
        )


def trained(variants: Sequence[Variant], seeds: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """The figures of a demo a seed, for one variant after the other.

    All of them wait in one line, so that no core is idle while a variant's last training runs.
    What is done stays, and of the usual demo what is published is taken.
    """
    published = {(v.out, seed): _published(v, seed) for v in variants for seed in seeds}
    waiting = [
        (variant, seed)
        for variant in variants
        for seed in seeds
        if not published[variant.out, seed] and not _numbers(variant, seed).exists()
    ]
    # With all cores; the demos find them recorded.
    for variant, seed in {variant.data: (variant, seed) for variant, seed in waiting}.values():
        usual = demo.recording(variant.demo(seed), variant.data)
        record.make(dataclasses.replace(usual, workers=0))
    left = {(variant.out, seed) for variant, seed in waiting}
    with contextlib.closing(side_by_side(_run, waiting, available_cores())) as ended:
        for variant in variants:
            while any((variant.out, seed) in left for seed in seeds):
                done, seed = next(ended)
                left.remove((done.out, seed))
            yield [published[variant.out, seed] or _figures(variant, seed) for seed in seeds]


def side_by_side(
    work: Callable[..., None], wanted: Sequence[tuple[Any, ...]], width: int
) -> Generator[tuple[Any, ...]]:
    """Call `work` with each of `wanted`, `width` at a time in a process and a thread of its own;
    yields what has ended, in that order.

    One that fails, Ctrl-C, SIGTERM and a caller that asks for no more end all that run, by
    SIGTERM (a training writes its checkpoint then), and start no other.
    """
    # Not a pool: the processes of multiprocessing's may start none, as an evaluation does, and
    # those of concurrent.futures take the next training when one is interrupted.
    apart = multiprocessing.get_context("spawn")
    waiting = list(wanted)
    running: dict[int, tuple[SpawnProcess, tuple[Any, ...]]] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < width:
                process = apart.Process(target=work, args=waiting[0])
                with inherited({"OMP_NUM_THREADS": "1"}):
                    process.start()
                running[process.sentinel] = process, waiting.pop(0)
            for ready in connection.wait(list(running)):
                process, what = running.pop(cast("int", ready))
                process.join()
                if process.exitcode:
                    raise RuntimeError(f"{what} ended with {process.exitcode}, as told above")
                yield what
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _run(variant: Variant, seed: int) -> None:
    demo.run(variant.demo(seed))


def _numbers(variant: Variant, seed: int) -> Path:
    return variant.demo(seed).out / demo.NUMBERS


def _published(variant: Variant, seed: int) -> dict[str, Any] | None:
    """What benchmarks/results has of that training; None if it is not the usual demo's."""
    usual = demo.with_preset(None, variant.task)
    changed = [name for name, value in variant.settings.items() if getattr(usual, name) != value]
    name = PUBLISHED[variant.task] + (f"-seed{seed}" if seed else "") + ".json"
    if variant.model or variant.train or changed or not (RESULTS / name).exists():
        return None
    told = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    counts = {key: told[key] for key in ("successes", "episodes")}
    return {"task": variant.task, "seed": seed, **counts, "published": name}


def _figures(variant: Variant, seed: int) -> dict[str, Any]:
    chosen = variant.demo(seed)
    told = json.loads(_numbers(variant, seed).read_text(encoding="utf-8"))
    evaluation = json.loads((chosen.out / "evaluation/evaluation.json").read_text(encoding="utf-8"))
    reached = [row["highest_stage"] for row in evaluation["rows"] if not row["success"]]
    return {
        "task": variant.task,
        "seed": seed,
        "successes": told["successes"],
        "episodes": told["episodes"],
        "steps": chosen.train.steps,
        "failures_by_stage": {str(stage): reached.count(stage) for stage in sorted(set(reached))},
        "held_out_l1_rad": told["training"]["held_out_l1_rad"],
    }


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All seeds of a variant: their successes added, with Wilson's interval, and each one's rate.

    The interval counts episodes as if they were independent; that trainings differ shows in the
    seeds' own rates.
    """
    good = sum(row["successes"] for row in rows)
    count = sum(row["episodes"] for row in rows)
    return {
        "successes": good,
        "episodes": count,
        "interval": list(wilson(good, count)),
        "seeds": {str(row["seed"]): row["successes"] / row["episodes"] for row in rows},
        "trainings": list(rows),
    }


def show(path: Path, name: str, table: str) -> None:
    """Put the table of recorded results into the page, where `path` is the recorded file."""
    if path.resolve() == (RESULTS / f"{name}.json").resolve():
        PAGE.write_text(tables.placed(PAGE.read_text("utf-8"), name, table), encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    """What `write` recorded there; nothing yet where there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
