"""`imitact serve`: a policy that answers across a network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
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

    host: str = "127.0.0.1"
    """Address to listen at. One of the network needs --tls-cert and --tls-key."""

    port: Annotated[int, Range(0, 65_535)] = 8000
    """Port; 0 takes a free one."""

    token_file: Path | None = None
    """File of the token, which is written where it is missing. None: ~/.config/imitact/token,
    where clients of this user look."""

    tls_cert: Path | None = None
    """Certificate chain, PEM: connections are encrypted (wss://)."""

    tls_key: Path | None = None
    """Private key of the certificate, PEM."""

    plain_on_network: bool = False
    """Serve a network address without encryption: pictures and commands are in clear."""

    clients: Annotated[int, Range(1, 64)] = 8
    """Most clients at once."""

    batch: Annotated[int, Range(1, 64)] = 1
    """Most questions that are answered together. Above 1, an answer depends in its last bits on who
    else asks."""

    threads: Annotated[int, Range(1, 1024)] = 1
    """Threads that compute an answer. One gives the bits of imitact evaluate."""

    openpi_name: tuple[str, ...] = ()
    """Name of a camera in messages of openpi, where it is another: cam_high=top. Several may be
    given."""


OPTIONS = Serve


def run(settings: Serve) -> None:
    """Serve until Ctrl-C, and print what was counted."""
    names = dict(map(_pair, settings.openpi_name))
    # Read by torch, OpenVINO and ONNX Runtime when they are imported.
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    from imitact.api.serve import ServeConfig, serve

    config = ServeConfig(
        settings.host,
        settings.port,
        settings.token_file,
        settings.tls_cert,
        settings.tls_key,
        settings.plain_on_network,
        settings.clients,
        settings.batch,
        names,
    )

    def ready(address: str) -> None:
        print_result(f"serving: {address}")
        print_progress("Ctrl-C ends it")

    found = serve(settings.policy, config, on_ready=ready, on_line=print_progress)
    print_result(
        f"ended:   {counted(found.answers, 'answer')}, {counted(found.failures, 'failure')}, "
        f"{counted(found.bad_messages, 'bad message')}"
    )


def _pair(text: str) -> tuple[str, str]:
    name, separator, camera = text.partition("=")
    if not (name and separator and camera):
        raise BadInput(f'--openpi-name is "{text}"; give NAME=CAMERA, as in cam_high=top')
    return name, camera
