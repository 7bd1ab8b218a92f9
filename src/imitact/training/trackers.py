"""Experiment trackers: TensorBoard, trackio and wandb receive the training metrics, offline.

metrics.jsonl is the record; a tracker that fails is dropped with a message while training goes on.
All three write below OUT/trackers without network access: TensorBoard and trackio write files,
wandb runs in offline mode unless WANDB_MODE is set (`wandb sync` uploads such a run later).

A tracker is imported only if it is selected, and refused before training starts if it is missing.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, get_args

from imitact.core.errors import BadInput, DamagedFile, install_command, unknown_name
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.json_file import read_bytes
from imitact.training.config import TrackerName

TRACKER_NAMES: tuple[str, ...] = get_args(TrackerName)
EXTRA = "trackers"
"""The extra of imitact's package that installs all trackers."""

FOLDER = "trackers"


class Tracker(Protocol):
    """Receives the scalars of each step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str], project: str) -> None:
    """Raise BadInput for a tracker that is unknown or not installed, or an empty project name."""
    for name in names:
        if name not in TRACKER_NAMES:
            raise unknown_name("tracker", name, TRACKER_NAMES)
    if names and not project.strip():
        raise BadInput("--train.tracker-project is empty; trackio and wandb need a project name")
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"not installed: {', '.join(missing)}; {install_command(EXTRA)} installs them. Or "
            "train without trackers: metrics.jsonl has every number"
        )


class Trackers:
    """Several trackers as one; a failure of one does not affect the others."""

    def __init__(self, trackers: Mapping[str, Tracker], log: Callable[[str], None]) -> None:
        self._open = dict(trackers)
        self._log = log

    def log(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Send the scalars to every tracker, under the names of `flat_scalars`."""
        if self._open:
            flat = dict(flat_scalars(numbers))
            self._each(lambda tracker: tracker.log(step, flat))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:  # no error of a tracker stops the training
                del self._open[name]
                self._log(
                    f"{name} failed and is no longer used ({type(error).__name__}: "
                    f"{error}); metrics.jsonl has every number"
                )


def start_trackers(
    names: Sequence[str],
    project: str,
    out: Path,
    step: int,
    settings: dict[str, Any],
    log: Callable[[str], None],
) -> Trackers:
    """Open the trackers of a training.

    A training that is resumed at `step` continues its run in each tracker; OUT/trackers/run.json
    has the name of the run. `log` receives the message about a tracker that fails.
    """
    check_trackers(names, project)
    if not names:
        return Trackers({}, log)
    folder = out.absolute() / FOLDER
    make_folder(folder)
    run = _run(folder, out.absolute(), project, resumed=step > 0)
    open_tracker: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(folder / "tensorboard", step),
        "trackio": lambda: _Trackio(folder / "trackio", project, run, settings),
        "wandb": lambda: _Wandb(folder, project, run, settings),
    }
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = open_tracker[name]()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"the tracker {name} cannot start ({type(error).__name__}: {error}); train without "
                "it, or see its documentation"
            ) from error
    return Trackers(opened, log)


def flat_scalars(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield scalars by name: {"a": {"b": 1}} as a/b; of a list the first, middle and last value."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from flat_scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            for i in sorted({0, len(value) // 2, len(value) - 1}) if value else ():
                yield f"{prefix}{name}/{i}", float(value[i])
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def _run(folder: Path, out: Path, project: str, *, resumed: bool) -> str:
    """Return the name of the run, which run.json keeps over resumptions.

    It is the folder's name and eight random characters, because several trainings may have a folder
    of one name, and a new one may replace a deleted one.
    """
    file = folder / "run.json"
    if resumed and file.is_file():
        try:
            return str(json.loads(read_bytes(file))["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile(
                f"{file} does not name a run ({error!r}); remove it to continue in a new run"
            ) from error
    run = f"{out.name or 'training'}-{os.urandom(4).hex()}"
    write_json(file, {"run": run, "project": project}, staging=folder)
    return run


class _TensorBoard:
    """Event files: `tensorboard --logdir OUT/trackers/tensorboard`."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the last checkpoint of a killed process are repeated: TensorBoard drops the
        # first version at this mark.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A SQLite file: `TRACKIO_DIR=OUT/trackers/trackio trackio show`."""

    def __init__(self, folder: Path, project: str, run: str, settings: dict[str, Any]) -> None:
        make_folder(folder)
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read at import
        with redirect_stdout(io.StringIO()):  # messages for the user come from imitact only
            import trackio

            # Not the run's own finish: trackio would finish it again at exit, with output.
            self._finish = trackio.finish
            self._run = trackio.init(
                project=project,
                name=run,
                config=settings,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._finish()


class _Wandb:
    """A folder that `wandb sync OUT/trackers/wandb/offline-run-*` can upload."""

    def __init__(self, folder: Path, project: str, run: str, settings: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run = wandb.init(
            project=project,
            name=run,
            id=run,
            dir=str(folder),
            config=settings,
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
