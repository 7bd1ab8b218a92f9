"""Memory benchmark: peak memory of `imitact convert` over the number of episodes.

    python benchmarks/conversion_memory.py [--episodes 10 200] [--ticks 20] [--out FILE.json]

Writes ALOHA HDF5 episodes with one camera of 240x320 (four files, hard-linked as often as needed),
converts them to LeRobot's layout and back, and reports the largest resident set of the converting
process and of the isolated process that reads HDF5, in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import foreign_files as foreign

_MEASURED = """
import resource, sys
from imitact.cli.main import run
code = run(sys.argv[1:])
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import gc; gc.collect()  # ends the isolated process, so that it is counted
isolated = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(own, isolated, file=sys.stderr)
sys.exit(code)
"""


def convert(*arguments: object) -> dict[str, float]:
    """Run `imitact convert`; return the peak memory of both processes, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    own, isolated = done.stderr.splitlines()[-1].split()
    return {"convert_mb": round(int(own) / 1024, 1), "apart_mb": round(int(isolated) / 1024, 1)}


def measure(episodes: int, ticks: int, folder: Path) -> dict[str, Any]:
    """Convert that many episodes to LeRobot's layout and back."""
    source = folder / f"aloha-{episodes}"
    originals = [
        foreign.aloha_file(folder / f"original-{i}.hdf5", index=i, ticks=ticks, size=(240, 320))
        for i in range(4)
    ]
    source.mkdir()
    for index in range(episodes):
        os.link(originals[index % 4], source / f"episode_{index}.hdf5")
    copy, back = folder / f"lerobot-{episodes}", folder / f"back-{episodes}"
    return {
        "episodes": episodes,
        "to_lerobot": convert(source, "--out", copy),
        "to_aloha": convert(copy, "--out", back, "--to", "aloha-hdf5", "--images", "jpeg"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[10, 200])
    parser.add_argument("--ticks", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(count, args.ticks, Path(folder)) for count in args.episodes]
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
