"""Options of `imitact demo`, their presets, and the settings that define a demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from imitact.api.train import preset as settings_of
from imitact.core.errors import unknown_name
from imitact.core.ranges import Count, CountOrNone, Pixels, Range, Seconds, Workers
from imitact.datasets.read_config import ReadConfig
from imitact.envs.registry import RECOMMENDED_MODEL
from imitact.models.config import ActConfig
from imitact.training.config import TrainConfig

Task = Literal["cube", "insertion"]


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

    demonstrations: Annotated[int, Range(1, 1000)] = 50
    """Demonstrations to record, of seeds 0 to 999."""

    episodes: Count = 100
    """Episodes to evaluate, from seed 1000 on."""

    chunking: str = "ensemble:0.01/10"
    """How chunks become actions, as for `imitact evaluate`: the paper's temporal ensemble, with a
    query every 10 ticks."""

    workers: Workers = 0
    """Processes that record and evaluate; 0 takes one per core."""

    data: Path | None = None
    """Dataset of the demonstrations, recorded there if there is none. None: OUT/data. The dataset
    of another demo trains once more on the same demonstrations."""

    videos: CountOrNone = 2
    """Number of episodes to record as videos."""

    failure_videos: CountOrNone = 2
    """Number of failed episodes to record as videos, too."""

    compared_chunking: str = "replay:50"
    """How chunks become actions in a second evaluation, for comparison."""

    compared_episodes: CountOrNone = 20
    """Episodes of that second evaluation, on the first seeds; 0: none."""

    registered_episodes: CountOrNone = 5
    """Episodes that also run through the environment that gym-aloha registers; 0: none. Needs
    480x640 pixels."""

    spread: Annotated[float, Range(0, 2)] = 1.0
    """How much demonstrations vary, as for `imitact record`."""

    starts: Literal["even", "random"] = "even"
    """Order of the demonstrated seeds, as for `imitact record`."""

    height: Pixels = 480
    """Height of a captured frame in pixels."""

    width: Pixels = 640
    """Width of a captured frame in pixels."""

    setup_s: Seconds = 0.0
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
        raise unknown_name("task of the demo", task, get_args(Task))
    model, training = settings_of(name)
    if name == "quick":  # the others are as published
        model = replace(model, **RECOMMENDED_MODEL[task])
    return Demo(model=model, train=training, task=cast(Task, task), preset=name)


def demo_identity(settings: Demo, data: Path) -> dict[str, Any]:
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
    found = {"compared" if n == "compared_chunking" else n: stored[n] for n in names}
    found |= {"model": settings.model.to_json(), "train": settings.train.to_json()}
    found["data"] = str(data.absolute())
    if settings.read == ReadConfig():
        del found["read"]
    if settings.task == "cube":
        del found["task"]
    return found
