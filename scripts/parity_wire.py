"""Wire parity: openpi's own client asks `imitact serve`, and gets the policy's chunks bit for bit.

    python scripts/parity_wire.py --openpi-python .venv-openpi/bin/python [--write FILE.json]

The client is openpi-client 0.1.2 from PyPI, in an environment of its own (it needs numpy below 2).
It asks with frames of capture size and with frames that the policy sees, plays a chunk through its
ActionChunkBroker, and is refused: without the token, with a wrong size. With --write, a small
message of its encoder becomes a fixture of the tests (tests/fixtures/wire). Exit code 0 if all
holds.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from serving import quick_policy, start  # noqa: E402

from imitact.core.types import Observation  # noqa: E402
from imitact.deploy.load_policy import load_policy  # noqa: E402

OBSERVATIONS = 20
BROKER_TICKS = 12

CLIENT = """
import base64, json, os, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from openpi_client import action_chunk_broker, msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
plan = json.load(open(sys.argv[1]))
data = np.load(plan["observations"])
policy = WebsocketClientPolicy("127.0.0.1", plan["port"], api_key=plan["token"])
found = {"metadata": sorted(policy.get_server_metadata())}
def seen(n, key):
    image = np.ascontiguousarray(data[key][n].transpose(2, 0, 1))
    return {"state": data["state"][n], "images": {"cam_high": image}, "prompt": "a task"}
for key in ("whole", "small"):
    chunks = []
    for n in range(len(data["state"])):
        chunks.append(policy.infer(seen(n, key))["actions"])
    np.save(plan[key], np.stack(chunks))
broker = action_chunk_broker.ActionChunkBroker(policy, 10)
found["broker"] = [np.asarray(broker.infer(seen(0, "whole"))["actions"]).tolist()
                   for _ in range(plan["ticks"])]
try:
    policy.infer({"state": data["state"][0], "images": {"cam_high": np.zeros((3, 5, 5), np.uint8)}})
    found["wrong size"] = "answered"
except RuntimeError as error:
    found["wrong size"] = str(error)
try:
    WebsocketClientPolicy("127.0.0.1", plan["port"], api_key="a-wrong-token-000")
    found["wrong token"] = "admitted"
except Exception as error:
    found["wrong token"] = f"{type(error).__name__}: {error}"
image = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
small = {"state": np.array([1.5, -2.0]), "images": {"cam_high": image.transpose(2, 0, 1)},
         "prompt": "a task", "step": np.int64(7)}
found["small"] = base64.b64encode(msgpack_numpy.Packer().pack(small)).decode()
print(json.dumps(found))
"""


def main() -> int:
    """Serve, let the client ask, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openpi-python", required=True)
    parser.add_argument("--write", type=Path)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        os.environ["OMP_NUM_THREADS"] = (
            "1"  # as the server: sums of several threads round otherwise
        )
        failures = compare(Path(folder), settings.openpi_python, settings.write)
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{len(failures)} failures")
    return 1 if failures else 0


def compare(root: Path, python: str, write: Path | None) -> list[str]:
    """Return what does not hold."""
    path = quick_policy(root)
    policy: Any = load_policy(path)
    rng = np.random.default_rng(0)
    camera = policy.spec.cameras[0]
    whole = rng.integers(0, 256, (OBSERVATIONS, camera.height, camera.width, 3), np.uint8)
    small = np.stack([policy.views["top"].apply(frame) for frame in whole])
    state = rng.normal(size=(OBSERVATIONS, 14))
    np.savez(root / "seen.npz", whole=whole, small=small, state=state)
    process, address = start(path, extra=("--openpi-name", "cam_high=top"))
    try:
        port = int(address.rpartition(":")[2])
        token = (root / "imitact" / "token").read_text().strip()
        plan = {
            "observations": str(root / "seen.npz"), "port": port, "token": token,
            "whole": str(root / "whole.npy"), "small": str(root / "small.npy"),
            "ticks": BROKER_TICKS,
        }  # fmt: skip
        (root / "plan.json").write_text(json.dumps(plan))
        done = subprocess.run(
            [python, "-c", CLIENT, str(root / "plan.json")],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            return [f"openpi's client ended with {done.returncode}: {done.stderr[-2000:]}"]
        found = json.loads(done.stdout)
        health = urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).read()
    finally:
        process.kill()
        process.wait()
    own = np.stack(
        [policy.chunk(Observation(s, {"top": f})) for s, f in zip(state, whole, strict=True)]
    )
    checks = {
        "frames of capture size: the policy's chunks": np.array_equal(
            np.load(root / "whole.npy"), own
        ),
        "frames as seen: the policy's chunks": np.array_equal(np.load(root / "small.npy"), own),
        "the broker plays ten rows and asks again": np.array_equal(
            np.float32(found["broker"]), own[0][[*range(10), *range(BROKER_TICKS - 10)]]
        ),
        "metadata names protocol and policy": {"protocol", "policy", "spec"}
        <= set(found["metadata"]),
        "a wrong size is an error in words": "camera top gave uint8 of shape (5, 5, 3)"
        in found["wrong size"],
        "a wrong token is refused": "401" in found["wrong token"],
        "/healthz": health == b"OK\n",
    }
    for name, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED'}: {name}")
    if write is not None:
        message = base64.b64decode(found["small"])
        write.write_bytes(message)
        print(f"wrote {write}, {len(message)} bytes")
    return [name for name, holds in checks.items() if not holds]


if __name__ == "__main__":
    sys.exit(main())
