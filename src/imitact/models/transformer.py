"""Encoder and decoder layers as ACT uses them (DETR's), and their position tables.

Positions are added to the queries and keys of every layer, never to the values; each sublayer is
followed by its residual sum and LayerNorm ("post-norm"). Parameter names are those of
`torch.nn.MultiheadAttention` and of the released code, so foreign weights need renaming only.

Legend: B batch, L tokens (Q of the query, M of the memory), D width, H heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.models.dropout import dropout, dropout_unscaled, relu_dropout_unscaled


def sine_table(length: int, width: int) -> Tensor:
    """Sine and cosine, interleaved, of position / 10000^(2i/width); (length, width) float32.

    Positions count from 0 (Vaswani et al. 2017, section 3.5). Computed in float64.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    channel = torch.arange(width, dtype=torch.float64)
    angle = position / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def sine_grid(rows: int, columns: int, width: int) -> Tensor:
    """2-D positions of a feature grid, row after row; (rows * columns, width) float32.

    The first half of the channels tells the row, the second half the column. Rows count 1 to
    `rows` and are scaled to 2 pi at the last one (likewise columns), as DETR and the released
    ACT do (`PositionEmbeddingSine(normalize=True)`).
    """
    half = width // 2
    channel = torch.arange(half, dtype=torch.float64)
    wave = 10000 ** (2 * (channel // 2) / half)

    def axis(count: int) -> Tensor:
        position = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1e-6) * 2 * math.pi
        angle = position[:, None] / wave
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    row = axis(rows)[:, None, :].expand(rows, columns, half)
    column = axis(columns)[None, :, :].expand(rows, columns, half)
    return torch.cat([row, column], dim=-1).reshape(rows * columns, width).float()


class Attention(nn.Module):
    """Multi-head attention, batch first.

    The attention matrix is never handed out, so that fused kernels can be used: torch's
    `scaled_dot_product_attention`, but on a CPU with dropout, where torch has none, and in bf16
    training there, where its gradient is slow.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None) -> Tensor:
        """query (B, Q, D), key and value (B, M, D), keep (B, M) bool: tokens to attend to."""
        d, weight, bias = self.width, self.in_proj_weight, self.in_proj_bias
        if query is key:  # one larger product instead of two
            q, k = F.linear(query, weight[: 2 * d], bias[: 2 * d]).chunk(2, dim=-1)
        else:
            q = F.linear(query, weight[:d], bias[:d])
            k = F.linear(key, weight[d : 2 * d], bias[d : 2 * d])
        v = F.linear(value, weight[2 * d :], bias[2 * d :])
        q, k, v = self._split(q), self._split(k), self._split(v)
        mask = None if keep is None else keep[:, None, None, :]
        p = self.dropout if self.training else 0.0
        if _fused(q, p):
            mixed, factor = F.scaled_dot_product_attention(q, k, v, mask, p), 1.0
        else:
            mixed, factor = written_out(q, k, v, mask, p)
        return _scaled_linear(mixed.transpose(1, 2).flatten(2), self.out_proj, factor)


def _fused(query: Tensor, p: float) -> bool:
    """Whether torch has one kernel for attention with that dropout, and it is the fastest way.

    With its gradient the one for bf16 on CPUs is not: it takes 1.9 to 4.5 times as long as the
    products written out (docs/performance.md).
    """
    if query.device.type != "cpu":
        return True
    return p == 0 and not (query.dtype == torch.bfloat16 and query.requires_grad)


def written_out(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float
) -> tuple[Tensor, float]:
    """Attention product by product, and the factor that its result lacks (dropout of share p).

    q (B, H, Q, D / H), k and v (B, H, M, D / H), mask bool, what it is spread to (B, H, Q, M).
    """
    scores = (q * (q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights, factor = dropout_unscaled(scores.softmax(dim=-1), p, True)
    return weights @ v, factor


def perceptron(x: Tensor, inner: nn.Linear, outer: nn.Linear, p: float, training: bool) -> Tensor:
    """Two linear layers, with ReLU and dropout between them."""
    hidden, factor = relu_dropout_unscaled(inner(x), p, training)
    return _scaled_linear(hidden, outer, factor)


def _scaled_linear(x: Tensor, linear: nn.Linear, factor: float) -> Tensor:
    """linear(factor * x), by a pass over the weights instead of one over x."""
    weight = linear.weight if factor == 1 else linear.weight * factor
    return F.linear(x, weight, linear.bias)


class EncoderLayer(nn.Module):
    """Self-attention, then a two-layer perceptron, over all tokens."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, pos: Tensor, keep: Tensor | None, first: int | None) -> Tensor:
        """x (B, L, D), pos (L, D) -> (B, L, D), or only the first `first` tokens of it."""
        key = x + pos
        query = key
        value = x
        if first is not None:
            query, x = key[:, :first], x[:, :first]
        x = self.norm1(x + self._drop(self.self_attn(query, key, value, keep)))
        hidden = perceptron(x, self.linear1, self.linear2, self.dropout, self.training)
        return self.norm2(x + self._drop(hidden))


class Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, layers: int, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, ffn, dropout) for _ in range(layers))

    def forward(
        self, x: Tensor, pos: Tensor, keep: Tensor | None = None, first: int | None = None
    ) -> Tensor:
        """x (B, L, D), pos (L, D), keep (B, L) bool or None for all.

        first: only that many leading tokens of the result are wanted; the last layer then
        computes no others (they could not change these).
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, pos, keep, first if index == last else None)
        return x


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention to the memory, then a perceptron."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(width, heads, dropout)
        self.multihead_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, query_pos: Tensor, memory: Tensor, key: Tensor) -> Tensor:
        """x (B, Q, D), query_pos (Q, D), memory (B, M, D), key = memory + positions."""
        query = x + query_pos
        x = self.norm1(x + self._drop(self.self_attn(query, query, x, None)))
        x = self.norm2(x + self._drop(self.multihead_attn(x + query_pos, key, memory, None)))
        hidden = perceptron(x, self.linear1, self.linear2, self.dropout, self.training)
        return self.norm3(x + self._drop(hidden))


class Decoder(nn.Module):
    """A stack of decoder layers; the output is that of the last one, normalised.

    The released ACT returns the output of its *first* layer and never trains the other six
    (tonyzhaozh/act issue 25); `layers=1` is that model exactly.
    """

    def __init__(self, layers: int, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, query_pos: Tensor, memory: Tensor, memory_pos: Tensor) -> Tensor:
        """query_pos (Q, D), memory (B, M, D), memory_pos (M, D) -> (B, Q, D)."""
        key = memory + memory_pos
        x = memory.new_zeros(memory.shape[0], *query_pos.shape)
        for layer in self.layers:
            x = layer(x, query_pos, memory, key)
        return self.norm(x)


def initialise_linear(module: nn.Linear, generator: torch.Generator) -> None:
    """torch's default for a linear layer, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from `generator`."""
    bound = 1 / math.sqrt(max(1, module.in_features))
    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def initialise(module: nn.Module, generator: torch.Generator, *, xavier: bool) -> None:
    """Random weights for a stack of layers, all from `generator`.

    torch's own defaults; with `xavier`, every matrix is Xavier-uniform instead, as the released
    code does for its main encoder and decoder (and not for the CVAE encoder).
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            initialise_linear(part, generator)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    for part in module.modules():
        if isinstance(part, Attention):  # as `nn.MultiheadAttention`
            nn.init.xavier_uniform_(part.in_proj_weight, generator=generator)
            nn.init.zeros_(part.in_proj_bias)
            nn.init.zeros_(part.out_proj.bias)
    if xavier:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
