"""The processes that train as one: which of them this is, what they add up and agree on.

`torchrun` starts them and tells each by its environment which one it is (its rank, from 0). Without
torchrun there is one, and nothing here starts or waits for anything.

Collective methods wait for all ranks: each must call the same ones in the same order.
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
"""How long a rank may keep the others waiting: longer than any step, share of a validation or
checkpoint takes. One that dies is noticed at once, by its closed connection."""

LONG_TIMEOUT = timedelta(days=1)
"""How long one may decode a dataset while the others wait."""

EXIT_WAIT_S = 10.0
"""How long ranks wait for the one that tells why all end, so that torchrun hears it end first."""

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(ImitactError):
    """Another rank has ended or fell silent, so nothing can be added up any more."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; Ranks() is one that trains alone.

    rank:     its number, from 0; rank 0 is the one that writes files and talks.
    count:    of processes in all.
    local:    its number among those of this machine, from 0.
    launch:   what tells the torchrun that started it from every other; "" without one.
    restarts: how often that torchrun has started it anew.
    patient:  the group to wait in for what may take long.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    launch: str = ""
    restarts: int = 0
    patient: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place. Collective."""
        if self.count > 1:
            with self.heard():
                dist.all_reduce(tensor)
        return tensor

    def any(self, claim: bool) -> bool:
        """Whether any rank claims it. Collective."""
        return bool(self.sum(torch.tensor(int(claim)))) if self.count > 1 else claim

    def gathered(self, tensor: Tensor) -> Tensor:
        """That of every rank, (count, ...). Collective."""
        if self.count == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        with self.heard():
            dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def told(self, value: Any) -> Any:
        """What rank 0 says, as JSON holds it; what the others give is not looked at. Collective."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        size = self._sent(torch.tensor(len(text)))
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.first else None
        data = self._sent(torch.empty(int(size), dtype=torch.uint8) if data is None else data)
        return json.loads(data.numpy().tobytes())

    def tensors(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, by name and on the CPU, that rank 0 gives. Collective."""
        if self.count == 1:
            return dict(mine)
        about = self.told([[n, str(t.dtype), list(t.shape)] for n, t in mine.items()])
        found = {}
        for name, dtype, shape in about:
            kind = getattr(torch, dtype.removeprefix("torch."))
            given = mine[name].contiguous() if self.first else torch.empty(shape, dtype=kind)
            found[name] = self._sent(given)
        return found

    def _sent(self, tensor: Tensor) -> Tensor:
        with self.heard():
            dist.broadcast(tensor, src=0)
        return tensor

    @contextmanager
    def together(self, *, patient: bool = False) -> Iterator[None]:
        """When it ends, all ranks have done what is in it. Where it failed on some, all end: the
        first of those raises its error, the others say nothing. Collective; nothing collective may
        be in it.

        patient: wait for up to a day, not half an hour.
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
        with self.heard():
            dist.all_reduce(failed, dist.ReduceOp.MIN, self.patient if patient else None)
        if failed < self.count:
            self.leave(failure, by=int(failed))

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work`, by the first process of each machine, and when that is done by the others, who
        find what it left. Collective, but the work may take as long as it takes."""
        done: list[T] = []
        for turn in (True, False):
            with self.together(patient=True):
                if (self.local == 0) is turn:
                    done.append(work())
        return done[0]

    def leave(self, error: Exception | KeyboardInterrupt | None, *, by: int = 0) -> NoReturn:
        """End, as all ranks do now: rank `by` raises the error, the others end after it in silence,
        with its exit code."""
        if error is not None and self.rank == by:
            raise error
        farewell = threading.Thread(target=self._until_gone, args=(by,), daemon=True)
        farewell.start()
        farewell.join(EXIT_WAIT_S)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2)

    def _until_gone(self, rank: int) -> None:
        # It sends nothing: this returns when its connection is closed, so when it has said why.
        with suppress(RuntimeError):
            dist.recv(torch.zeros(1), src=rank)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Whatever goes wrong in here because another rank is gone is told as RankLost."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _of_the_wire(error):
                raise
            said = re.sub(r"^\[[^]]*\] ", "", str(error).strip()).partition(". ")[0].splitlines()[0]
            raise RankLost(
                f"rank {self.rank} of {self.count} stopped, because another rank has ended or fell "
                f"silent ({said})"
            ) from error


SINGLE_PROCESS = Ranks()
"""One process that trains alone, whatever the environment says."""


@contextmanager
def join_ranks(silence: timedelta = COLLECTIVE_TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one; alone where it started no others.

    On NVIDIA GPUs they talk by NCCL, elsewhere by gloo. A process group that exists is used, and
    left as it is.
    """
    launch, restarts = _launch()
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks(launch=launch, restarts=restarts)
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
    ours = not dist.is_initialized()
    try:
        if ours:
            nccl = torch.cuda.is_available() and dist.is_nccl_available()
            backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
            # torchrun keeps its store over restarts, with the addresses of processes that are gone:
            # each start looks below a prefix of its own.
            store, _, _ = next(rendezvous("env://", rank, count, timeout=silence))
            store = PrefixStore(f"start {restarts}", store)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=count, timeout=silence
            )
        patient = dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise BadInput(
            f"rank {rank} of {count} does not reach rank 0 at {where}: {error}"
        ) from error
    yield Ranks(rank, count, local, launch, restarts, patient)
    # After an error this is left to the end of the process: it would wait for the others.
    if ours:
        dist.destroy_process_group()


def _launch() -> tuple[str, int]:
    """The torchrun that started this process, as Ranks has it, and its restarts."""
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None:
        return "", 0
    parent = os.getppid()
    try:  # numbers of processes are used again, so its start (clock ticks after boot) as well
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        began = "?"
    return f"{platform.node()} {parent} {began}", int(restarts)


def _of_the_wire(error: RuntimeError) -> bool:
    """Whether it comes from what carries tensors between ranks."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
