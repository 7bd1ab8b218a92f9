"""kill -9 at any moment of `imitact convert`, in both directions: it goes on to the same bytes.

    kill_conversion.py [--kills 20] [--seed 0] [--out FILE.json]

Exit code 0 if every copy that was killed and gone on with is, file by file, the one that was not.
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


def begin(source: Path, out: Path, to: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "imitact", "convert", str(source), str(out), "--to", to]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def whole(source: Path, out: Path, to: str) -> float:
    """Convert to the end; gives the seconds."""
    began = time.monotonic()
    if code := begin(source, out, to).wait():
        raise SystemExit(f"imitact convert {source} {out} --to {to} ended with {code}")
    return time.monotonic() - began


def sums(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20, help="in all, half in each direction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    different, killed = [], 0
    with tempfile.TemporaryDirectory(prefix="imitact-convert-") as place:
        root = Path(place)
        foreign.aloha(root / "aloha", (40,) * 12, size=(96, 128), effort=True, dtype="f8")
        for source, to in ((root / "aloha", "lerobot"), (root / "lerobot", "aloha-hdf5")):
            undisturbed = root / to
            lasts_s = whole(source, undisturbed, to)
            wanted, kills, tries = sums(undisturbed), 0, 0
            while kills < args.kills / 2:
                part = root / f"{to}-{tries}"
                tries += 1
                for _ in range(2):
                    process = begin(source, part, to)
                    time.sleep(rng.uniform(0.0, lasts_s))
                    kills += process.poll() is None
                    process.kill()
                    process.wait()
                whole(source, part, to)
                if sums(part) != wanted:
                    different.append(part.name)
            killed += kills
    text = json.dumps({"kills": killed, "different": different}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
