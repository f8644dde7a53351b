"""What attention does to a block beside the products: keys turned, rows of scores to probabilities, and back.

Legend: see `blocks`.  The probabilities p are (b, k, g, t, t); a block is their rows start .. stop and columns first .. stop.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside, namespace, sum_dtype

#: Scores between which neither their exponentials nor sums of these over- or underflow in float32.
_SAFE = 40.0


def turned(x: Array, scale: float) -> Array:
    """The product scale xᵀ, (b, k, 1, d, t) for x (b, k, 1, t, d)."""
    scaled = empty_beside(x)
    scaled[...] = x
    scaled *= scale  # in place: a product of a strided array takes three times as long
    return scaled.swapaxes(-1, -2)


def softmax(p: Array, first: int, start: int, stop: int, window: int) -> None:
    """Turn a block's scores into probabilities, where row i holds the `window` columns up to column i.

    The usual shift by a row's largest score is left out where no exponential needs it: it takes as long as a product.
    """
    xp, rows = namespace(p), p[..., start:stop, first:stop]
    calm = rows.max() < _SAFE and rows.min() > -_SAFE
    diagonal = rows[..., start - first :]
    diagonal += xp.triu(xp.full((stop - start, stop - start), -xp.inf, p.dtype), 1)
    if stop - first > window:
        rows += xp.tril(xp.full((stop - start, stop - first), -xp.inf, p.dtype), start - first - window)
    if not calm:
        rows -= rows.max(axis=-1, keepdims=True)
    xp.exp(rows, out=rows)
    rows *= 1.0 / xp.matmul(rows, xp.ones((stop - first, 1), p.dtype))  # a quarter of the time of sums along rows


def softmax_grad(p: Array, dp: Array, first: int, start: int, stop: int) -> None:
    """Turn a block's probabilities into the gradient of its scores: p (dp - sum(p dp)), with a sum for each row.

    `dp` (b, k, g, stop - start, stop - first) is used up.
    """
    rows = p[..., start:stop, first:stop]
    dp -= namespace(p).einsum("...j,...j->...", rows, dp, dtype=sum_dtype(p.dtype))[..., None]
    rows *= dp
