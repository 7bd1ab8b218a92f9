"""Where and how exactly the arithmetic runs: device, precision, threads, torch's randomness.

Nobody else in training names a device, casts to a precision or touches torch's global random
state (dropout, the posterior's noise and the moves of frames draw from it).

Of several ranks each has a device of its own. What is drawn for a sample (the posterior's noise,
the noise on the state, the moves of frames) comes from a stream that all ranks keep in step, the
very one that a single process draws from, so it does not depend on how the samples are split. Masks
of dropout are a rank's own: a function of seed, step and rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from imitact.core.cpu import cpu_flags, processor_name
from imitact.core.errors import BadInput, DamagedFile
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.training.config import PrecisionName
from imitact.training.distributed import (SINGLE_PROCESS, Ranks)
from imitact.training.sampler import SampleBatch


@dataclass(frozen=True)
class Precision:
    """fp32, or bf16 autocast (weights stay fp32), with the reason for the choice."""

    name: Literal["fp32", "bf16"]
    reason: str

    @property
    def text(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class TrainingDevice:
    """One process of training: where its tensors live and how they are multiplied.

    threads: of torch in this process.
    ranks:   this process among those that train together.
    common:  the stream that all ranks keep in step, by type of device; empty for one that trains
             alone, which draws from torch's global random state.
    """

    device: torch.device
    precision: Precision
    threads: int
    ranks: Ranks = SINGLE_PROCESS
    common: Mapping[str, torch.Generator] = field(default_factory=dict)

    @property
    def text(self) -> str:
        where = processor_name() if self.device.type == "cpu" else str(self.device)
        many = f"{self.ranks.count} ranks, each: " if self.ranks.count > 1 else ""
        return f"{many}{where}, {self.threads} threads, {self.precision.text}"

    @property
    def ground(self) -> dict[str, str | int]:
        """What decides how sums are rounded here."""
        return {
            "device": self.device.type,
            "processor": processor_name(),
            "precision": self.precision.name,
            "threads": self.threads,
            "ranks": self.ranks.count,
        }

    @property
    def waits(self) -> bool:
        """Whether a number is there as soon as it is computed, as on a CPU."""
        return self.device.type == "cpu"

    def fetched(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin to bring a small tensor to the CPU; the call waits for it and gives it."""
        if self.device.type == "cpu":
            return lambda: tensor
        copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def wait() -> Tensor:
            arrived.synchronize()
            return copy

        return wait

    def autocast(self) -> AbstractContextManager[object]:
        """Wrap the forward pass and the loss in it."""
        if self.precision.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def tensors(self, batch: SampleBatch) -> dict[str, Tensor | dict[str, Tensor]]:
        """A batch as the policy's loss and predict take it, on this device."""
        return {
            "state": self._tensor(batch.state),
            "frames": {camera: self._tensor(f) for camera, f in batch.frames.items()},
            "action": self._tensor(batch.action),
            "is_pad": self._tensor(batch.is_pad),
        }

    def part(self, batch: SampleBatch) -> BatchShard:
        """Of which larger batch this is a part, as the policy's loss takes it."""
        whole = batch.whole
        if whole is None:
            return WHOLE
        generator = self.common.get(self.device.type)
        return BatchShard(whole.first, len(whole.episode), whole.valid, generator)

    def _tensor(self, array: object) -> Tensor:
        tensor = torch.as_tensor(array)
        if self.device.type == "cpu":
            return tensor
        # From pinned memory the copy runs beside the computation before it.
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def seed(self, seed: int) -> None:
        """Begin torch's global random state anew, on every device."""
        torch.manual_seed(seed)
        for generator in self.common.values():
            generator.manual_seed(seed)

    def begin(self, step: int) -> None:
        """Let the update that follows `step` updates draw masks of dropout of this rank's own."""
        if self.common:
            words = f"{self.common['cpu'].initial_seed()} {step} {self.ranks.rank}"
            digest = hashlib.sha256(words.encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def random_state(self) -> dict[str, Tensor]:
        """All that torch's random numbers depend on: uint8 tensors by name. Ranks have the same,
        and one process could go on from it."""
        if self.common:
            return {kind: generator.get_state() for kind, generator in self.common.items()}
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore_random_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `random_state` was taken."""
        if "cpu" not in state:
            raise DamagedFile("the checkpoint has no random state of the CPU")
        for kind, generator in self.common.items():
            if kind in state:
                generator.set_state(state[kind].cpu())
        if self.common:
            return
        torch.set_rng_state(state["cpu"].cpu())
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)


def choose_device(
    precision: PrecisionName = "auto",
    device: str = "auto",
    threads: int = 0,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainingDevice:
    """The devices of this process; sets torch's number of threads (0: leave it as it is).

    Of several ranks on GPUs each takes the one of its number on its machine. Refuses a device that
    is not there: nothing falls back in silence.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"no device {device!r}; try auto, cpu, cuda or cuda:1") from error
    if where.type not in ("cpu", "cuda"):
        raise BadInput(f"device {device!r} is not supported; try auto, cpu or cuda")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {device!r} was asked for, but torch finds no CUDA GPU here")
    if where.type == "cuda" and ranks.count > 1:
        if where.index is not None:
            raise BadInput(
                f"device {device!r} names one GPU for {ranks.count} ranks, which need one each; "
                "use auto or cuda"
            )
        where = torch.device("cuda", ranks.local)
        if ranks.local >= torch.cuda.device_count():
            raise BadInput(
                f"rank {ranks.rank} is process {ranks.local + 1} of its machine, which has "
                f"{torch.cuda.device_count()} CUDA GPUs; start one a GPU, with torchrun "
                f"--nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(where)
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs "
            "here, counted from 0"
        )
    if threads < 0:
        raise BadInput(f"threads is {threads}; give 0 for torch's own choice, or a number above")
    if threads:
        torch.set_num_threads(threads)
    common: dict[str, torch.Generator] = {}
    if ranks.count > 1:
        common["cpu"] = torch.Generator()
        if where.type == "cuda":
            common["cuda"] = torch.Generator(where)
    chosen = choose_precision(precision, where)
    return TrainingDevice(where, chosen, torch.get_num_threads(), ranks, common)


def choose_precision(asked: PrecisionName, device: torch.device) -> Precision:
    """What was asked for; for `auto` bf16 where the hardware multiplies it faster than fp32."""
    if asked == "fp32" or asked == "bf16":
        return Precision(asked, "as asked")
    if asked != "auto":
        raise BadInput(f"precision is {asked!r}; there are 'auto', 'fp32' and 'bf16'")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return Precision("bf16", f"{torch.cuda.get_device_name(device)} multiplies it natively")
        return Precision("fp32", f"{torch.cuda.get_device_name(device)} has no bf16 units")
    found = sorted({"amx_bf16", "avx512_bf16"} & cpu_flags())
    if found:
        return Precision("bf16", f"the processor has {', '.join(found)}")
    return Precision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
