"""Clipping by the global norm of the gradient (Pascanu et al. 2013, Algorithm 1), and by the value of each of its elements.

Invariant: a norm clips by a factor that goes into the optimizer's `grad_scale`, and costs no pass; only values cost one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from mpitrain.arrays import Array, namespace, row_tiles, sum_dtype
from mpitrain.nn import Parameter

#: A product that reads each element once gains nothing from small tiles.
_TILE_BYTES = 1 << 20


def squared_norms(parameters: Iterable[Parameter]) -> list[Array]:
    """The sum of the squares of each parameter's accumulated gradient, float64 of shape (), in the gradient's memory."""
    return [_squared_norm(p.settled_grad()) for p in parameters]


def squared_row_norms(parameters: Iterable[Parameter]) -> list[Array]:
    """The sum of the squares of each row (dim 0) of each gradient, float64 of shape (rows,), in the gradient's memory.

    A row's is made from that row alone, in one order, so it has the same bits wherever the other rows are.
    """
    return [_squared_row_norms(p.settled_grad()) for p in parameters]


def clip_scale(norm: float, limit: float | None) -> float:
    """The factor that brings a gradient of this `norm` down to `limit`; 1 if it is not above, or there is no limit."""
    return 1.0 if limit is None or norm <= limit else limit / norm


def clip_values(parameters: Iterable[Parameter], limit: float) -> None:
    """Bring each element of the accumulated gradients into [-limit, limit]."""
    for parameter in parameters:
        grad = parameter.settled_grad()
        namespace(grad).clip(grad, -limit, limit, out=grad)


def _squared_norm(x: Array) -> Array:
    xp = namespace(x)
    if not x.size:
        return xp.zeros((), "float64")
    flat, dtype = x.reshape(-1), sum_dtype(x.dtype)
    tiles = (flat[tile].astype(dtype, copy=False) for tile in row_tiles(flat, _TILE_BYTES))
    # The tiles' sums are added in float64: one float32 sum of millions of squares would lose digits.
    return xp.stack([xp.vdot(tile, tile) for tile in tiles]).sum(dtype="float64")


def _squared_row_norms(x: Array) -> Array:
    xp = namespace(x)
    rows = x.reshape(math.prod(x.shape[:1]), math.prod(x.shape[1:]))
    norms = xp.empty(len(rows), "float64")
    for tile in row_tiles(rows):
        # Without a buffer for the conversion, which would cut rows where it happens to be full.
        squares = rows[tile].astype("float64")
        squares *= squares
        norms[tile] = squares.sum(axis=1)
    return norms
