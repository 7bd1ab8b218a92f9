"""Training device: hardware, precision, threads and torch's random state of one rank.

Only this module selects devices, casts to a precision or touches torch's global random state, from
which dropout, the noise on the latent z and the image augmentation draw.

With several ranks, what is drawn per sample (noise on z, noise on the state, augmentation) comes
from a generator that all ranks keep in the same state as that of a single process, so it does not
depend on how samples are split. Dropout masks differ between ranks: a function of seed, step and
rank.
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
from imitact.core.words import counted
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.training.config import PrecisionName
from imitact.training.distributed import SINGLE_PROCESS, Ranks
from imitact.training.sampler import SampleBatch


@dataclass(frozen=True)
class Precision:
    """fp32, or bf16 autocast (weights stay fp32), with the reason for the choice."""

    name: Literal["fp32", "bf16"]
    reason: str

    @property
    def description(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class TrainingDevice:
    """Where the tensors of one rank live and how they are multiplied.

    All ranks keep the random `generators`, by device type, in the same state. A process that trains
    alone has none and draws from torch's global random state.
    """

    device: torch.device
    precision: Precision
    threads: int
    ranks: Ranks = SINGLE_PROCESS
    generators: Mapping[str, torch.Generator] = field(default_factory=dict)

    @property
    def description(self) -> str:
        hardware = processor_name() if self.device.type == "cpu" else str(self.device)
        ranks = f"{counted(self.ranks.count, 'rank')}, each: " if self.ranks.count > 1 else ""
        return f"{ranks}{hardware}, {counted(self.threads, 'thread')}, {self.precision.description}"

    @property
    def numerics(self) -> dict[str, str | int]:
        """What determines how sums are rounded."""
        return {
            "device": self.device.type,
            "processor": processor_name(),
            "precision": self.precision.name,
            "threads": self.threads,
            "ranks": self.ranks.count,
        }

    @property
    def is_synchronous(self) -> bool:
        """Whether results are available as soon as they are computed, as on a CPU."""
        return self.device.type == "cpu"

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start copying a small tensor to the CPU; calling the result waits and returns it."""
        if self.device.type == "cpu":
            return lambda: tensor
        copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> Tensor:
            copied.synchronize()
            return copy

        return wait

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for the forward pass and the loss."""
        if self.precision.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def tensors(self, batch: SampleBatch) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return a batch as the policy's `loss` and `predict` take it, on this device."""
        return {
            "state": self._tensor(batch.state),
            "frames": {camera: self._tensor(f) for camera, f in batch.frames.items()},
            "action": self._tensor(batch.action),
            "is_pad": self._tensor(batch.is_pad),
        }

    def shard(self, batch: SampleBatch) -> BatchShard:
        """Return the place of this rank's samples in the batch of all ranks."""
        if (whole := batch.whole) is None:
            return WHOLE
        generator = self.generators.get(self.device.type)
        return BatchShard(whole.first, len(whole.episode), whole.valid, generator)

    def _tensor(self, array: object) -> Tensor:
        tensor = torch.as_tensor(array)
        if self.device.type == "cpu":
            return tensor
        # From pinned memory the copy overlaps with the computation before it.
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def seed(self, seed: int) -> None:
        """Seed torch's random state on every device."""
        torch.manual_seed(seed)
        for generator in self.generators.values():
            generator.manual_seed(seed)

    def seed_dropout(self, step: int) -> None:
        """Seed the dropout masks of the step after `step` steps, with several ranks."""
        if self.generators:
            text = f"{self.generators['cpu'].initial_seed()} {step} {self.ranks.rank}"
            digest = hashlib.sha256(text.encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def random_state(self) -> dict[str, Tensor]:
        """Return torch's random state as named uint8 tensors.

        It is the same on all ranks, and a single process can continue from it.
        """
        if self.generators:
            return {kind: generator.get_state() for kind, generator in self.generators.items()}
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore_random_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `random_state` returned."""
        if "cpu" not in state:
            raise DamagedFile("the checkpoint has no random state of the CPU")
        for kind, generator in self.generators.items():
            if kind in state:
                generator.set_state(state[kind].cpu())
        if self.generators:
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
    """Choose the device and precision of this process, and set torch's number of threads.

    Arguments are as in `TrainConfig`. With several ranks each uses the GPU of its local rank. A
    device that is not available is refused; there is no silent fallback.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f'no device "{device}"; use auto, cpu, cuda or cuda:1') from error
    if chosen.type not in ("cpu", "cuda"):
        raise BadInput(f'device "{device}" is not supported; use auto, cpu or cuda')
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f'device is "{device}", but torch finds no CUDA GPU')
    if chosen.type == "cuda" and ranks.count > 1:
        if chosen.index is not None:
            raise BadInput(
                f'device "{device}" names one GPU for {ranks.count} ranks, which need one each; '
                "use auto or cuda"
            )
        chosen = torch.device("cuda", ranks.local_rank)
        if ranks.local_rank >= torch.cuda.device_count():
            raise BadInput(
                f"rank {ranks.rank} is process {ranks.local_rank + 1} of its machine, which has "
                f"{torch.cuda.device_count()} CUDA GPUs; start one process per GPU: torchrun "
                f"--nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(chosen)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f'device is "{device}", but there are {torch.cuda.device_count()} CUDA GPUs, counted '
            "from 0"
        )
    if threads < 0:
        raise BadInput(f"threads is {threads}; expected 0 (torch's own choice) or more")
    if threads:
        torch.set_num_threads(threads)
    drawing = (torch.device("cpu"), chosen) if ranks.count > 1 else ()
    generators = {each.type: torch.Generator(each) for each in drawing}
    found = choose_precision(precision, chosen)
    return TrainingDevice(chosen, found, torch.get_num_threads(), ranks, generators)


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Return the precision of that name; for auto bf16 where the hardware is faster with it."""
    if name == "fp32" or name == "bf16":
        return Precision(name, "as asked")
    if name != "auto":
        raise BadInput(f'precision is "{name}"; expected auto, fp32 or bf16')
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported():
            return Precision("bf16", f"{gpu} multiplies it natively")
        return Precision("fp32", f"{gpu} has no bf16 units")
    if found := sorted({"amx_bf16", "avx512_bf16"} & cpu_flags()):
        return Precision("bf16", f"the processor has {', '.join(found)}")
    return Precision("fp32", "the processor has neither amx_bf16 nor avx512_bf16")
