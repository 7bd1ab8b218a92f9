"""Operator benchmark: imitact's own operations of a training step, each beside torch's.

    python benchmarks/parts.py [--threads N] [--write benchmarks/results/parts.json]

Shapes are those of `released` at 480x640, batch 8, float32; attention is in bf16 and without
dropout, with the shapes of the demo's `quick` and of `released`. Times are CPU seconds of all
threads of this process, the best of six, both sides in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from imitact.core.cpu import processor_name
from imitact.models.convolution import weight_gradient
from imitact.models.dropout import dropout, relu_dropout_unscaled
from imitact.models.resnet import FrozenNorm, convolve_and_norm
from imitact.models.transformer import unfused_attention

SHAPES = (
    # input channels, output channels, kernel, stride, height and width of the input
    (64, 64, 3, 1, 120, 160),
    (128, 128, 3, 1, 60, 80),
    (256, 256, 3, 1, 30, 40),
    (512, 512, 3, 1, 15, 20),
    (64, 128, 3, 2, 120, 160),
    (128, 256, 3, 2, 60, 80),
    (256, 512, 3, 2, 30, 40),
)

ATTENTION = (
    # batch, heads, queries, tokens attended to, channels per head
    (16, 4, 22, 22, 32),  # quick, the cube's 120x160: encoder
    (16, 4, 100, 100, 32),  # its decoder: self-attention of the queries
    (16, 4, 100, 22, 32),  # its decoder: cross-attention to the memory
    (8, 8, 302, 302, 64),  # released
)


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def both(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, object]:
    """Time both, print their row and return it."""
    best = [float("inf")] * 2
    for _ in range(6):
        for side, run in enumerate((ours, theirs)):
            began = time.process_time()
            run()
            best[side] = min(best[side], 1e3 * (time.process_time() - began))
    row = {"part": name, "imitact ms": best[0], "torch ms": best[1], "ratio": best[1] / best[0]}
    print(f"{name:60} {best[0]:8.1f} {best[1]:8.1f} {best[1] / best[0]:6.2f}", flush=True)
    return row


def gradient(inputs: int, outputs: int, k: int, stride: int, height: int, width: int):
    """Time the gradient of a convolution's weights."""
    x, weight = channels_last(8, inputs, height, width), channels_last(outputs, inputs, k, k)
    grad = torch.randn_like(F.conv2d(x, weight, None, stride, k // 2))

    def theirs() -> object:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [k // 2] * 2, [1, 1], False, [0, 0], 1,
            [False, True, False],
        )  # fmt: skip

    name = f"weights' gradient, {inputs} to {outputs}, stride {stride}, {height}x{width}"
    return both(name, lambda: weight_gradient(x, grad, k, stride), theirs)


def attention(batch: int, heads: int, queries: int, memory: int, width: int):
    """Time attention forward and backward, in bf16."""

    def drawn(tokens: int) -> torch.Tensor:
        x = torch.randn(batch, tokens, heads * width, dtype=torch.bfloat16)
        return x.unflatten(-1, (heads, width)).transpose(1, 2).requires_grad_()

    q, k, v = drawn(queries), drawn(memory), drawn(memory)
    grad = torch.randn_like(q)
    name = f"attention of {queries} to {memory} tokens, {heads} heads of {width}, batch {batch}"
    return both(
        name,
        lambda: unfused_attention(q, k, v, None, 0.0)[0].backward(grad),
        lambda: F.scaled_dot_product_attention(q, k, v).backward(grad),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(f"{'CPU ms':60} {'imitact':>8} {'torch':>8} {'ratio':>6}")
    rows = [gradient(*shape) for shape in SHAPES]

    hidden = torch.randn(8 * 302, 3200)
    rows.append(
        both(
            "dropout, 7.7 million elements",
            lambda: dropout(hidden, 0.1, True),
            lambda: F.dropout(hidden, 0.1, True),
        )
    )

    def perceptron(own: bool) -> None:
        x = hidden.clone().requires_grad_()
        y = relu_dropout_unscaled(x * 1, 0.1, True)[0] if own else F.dropout(F.relu(x * 1), 0.1)
        y.backward(hidden)

    rows.append(
        both(
            "ReLU and dropout, forward and backward",
            lambda: perceptron(True),
            lambda: perceptron(False),
        )
    )

    norm = FrozenNorm(64)
    conv = torch.nn.Conv2d(64, 64, 3, 1, 1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    conv.weight.requires_grad_(False)  # its gradient has rows of its own
    x = channels_last(8, 64, 120, 160).requires_grad_()
    grad = channels_last(8, 64, 120, 160)

    def plain() -> None:
        args = (norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-5)
        F.batch_norm(conv(x), *args).backward(grad)

    rows.append(
        both(
            "convolution and frozen norm, 64 channels, forward and backward",
            lambda: convolve_and_norm(x, conv, norm).backward(grad),
            plain,
        )
    )
    rows += [attention(*shape) for shape in ATTENTION]
    if given.write:
        found = {"processor": processor_name(), "threads": given.threads, "rows": rows}
        given.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
