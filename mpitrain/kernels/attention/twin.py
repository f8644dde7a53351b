"""Causal attention over blocks of queries, with grouped keys and values (Ainslie et al. 2023, section 2.2).

Legend: b batch, k key/value heads, g query heads a key/value head, t time, d head width.
Invariant: a block of queries looks at the keys up to its own last row only, so the upper triangle of the scores is neither
computed nor read; only the diagonal blocks hold a masked part, and there the probabilities are exact zeros.
"""

from __future__ import annotations

import math

from mpitrain.arrays import Array, namespace

#: Queries in a block: small skips more of the upper triangle, large makes better products.
BLOCK = 64


def attention(q: Array, k: Array, v: Array, out: Array) -> Array:
    """Write softmax(q kᵀ / sqrt(d), causal) v into `out`; q and out are (b, k, g, t, d), k and v (b, k, 1, t, d), any strides.

    Returns the probabilities (b, k, g, t, t), whose part above the diagonal blocks is undefined.
    """
    xp, t = namespace(q), q.shape[3]
    p = xp.empty((*q.shape[:3], t, t), q.dtype)
    k_t = k.swapaxes(-1, -2)
    scaled = q * (1.0 / math.sqrt(q.shape[-1]))
    for start, stop in _blocks(t):
        rows = p[..., start:stop, :stop]
        xp.matmul(scaled[..., start:stop, :], k_t[..., :stop], out=rows)
        diagonal = rows[..., start:]
        diagonal += xp.triu(xp.full((stop - start, stop - start), -xp.inf, q.dtype), 1)
        rows -= rows.max(axis=-1, keepdims=True)
        xp.exp(rows, out=rows)
        rows /= rows.sum(axis=-1, keepdims=True)
        xp.matmul(rows, v[..., :stop, :], out=out[..., start:stop, :])
    return p


def attention_grad(d_out: Array, out: Array, p: Array, q: Array, k: Array, v: Array, dq: Array, dk: Array, dv: Array) -> None:
    """Write the gradients of q, k and v; `p` is what `attention` returned, and is used up."""
    xp, t = namespace(q), q.shape[3]
    scale = 1.0 / math.sqrt(q.shape[-1])
    v_t = v.swapaxes(-1, -2)
    along = xp.einsum("...d,...d->...", d_out, out)[..., None]  # = rows of sum(p dp), without touching t x t numbers
    _by_keys(p, d_out, dv)
    for start, stop in _blocks(t):
        rows = p[..., start:stop, :stop]
        ds = xp.matmul(d_out[..., start:stop, :], v_t[..., :stop])
        ds -= along[..., start:stop, :]
        rows *= ds
        rows *= scale
        xp.matmul(rows, k[..., :stop, :], out=dq[..., start:stop, :])
    _by_keys(p, q, dk)


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


def _by_keys(p: Array, x: Array, out: Array) -> None:
    """Write pᵀ x, summed over the query heads of each key head, into `out` (b, k, 1, t, d)."""
    xp, t = namespace(p), p.shape[3]
    for start, stop in _blocks(t):
        columns = p[..., start:, start:stop].swapaxes(-1, -2)
        if p.shape[2] == 1:
            xp.matmul(columns, x[..., start:, :], out=out[..., start:stop, :])
        else:
            xp.sum(xp.matmul(columns, x[..., start:, :]), axis=2, keepdims=True, out=out[..., start:stop, :])
