"""Serving: a policy answers clients across a network, until it is stopped."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from imitact.core.errors import BadInput, missing_package
from imitact.core.ranges import Range, Ranged
from imitact.deploy.load_policy import read_stored
from imitact.serving.access import Access, default_token_file, is_loopback, read_or_create_token
from imitact.serving.address import as_address

if TYPE_CHECKING:
    from imitact.serving.server import Counters

OnLine = Callable[[str], object]


@dataclass(frozen=True)
class ServeConfig(Ranged):
    """How a policy is served."""

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

    openpi_name: tuple[str, ...] = ()
    """Name of a camera in messages of openpi, where it is another: cam_high=top. Several may be
    given."""

    @property
    def names(self) -> Mapping[str, str]:
        """The camera by openpi's name of it, where it differs."""
        return dict(map(_pair, self.openpi_name))


def _pair(text: str) -> tuple[str, str]:
    name, separator, camera = text.partition("=")
    if not (name and separator and camera):
        raise BadInput(f'openpi_name is "{text}"; give NAME=CAMERA, as in cam_high=top')
    return name, camera


def serve(
    policy: Path | str,
    config: ServeConfig | None = None,
    *,
    on_ready: Callable[[str], object] = lambda address: None,
    on_line: OnLine = lambda line: None,
) -> Counters:
    """Serve a policy until Ctrl-C; return what was counted.

    Args:
        policy: path of a policy, as for `load_policy`.
        on_ready: receives the address, once it can be asked.
        on_line: receives what is to be known of the server.

    Raises:
        BadInput: there is no policy, the port is taken, or a network address lacks encryption.
    """
    config = config or ServeConfig()
    try:
        from imitact.serving.inference import InferenceThread
        from imitact.serving.messages import Greeting
        from imitact.serving.server import PolicyServer, ServerConfig
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "websockets", "serve") from error
    if address := as_address(policy):
        raise BadInput(f"{address} is served already; ask that server")
    stored = read_stored(policy)
    tls = tls_context(config)
    if not is_loopback(config.host) and tls is None and not config.plain_on_network:
        raise BadInput(
            f"{config.host} is an address of the network, where pictures and commands would be in "
            "clear: give --tls-cert and --tls-key; or leave out --host and let clients come by "
            f"`ssh -L {config.port}:127.0.0.1:{config.port}`; or give --plain-on-network"
        )
    names = config.names
    unknown = set(names.values()) - {camera.name for camera in stored.spec.cameras}
    if unknown:
        known = ", ".join(camera.name for camera in stored.spec.cameras) or "none"
        raise BadInput(f"the policy has no camera {', '.join(sorted(unknown))}; it has {known}")
    listening = _listening(config)
    with listening:
        path = config.token_file or default_token_file()
        token = read_or_create_token(path)
        port = listening.getsockname()[1]
        is_local = is_loopback(config.host)
        hosts = {"127.0.0.1", "localhost", "[::1]", config.host.lower()}
        access = Access(token, frozenset(hosts) if is_local else frozenset())
        inference = InferenceThread(stored.loader, config.batch)
        loaded = inference.start()
        greeting = Greeting(
            stored.identity,
            stored.spec,
            getattr(loaded, "views", {}),
            stored.chunk_size,
            stored.execution,
            stored.recorded_in,
            stored.limits,
        )
        settings = ServerConfig(access, config.clients, names, tls)
        server = PolicyServer(greeting, inference, settings)
        shown = f"[{config.host}]" if ":" in config.host else config.host
        address = f"{'ws' if tls is None else 'wss'}://{shown}:{port}"
        on_line(f"token:   {path}")
        if not is_local and tls is None:
            on_line("pictures and commands cross the network in clear (--plain-on-network)")
        try:
            asyncio.run(server.run(listening, lambda: on_ready(address)))
        except KeyboardInterrupt as error:
            if str(error):  # SIGTERM or a closed terminal
                raise
        finally:
            inference.stop()
    return server.counters


def tls_context(config: ServeConfig) -> ssl.SSLContext | None:
    """Return the server's certificate and key, ready to use; None where none are given.

    Raises:
        BadInput: one is given without the other, or they cannot be read.
    """
    if config.tls_cert is None and config.tls_key is None:
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise BadInput("--tls-cert and --tls-key belong together: give both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(
            f"{config.tls_cert} and {config.tls_key} are no certificate and key: "
            f"{error.strerror or error}"
        ) from error
    return context


def _listening(config: ServeConfig) -> socket.socket:
    """Return a socket that listens."""
    try:
        found = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(64)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        raise BadInput(
            f"nothing can listen at {config.host}:{config.port} "
            f"({getattr(error, 'strerror', None) or error}); --port 0 takes a free port"
        ) from error
    return listening
