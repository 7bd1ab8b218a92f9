"""Recording program: records demonstrations of the dot environment, to be killed or interrupted.

    python -m tests.faults.record_dot OUT EPISODES WORKERS [PAUSE_S] [--max-file-bytes N]

Prints a line for every finished demonstration.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from functools import partial

from imitact.core.errors import BadInput
from imitact.recording.recorder import RecordingProgress, record
from tests.support.dot_env import TICKS, TWO_CAMERAS, DotEnv, DotExpert


class NearlyFullDiskEnv(DotEnv):
    """A dot environment whose worker may write files up to a size only."""

    def __init__(self, *args: object, largest: int) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead of the process
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("episodes", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("pause_s", type=float, nargs="?", default=0.0)
    parser.add_argument("--max-file-bytes", type=int)
    args = parser.parse_args()
    make_env = partial(DotEnv, TWO_CAMERAS, TICKS, args.pause_s)
    if args.max_file_bytes:
        make_env = partial(
            NearlyFullDiskEnv, TWO_CAMERAS, TICKS, args.pause_s, largest=args.max_file_bytes
        )
    printed = -1

    def print_count(progress: RecordingProgress) -> None:
        nonlocal printed
        if progress.saved > printed:
            printed = progress.saved
            print(printed, flush=True)

    try:
        record(
            args.out,
            make_env=make_env,
            make_expert=DotExpert,
            episodes=args.episodes,
            task="go to the mark",
            seeds=range(1000),
            workers=args.workers,
            on_progress=print_count,
        )
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
