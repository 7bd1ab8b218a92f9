"""`imitact demo`: from nothing to a success rate that anyone can reproduce.

Five phases, each of which continues where it was interrupted: record, train, evaluate with the
temporal ensemble, evaluate with replayed chunks beside it, and evaluate through the registered gym
environment.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from imitact.api.train import preset as settings_of
from imitact.api.train import refuse_errors
from imitact.cli import evaluate, record
from imitact.cli.console import print_progress
from imitact.cli.evaluate import Evaluate
from imitact.cli.phases import Phases
from imitact.cli.record import Record
from imitact.core.chunking import Execution
from imitact.core.errors import BadInput, ImitactError
from imitact.core.suggestions import unknown
from imitact.datasets.read_config import ReadConfig
from imitact.envs.registry import RECOMMENDED_MODEL, make_env
from imitact.models.config import ActConfig, check_pretrained
from imitact.training.config import TrainConfig

if TYPE_CHECKING:
    from imitact.core.types import Dataset
    from imitact.evaluation.results import Evaluation
    from imitact.recording.manifest import RecordingReport

RESUME_HINT = "finished work is kept; the same command continues"

Task = Literal["cube", "insertion"]

PHASES = "phases.json"
FIRST_SEED = 1000
"""First seed of the evaluation; demonstrations use seeds 0 to 999."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Record, train and evaluate a task of the ALOHA scene, and print the success rate.

    Interrupted, the same command continues.
    """

    task: Task = "cube"
    """Task: cube (hand a cube over) or insertion (put a peg into a socket)."""

    out: Path = Path("runs/demo")
    """Folder of the demonstrations, the training, the policy, the videos and the numbers
    (demo.json)."""

    preset: str = "quick"
    """Settings of model and training to start from: quick, released or paper."""

    demonstrations: int = 50
    """Demonstrations to record, of seeds 0 to 999."""

    episodes: int = 100
    """Episodes to evaluate, from seed 1000 on."""

    chunking: str = "ensemble:0.01/10"
    """How chunks become actions, as for `imitact evaluate`: the paper's temporal ensemble, with a
    query every 10 ticks."""

    workers: int = 0
    """Processes that record and evaluate; 0 takes one per core."""

    data: Path | None = None
    """Dataset of the demonstrations, recorded there if there is none. None: OUT/data. The dataset
    of another demo trains once more on the same demonstrations."""

    videos: int = 2
    """Number of episodes to record as videos."""

    failure_videos: int = 2
    """Number of failed episodes to record as videos, too."""

    compared_chunking: str = "replay:50"
    """How chunks become actions in a second evaluation, for comparison."""

    compared_episodes: int = 20
    """Episodes of that second evaluation, on the first seeds; 0: none."""

    registered_episodes: int = 5
    """Episodes that also run through the environment that gym-aloha registers; 0: none. Needs
    480x640 pixels."""

    spread: float = 1.0
    """How much demonstrations vary, as for `imitact record`."""

    starts: Literal["even", "random"] = "even"
    """Order of the demonstrated seeds, as for `imitact record`."""

    height: int = 480
    """Height of a captured frame in pixels."""

    width: int = 640
    """Width of a captured frame in pixels."""

    setup_s: float = 0.0
    """Seconds that the installation took, reported with the rest; `make demo` gives it."""

    model: ActConfig
    """The network."""

    train: TrainConfig
    """The training."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the layout of a dataset that imitact did not record leaves open."""


def with_preset(name: str | None, task: str | None = None) -> Demo:
    """Return the settings of a preset for a task, None for the defaults."""
    name, task = name or "quick", task or "cube"
    if task not in get_args(Task):
        raise unknown("task of the demo", task, get_args(Task))
    model, training = settings_of(name)
    if name == "quick":  # the others are as published
        model = replace(model, **RECOMMENDED_MODEL[task])
    return Demo(model=model, train=training, task=cast(Task, task), preset=name)


def run(settings: Demo) -> None:
    """Run the phases that are not finished yet, and print the result."""
    from imitact.storage.lock import exclusive_writer

    _check(settings)
    with exclusive_writer(settings.out, "demo"):
        _run(settings)


