"""Rows of a table, and the sum of gradients back into them.

Invariant: the sum over equal indices runs in a fixed order (sorted, stable), so two runs agree bit for bit.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace


def embedding(table: Array, ids: Array) -> Array:
    """table[ids]: shape (*ids.shape, d) for a table of shape (v, d); NaN for an id that is not in it."""
    xp = namespace(table)
    known = (ids >= 0) & (ids < len(table))
    y = xp.take(table, xp.where(known, ids, 0), axis=0)
    y[~known] = xp.nan
    return y


def embedding_grad(dy: Array, ids: Array, out: Array) -> None:
    """Write the table's gradient into `out`: row v is the sum of dy over the places where ids is v."""
    xp = namespace(dy)
    flat = ids.reshape(-1)
    out.fill(0)
    if flat.size == 0:
        return
    order = xp.argsort(flat, kind="stable")
    ordered = flat[order]
    first = xp.concatenate((xp.zeros(1, order.dtype), xp.flatnonzero(ordered[1:] != ordered[:-1]) + 1))
    out[ordered[first]] = xp.add.reduceat(dy.reshape(-1, dy.shape[-1])[order], first, axis=0)
