"""The numbers of a training to the trackers that people watch them in, offline.

metrics.jsonl stays the truth: a tracker shows it, and one that breaks is dropped, aloud, while
training goes on. All three write below OUT/trackers, and none of them reaches the network:
TensorBoard and trackio are files, wandb is in its offline mode unless WANDB_MODE says otherwise
(`wandb sync` sends such a run later).

Each is imported only when asked for, and refused before training begins where it is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, get_args

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.atomic import make_folder, write_json
from imitact.training.config import TrackerName

TRACKER_NAMES: tuple[str, ...] = get_args(TrackerName)
EXTRA = "trackers"
"""Of imitact, to be installed with: it has all of them."""

FOLDER = "trackers"

Say = Callable[[str], None]


class Tracker(Protocol):
    """Takes numbers as they come."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str], project: str) -> None:
    """Refuse a tracker that there is not or that is not installed, and a project without a name."""
    for name in names:
        if name not in TRACKER_NAMES:
            raise BadInput(f"no tracker {name!r}; there are {list(TRACKER_NAMES)}")
    if names and not project.strip():
        raise BadInput("project is empty; give trackio and wandb a name for it")
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"{' and '.join(missing)}: not installed; pip install 'imitact[{EXTRA}]' has it, or "
            "train without (every number is in metrics.jsonl anyway)"
        )


class Trackers:
    """Several trackers as one, each of which may fail without harm to the others."""

    def __init__(self, open_: Mapping[str, Tracker], say: Say) -> None:
        self._open = dict(open_)
        self._say = say

    def log(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Give every tracker the scalars, names joined by a slash, lists under their places."""
        if self._open:
            flat = dict(flattened(numbers))
            self._each(lambda tracker: tracker.log(step, flat))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:  # whatever a tracker raises is no reason to stop training
                del self._open[name]
                self._say(
                    f"{name} failed and is left out from now on ({type(error).__name__}: "
                    f"{error}); metrics.jsonl has every number"
                )


def start_trackers(
    names: Sequence[str], project: str, out: Path, step: int, settings: Mapping[str, Any], say: Say
) -> Trackers:
    """Open trackers for the training in `out`, which goes on from `step` (0 at the beginning).

    A training that is resumed goes on in its own run of each tracker: OUT/trackers/run.json keeps
    the run's name. Settings are shown where a tracker shows settings.
    """
    check_trackers(names, project)
    if not names:
        return Trackers({}, say)
    folder = out.absolute() / FOLDER
    make_folder(folder)
    run = _run(folder, out.absolute(), project, resumed=step > 0)
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(folder / "tensorboard", step),
        "trackio": lambda: _Trackio(folder / "trackio", project, run, settings),
        "wandb": lambda: _Wandb(folder, project, run, settings),
    }
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = makers[name]()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"the tracker {name} cannot begin ({type(error).__name__}: {error}); train without "
                "it, or see its own documentation"
            ) from error
    return Trackers(opened, say)


def flattened(numbers: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """{"a": {"b": 1}} as a/b; of a list the first, the middle and the last: a/0, a/50, a/99."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{under}{name}/")
        elif isinstance(value, list):
            for at in sorted({0, len(value) // 2, len(value) - 1} - {-1}) if value else ():
                yield f"{under}{name}/{at}", float(value[at])
        elif isinstance(value, int | float):
            yield f"{under}{name}", float(value)


def _run(folder: Path, out: Path, project: str, *, resumed: bool) -> str:
    """The name of the run: chosen once, kept in run.json, the same after every resumption.

    The folder's own name, and eight characters that no other run has: several trainings may be
    called "training", and one may be begun anew where another was deleted.
    """
    file = folder / "run.json"
    if resumed and file.is_file():
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            return str(kept["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile(
                f"{file} does not name a run ({error!r}); remove it to go on in a new run"
            ) from error
    run = f"{out.name or 'training'}-{os.urandom(4).hex()}"
    write_json(file, {"run": run, "project": project}, staging=folder)
    return run


class _TensorBoard:
    """Event files: `tensorboard --logdir OUT/trackers/tensorboard`."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed process wrote beyond its last checkpoint will come again: TensorBoard drops
        # it at this mark.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A SQLite file: `TRACKIO_DIR=OUT/trackers/trackio trackio show`."""

    def __init__(self, folder: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        make_folder(folder)
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read as it is imported
        with _silent():
            import trackio

            # Not the run's own finish: trackio would finish it again, aloud, as the process ends.
            self._finish = trackio.finish
            self._run = trackio.init(
                project=project,
                name=run,
                config=_plain(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with _silent():
            self._finish()


class _Wandb:
    """A folder that `wandb sync OUT/trackers/wandb/offline-run-*` sends, if one wants it sent."""

    def __init__(self, folder: Path, project: str, run: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run = wandb.init(
            project=project,
            name=run,
            id=run,
            dir=str(folder),
            config=_plain(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),  # pyright: ignore[reportArgumentType]
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing to the terminal: what a person reads comes from imitact."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
