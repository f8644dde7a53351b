"""Causal self-attention with grouped keys and values, and optionally rotary positions."""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import attention
from mpitrain.kernels.rope import rope_tables
from mpitrain.nn.init import Initializer
from mpitrain.nn.linear import Linear
from mpitrain.nn.module import Module


class Attention(Module):
    """One packed product for queries, keys and values, causal attention, and an output product.

    `kv_heads` (by default `heads`) divides `heads`: that many query heads share a key head.  `rope_theta` turns queries and
    keys by their positions, with that base.  `init` and `out_init` draw the two weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        bias: bool = True,
        rope_theta: float | None = None,
        init: Initializer | None = None,
        out_init: Initializer | None = None,
    ) -> None:
        kv_heads = heads if kv_heads is None else kv_heads
        if width % heads or heads % kv_heads:
            raise ValueError(
                f"width is {width}, heads {heads}, kv_heads {kv_heads}; expected heads to divide width, and kv_heads heads"
            )
        head_dim = width // heads
        if rope_theta is not None and head_dim % 2:
            raise ValueError(f"width {width} / heads {heads} = {head_dim}; expected an even head width for rotary positions")
        self.heads, self.kv_heads, self.head_dim, self.rope_theta = heads, kv_heads, head_dim, rope_theta
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_dim, bias=bias, init=init)
        self.out = Linear(width, width, bias=bias, init=out_init)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        y = attention(self.qkv(x), heads=self.heads, kv_heads=self.kv_heads, rope=self._tables(x.data))
        return self.out(y)

    def _tables(self, x: Array) -> tuple[Array, Array] | None:
        if self.rope_theta is None:
            return None
        return rope_tables(x.shape[1], self.head_dim, self.rope_theta, namespace(x), x.dtype)
