"""`imitact demo`: from nothing to a success rate that anyone can reproduce.

Five phases, each of which goes on where it was interrupted: record, train, evaluate with the
temporal ensemble, with replayed chunks beside it, and through the registered gym environment.
"""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from imitact.cli import evaluate, record, train
from imitact.cli.console import print_progress, print_result
from imitact.cli.evaluate import Evaluate
from imitact.cli.phases import Phases
from imitact.cli.record import Record
from imitact.core.chunking import Execution
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Dataset
from imitact.core.version import __version__
from imitact.datasets.open import is_dataset, open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.envs import gym_aloha_reference
from imitact.envs.registry import RECOMMENDED_MODEL
from imitact.evaluation import report
from imitact.evaluation.results import Evaluation, EvaluationPlan, describe_seeds
from imitact.models.config import ActConfig, check_pretrained
from imitact.recording.manifest import RecordingReport, is_recording, read_report
from imitact.storage.atomic import write_json
from imitact.storage.checksum import verified
from imitact.storage.json_file import read_json_object
from imitact.storage.lock import exclusive_writer
from imitact.training import device, loop
from imitact.training.config import TrainConfig
from imitact.training.distributed import SINGLE_PROCESS
from imitact.training.metrics import format_duration

GO_ON = "what is finished is kept; the same command goes on"

Task = Literal["cube", "insertion"]

NUMBERS = "demo.json"
PHASES = "phases.json"
FIRST_SEED = 1000
"""Of the evaluation: demonstrations come from seeds 0 to 999."""


@dataclass(frozen=True)
class Demo:
    """Record, train and evaluate a task of the ALOHA scene, and print the success rate.

    Interrupted, the same command goes on where it stopped.
    """

    model: ActConfig
    """The network."""

    train: TrainConfig
    """Its training."""

    task: Task = "cube"
    """What is to be learnt: cube (hand a cube over) or insertion (put a peg into a socket)."""

    out: Path = Path("runs/demo")
    """Folder for everything: demonstrations, training, policy, videos and numbers (demo.json)."""

    data: Path | None = None
    """The demonstrations, recorded there unless they are there; none: OUT/data. Give
    that of another demo to train once more on the same ones."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What a dataset that imitact did not record does not say of itself."""

    preset: str = "quick"
    """Where the settings of model and training start from: quick, released or paper."""

    demonstrations: int = 50
    """Demonstrations to record, of seeds 0 to 999."""

    spread: float = 1.0
    """How much they vary, see `imitact record --help`."""

    starts: Literal["even", "random"] = "even"
    """Which of the seeds 0 to 999 are demonstrated, see `imitact record --help`."""

    height: int = 480
    """Rows of a captured frame, pixels."""

    width: int = 640
    """Columns of a captured frame, pixels."""

    episodes: int = 100
    """Episodes to evaluate, from seed 1000 on."""

    chunking: str = "ensemble:0.01/10"
    """How chunks become actions in that evaluation, see `imitact evaluate --help`: the temporal
    ensemble with the paper's weights, a query every 10 ticks."""

    compared: str = "replay:50"
    """How chunks become actions where that is compared with another way."""

    compared_episodes: int = 20
    """How many of those seeds run that way as well; 0: none."""

    registered_episodes: int = 5
    """How many of those seeds run through the registered gym environment as well; 0: none. Needs
    480x640 pixels, as it renders them."""

    videos: int = 2
    """How many of those seeds are filmed."""

    film_failures: int = 2
    """How many failed ones are filmed as well, if there are so many."""

    workers: int = 0
    """Processes that record and evaluate; 0 takes one a core."""

    setup_s: float = 0.0
    """Seconds that setting up took before, to be reported with the rest; `make demo` gives it."""


def with_preset(name: str | None, task: str | None = None) -> Demo:
    """The settings of a preset for a task, None for the usual one."""
    name, task = name or Demo.preset, task or Demo.task
    if task not in RECOMMENDED_MODEL:
        raise BadInput(f"no demo of task {task!r}; there are {list(RECOMMENDED_MODEL)}")
    model, training = train.preset(name)
    if name == Demo.preset:  # the others are as published
        model = replace(model, **RECOMMENDED_MODEL[task])
    return Demo(model=model, train=training, task=cast(Task, task), preset=name)


