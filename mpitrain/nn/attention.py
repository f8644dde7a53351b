"""Causal self-attention with grouped keys and values, and optionally norms of queries and keys and rotary positions."""

from __future__ import annotations

import numpy as np

from mpitrain.arrays import namespace
from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import attention, concatenate, getitem, reshape
from mpitrain.bounds import Count, NotNegative, checked
from mpitrain.nn.init import Initializer
from mpitrain.nn.linear import Linear
from mpitrain.nn.module import Module
from mpitrain.nn.norm import RMSNorm
from mpitrain.nn.rotary import Rotary


def head_width(width: int, heads: int, head_dim: int | None) -> int:
    """`head_dim`, by default width / heads; `ValueError` if that is no whole number."""
    if head_dim is None and width % heads:
        raise ValueError(f"width is {width}, heads {heads}; expected heads to divide width")
    return width // heads if head_dim is None else head_dim


class Attention(Module):
    """One packed product for queries, keys and values, causal attention, and an output product.

    `kv_heads` (by default `heads`) divides `heads`: that many query heads share a key head.  `head_dim` is width / heads by
    default.  `bias` is of the first product, `out_bias` (by default the same) of the last.  `norm_eps` norms the queries and
    keys of each head, then `rotary` turns them by their positions.  A `window` is how many tokens a query sees, itself
    included.  `init` and `out_init` draw the two weights.
    """

    @checked
    def __init__(
        self,
        width: Count,
        heads: Count,
        *,
        kv_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        norm_eps: NotNegative | None = None,
        rotary: Rotary | None = None,
        window: Count | None = None,
        init: Initializer | None = None,
        out_init: Initializer | None = None,
    ) -> None:
        kv_heads = heads if kv_heads is None else kv_heads
        if heads % kv_heads:
            raise ValueError(f"heads is {heads}, kv_heads {kv_heads}; expected kv_heads to divide heads")
        head_dim = head_width(width, heads, head_dim)
        self.heads, self.kv_heads, self.head_dim, self.rotary, self.window = heads, kv_heads, head_dim, rotary, window
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_dim, bias=bias, init=init)
        self.q_norm, self.k_norm = (None if norm_eps is None else RMSNorm(head_dim, eps=norm_eps) for _ in "qk")
        self.out = Linear(heads * head_dim, width, bias=bias if out_bias is None else out_bias, init=out_init)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        rope = None if self.rotary is None else self.rotary.tables(x.shape[1], namespace(x.data), x.data.dtype)
        qkv = self._normed(self.qkv(x))
        return self.out(attention(qkv, heads=self.heads, kv_heads=self.kv_heads, rope=rope, window=self.window))

    def _normed(self, qkv: Tensor) -> Tensor:
        if self.q_norm is None or self.k_norm is None:
            return qkv
        heads = reshape(qkv, (*qkv.shape[:2], -1, self.head_dim))
        first_v = self.heads + self.kv_heads
        q, k, v = (getitem(heads, np.s_[:, :, a:b]) for a, b in ((0, self.heads), (self.heads, first_v), (first_v, None)))
        return reshape(concatenate((self.q_norm(q), self.k_norm(k), v), dim=2), qkv.shape)
