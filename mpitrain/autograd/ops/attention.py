"""Causal attention on one packed array of queries, keys and values, so that no product needs a copy.

Legend: b batch, t time, k key/value heads, g query heads a key/value head, d head width.  Packed: the last dim holds the
queries of all heads, then the keys, then the values, (k*g + k + k) * d numbers; head j*g .. j*g+g share keys j.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.bounds import Count, checked
from mpitrain.kernels import attention as kernels
from mpitrain.kernels.rope import rotate


@checked
def attention(
    qkv: Tensor,
    *,
    heads: Count,
    kv_heads: Count,
    rope: tuple[Array, Array] | None = None,
    window: Count | None = None,
) -> Tensor:
    """softmax(q kᵀ / sqrt(d), causal) v (Vaswani et al. 2017, section 3.2), shape (b, t, heads * d).

    With `rope`, the tables of `rope_tables`, queries and keys are turned by their positions first.  With `window`, a query sees
    that many keys, its own included (Beltagy et al. 2020, section 3.1).
    """
    return _Attention(heads, kv_heads, rope, window)(qkv)


class _Attention(Op):
    def __init__(self, heads: int, kv_heads: int, rope: tuple[Array, Array] | None, window: int | None) -> None:
        self.heads, self.kv_heads, self.rope, self.window = heads, kv_heads, rope, window

    def forward(self, qkv: Array) -> Array:
        heads = self.heads + 2 * self.kv_heads
        if self.heads % self.kv_heads or qkv.ndim != 3 or not qkv.shape[2] or qkv.shape[2] % heads:
            raise ValueError(
                f"attention of {self.heads} heads and {self.kv_heads} key/value heads is given shape {tuple(qkv.shape)}; "
                f"expected key/value heads that divide heads, and (batch, time, a multiple of {heads})"
            )
        b, t, packed = qkv.shape
        self.head_dim = packed // heads
        for table in self.rope or ():
            if table.ndim != 3 or table.shape[:2] != (t, 1) or 2 * table.shape[2] > self.head_dim:
                raise ValueError(
                    f"a rotary table has shape {tuple(table.shape)}; expected ({t}, 1, pairs) for {t} positions and at most "
                    f"{self.head_dim // 2} pairs in a head of {self.head_dim}"
                )
        qkv = checks.real(qkv, self.context.dtype)
        self.parts = self.context.kernels.taking(qkv.dtype).attention
        turned = self.heads + self.kv_heads  # queries and keys, the heads that RoPE turns
        qkv = qkv.reshape(b, t, heads, self.head_dim)
        qk, v = qkv[:, :, :turned], qkv[:, :, turned:]
        if self.rope is not None:
            plain, qk = qk, empty_beside(qk)
            rotate(plain, *self.rope, out=qk)
        self.q, self.k, self.v = self._grouped(qk[:, :, : self.heads]), self._grouped(qk[:, :, self.heads :]), self._grouped(v)
        y = empty_beside(qkv, (b, t, self.heads, self.head_dim))
        out = self._grouped(y)
        self.p = kernels.attention(self.q, self.k, self.v, out=out, parts=self.parts, window=self.window)
        return y.reshape(b, t, self.heads * self.head_dim)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        (b, t, _), heads, d = dy.shape, self.heads, self.head_dim
        turned = heads + self.kv_heads
        d_qkv = empty_beside(dy, (b, t, turned + self.kv_heads, d))
        d_qk, dv = d_qkv[:, :, :turned], d_qkv[:, :, turned:]
        d_turned = d_qk if self.rope is None else empty_beside(d_qk)
        grads = self._grouped(d_turned[:, :, :heads]), self._grouped(d_turned[:, :, heads:]), self._grouped(dv)
        d_y = self._grouped(dy.reshape(b, t, heads, d))
        kernels.attention_grad(d_y, self.p, self.q, self.k, self.v, *grads, parts=self.parts, window=self.window)
        if self.rope is not None:
            rotate(d_turned, *self.rope, out=d_qk, inverse=True)
        return (d_qkv.reshape(b, t, (turned + self.kv_heads) * d),)

    def _grouped(self, x: Array) -> Array:
        """A view (b, k, g, t, d) of heads that lie as (b, t, k*g, d); g is 1 for keys and values."""
        b, t, heads, d = x.shape
        return x.reshape(b, t, self.kv_heads, heads // self.kv_heads, d).transpose(0, 2, 3, 1, 4)
