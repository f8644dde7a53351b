"""Causal attention over blocks of queries, with grouped keys and values (Ainslie et al. 2023, section 2.2).

Legend: b batch, k key/value heads, g query heads a key/value head, t time, d head width.
Invariant: a block of queries looks at the blocks of keys from the one that its first row's window reaches back to up to its own
last row, so what is masked in whole blocks is neither computed nor read; only blocks at the two ends hold a masked part, and
there the probabilities are exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mpitrain.arrays import Array, empty_beside, namespace
from mpitrain.kernels.attention import twin

#: Queries in a block: small skips more of the upper triangle, large makes fewer calls.
BLOCK = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What is done to a block beside the products; see the twin."""

    turned: Callable[[Array, float], Array] = twin.turned
    softmax: Callable[[Array, int, int, int, int], None] = twin.softmax
    softmax_grad: Callable[[Array, Array, int, int, int], None] = twin.softmax_grad


TWIN = Parts()


def attention(q: Array, k: Array, v: Array, out: Array, *, parts: Parts, window: int | None = None) -> Array:
    """Write softmax(q kᵀ / sqrt(d), causal) v into `out`; q and out are (b, k, g, t, d), k and v (b, k, 1, t, d), any strides.

    A query sees the last `window` keys, its own included, by default all.  Returns the probabilities (b, k, g, t, t), which the
    gradient needs, undefined outside of the blocks that a query looks at.
    """
    xp, t = namespace(q), q.shape[3]
    window = t if window is None else window
    p = empty_beside(q, (*q.shape[:3], t, t))
    k_t = parts.turned(k, 1.0 / math.sqrt(q.shape[-1]))
    for first, start, stop in _blocks_of_queries(t, window) if p.size else ():
        rows = p[..., start:stop, first:stop]
        xp.matmul(q[..., start:stop, :], k_t[..., first:stop], out=rows)
        parts.softmax(p, first, start, stop, window)
        xp.matmul(rows, v[..., first:stop, :], out=out[..., start:stop, :])
    return p


def attention_grad(
    d_out: Array,
    p: Array,
    q: Array,
    k: Array,
    v: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    *,
    parts: Parts,
    window: int | None = None,
) -> None:
    """Write the gradients of q, k and v; `p` is what `attention` returned, and is used up."""
    xp, t = namespace(p), p.shape[3]
    window = t if window is None else window
    v_t = parts.turned(v, 1.0 / math.sqrt(q.shape[-1]))
    _by_keys(p, d_out, dv, window)
    for first, start, stop in _blocks_of_queries(t, window):
        rows = p[..., start:stop, first:stop]
        dp = xp.matmul(d_out[..., start:stop, :], v_t[..., first:stop], out=empty_beside(p, rows.shape))
        parts.softmax_grad(p, dp, first, start, stop)
        xp.matmul(rows, k[..., first:stop, :], out=dq[..., start:stop, :])
    _by_keys(p, q, dk, window)


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


def _blocks_of_queries(time: int, window: int) -> list[tuple[int, int, int]]:
    """The first key, at the start of a block, that the queries `start` .. `stop` look at, `start` and `stop`."""
    return [(max(0, start + 1 - window) // BLOCK * BLOCK, start, stop) for start, stop in _blocks(time)]


def _by_keys(p: Array, x: Array, out: Array, window: int) -> None:
    """Write pᵀ x, summed over the query heads of each key head, into `out` (b, k, 1, t, d)."""
    xp, t = namespace(p), p.shape[3]
    queries = _blocks_of_queries(t, window)
    for start, stop in _blocks(t):
        last = max(end for first, _, end in queries if first <= start)
        columns = p[..., start:last, start:stop].swapaxes(-1, -2)
        if p.shape[2] == 1:
            xp.matmul(columns, x[..., start:last, :], out=out[..., start:stop, :])
        else:
            xp.sum(xp.matmul(columns, x[..., start:last, :]), axis=2, keepdims=True, out=out[..., start:stop, :])
