"""The `imitact` command: argv in, one verb run, an exit code out.

Only this file reads argv. A verb is a module of imitact.cli, imported when it is typed; what it
needs to run is imported once its options are parsed. So help and refusals load no torch.

Exit codes: 0 done; 2 bad input or a full disk (one line names the cause and the remedy); 3 `check`
found errors; 130 stopped by Ctrl-C, SIGTERM or a closed terminal (one line says how
to continue); 1 a defect of imitact (a traceback).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from imitact.cli import verbs
from imitact.cli.verbs import Verb
from imitact.core.errors import ImitactError, missing_package, unknown_name
from imitact.core.version import __version__
from imitact.parallel.signals import end_signals_as_interrupts

VERBS = {
    **verbs.VERBS,
    "completion": Verb(
        "print a script that completes verbs and options in a shell",
        lambda: import_module("imitact.cli.completion"),
    ),
}

HELP = f"""\
usage: imitact VERB [ARGUMENTS] [OPTIONS]

ACT, Action Chunking with Transformers: from demonstrations to a policy.

{chr(10).join(f"  {name:15}{verb.summary}" for name, verb in VERBS.items())}

`imitact VERB --help` explains the options of a verb.
`imitact --version` prints the version.
"""

_EXTRAS = {
    **dict.fromkeys(("onnx", "onnxruntime", "openvino", "nncf"), "export"),
    **dict.fromkeys(("h5py", "numcodecs"), "formats"),
    "matplotlib": "view",
}
"""Optional packages by the extra that installs them; all others are the simulator's."""


def main() -> None:
    """Run the command `imitact` and exit."""
    _open_standard_streams()
    # Once the verb has ended, another SIGTERM would only cost its last line: torchrun sends one to
    # all ranks when the first of them has ended.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are imported, before a verb runs or after it
        _refuse("imitact", "interrupted")
        code = 130
    _end_standard_streams()
    sys.exit(code)


def _open_standard_streams() -> None:
    """Replace standard streams that are closed by /dev/null, and let no character stop the work.

    A file that is opened later would otherwise take the number of the closed stream, and then what
    libraries print to it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):  # the lowest free number, which is this one
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end_standard_streams() -> None:
    """Flush stdout and stderr; what they cannot take is dropped, and the exit code stays."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(argv: Sequence[str]) -> int:
    """Run a command line, given without the program's name, and return the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        with contextlib.suppress(OSError):
            (sys.stdout if argv else sys.stderr).write(HELP)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        with contextlib.suppress(OSError):
            sys.stdout.write(f"imitact {__version__}\n")
        return 0
    name, rest = argv[0], list(argv[1:])
    if name not in VERBS:
        return _refuse("imitact", str(unknown_name("verb", name, VERBS)))
    prog, verb, hint = f"imitact {name}", VERBS[name], ""

    from imitact.cli.options import HelpShown, named_as_typed, options, parse, values_of

    kind: type | None = None
    try:
        with end_signals_as_interrupts():
            module = verb.module()
            hint = module.RESUME_HINT
            start = verb.start(*[next(iter(values_of(rest, o)), None) for o in verb.first])
            kind = start if isinstance(start, type) else type(start)
            return module.run(parse(prog, start, rest)) or 0
    except HelpShown:
        return 0
    except ImitactError as error:
        return _refuse(prog, named_as_typed(str(error), options(kind) if kind else (), rest))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("imitact"):
            raise
        package = error.name.partition(".")[0]
        return _refuse(prog, str(missing_package(package, _EXTRAS.get(package, "sim"))))
    except OSError as error:
        return _refuse(prog, _system_error(error))
    except KeyboardInterrupt as error:
        cause = str(error) or "interrupted"
        _refuse(prog, f"{cause}; {hint}" if hint else cause)
        return 130


def _system_error(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the same command again"
    if "temporary directory" in str(error):  # of tempfile, which has tried all usual folders
        return f"{error.strerror}; set TMPDIR to a folder on a disk with room that can be written"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.strerror}{where}; make it readable and writable, or give another path"
    return f"{error.strerror or error}{where}"


def _refuse(prog: str, text: str) -> int:
    from imitact.cli.console import print_progress

    print_progress(f"{prog}: {' '.join(text.split())}")
    return 2


if __name__ == "__main__":
    main()
