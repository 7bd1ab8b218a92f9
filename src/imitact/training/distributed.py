"""Distributed training: this process's rank, and the collective operations of all ranks.

`torchrun` starts the processes and gives each its rank, from 0, in environment variables. Without
torchrun there is one process, and nothing here communicates or waits.

Collective methods wait for all ranks: each rank must call the same ones in the same order.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from imitact.core.errors import BadInput, ImitactError

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a rank may keep the others waiting: longer than any step, validation or checkpoint. A
rank that ends is noticed at once, because its connection closes."""

LONG_TIMEOUT = timedelta(days=1)
"""How long one rank may decode a dataset while the others wait."""

EXIT_WAIT_S = 10.0
"""How long ranks wait for the one that reports the error, so that torchrun sees it end first."""

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(ImitactError):
    """Another rank has ended or stopped responding, so collective operations are impossible."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; `Ranks()` is a process that trains alone."""

    rank: int = 0  # of this process, from 0; rank 0 writes the files and reports progress
    count: int = 1
    local_rank: int = 0  # among the processes of this machine, from 0
    launch_id: str = ""  # identifies the torchrun that started this process, if any
    restarts: int = 0  # how often that torchrun has restarted this process
    long_group: Any = None  # for operations that may take up to `LONG_TIMEOUT`

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place. Collective."""
        if self.count > 1:
            with self.detect_lost_rank():
                dist.all_reduce(tensor)
        return tensor

    def any(self, claim: bool) -> bool:
        """Return whether `claim` is true on any rank. Collective."""
        return bool(self.all_reduce(torch.tensor(int(claim)))) if self.count > 1 else claim

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Stack the tensors of all ranks, (count, ...). Collective."""
        if self.count == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        with self.detect_lost_rank():
            dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0, which must be JSON; other ranks' is ignored. Collective."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        size = self._broadcast(torch.tensor(len(text)))
        data = bytearray(text) if self.is_first else bytearray(int(size))
        self._broadcast(torch.frombuffer(data, dtype=torch.uint8))
        return json.loads(data)

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the named CPU tensors of rank 0. Collective."""
        if self.count == 1:
            return dict(tensors)
        layout = self.broadcast([[n, str(t.dtype), list(t.shape)] for n, t in tensors.items()])
        received = {}
        for name, dtype, shape in layout:
            kind = getattr(torch, dtype.removeprefix("torch."))
            tensor = tensors[name].contiguous() if self.is_first else torch.empty(shape, dtype=kind)
            received[name] = self._broadcast(tensor)
        return received

    def _broadcast(self, tensor: Tensor) -> Tensor:
        with self.detect_lost_rank():
            dist.broadcast(tensor, src=0)
        return tensor

    @contextmanager
    def all_succeed(self, *, may_take_long: bool = False) -> Iterator[None]:
        """Run a block on all ranks, and end all of them if it fails on any.

        Where it fails, the lowest failing rank raises its error and the others exit silently. The
        block must not contain collective operations. With `may_take_long` the ranks wait up to
        `LONG_TIMEOUT` instead of `COLLECTIVE_TIMEOUT`. Collective.
        """
        if self.count == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = torch.tensor(self.count if failure is None else self.rank)
        with self.detect_lost_rank():
            group = self.long_group if may_take_long else None
            dist.all_reduce(failed, dist.ReduceOp.MIN, group)
        if failed < self.count:
            self.exit_all(failure, reporter=int(failed))

    def local_first(self, work: Callable[[], T]) -> T:
        """Run `work` on the first rank of each machine, then on the others, which find its output.

        The work may take up to `LONG_TIMEOUT`. Collective.
        """
        done: list[T] = []
        for turn in (True, False):
            with self.all_succeed(may_take_long=True):
                if (self.local_rank == 0) is turn:
                    done.append(work())
        return done[0]

    def exit_all(
        self, error: Exception | KeyboardInterrupt | None, *, reporter: int = 0
    ) -> NoReturn:
        """End this rank, as all others do now.

        The rank `reporter` raises the error; the others exit silently after it with its exit code.
        """
        if error is not None and self.rank == reporter:
            raise error

        def wait_for_exit() -> None:
            # That rank sends nothing: this returns when its connection closes, after its report.
            with suppress(RuntimeError):
                dist.recv(torch.zeros(1), src=reporter)

        waiting = threading.Thread(target=wait_for_exit, daemon=True)
        waiting.start()
        waiting.join(EXIT_WAIT_S)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2)

    @contextmanager
    def detect_lost_rank(self) -> Iterator[None]:
        """Raise RankLost for an error of the communication with another rank."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            text = re.sub(r"^\[[^]]*\] ", "", str(error).strip()).partition(". ")[0].splitlines()[0]
            raise RankLost(
                f"rank {self.rank} of {self.count} stopped, because another rank has ended or does "
                f"not respond ({text})"
            ) from error


SINGLE_PROCESS = Ranks()
"""A process that trains alone, whatever its environment variables are."""


@contextmanager
def join_ranks(timeout: timedelta = COLLECTIVE_TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, if it started any.

    Communication is by NCCL on NVIDIA GPUs, else by gloo. An existing process group is used and
    not destroyed.
    """
    launch_id, restarts = _launch()
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks(launch_id=launch_id, restarts=restarts)
        return
    missing = [name for name in _ENVIRONMENT if not os.environ.get(name)]
    if missing:
        raise BadInput(
            f"RANK is {os.environ['RANK']}, but {', '.join(missing)} are not set: start several "
            "ranks with torchrun, or unset RANK to train with one process"
        )
    if not dist.is_available():
        raise BadInput("this torch was built without torch.distributed, which several ranks need")
    rank, local, count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    owns_group = not dist.is_initialized()
    try:
        if owns_group:
            nccl = torch.cuda.is_available() and dist.is_nccl_available()
            backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
            # torchrun keeps its store over restarts, with the addresses of processes that have
            # ended: each start uses its own prefix.
            store, _, _ = next(rendezvous("env://", rank, count, timeout=timeout))
            store = PrefixStore(f"start {restarts}", store)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=count, timeout=timeout
            )
        long_group = dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise BadInput(
            f"rank {rank} of {count} cannot connect to rank 0 at {address}: {error}"
        ) from error
    yield Ranks(rank, count, local, launch_id, restarts, long_group)
    # Not after an error: destroying the group would wait for the other ranks.
    if owns_group:
        dist.destroy_process_group()


def _launch() -> tuple[str, int]:
    """Return `Ranks.launch_id` and `Ranks.restarts` of this process."""
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None:
        return "", 0
    parent = os.getppid()
    try:  # process ids are reused, so the start time (clock ticks since boot) is included
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "?"
    return f"{platform.node()} {parent} {started}", int(restarts)
