"""Records the dot's demonstrations; run as a program, to be killed, starved or interrupted.

    record_dot.py OUT EPISODES WORKERS [PAUSE_S] [--max-file-bytes N]

Prints a line for every demonstration that is finished.
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


class StarvedEnv(DotEnv):
    """Its worker may write files up to a size, as on a disk that is nearly full."""

    def __init__(self, *args: object, largest: int) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("episodes", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("pause_s", type=float, nargs="?", default=0.0)
    parser.add_argument("--max-file-bytes", type=int)
    args = parser.parse_args()
    make_env = partial(DotEnv, TWO_CAMERAS, TICKS, args.pause_s)
    if args.max_file_bytes:
        make_env = partial(
            StarvedEnv, TWO_CAMERAS, TICKS, args.pause_s, largest=args.max_file_bytes
        )
    told = -1

    def tell(progress: RecordingProgress) -> None:
        nonlocal told
        if progress.saved > told:
            told = progress.saved
            print(told, flush=True)

    try:
        record(
            args.out,
            make_env=make_env,
            make_expert=DotExpert,
            episodes=args.episodes,
            task="go to the mark",
            seeds=range(1000),
            workers=args.workers,
            on_progress=tell,
        )
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
