"""Study of a prefix: an ACT that is told the actions which are executed until its answer arrives.

    python benchmarks/prefix.py [--worlds cube styles] [--seeds 0 1 2] [--delays 5 10]
        [--chunkings replay:25 replay:25~10] [--episodes 100] [--workers 2] [--train-only]
        [--out runs/prefix] [--write benchmarks/results/prefix.json]

Records 50 demonstrations of each world, trains `quick` with and without a prefix on the same
demonstrations, and executes both with and without a smooth seam at each delay, on the same seeds
from 1000 on. The worlds are the cube of the demo, and the cube demonstrated in two styles (`imitact
record --styles 2`), where two chunks may disagree about the side. Each finished part is kept:
interrupted, the same command continues.

The prefix enters the decoder: its first layer, which starts from zeros, starts at row k from W a_k
+ b for each action a_k of the prefix; W and b begin as zeros, so that without a prefix the network
is the one of `imitact train`. In training a prefix of 1 to 20 ticks of the demonstration is given
to four samples of five, and the loss is that of the ticks after it.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import delay as seams
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import imitact
from imitact.core.chunking import Chunking
from imitact.core.execution import parse
from imitact.core.types import Env
from imitact.envs.registry import WORKSPACES, make_env
from imitact.evaluation.confidence_intervals import clopper_pearson
from imitact.models import policy as policy_module
from imitact.models.act import Act, Losses, Prediction
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.policy import TorchPolicy
from imitact.models.transformer import Decoder
from imitact.training.config import PRESETS

LONGEST = 20
"""Longest prefix, ticks."""

ABSENT = 0.2
"""Share of the samples that are trained without a prefix."""

WORLDS = {"cube": 1, "styles": 2}
"""World to the styles of its demonstrations; both are the cube transfer."""


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


class PrefixDecoder(Decoder):
    """The decoder, whose first layer may start from other than zeros."""

    def __init__(self, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        self.layers, self.norm = decoder.layers, decoder.norm
        self.start: Tensor | None = None

    def forward(self, query_pos: Tensor, memory: Tensor, memory_pos: Tensor) -> Tensor:
        if self.start is None:
            return super().forward(query_pos, memory, memory_pos)
        key, x = memory + memory_pos, self.start
        for layer in self.layers:
            x = layer(x, query_pos, memory, key)
        return self.norm(x)


class PrefixAct(Act):
    """The network with a prefix.

    Attributes:
        prefix: (d, A), normalized actions that are executed until the answer arrives; None where
            there are none.
    """

    def __init__(self, config: Any, *, action_size: int, **options: Any) -> None:
        super().__init__(config, action_size=action_size, **options)
        self.prefix_proj = nn.Linear(action_size, config.hidden_dim, device="meta")
        self.prefix_proj.to_empty(device="cpu").requires_grad_(False).apply(_zero)
        self.prefix_proj.requires_grad_()
        self.decoder = PrefixDecoder(self.decoder)
        self.prefix: Tensor | None = None
        self._in_prefix: Tensor | None = None  # (B, K) bool, of the last training batch

    def forward(
        self,
        state: Tensor,
        images: Sequence[Tensor],
        action: Tensor | None = None,
        *others: Any,
        **named: Any,
    ) -> Prediction:
        self.decoder.start = self._in_prefix = None
        if self.training and action is not None:
            size, device = (len(state), 1), state.device
            ticks = torch.arange(self.config.chunk_size, device=device)
            lengths = torch.randint(1, LONGEST + 1, size, device=device)
            lengths[torch.rand(size, device=device) < ABSENT] = 0
            self._in_prefix = ticks < lengths
            self.decoder.start = self._embedded(action, self._in_prefix)
        elif self.prefix is not None:
            count = len(self.prefix)
            given = self.prefix.new_zeros(1, self.config.chunk_size, self.prefix.shape[1])
            given[0, :count] = self.prefix
            there = torch.arange(self.config.chunk_size, device=state.device)[None] < count
            self.decoder.start = self._embedded(given, there)
        return super().forward(state, images, action, *others, **named)

    def losses(
        self, prediction: Prediction, action: Tensor, is_pad: Tensor, shard: BatchShard = WHOLE
    ) -> Losses:
        if self.training and self._in_prefix is not None:
            is_pad = is_pad | self._in_prefix
        return super().losses(prediction, action, is_pad, shard)

    def _embedded(self, action: Tensor, there: Tensor) -> Tensor:
        return self.prefix_proj(action) * there[..., None]


@contextmanager
def network(name: str) -> Iterator[None]:
    """Let policies be made and loaded with this network: base or prefix."""
    before = policy_module.Act
    policy_module.Act = PrefixAct if name == "prefix" else Act  # type: ignore[misc]
    try:
        yield
    finally:
        policy_module.Act = before  # type: ignore[misc]


def prefix_of(chunking: Chunking, delay: int) -> NDArray[np.float64]:
    """Return the actions of the next ticks if a query is made now, (d, A); d may be below delay."""
    ahead = copy.deepcopy(chunking)
    ahead.ask(ahead.tick)
    found = []
    for _ in range(delay):
        action = ahead.next()
        if action is None:
            break
        found.append(action)
    return np.array(found)


def episode(
    policy: TorchPolicy, env: Env, seed: int, chunking: Chunking, delay: int
) -> tuple[float, float, float, float]:
    """Return success, jerk around switches and elsewhere, rad/s³, and the tick of success."""
    net = policy.net
    observation = env.reset(seed)
    policy.reset(seed)
    actions: list[NDArray[np.float64]] = []
    asked: list[int] = []
    won = np.nan
    for tick in range(env.step_cap):
        if chunking.wants_chunk:
            if isinstance(net, PrefixAct):
                net.prefix = _normalized(policy, prefix_of(chunking, min(delay, LONGEST)))
            chunking.feed(policy.chunk(observation))
            asked.append(tick)
        action = chunking.next()
        if action is None:
            action = actions[-1] if actions else np.asarray(observation.state, np.float64)
        actions.append(action)
        result = env.step(action)
        observation = result.observation
        if result.success:
            won = tick
            break
    joints = [at for at, unit in enumerate(env.spec.action_units) if unit == "rad"]
    arrivals = [tick + delay for tick in asked]
    near, far = seams.jerks(np.stack(actions)[:, joints], arrivals, env.spec.rate_hz)
    return float(np.isfinite(won)), near, far, won


def _normalized(policy: TorchPolicy, actions: NDArray[np.float64]) -> Tensor | None:
    if not len(actions):
        return None
    given = torch.from_numpy(actions).float()
    return (given - policy.constants["action_mean"]) / policy.constants["action_divisor"]


@cache
def _parts(name: str, path: Path) -> tuple[TorchPolicy, Env]:
    torch.set_num_threads(1)
    with network(name):
        return TorchPolicy.load(path), make_env("cube")


def _job(job: tuple[str, Path, str, int, int]) -> tuple[float, float, float, float]:
    name, path, chunking, delay, seed = job
    policy, env = _parts(name, path)
    return episode(policy, env, seed, parse(chunking, delay, policy.spec), delay)


def trained(world: str, name: str, seed: int, out: Path) -> Path:
    """Record and train what is missing, and return the policy's folder."""
    folder = out / f"{world}-{name}-{seed}"
    if (folder / "policy" / "policy.json").is_file():
        return folder / "policy"
    data = out / f"{world}-data"
    imitact.record(data, env="cube", styles=WORLDS[world], episodes=50)
    model, train = PRESETS["quick"]
    model = replace(model, crop=WORKSPACES["cube"])
    train = replace(train, seed=seed, num_threads=1, cache_dir=str(out / f"{world}-cache"))
    with network(name):
        return imitact.train(data, out=folder, model=model, train=train, resume=folder.exists())


