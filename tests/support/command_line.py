"""The command line in tests: run one, read its answer, expect a refusal, train a tiny network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imitact.cli import main

TINY = [
    *("--model.chunk-size", "8", "--model.input-height", "24", "--model.input-width", "32"),
    *("--model.backbone-width", "8", "--model.backbone-stages", "2"),
    *("--model.backbone-norm", "batch", "--model.hidden-dim", "16", "--model.num-heads", "2"),
    *("--model.dim-feedforward", "16", "--model.encoder-layers", "1"),
    *("--train.batch-size", "2", "--train.steps", "3", "--train.val-episodes", "0"),
    *("--train.warmup-steps", "0", "--train.num-workers", "1"),
]
"""Options that train a network of a few thousand weights for three steps."""

HEAVY = {"torch", "av", "pyarrow", "mujoco", "dm_control", "gymnasium", "mink", "h5py",
         "matplotlib", "onnx", "openvino", "scipy", "PIL"}  # fmt: skip
"""Packages that help and refusals never import."""


def tiny(*changes: str) -> list[str]:
    """Return TINY with options changed or added: an option must not be given twice."""
    argv = [*TINY]
    for name, value in zip(changes[::2], changes[1::2], strict=True):
        if name in argv:
            argv[argv.index(name) + 1] = value
        else:
            argv += [name, value]
    return argv


def answer(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Run a command line; return its exit code, stdout and stderr."""
    code = main.run([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def is_refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Expect a refusal: exit code 2 and one line, after any progress. Return that line."""
    code, _, err = answer(capsys, *argv)
    lines = err.splitlines()
    refusals = [line for line in lines if line.startswith("imitact")]
    assert code == 2, err
    assert refusals == lines[-1:], err
    assert "Traceback" not in err
    return refusals[0]


def cpu_cost(*argv: str) -> tuple[int, float, set[str]]:
    """Run a command line in a process; return exit code, CPU seconds and imported packages."""
    code = (
        "import resource, sys\nfrom imitact.cli.main import run\ncode = run(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(code, used.ru_utime + used.ru_stime, *names, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exit_code, seconds, *names = done.stderr.splitlines()[-1].split()
    return int(exit_code), float(seconds), set(names)
