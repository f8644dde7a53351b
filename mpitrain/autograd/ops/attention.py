"""Causal attention on one packed array of queries, keys and values, so that no product needs a copy.

Legend: b batch, t time, k key/value heads, g query heads a key/value head, d head width.  Packed: the last dim holds the
queries of all heads, then the keys, then the values, (k*g + k + k) * d numbers; head j*g .. j*g+g share keys j.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.kernels import attention as kernels
from mpitrain.kernels.rope import rotate


def attention(qkv: Tensor, *, heads: int, kv_heads: int, rope: tuple[Array, Array] | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt(d), causal) v (Vaswani et al. 2017, section 3.2), shape (b, t, heads * d).

    With `rope`, the tables of `rope_tables`, queries and keys are turned by their positions first.
    """
    return _Attention(heads, kv_heads, rope)(qkv)


class _Attention(Op):
    def __init__(self, heads: int, kv_heads: int, rope: tuple[Array, Array] | None) -> None:
        self.heads, self.kv_heads, self.rope = heads, kv_heads, rope

    def forward(self, qkv: Array) -> Array:
        xp, (b, t, packed) = namespace(qkv), qkv.shape
        self.head_dim = packed // (self.heads + 2 * self.kv_heads)
        turned = self.heads + self.kv_heads  # queries and keys, the heads that RoPE turns
        qkv = qkv.reshape(b, t, -1, self.head_dim)
        qk, v = qkv[:, :, :turned], qkv[:, :, turned:]
        if self.rope is not None:
            plain, qk = qk, xp.empty(qk.shape, qk.dtype)
            rotate(plain, *self.rope, out=qk)
        self.qkv = self._grouped(qk[:, :, : self.heads]), self._grouped(qk[:, :, self.heads :]), self._grouped(v)
        self.y = xp.empty((b, t, self.heads, self.head_dim), qkv.dtype)
        self.p = kernels.attention(*self.qkv, out=self._grouped(self.y))
        return self.y.reshape(b, t, -1)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        xp, (b, t, heads, d) = namespace(dy), self.y.shape
        turned = heads + self.kv_heads
        d_qkv = xp.empty((b, t, turned + self.kv_heads, d), dy.dtype)
        d_qk, dv = d_qkv[:, :, :turned], d_qkv[:, :, turned:]
        d_turned = d_qk if self.rope is None else xp.empty(d_qk.shape, dy.dtype)
        grads = self._grouped(d_turned[:, :, :heads]), self._grouped(d_turned[:, :, heads:]), self._grouped(dv)
        kernels.attention_grad(self._grouped(dy.reshape(self.y.shape)), self._grouped(self.y), self.p, *self.qkv, *grads)
        if self.rope is not None:
            rotate(d_turned, *self.rope, out=d_qk, inverse=True)
        return (d_qkv.reshape(b, t, -1),)

    def _grouped(self, x: Array) -> Array:
        """A view (b, k, g, t, d) of heads that lie as (b, t, k*g, d); g is 1 for keys and values."""
        b, t, heads, d = x.shape
        return x.reshape(b, t, self.kv_heads, heads // self.kv_heads, d).transpose(0, 2, 3, 1, 4)
