"""`imitact demo`: record, train and evaluate an ALOHA task end to end, and print the success rate.

Five phases, each of which continues where it was interrupted: record, train, evaluate with the
temporal ensemble, evaluate with replayed chunks beside it, and evaluate through the registered gym
environment.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imitact.api.train import train
from imitact.cli import evaluate, record
from imitact.cli.console import print_progress
from imitact.cli.demo_options import Demo as Demo
from imitact.cli.demo_options import demo_identity
from imitact.cli.demo_options import with_preset as with_preset
from imitact.cli.evaluate import Evaluate
from imitact.cli.phases import Phases
from imitact.cli.record import Record
from imitact.core.errors import BadInput, ImitactError
from imitact.core.execution import Execution
from imitact.core.words import counted
from imitact.envs.registry import make_env
from imitact.models.config import check_pretrained
from imitact.storage.output_guard import DATASETS, check_output, kind_of

if TYPE_CHECKING:
    from imitact.core.types import Dataset
    from imitact.evaluation.results import Evaluation
    from imitact.recording.manifest import RecordingReport

RESUME_HINT = "finished work is kept; the same command continues"

PHASES = "phases.json"
FIRST_SEED = 1000
"""First seed of the evaluation; demonstrations use seeds 0 to 999."""


def run(settings: Demo) -> None:
    """Run the phases that are not finished yet, and print the result."""
    from imitact.storage.lock import exclusive_writer

    _check(settings)
    with exclusive_writer(settings.out, "demo"):
        _run(settings)


def _run(settings: Demo) -> None:
    from imitact.cli.demo_report import DEMO_JSON, demo_numbers, demonstration_lines, print_demo
    from imitact.evaluation import report
    from imitact.storage.atomic import write_json

    out = settings.out
    data = settings.data or out / "data"
    training = out / "training"
    phases = Phases(out / PHASES, demo_identity(settings, data))

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
    check_output(settings.out, "demo")
    if settings.data and kind_of(settings.data, loose=True) not in DATASETS:
        check_output(settings.data, "recording", option="--data")
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
    check_pretrained(settings.model.backbone_norm, settings.model.pretrained_backbone)
    _check_demonstrations(settings)

    from imitact.evaluation.results import EvaluationPlan
    from imitact.training import device

    EvaluationPlan((FIRST_SEED,), Execution(settings.chunking), videos=settings.videos)
    training = settings.train
    device.choose_device(training.precision, training.device, training.num_threads)


def _check_demonstrations(settings: Demo) -> None:
    """Refuse a model, a training or a dataset that does not fit the demonstrations."""
    given = _given_dataset(settings)
    count = settings.demonstrations if given is None else len(given.lengths)
    if settings.train.val_episodes >= count:
        raise BadInput(
            f"--train.val-episodes is {settings.train.val_episodes} of "
            f"{counted(count, 'demonstration')}; at least one must be left to train on"
        )
    with closing(make_env(settings.task, height=settings.height, width=settings.width)) as env:
        cap, spec = env.step_cap, env.spec
    if settings.model.chunk_size > cap:
        raise BadInput(
            f"model.chunk_size is {counted(settings.model.chunk_size, 'tick')}, a demonstration "
            f"has {cap}; it must be at most {cap}"
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
    print_progress(f"1/5 record: {counted(settings.demonstrations, 'demonstration')} into {data}")
    with phases.phase("record"):
        return record.make(recording(settings, data), lambda _: phases.still_running())


def _train(settings: Demo, data: Path, training: Path, phases: Phases) -> Path:
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
        f"2/5 train: preset {settings.preset}, {counted(config.steps, 'step')} of "
        f"{counted(config.batch_size, 'sample')}"
    )
    with phases.phase("train"):
        return train(
            data,
            out=training,
            model=settings.model,
            train=config,
            read=settings.read,
            resume=training.exists(),
            on_line=report,
            ranks=SINGLE_PROCESS,
        )


def _evaluate(settings: Demo, policy: Path, phases: Phases) -> Evaluation:
    options = _options(settings, policy, "evaluation", settings.episodes)
    print_progress(
        f"3/5 evaluate: {counted(options.episodes, 'fresh seed')} with {options.chunking}"
    )
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
        policy=(policy,),
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
        return evaluate.count(options, make, lambda _: phases.still_running())[""]
