"""Transformer layers: encoder and decoder as in ACT (DETR's), and their position tables.

Positions are added to the queries and keys of every layer, not to the values; each sublayer is
followed by its residual sum and LayerNorm ("post-norm"). Parameter names are those of
`torch.nn.MultiheadAttention` and of the released code, so imported weights need renaming only.

Legend: B batch, L tokens (Q of the query, M of the memory), D width, H heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.models.dropout import dropout, dropout_unscaled, relu_dropout_unscaled


def sine_table(length: int, width: int) -> Tensor:
    """Return interleaved sine and cosine of position / 10000^(2i/width), (length, width) float32.

    Positions count from 0 (Vaswani et al. 2017, section 3.5). Computed in float64.
    """
    return _sines(torch.arange(length, dtype=torch.float64), width).float()


def sine_grid(rows: int, columns: int, width: int) -> Tensor:
    """Return 2-D positions of a feature grid in row-major order, (rows * columns, width) float32.

    The first half of the channels encodes the row, the second half the column. Rows count from 1
    and are scaled to 2 pi at the last one, likewise columns, as in DETR and the released ACT
    (`PositionEmbeddingSine(normalize=True)`).
    """

    def axis(count: int) -> Tensor:
        position = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1e-6) * 2 * math.pi
        return _sines(position, width // 2)

    row = axis(rows)[:, None, :].expand(rows, columns, -1)
    column = axis(columns)[None, :, :].expand(rows, columns, -1)
    return torch.cat([row, column], dim=-1).reshape(rows * columns, width).float()


def _sines(position: Tensor, width: int) -> Tensor:
    channel = torch.arange(width, dtype=torch.float64)
    angle = position[:, None] / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class Attention(nn.Module):
    """Multi-head attention, batch first.

    It never returns the attention matrix, so that torch's fused `scaled_dot_product_attention` can
    be used. Exceptions are CPUs with dropout, for which torch has no fused kernel, and bf16
    training on CPUs, where the kernel's gradient is slow.
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
        """Attend from query (B, Q, D) to key and value (B, M, D), where keep (B, M) is true."""
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
            mixed, factor = unfused_attention(q, k, v, mask, p)
        return _scaled_linear(mixed.transpose(1, 2).flatten(2), self.out_proj, factor)


def _fused(query: Tensor, p: float) -> bool:
    """Whether torch's fused attention kernel exists for this dropout and is the fastest way.

    Its gradient for bf16 on CPUs takes 1.9 to 4.5 times as long as the unfused products
    (docs/performance.md).
    """
    if query.device.type != "cpu":
        return True
    return p == 0 and not (query.dtype == torch.bfloat16 and query.requires_grad)


def unfused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float
) -> tuple[Tensor, float]:
    """Return attention with dropout p, and the factor that its result still has to be scaled by.

    q is (B, H, Q, D / H), k and v are (B, H, M, D / H). The mask, bool, is broadcast to
    (B, H, Q, M); false excludes.
    """
    scores = (q * (q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights, factor = dropout_unscaled(scores.softmax(dim=-1), p, True)
    return weights @ v, factor


def feedforward(x: Tensor, inner: nn.Linear, outer: nn.Linear, p: float, training: bool) -> Tensor:
    """Apply two linear layers with ReLU and dropout between them."""
    hidden, factor = relu_dropout_unscaled(inner(x), p, training)
    return _scaled_linear(hidden, outer, factor)


def _scaled_linear(x: Tensor, linear: nn.Linear, factor: float) -> Tensor:
    """Return linear(factor * x), scaling the weights, which are smaller than x."""
    weight = linear.weight if factor == 1 else linear.weight * factor
    return F.linear(x, weight, linear.bias)


class EncoderLayer(nn.Module):
    """Self-attention and a feedforward network over all tokens."""

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
        """Map x (B, L, D) with pos (L, D) to (B, L, D), or to its first `first` tokens only."""
        key = x + pos
        query = key
        value = x
        if first is not None:
            query, x = key[:, :first], x[:, :first]
        x = self.norm1(x + self._drop(self.self_attn(query, key, value, keep)))
        hidden = feedforward(x, self.linear1, self.linear2, self.dropout, self.training)
        return self.norm2(x + self._drop(hidden))


class Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, layers: int, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, ffn, dropout) for _ in range(layers))

    def forward(
        self, x: Tensor, pos: Tensor, keep: Tensor | None = None, first: int | None = None
    ) -> Tensor:
        """Encode tokens.

        Args:
            x: (B, L, D).
            pos: (L, D).
            keep: (B, L) bool, tokens to attend to; None for all.
            first: Return only this many leading tokens. The last layer then skips the others, which
                cannot change these.
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, pos, keep, first if index == last else None)
        return x


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the memory and a feedforward network."""

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
        """Map x (B, Q, D) with query_pos (Q, D), memory (B, M, D) and key = memory + positions."""
        query = x + query_pos
        x = self.norm1(x + self._drop(self.self_attn(query, query, x, None)))
        x = self.norm2(x + self._drop(self.multihead_attn(x + query_pos, key, memory, None)))
        hidden = feedforward(x, self.linear1, self.linear2, self.dropout, self.training)
        return self.norm3(x + self._drop(hidden))


class Decoder(nn.Module):
    """A stack of decoder layers; the output is that of the last one, after LayerNorm.

    The released ACT returns the output of its *first* layer and never trains the other six
    (tonyzhaozh/act issue 25); `layers=1` is that model exactly.
    """

    def __init__(self, layers: int, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, query_pos: Tensor, memory: Tensor, memory_pos: Tensor) -> Tensor:
        """Decode memory (B, M, D) at memory_pos (M, D) for query_pos (Q, D) to (B, Q, D)."""
        key = memory + memory_pos
        x = memory.new_zeros(memory.shape[0], *query_pos.shape)
        for layer in self.layers:
            x = layer(x, query_pos, memory, key)
        return self.norm(x)


def initialize_linear(module: nn.Linear, generator: torch.Generator) -> None:
    """Initialize as torch does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from `generator`."""
    bound = 1 / math.sqrt(max(1, module.in_features))
    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def initialize_layers(module: nn.Module, generator: torch.Generator, *, xavier: bool) -> None:
    """Initialize a stack of layers from `generator`, with torch's defaults.

    With `xavier`, every matrix is Xavier-uniform instead, as in the released code's main encoder
    and decoder (but not in its CVAE encoder).
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            initialize_linear(part, generator)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    for part in module.modules():
        if isinstance(part, Attention):  # as in `nn.MultiheadAttention`
            nn.init.xavier_uniform_(part.in_proj_weight, generator=generator)
            nn.init.zeros_(part.in_proj_bias)
            nn.init.zeros_(part.out_proj.bias)
    if xavier:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