def run(settings: Demo) -> None:
    """Do what is not done yet, then print the result."""
    _check(settings)
    with exclusive_writer(settings.out, "demo"):
        _run(settings)


def _run(settings: Demo) -> None:
    out = settings.out
    data = settings.data or out / "data"
    training = out / "training"
    phases = Phases(out / PHASES, _identity(settings, data))

    demonstrations = _recorded(settings, data, phases)
    for line in _lines(settings, data, demonstrations):
        print_progress(line)
    policy = _trained(settings, data, training, phases)
    evaluation = _evaluated(settings, policy, phases)
    compared = _compared(settings, policy, phases)
    witness = _witnessed(settings, policy, phases)

    differences = _differences(evaluation, witness)
    numbers = {
        "task": settings.task,
        **_headline(evaluation),
        **_cost(settings, training, phases),
        "training": _about_training(training, settings),
        "demonstrations": _about_data(settings, data, demonstrations),
        "compared": _headline(compared) if compared else None,
        "registered": _about_witness(settings, witness, differences),
    }
    write_json(out / NUMBERS, numbers, staging=out)
    told = _lines(settings, data, demonstrations)
    _print(settings, numbers, evaluation, compared, differences, told)
    if differences:
        raise ImitactError(
            "the registered environment gave other rewards than ours: " + "; ".join(differences)
        )


def _check(settings: Demo) -> None:
    """Refuse at once what would be refused after an hour.

    Before anything is written: the folder remembers its settings, wrong ones too.
    """
    check_pretrained(settings.model.backbone_norm, settings.model.pretrained_backbone)
    device.choose_device(
        settings.train.precision, settings.train.device, settings.train.num_threads
    )
    theirs = _theirs(settings)
    count = settings.demonstrations if theirs is None else len(theirs.lengths)
    if settings.train.val_episodes >= count:
        raise BadInput(
            f"--train.val-episodes is {settings.train.val_episodes} of {count} demonstrations; at least one "
            "must be left to train on"
        )
    with closing(record.world(settings.task, ("top",), settings.height, settings.width)()) as env:
        cap, spec = env.step_cap, env.spec
    if settings.model.chunk_size > cap:
        raise BadInput(
            f"model.chunk_size is {settings.model.chunk_size} ticks, a demonstration has {cap}; use a chunk "
            f"of at most {cap}"
        )
    if theirs is not None:
        spec.check_same(
            theirs.spec,
            f"the dataset {settings.data}",
            f"the demo's {settings.task} scene",
            all_cameras=True,
            advice="Train on it with `imitact train`",
        )
    if not settings.episodes >= 1:
        raise BadInput(f"episodes is {settings.episodes}; evaluate at least 1")
    for name in ("compared_episodes", "registered_episodes"):
        value = getattr(settings, name)
        if not 0 <= value <= settings.episodes:
            raise BadInput(
                f"{name} is {value}; it must be from 0 to episodes, which is {settings.episodes}"
            )
    size = (settings.height, settings.width)
    if settings.registered_episodes and size != (480, 640):
        raise BadInput(
            f"the registered environment renders 480x640 pixels, the demo captures {size[0]}x"
            f"{size[1]}; set registered_episodes to 0, or leave height and width"
        )
    settings.model.views(spec)
    EvaluationPlan((FIRST_SEED,), Execution(settings.chunking), videos=settings.videos)
    Execution(settings.compared)
    evaluate.check_films(settings.film_failures)


def _identity(settings: Demo, data: Path) -> dict[str, Any]:
    """What makes this demo what it is: other settings are another demo."""
    told = {**asdict(settings), "model": settings.model.to_json(), "data": str(data.absolute())}
    for free in ("out", "workers", "setup_s", "film_failures"):
        del told[free]
    if settings.read == ReadConfig():  # as it was told before it could be said
        del told["read"]
    if settings.task == Demo.task:  # as it was told before there was another
        del told["task"]
    return told


def _theirs(settings: Demo) -> Dataset | None:
    """The demonstrations that are there and that imitact did not record; None where it records."""
    data = settings.data
    if data is None or not is_dataset(data) or is_recording(data):
        return None
    return open_dataset(data, settings.read)


