"""Isolated process: libraries that a damaged file may crash run in a process of their own.

HDF5's C library crashes on some damaged files (HDFGroup/hdf5#4433, #5576; h5py/h5py#2569). Its calls
run in `isolated_worker.py`, bounded in time and memory: a crash becomes an error that names the
file, and the next call starts another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from imitact.core.errors import BadInput, DamagedFile

ANSWER_TIMEOUT_S = 120.0
"""For one answer; a slow disk gives 256 MiB within."""

MEMORY_BYTES = 2 << 30
"""That the process may take beside its libraries."""

MAX_ANSWER_BYTES = 256 << 20
"""Of one answer."""

_COPY = "Copy it again from where it came."


class IsolatedProcess:
    """Asks the process apart, which is started when it is first asked and again when it died.

    Threads take turns. A copy, by pickling or by forking, starts a process of its own.
    """

    def __init__(self) -> None:
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()

    def __del__(self) -> None:
        process = self.__dict__.get("_process")
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(Exception):  # at the end of the interpreter
                _end(process)

    def ask(
        self, about: Path, do: str, data: bytes = b"", **told: Any
    ) -> tuple[dict[str, Any], Any]:
        """The answer about a file, and its bytes.

        Damaged where the library refuses, dies, or takes too long or too much memory; the error
        begins with the file, and with `told["path"]` where there is one.
        """
        if self._owner != os.getpid():
            self._forget()
        where = f"{about}: {told['path']}" if told.get("path") else f"{about}"
        with self._lock:
            process = self._process or self._begin()
            head, body = self._answer(process, where, {"do": do, **told}, data)
        if "missing" in head:
            raise ModuleNotFoundError(f"No module named {head['missing']!r}", name=head["missing"])
        if "filter" in head.get("error", ""):
            raise BadInput(
                f"{where} is packed in a way that the installed HDF5 has no filter for "
                f"({head['error']}); unpack it with h5repack -f NONE"
            )
        if "error" in head:
            raise DamagedFile(f"{where} cannot be read ({head['error']}). {_COPY}")
        return head, body

    def _forget(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def _begin(self) -> subprocess.Popen[bytes]:
        worker = Path(__file__).with_name("isolated_worker.py")
        # -P: without this folder, whose rooms have names that libraries may have too.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pipesize=1 << 20,  # frames go through it; systems that cannot ignore it
        )
        self._answer(
            self._process, "the library", {"do": "begin", "memory_bytes": MEMORY_BYTES}, b""
        )
        return self._process

    def _answer(
        self, process: subprocess.Popen[bytes], where: str, told: dict[str, Any], data: bytes
    ) -> tuple[dict[str, Any], Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(ANSWER_TIMEOUT_S, process.kill)
        timer.daemon = True
        timer.start()
        text = json.dumps({"most_bytes": MAX_ANSWER_BYTES, **told, "size": len(data)}).encode()
        try:
            process.stdin.write(struct.pack("<I", len(text)) + text + data)
            process.stdin.flush()
            size = struct.unpack("<I", _exactly(process.stdout, 4))[0]
            head = json.loads(bytes(_exactly(process.stdout, size)))
            return head, _exactly(process.stdout, head["size"])
        except (EOFError, OSError) as error:
            self._process = None
            late = not timer.is_alive()
            _end(process)
            if told["do"] == "begin":
                raise BadInput(
                    f"{sys.executable} could not be started to read this file (it ended with "
                    f"{process.returncode}); is there enough memory?"
                ) from error
            what = (
                f"gave no answer within {ANSWER_TIMEOUT_S:.0f} s"
                if late
                else f"crashed (exit code {process.returncode})"
            )
            raise DamagedFile(f"{where}: the library that reads it {what}. {_COPY}") from error
        except BaseException:  # Ctrl-C in the middle of an answer: the rest of it means nothing
            self._process = None
            _end(process)
            raise
        finally:
            timer.cancel()


def _exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    done = 0
    while done < count:
        got = stream.readinto(view[done:])
        if not got:
            raise EOFError
        done += got
    return data


def _end(process: subprocess.Popen[bytes]) -> None:
    pipes: list[BinaryIO | Any] = [process.stdin, process.stdout]
    process.kill()
    process.wait()
    for pipe in pipes:
        with contextlib.suppress(OSError):  # what was still to be sent goes nowhere
            pipe.close()
