"""Isolated process: libraries that a damaged file may crash run in a process of their own.

HDF5's C library crashes on some damaged files (HDFGroup/hdf5#4433, #5576; h5py/h5py#2569). Its
calls run in `isolated_worker.py`, bounded in time and memory: a crash becomes an error that names
the file, and the next call starts another process.
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
from typing import Any

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.regular_file import COPY_AGAIN, check_regular

ANSWER_TIMEOUT_S = 120.0
"""For one call; a slow disk delivers 256 MiB in that time."""

MEMORY_BYTES = 896 << 20
"""What the process may allocate beyond its libraries: three times the largest answer, which HDF5
unpacks, arranges and sends."""

MAX_ANSWER_BYTES = 256 << 20
"""What one call may return."""


class IsolatedProcess:
    """Calls functions of `isolated_worker.py` in a process that is started when it is needed.

    Threads take turns. A copy, by pickling or by forking, starts a process of its own.
    """

    def __init__(self) -> None:
        self._forget()

    def __reduce__(self) -> tuple[type[IsolatedProcess], tuple[()]]:
        return IsolatedProcess, ()

    def __del__(self) -> None:
        process = self.__dict__.get("_process")
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(Exception):  # at the end of the interpreter
                _end(process)

    def call(
        self, file: Path, function: str, data: bytes = b"", /, **arguments: Any
    ) -> tuple[dict[str, Any], Any]:
        """Call one of `isolated_worker.FUNCTIONS`, and return its JSON object and its bytes.

        It takes the data and the arguments, plain JSON values. Errors name `file`, and
        `arguments["path"]` if given.

        Raises:
            DamagedFile: the library refuses the file, crashes, or exceeds its time or memory.
            BadInput: the file needs an HDF5 filter that is not installed.
            ModuleNotFoundError: the library is not installed.
        """
        if self._owner != os.getpid():
            self._forget()
        if "file" in arguments:  # a library would wait for a pipe
            check_regular(file)
        where = f"{file}: {arguments['path']}" if arguments.get("path") else f"{file}"
        with self._lock:
            process = self._process or self._start()
            answer, body = self._exchange(process, where, {"function": function, **arguments}, data)
        if "missing" in answer:
            name = answer["missing"]
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if "filter" in answer.get("error", ""):
            raise BadInput(
                f"the installed HDF5 has no filter for the compression of {where} "
                f"({answer['error']}); decompress the file with h5repack -f NONE"
            )
        if "error" in answer:
            refuse_lfs_pointer(file)
            raise DamagedFile(f"{where} cannot be read ({answer['error']}). {COPY_AGAIN}")
        return answer, body

    def _forget(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def _start(self) -> subprocess.Popen[bytes]:
        worker = Path(__file__).with_name("isolated_worker.py")
        # -P: this folder is not searched for modules, whose names libraries may use too.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pipesize=1 << 20,  # for frames; systems without this setting ignore it
        )
        start = {"function": "start", "memory_bytes": MEMORY_BYTES}
        self._exchange(self._process, "the library", start, b"")
        return self._process

    def _exchange(
        self, process: subprocess.Popen[bytes], where: str, request: dict[str, Any], data: bytes
    ) -> tuple[dict[str, Any], Any]:
        """Send one request and return its answer; end the process where that fails."""
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(ANSWER_TIMEOUT_S, process.kill)
        timer.daemon = True
        timer.start()
        text = json.dumps({"max_bytes": MAX_ANSWER_BYTES, **request, "size": len(data)}).encode()
        try:
            process.stdin.write(struct.pack("<I", len(text)) + text + data)
            process.stdin.flush()
            size = struct.unpack("<I", _read_exactly(process.stdout, 4))[0]
            answer = json.loads(bytes(_read_exactly(process.stdout, size)))
            return answer, _read_exactly(process.stdout, answer["size"])
        except BaseException as error:
            self._process = None
            timed_out = not timer.is_alive()
            _end(process)
            if not isinstance(error, EOFError | OSError):
                raise  # Ctrl-C within an answer, whose remaining bytes nobody could read
            if request["function"] == "start":
                raise BadInput(
                    f"{sys.executable} could not be started to read this file (it ended with exit "
                    f"code {process.returncode}); is there enough memory?"
                ) from error
            what = (
                f"gave no answer within {ANSWER_TIMEOUT_S:.0f} s"
                if timed_out
                else f"crashed (exit code {process.returncode})"
            )
            raise DamagedFile(f"{where}: the library that reads it {what}. {COPY_AGAIN}") from error
        finally:
            timer.cancel()


def _read_exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    if stream.readinto(data) < count:  # a buffered stream fills it, except at its end
        raise EOFError
    return data


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError), process:  # closes its pipes; raises for bytes not yet sent
        pass
