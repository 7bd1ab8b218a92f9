"""`imitact serve`: a policy that answers across a network."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from imitact.api.serve import ServeConfig, serve
from imitact.cli.console import print_progress, print_result
from imitact.core.ranges import Range
from imitact.core.words import counted

RESUME_HINT = ""


@dataclass(frozen=True)
class Serve:
    """Serve a policy: it answers clients of imitact and of openpi until Ctrl-C.

    `imitact evaluate` and `imitact run` take the printed address in place of a policy. A client
    needs the token, whose file is printed.
    """

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Policy: the folder of a training or of its policy, a checkpoint, or an exported file."""

    config: OmitArgPrefixes[ServeConfig] = field(default_factory=ServeConfig)
    """Where and to whom."""

    threads: Annotated[int, Range(1, 1024)] = 1
    """Threads that compute an answer. One gives the bits of imitact evaluate."""


OPTIONS = Serve


def run(settings: Serve) -> None:
    """Serve until Ctrl-C, and print what was counted."""
    # Read by torch, OpenVINO and ONNX Runtime when they are imported.
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)

    def ready(address: str) -> None:
        print_result(f"serving: {address}")
        print_progress("Ctrl-C ends it")

    found = serve(settings.policy, settings.config, on_ready=ready, on_line=print_progress)
    print_result(
        f"ended:   {counted(found.answers, 'answer')}, {counted(found.failures, 'failure')}, "
        f"{counted(found.bad_messages, 'bad message')}"
    )
