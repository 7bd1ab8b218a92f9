"""`imitact completion`: a script that completes verbs and options in bash, zsh or fish."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, subcommand

from imitact.cli.console import print_result
from imitact.cli.verbs import VERBS

RESUME_HINT = ""


@dataclass(frozen=True)
class Completion:
    """Print a script that completes the verbs and options of imitact in a shell.

    bash: imitact completion bash > ~/.local/share/bash-completion/completions/imitact
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""


OPTIONS = Completion


def run(settings: Completion) -> None:
    """Print the script."""
    kinds: list[Any] = [Annotated[Completion, subcommand("completion", prefix_name=False)]]
    for name, verb in VERBS.items():
        start = verb.start()
        default = {} if isinstance(start, type) else {"default": start}
        kind = start if isinstance(start, type) else type(start)
        about = subcommand(name, description=verb.summary, prefix_name=False, **default)
        kinds.append(Annotated[kind, about])
    script = io.StringIO()
    argv = ["--tyro-print-completion", settings.shell]
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        every: Any = Union[tuple(kinds)]  # noqa: UP007  # made at run time
        tyro.cli(every, prog="imitact", args=argv)
    print_result(*script.getvalue().rstrip().splitlines())