def recording(settings: Demo, data: Path) -> Record:
    """How the demonstrations of a demo are recorded."""
    return Record(
        out=data,
        env=settings.task,
        episodes=settings.demonstrations,
        spread=settings.spread,
        starts=settings.starts,
        height=settings.height,
        width=settings.width,
        workers=settings.workers,
    )


def _recorded(settings: Demo, data: Path, phases: Phases) -> RecordingReport | None:
    """What was recorded; None of demonstrations that imitact did not record."""
    if _theirs(settings) is not None:
        print_progress(f"1/5 record: nothing, the demonstrations are those in {data}")
        return None
    if phases.done("record"):
        return read_report(data)
    print_progress(f"1/5 record: {settings.demonstrations} demonstrations into {data}")
    with phases.phase("record"):
        return record.make(
            recording(settings, data),
            on_progress=lambda progress: phases.still_running(),
        )


def _trained(settings: Demo, data: Path, training: Path, phases: Phases) -> Path:
    if phases.done("train"):
        return training / "policy"

    def line(text: str) -> None:
        print_progress(text)
        phases.still_running()

    # Beside the demonstrations: another training on them finds the frames decoded.
    data = data.absolute()
    cache = settings.train.cache_dir or str(data.with_name(f"{data.name}-cache"))
    config = replace(settings.train, cache_dir=cache)
    print_progress(
        f"2/5 train: preset {settings.preset}, {config.steps} steps of {config.batch_size} samples"
    )
    with phases.phase("train"):
        source = open_dataset(data, settings.read)
        train.refuse_faulty(source, data)
        return loop.train(
            source,
            training,
            settings.model,
            config,
            resume=True,
            on_line=line,
            ranks=SINGLE_PROCESS,
        )


def _evaluated(settings: Demo, policy: Path, phases: Phases) -> Evaluation:
    plan = _evaluation(settings, policy, "evaluation", settings.episodes)
    print_progress(f"3/5 evaluate: {plan.episodes} fresh seeds with {plan.chunking}")
    filmed = replace(plan, videos=settings.videos, film_failures=settings.film_failures)
    return _counted("evaluate", filmed, phases)


def _compared(settings: Demo, policy: Path, phases: Phases) -> Evaluation | None:
    if not settings.compared_episodes:
        return None
    plan = _evaluation(settings, policy, "compared", settings.compared_episodes)
    print_progress(f"4/5 compare: {plan.episodes} of those seeds with {settings.compared}")
    return _counted("compare", replace(plan, chunking=settings.compared), phases)


def _witnessed(settings: Demo, policy: Path, phases: Phases) -> Evaluation | None:
    if not settings.registered_episodes:
        return None
    plan = _evaluation(settings, policy, "registered", settings.registered_episodes)
    print_progress(
        f"5/5 registered: {plan.episodes} of those seeds through "
        f"{gym_aloha_reference.IDS[settings.task]}"
    )
    return _counted("registered", plan, phases, partial(gym_aloha_reference.make, settings.task))


def _evaluation(settings: Demo, policy: Path, folder: str, episodes: int) -> Evaluate:
    """The first so many of the seeds, into that folder, without videos."""
    return Evaluate(
        policy=policy,
        out=settings.out / folder,
        env=settings.task,
        episodes=episodes,
        first_seed=FIRST_SEED,
        chunking=settings.chunking,
        workers=settings.workers,
        videos=0,
    )


def _counted(name: str, plan: Evaluate, phases: Phases, make_env: Any = None) -> Evaluation:
    if phases.done(name):
        return report.read(plan.out)
    with phases.phase(name):
        return evaluate.count(plan, make_env, lambda _: phases.still_running())


def _differences(evaluation: Evaluation, witness: Evaluation | None) -> list[str]:
    """Where the registered environment's rewards are not ours, a line a seed."""
    if witness is None:
        return []
    return report.reward_differences(evaluation.only(witness.seeds), witness)


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "successes": evaluation.successes,
        "episodes": evaluation.episodes,
        "interval": list(evaluation.interval),
        "step_cap": evaluation.step_cap,
        "seeds": list(evaluation.seeds),
        "chunking": evaluation.execution.chunking,
    }


