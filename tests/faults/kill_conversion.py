"""Kill test of conversions: kill -9 at random moments of `imitact convert`, in both directions.

    python -m tests.faults.kill_conversion [--kills 20] [--seed 0] [--out FILE.json]

After each kill the same command continues. Exit code 0 if every such copy equals, file by file, the
copy that was not killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import foreign_files as foreign


def start(source: Path, out: Path, to: str) -> subprocess.Popen[bytes]:
    """Start a conversion."""
    command = [sys.executable, "-m", "imitact", "convert", str(source)]
    command += ["--out", str(out), "--to", to]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def convert(source: Path, out: Path, to: str) -> float:
    """Run a conversion to the end and return its seconds."""
    began = time.monotonic()
    if code := start(source, out, to).wait():
        raise SystemExit(f"imitact convert {source} --out {out} --to {to}: exit code {code}")
    return time.monotonic() - began


def checksums(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in total, half in each direction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    different, killed = [], 0
    with tempfile.TemporaryDirectory(prefix="imitact-convert-") as folder:
        root = Path(folder)
        foreign.aloha(root / "aloha", (40,) * 12, size=(96, 128), effort=True, dtype="f8")
        for source, to in ((root / "aloha", "lerobot"), (root / "lerobot", "aloha-hdf5")):
            undisturbed = root / to
            duration_s = convert(source, undisturbed, to)
            expected, kills, tries = checksums(undisturbed), 0, 0
            while kills < args.kills / 2:
                copy = root / f"{to}-{tries}"
                tries += 1
                for _ in range(2):
                    process = start(source, copy, to)
                    time.sleep(rng.uniform(0.0, duration_s))
                    kills += process.poll() is None
                    process.kill()
                    process.wait()
                convert(source, copy, to)
                if checksums(copy) != expected:
                    different.append(copy.name)
            killed += kills
    text = json.dumps({"kills": killed, "different": different}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