def _run(settings: Demo) -> None:
    from imitact.cli.demo_report import (
        DEMO_JSON,
        demo_numbers,
        demonstration_lines,
        print_demo,
    )
    from imitact.evaluation import report
    from imitact.storage.atomic import write_json

    out = settings.out
    data = settings.data or out / "data"
    training = out / "training"
    phases = Phases(out / PHASES, _identity(settings, data))

    demonstrations = _record(settings, data, phases)
    lines = demonstration_lines(demonstrations, data)
    for line in lines:
        print_progress(line)
    policy = _train(settings, data, training, phases)
    evaluation = _evaluate(settings, policy, phases)
    compared = _compare(settings, policy, phases)
    reference = _evaluate_registered(settings, policy, phases)
    differences = (
        report.reward_differences(evaluation.only(reference.seeds), reference) if reference else []
    )
    numbers = demo_numbers(
        settings,
        training=training,
        wall_s=phases.wall_s,
        data=demonstrations,
        evaluation=evaluation,
        compared=compared,
        reference=reference,
        differences=differences,
    )
    write_json(out / DEMO_JSON, numbers, staging=out)
    print_demo(settings, numbers, lines, evaluation, compared)
    if differences:
        raise ImitactError(
            f"the registered environment gave other rewards than ours: {'; '.join(differences)}"
        )


def _check(settings: Demo) -> None:
    """Refuse at once what would be refused after an hour.

    Nothing is written before: the folder keeps its settings, wrong ones, too.
    """
    model, train = settings.model, settings.train
    if settings.episodes < 1:
        raise BadInput(f"episodes is {settings.episodes}; it must be at least 1")
    for name in ("compared_episodes", "registered_episodes"):
        value = getattr(settings, name)
        if not 0 <= value <= settings.episodes:
            raise BadInput(
                f"{name} is {value}; it must be from 0 to --episodes, which is {settings.episodes}"
            )
    size = (settings.height, settings.width)
    if settings.registered_episodes and size != (480, 640):
        raise BadInput(
            "the registered environment renders 480x640 pixels, the demo captures "
            f"{size[0]}x{size[1]}; use --registered-episodes 0, or leave --height and --width"
        )
    Execution(settings.chunking)
    Execution(settings.compared_chunking)
    check_pretrained(model.backbone_norm, model.pretrained_backbone)
    _check_demonstrations(settings)

    from imitact.api.evaluate import check_failure_videos
    from imitact.evaluation.results import EvaluationPlan
    from imitact.training import device

    EvaluationPlan((FIRST_SEED,), Execution(settings.chunking), videos=settings.videos)
    check_failure_videos(settings.failure_videos)
    device.choose_device(train.precision, train.device, train.num_threads)


def _check_demonstrations(settings: Demo) -> None:
    """Refuse a model, a training or a dataset that does not fit the demonstrations."""
    given = _given_dataset(settings)
    count = settings.demonstrations if given is None else len(given.lengths)
    if settings.train.val_episodes >= count:
        raise BadInput(
            f"train.val_episodes is {settings.train.val_episodes} of {count} demonstrations; at "
            "least one must be left to train on"
        )
    with closing(make_env(settings.task, height=settings.height, width=settings.width)) as env:
        cap, spec = env.step_cap, env.spec
    if settings.model.chunk_size > cap:
        raise BadInput(
            f"model.chunk_size is {settings.model.chunk_size} ticks, a demonstration has {cap}; it "
            f"must be at most {cap}"
        )
    if given is not None:
        spec.check_same(
            given.spec,
            f"the dataset {settings.data}",
            f"the demo's {settings.task} scene",
            all_cameras=True,
            advice="Train on it with `imitact train`",
        )
    settings.model.views(spec)


def _identity(settings: Demo, data: Path) -> dict[str, Any]:
    """Return the settings that define a demo, as phases.json stores them.

    `task` and `read` are left out where they are the defaults, as in files written before they
    were options.
    """
    stored = asdict(settings)
    names = (
        "model", "train", "task", "data", "read", "preset", "demonstrations", "spread", "starts",
        "height", "width", "episodes", "chunking", "compared_chunking", "compared_episodes",
        "registered_episodes", "videos",
    )  # fmt: skip
    found = {_JSON_KEYS.get(name, name): stored[name] for name in names}
    found |= {"model": settings.model.to_json(), "train": settings.train.to_json()}
    found["data"] = str(data.absolute())
    if settings.read == ReadConfig():
        del found["read"]
    if settings.task == "cube":
        del found["task"]
    return found


