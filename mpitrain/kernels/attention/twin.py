"""Causal attention over blocks of queries, with grouped keys and values (Ainslie et al. 2023, section 2.2).

Legend: b batch, k key/value heads, g query heads a key/value head, t time, d head width.
Invariant: a block of queries looks at the keys up to its own last row only, so the upper triangle of the scores is neither
computed nor read; only the diagonal blocks hold a masked part, and there the probabilities are exact zeros.  The usual shift by
a row's largest score is left out where no exponential over- or underflows without it: it takes as long as a product.
"""

from __future__ import annotations

import math

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace

#: Queries in a block: small skips more of the upper triangle, large makes better products.
BLOCK = 64
#: Sums of exponentials between which neither they nor what they divide over- or underflows in float32.
_SAFE = (1e-20, 1e20)


def attention(q: Array, k: Array, v: Array, out: Array) -> tuple[Array, Array]:
    """Write softmax(q kᵀ / sqrt(d), causal) v into `out`; q and out are (b, k, g, t, d), k and v (b, k, 1, t, d), any strides.

    Returns what the gradient needs: q / sqrt(d), and the probabilities (b, k, g, t, t), undefined above the diagonal blocks.
    """
    xp, t = namespace(q), q.shape[3]
    p = empty_beside(q, (*q.shape[:3], t, t))
    scaled = xp.multiply(q, 1.0 / math.sqrt(q.shape[-1]), out=empty_beside(q))
    k_t = k.swapaxes(-1, -2)
    ones = xp.ones((t, 1), q.dtype)
    for start, stop in _blocks(t):
        rows = p[..., start:stop, :stop]
        later = xp.triu(xp.full((stop - start, stop - start), -xp.inf, q.dtype), 1)
        for shifted in (False, True):
            xp.matmul(scaled[..., start:stop, :], k_t[..., :stop], out=rows)
            diagonal = rows[..., start:]
            diagonal += later
            if shifted:
                rows -= rows.max(axis=-1, keepdims=True)
            with np.errstate(over="ignore"):
                xp.exp(rows, out=rows)
                sums = xp.matmul(rows, ones[:stop])  # a quarter of the time of sums along rows
            if sums.min() > _SAFE[0] and sums.max() < _SAFE[1]:
                break
        rows *= 1.0 / sums
        xp.matmul(rows, v[..., :stop, :], out=out[..., start:stop, :])
    return scaled, p


def attention_grad(
    d_out: Array, out: Array, scaled: Array, p: Array, k: Array, v: Array, dq: Array, dk: Array, dv: Array
) -> None:
    """Write the gradients of q, k and v; `scaled` and `p` are what `attention` returned, and `p` is used up."""
    xp, t, d = namespace(p), p.shape[3], k.shape[-1]
    v_t = v.swapaxes(-1, -2)
    along = xp.einsum("...d,...d->...", d_out, out)[..., None]  # = rows of sum(p dp), without touching t x t numbers
    _by_keys(p, d_out, dv)
    for start, stop in _blocks(t):
        rows = p[..., start:stop, :stop]
        ds = xp.matmul(d_out[..., start:stop, :], v_t[..., :stop], out=empty_beside(p, rows.shape))
        ds -= along[..., start:stop, :]
        rows *= ds
        dq_rows = dq[..., start:stop, :]
        xp.matmul(rows, k[..., :stop, :], out=dq_rows)
        dq_rows *= 1.0 / math.sqrt(d)
    _by_keys(p, scaled, dk)


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