def measured(
    pool: ProcessPoolExecutor, job: dict[str, Any], path: Path, seeds: range
) -> dict[str, Any]:
    """Run the episodes of one row and return its numbers."""
    jobs = [(job["network"], path, job["chunking"], job["delay_ticks"], seed) for seed in seeds]
    found = np.array(list(pool.map(_job, jobs)))
    won = int(found[:, 0].sum())
    return {
        **job,
        "successes": won,
        "episodes": len(seeds),
        "jerk_around_switches": round(float(np.nanmean(found[:, 1])), 1),
        "jerk_elsewhere": round(float(np.nanmean(found[:, 2])), 1),
        "first_success_tick": round(float(np.nanmean(found[:, 3])), 1) if won else None,
        "failed_seeds": [seed for seed, ok in zip(seeds, found[:, 0], strict=True) if not ok],
    }


def pooled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each world, delay, network and chunking, over its trainings."""
    names, lines = ("world", "delay_ticks", "network", "chunking"), []
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        of = [row for row in rows if tuple(row[name] for name in names) == key]
        count, episodes = (sum(row[name] for row in of) for name in ("successes", "episodes"))
        lines.append(
            {
                **dict(zip(names, key, strict=True)),
                "single": [row["successes"] for row in of],
                "successes": count,
                "episodes": episodes,
                "interval": [round(bound, 3) for bound in clopper_pearson(count, episodes)],
                **{
                    name: round(float(np.mean([row[name] for row in of])), 1)
                    for name in ("jerk_around_switches", "jerk_elsewhere")
                },
            }
        )
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        f"| {line['world']} | {line['delay_ticks']} | {line['network']} | `{line['chunking']}` "
        f"| {line['successes']} of {line['episodes']} | {', '.join(map(str, line['single']))} "
        f"| {line['jerk_around_switches']:,.0f} | {line['jerk_elsewhere']:,.0f} |"
        for line in lines
    ]
    head = (
        "| demonstrations | delay, ticks | network | execution | success | single trainings "
        "| jerk around a switch | elsewhere |"
    )
    return "\n".join([head, "|---" * 8 + "|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--delays", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--chunkings", nargs="+", default=["replay:25", "replay:25~10"])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/prefix"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/prefix.json"))
    parser.add_argument("--train-only", action="store_true")
    given = parser.parse_args()
    rows = json.loads(given.write.read_text())["rows"] if given.write.exists() else []
    seeds = range(seams.FIRST_SEED, seams.FIRST_SEED + given.episodes)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for world in given.worlds:
            for seed in given.seeds:
                for name in ("base", "prefix"):
                    path = trained(world, name, seed, given.out)
                    for delay in () if given.train_only else given.delays:
                        for chunking in given.chunkings:
                            job = {
                                "world": world, "training": seed, "network": name,
                                "delay_ticks": delay, "chunking": chunking,
                            }  # fmt: skip
                            same = [row for row in rows if job.items() <= row.items()]
                            if any(row["episodes"] == len(seeds) for row in same):
                                continue
                            rows = [row for row in rows if row not in same]
                            rows.append(measured(pool, job, path, seeds))
                            print(json.dumps(rows[-1]), flush=True)
                            result = {"pooled": pooled(rows), "rows": rows}
                            given.write.parent.mkdir(parents=True, exist_ok=True)
                            given.write.write_text(json.dumps(result, indent=1) + "\n")
    print(table(pooled(rows)))


if __name__ == "__main__":
    main()
