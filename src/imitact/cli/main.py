"""The door: argv in, one verb done, an exit code out.

Only this file reads argv. Each verb is a room of imitact.verbs, imported when it is asked for, so
that `imitact --help` loads neither torch nor the simulator.

Exit codes: 0 done, 2 bad input or a full disk (one line says what and what to do), 3 `check` found
errors, 130 stopped by Ctrl-C or SIGTERM (one line says how to go on), 1 a defect of imitact (a
traceback).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from imitact.core.errors import ImitactError
from imitact.core.version import __version__


@dataclass(frozen=True)
class Verb:
    """What it does, in a line; the room that does it; the name of its settings there."""

    line: str
    room: Callable[[], ModuleType]
    settings: Callable[..., Any]
    """Of that room and the words given for `first`: the settings to parse, a type, or an instance
    (of the preset asked for) to start from."""
    first: tuple[str, ...] = ("--preset",)
    """Options that must be known before the others can be read, since those start from them."""


def _record() -> ModuleType:
    from imitact.cli import record

    return record


def _train() -> ModuleType:
    from imitact.cli import train

    return train


def _evaluate() -> ModuleType:
    from imitact.cli import evaluate

    return evaluate


def _compare() -> ModuleType:
    from imitact.cli import compare

    return compare


def _convert() -> ModuleType:
    from imitact.cli import convert

    return convert


def _check() -> ModuleType:
    from imitact.cli import check

    return check


def _export() -> ModuleType:
    from imitact.cli import export

    return export


def _import_policy() -> ModuleType:
    from imitact.cli import import_policy

    return import_policy


def _export_policy() -> ModuleType:
    from imitact.cli import export_policy

    return export_policy


def _tune() -> ModuleType:
    from imitact.cli import tune

    return tune


def _view() -> ModuleType:
    from imitact.cli import view

    return view


def _demo() -> ModuleType:
    from imitact.cli import demo

    return demo


VERBS = {
    "record": Verb("record scripted demonstrations in the simulator", _record,
                   lambda room, preset: room.Record),
    "train": Verb("train ACT on a dataset, giving a policy directory", _train,
                  lambda room, preset: room.with_preset(preset)),
    "evaluate": Verb("run a policy on fresh seeds of the simulator and count", _evaluate,
                     lambda room, preset: room.Evaluate),
    "compare": Verb("compare two evaluations on the same seeds", _compare,
                    lambda room, preset: room.Compare),
    "tune": Verb("find how a policy's chunks are best executed, and write it into it", _tune,
                 lambda room, preset: room.Tune),
    "export": Verb("make one file of a policy that runs without torch, with proof", _export,
                   lambda room, preset: room.Export),
    "import-policy": Verb("make a policy of another program's checkpoint, with equal actions",
                          _import_policy, lambda room, preset: room.ImportPolicy),
    "export-policy": Verb("write a policy as another program's checkpoint, with equal actions",
                          _export_policy, lambda room, preset: room.ExportPolicy),
    "view": Verb("look at demonstrations, a training or an evaluation, as one page", _view,
                 lambda room, preset: room.View),
    "check": Verb("tell what is wrong with a dataset, a policy or an environment", _check,
                  lambda room, preset: room.Check),
    "convert": Verb("copy a dataset into LeRobot's or ALOHA's layout, and compare", _convert,
                    lambda room, preset: room.Convert),
    "demo": Verb("all of it, from nothing to a success rate", _demo,
                 lambda room, preset, task: room.with_preset(preset, task),
                 first=("--preset", "--task")),
}  # fmt: skip

HELP = f"""\
usage: imitact VERB [OPTIONS]

Demonstrations in, a policy that moves two arms out: ACT, Action Chunking with Transformers.

{chr(10).join(f"  {name:15}{verb.line}" for name, verb in VERBS.items())}

`imitact VERB --help` explains every setting of a verb, with its unit.
`imitact --version` names the version.
"""


def main() -> None:
    """What the command `imitact` runs."""
    # Once the verb has ended, however, another SIGTERM would only cost its last line: torchrun
    # sends one to all ranks when the first of them has ended.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Do what a command line says (without the program's name); gives the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        (sys.stdout if argv else sys.stderr).write(HELP)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"imitact {__version__}\n")
        return 0
    name, rest = argv[0], list(argv[1:])
    if name not in VERBS:
        return _refuse("imitact", f"no verb {name!r}; there are {', '.join(VERBS)}")
    prog = f"imitact {name}"
    go_on = ""
    try:
        with _sigterm_as_interrupt():
            room = VERBS[name].room()
            go_on = room.GO_ON
            first = [_option(rest, option) for option in VERBS[name].first]
            settings = VERBS[name].settings(room, *first)
            given = _parse(prog, settings, rest)
            if given is not None:
                return room.run(given) or 0
    except (_MisspeltError, ImitactError) as error:
        return _refuse(prog, str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("imitact"):
            raise
        extra = "export" if error.name in ("onnx", "onnxruntime", "openvino", "nncf") else "sim"
        extra = "view" if error.name == "matplotlib" else extra
        extra = "formats" if error.name in ("h5py", "numcodecs") else extra
        has = f"pip install 'imitact[{extra}]' has all"
        return _refuse(prog, f"{error.name} is not installed; {has}")
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refuse(prog, _of_the_system(error))
    except KeyboardInterrupt as error:
        said = str(error) or "interrupted"
        _refuse(prog, f"{said}; {go_on}" if go_on else said)
        return 130
    return 0


class _MisspeltError(Exception):
    """The command line cannot be read as settings."""


def _parse(prog: str, settings: Any, argv: list[str]) -> Any:
    """The settings that argv gives, None where it asked for help and got it.

    What tyro would explain in a box becomes one line.
    """
    from imitact.cli.options import parse

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parse(prog, settings, argv)
    except SystemExit as done:
        if done.code in (0, None):
            return None
        raise _MisspeltError(_one_line(box.getvalue())) from None


def _one_line(box: str) -> str:
    """The sentences of one of tyro's boxes, without its title, rules and repeated help."""
    plain = re.sub("[─│╭╮╰╯]", " ", box)
    title, _, rest = plain.strip().partition("\n")
    sections = re.split(r"^\s*-*\s*$", rest, flags=re.MULTILINE)
    kept = []
    for section in sections:
        words = " ".join(section.split())
        if words and not words.startswith(("Argument helptext", "For full helptext")):
            kept.append(words)
    return "; ".join(kept or [title.strip()]) + "; --help explains every setting"


def _option(argv: Sequence[str], name: str) -> str | None:
    """The value of an option in a command line that is not parsed yet."""
    for at, word in enumerate(argv):
        if word == name and at + 1 < len(argv):
            return argv[at + 1]
        if word.startswith(name + "="):
            return word.removeprefix(name + "=")
    return None


def _of_the_system(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some and run the same command again"
    return f"{error.strerror or error}{where}"


def _refuse(prog: str, text: str) -> int:
    sys.stderr.write(f"{prog}: {' '.join(text.split())}\n")
    return 2


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a verb as Ctrl-C does, so that what is open is closed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt("stopped by SIGTERM")

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