def _cost(settings: Demo, training: Path, phases: Phases) -> dict[str, Any]:
    told = _summary(training)
    wall_s = {"setup": settings.setup_s, **phases.wall_s}
    wall_s = {name: round(seconds, 1) for name, seconds in wall_s.items()}
    return {
        "wall_s": {**wall_s, "total": round(sum(wall_s.values()), 1)},
        "train_pflop": told["train_pflop"],
        "versions": _versions(),
        "processor": f"{told['processor']}, {available_cores()} cores",
    }


def _summary(training: Path) -> dict[str, Any]:
    path = training / "training.json"
    return verified(read_json_object(path), path, required=False)


def _about_training(training: Path, settings: Demo) -> dict[str, Any]:
    told = _summary(training)
    names = (
        "steps", "samples", "samples_per_s", "data_wait", "held_out_l1_rad", "precision",
        "precision_reason", "threads", "peak_rss_bytes",
    )  # fmt: skip
    return {
        "preset": settings.preset,
        "seed": settings.train.seed,
        **{name: told.get(name) for name in names},
    }


def _lines(settings: Demo, data: Path, demonstrations: RecordingReport | None) -> list[str]:
    if demonstrations is not None:
        return record.lines(demonstrations)
    return [f"demonstrations: {len(open_dataset(data, settings.read).lengths)} in {data}"]


def _about_data(
    settings: Demo, data: Path, demonstrations: RecordingReport | None
) -> dict[str, Any]:
    if demonstrations is None:
        source = open_dataset(data, settings.read)
        return {"saved": len(source.lengths), "fingerprint": source.fingerprint}
    stages = {
        words: demonstrations.first_ticks(stage)
        for stage, words in enumerate(demonstrations.stages)
        if stage
    }
    return {
        "saved": demonstrations.saved,
        "failed_seeds": [failure.seed for failure in demonstrations.failures],
        "spread": settings.spread,
        "starts": settings.starts,
        "seeds": [d.seed for d in demonstrations.demonstrations],
        "deviations": demonstrations.deviations(),
        "first_ticks": {
            words: {"mean": float(ticks.mean()), "deviation": float(ticks.std())}
            for words, ticks in stages.items()
            if len(ticks)
        },
    }


def _about_witness(
    settings: Demo, witness: Evaluation | None, differences: list[str]
) -> dict[str, Any] | None:
    if witness is None:
        return None
    return {
        "env": gym_aloha_reference.IDS[settings.task],
        "seeds": list(witness.seeds),
        "same_rewards": not differences,
        "differences": differences,
    }


def _versions() -> dict[str, str]:
    """Of all that the number depends on."""
    names = ("torch", "numpy", "mujoco", "dm_control", "gym-aloha", "mink", "av", "pyarrow")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"imitact": __version__, "python": platform.python_version(), **versions}


def _print(
    settings: Demo,
    numbers: dict[str, Any],
    evaluation: Evaluation,
    compared: Evaluation | None,
    differences: list[str],
    demonstrations: list[str],
) -> None:
    out = settings.out
    print_result("")
    for line in demonstrations:
        print_result(line)
    if compared:
        print_result("")
        print_result(report.table([evaluation.only(compared.seeds), compared]))
    print_result("")
    print_result(f"success: {report.summary_line(evaluation)}")
    if (told := numbers["registered"]) is not None:
        verdict = "gave other rewards" if differences else "gave the same rewards, tick for tick"
        seeds = describe_seeds(told["seeds"])
        print_result(f"{told['env']}, made by gymnasium, {verdict} ({seeds})")
    wall_s = dict(numbers["wall_s"])
    total = wall_s.pop("total")
    parts = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in wall_s.items())
    print_result(
        f"time:    {format_duration(total)} in all ({parts}); trained {numbers['train_pflop']:.2f} PFLOP"
    )
    if films := sorted((out / "evaluation" / "videos").glob("*.mp4")):
        print_result(f"videos:  {', '.join(map(str, films))}")
    print_result(f"numbers: {out / NUMBERS}")
    print_result(f"policy:  {out / 'training' / 'policy'}")