_JSON_KEYS = {"compared_chunking": "compared"}
"""Fields of Demo whose key in phases.json is another."""


def _given_dataset(settings: Demo) -> Dataset | None:
    """Return the demonstrations that imitact did not record, or None where it records."""
    if settings.data is None or not settings.data.exists():
        return None
    from imitact.datasets.open import is_dataset, open_dataset
    from imitact.recording.manifest import is_recording

    if not is_dataset(settings.data) or is_recording(settings.data):
        return None
    return open_dataset(settings.data, settings.read)


def recording(settings: Demo, data: Path) -> Record:
    """Return how the demonstrations of a demo are recorded."""
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


def _record(settings: Demo, data: Path, phases: Phases) -> RecordingReport | Dataset:
    from imitact.recording.manifest import read_report

    if (given := _given_dataset(settings)) is not None:
        print_progress(f"1/5 record: nothing, the demonstrations are those in {data}")
        return given
    if phases.done("record"):
        return read_report(data)
    print_progress(f"1/5 record: {settings.demonstrations} demonstrations into {data}")
    with phases.phase("record"):
        return record.make(
            recording(settings, data),
            on_progress=lambda progress: phases.still_running(),
        )


def _train(settings: Demo, data: Path, training: Path, phases: Phases) -> Path:
    from imitact.datasets.open import open_dataset
    from imitact.training import loop
    from imitact.training.distributed import SINGLE_PROCESS

    if phases.done("train"):
        return training / "policy"

    def report(text: str) -> None:
        print_progress(text)
        phases.still_running()

    # Beside the demonstrations, so that another training on them finds the frames decoded.
    data = data.absolute()
    cache = settings.train.cache_dir or str(data.with_name(f"{data.name}-cache"))
    config = replace(settings.train, cache_dir=cache)
    print_progress(
        f"2/5 train: preset {settings.preset}, {config.steps} steps of {config.batch_size} samples"
    )
    with phases.phase("train"):
        dataset = open_dataset(data, settings.read)
        refuse_errors(dataset, data, print_progress)
        return loop.train(
            dataset,
            training,
            settings.model,
            config,
            resume=True,
            on_line=report,
            ranks=SINGLE_PROCESS,
        )


def _evaluate(settings: Demo, policy: Path, phases: Phases) -> Evaluation:
    options = _options(settings, policy, "evaluation", settings.episodes)
    print_progress(f"3/5 evaluate: {options.episodes} fresh seeds with {options.chunking}")
    with_videos = replace(options, videos=settings.videos, failure_videos=settings.failure_videos)
    return _count("evaluate", with_videos, phases)


def _compare(settings: Demo, policy: Path, phases: Phases) -> Evaluation | None:
    if not settings.compared_episodes:
        return None
    options = _options(settings, policy, "compared", settings.compared_episodes)
    chunking = settings.compared_chunking
    print_progress(f"4/5 compare: {options.episodes} of those seeds with {chunking}")
    return _count("compare", replace(options, chunking=chunking), phases)


def _evaluate_registered(settings: Demo, policy: Path, phases: Phases) -> Evaluation | None:
    from imitact.envs import gym_aloha_reference

    if not settings.registered_episodes:
        return None
    options = _options(settings, policy, "registered", settings.registered_episodes)
    name = gym_aloha_reference.GYM_IDS[settings.task]
    print_progress(f"5/5 registered: {options.episodes} of those seeds through {name}")
    make = partial(gym_aloha_reference.RegisteredAloha, settings.task)
    return _count("registered", options, phases, make)


def _options(settings: Demo, policy: Path, folder: str, episodes: int) -> Evaluate:
    """Return the options of an evaluation of the first seeds, without videos."""
    return Evaluate(
        policy=policy,
        out=settings.out / folder,
        env=settings.task,
        episodes=episodes,
        first_seed=FIRST_SEED,
        chunking=settings.chunking,
        workers=settings.workers,
    )


def _count(name: str, options: Evaluate, phases: Phases, make: Any = None) -> Evaluation:
    """Run an evaluation as a phase, or read it where the phase is finished."""
    from imitact.evaluation import report

    if phases.done(name):
        return report.read(options.out)
    with phases.phase(name):
        return evaluate.count(options, make, lambda _: phases.still_running())
