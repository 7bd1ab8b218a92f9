"""`imitact serve`: what is served, to whom, and that an evaluation by address is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imitact
from imitact.api.serve import ServeConfig, serve, tls_context
from imitact.core.errors import BadInput, ConnectionLost
from imitact.core.types import Observation
from imitact.deploy.load_policy import read_stored
from imitact.serving.client import RemotePolicy
from tests.api.test_evaluate import DOT, save
from tests.support.command_line import is_refused
from tests.support.paths import ROOT
from tests.support.served import TOKEN, served


def rows(folder: Path) -> Any:
    """Return an evaluation without its times."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: without_times(v) for k, v in value.items() if not k.endswith(("_s", "_ms"))}
            return {k: v for k, v in kept.items() if "sha256" not in k}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    return without_times(json.loads((folder / "evaluation.json").read_text()))


def test_an_evaluation_by_address_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = save(tmp_path / "act" / "policy", 0)
    monkeypatch.setenv("IMITACT_TOKEN_FILE", str(tmp_path / "token"))
    argv = ["serve", str(policy), "--port", "0", "--token-file", str(tmp_path / "token")]
    with subprocess.Popen(
        [sys.executable, "-m", "imitact", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        address = server.stdout.readline().split()[-1]
        assert address.startswith("ws://127.0.0.1:")
        stored = read_stored(address)
        assert stored.identity == read_stored(policy).identity
        assert stored.where == address
        kept = {"env": DOT, "episodes": 4, "workers": 2}
        imitact.evaluate(address, out=tmp_path / "wire", **kept)
        imitact.evaluate(policy, out=tmp_path / "folder", **kept)
        assert rows(tmp_path / "wire") == rows(tmp_path / "folder")
        loaded = imitact.load_policy(address)
        assert loaded.identity == stored.identity
        loaded.close()
        # Not SIGINT, which a shell lets programs in the background ignore.
        server.terminate()
        _, err = server.communicate(timeout=60)
    assert server.returncode == 130
    assert err.splitlines()[-1] == "imitact serve: stopped by SIGTERM"


TLS = ROOT / "tests/fixtures/tls"
"""A certificate for 127.0.0.1 and localhost, its own authority, made for these tests by

    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 ...
"""


def test_a_client_of_an_encrypted_server_checks_its_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    config = ServeConfig(tls_cert=TLS / "cert.pem", tls_key=TLS / "key.pem")
    with served(tls=tls_context(config)) as one:
        assert one.address.startswith("wss://")
        with pytest.raises(BadInput, match="its certificate is not trusted"):
            RemotePolicy(one.address, token=TOKEN)
        with pytest.raises(ConnectionLost):
            RemotePolicy(one.address.replace("wss", "ws"), token=TOKEN)
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
        policy = RemotePolicy(one.address, token=TOKEN)
        frames = {"top": np.zeros((24, 32, 3), np.uint8)}
        assert policy.chunk(Observation(np.array([1.5, 2.0]), frames)).shape == (5, 2)
        policy.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0"}, r"0\.0\.0\.0 is an address of the network, where .* in clear"),
        ({"host": "0.0.0.0", "port": 8123}, "`ssh -L 8123:127.0.0.1:8123`"),
        (
            {"host": "no.such.host.invalid", "plain_on_network": True},
            "nothing can listen at no.such",
        ),
        ({"tls_cert": Path("cert.pem")}, "--tls-cert and --tls-key belong together"),
        ({"tls_cert": Path("no.pem"), "tls_key": Path("no.pem")}, "are no certificate and key"),
        ({"openpi_name": ("top",)}, "openpi_name is .top.; give NAME=CAMERA"),
        ({"openpi_name": ("cam_high=nose",)}, "has no camera nose; it has top"),
    ],
)
def test_what_cannot_be_served_is_refused(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    policy = save(tmp_path / "policy", 0)
    config = ServeConfig(**{"port": 0, "token_file": tmp_path / "token", **options})
    with pytest.raises(BadInput, match=says):
        serve(policy, config)
    assert not (tmp_path / "token").exists()


def test_an_address_is_refused_where_the_policy_itself_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "ws://127.0.0.1:9"
    for argv in (
        ("export", address, "--out", tmp_path / "a", "--data", tmp_path),
        ("tune", address, "--out", tmp_path / "a"),
        ("serve", address),
        ("serve", save(tmp_path / "policy", 0), "--openpi-name", "top"),
    ):
        is_refused(capsys, *argv)
