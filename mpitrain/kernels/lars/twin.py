"""LARS's step on one weight (You, Gitman, Ginsburg 2017, "Large batch training of convolutional networks", Algorithm 1).

Invariant: `weight` and `momentum_buffer` are contiguous, of one shape, and change in place, a cache-sized tile at a time;
`grad` is only read; the two norms are summed in float64, and no value of theirs is brought to the host.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace, row_tiles, sum_dtype


def lars(
    weight: Array,
    grad: Array,
    momentum_buffer: Array | None,
    *,
    lr: float,
    trust: float,
    momentum: float = 0.0,
    grad_scale: float = 1.0,
    decay: float = 0.0,
    adapts: bool = True,
) -> None:
    """`v ← momentum * v + lr λ (g + decay * w)`, `w ← w - v`, with `g = grad_scale * grad`, λ = trust ‖w‖ / (‖g‖ + decay ‖w‖).

    λ is 1 where one of the norms is zero (which the paper leaves open), or if it is not to adapt; v starts anew without a
    `momentum_buffer`.
    """
    xp = namespace(weight)
    assert weight.flags.c_contiguous, "a view would be updated in a copy"
    weight, grad = weight.reshape(-1), grad.reshape(-1)
    buffer = None if momentum_buffer is None else momentum_buffer.reshape(-1)
    dtype = sum_dtype(weight.dtype)
    squares = xp.zeros(2, "float64")  # of w and of g
    for tile in row_tiles(weight) if adapts else ():
        w, g = (x[tile].astype(dtype, copy=False) for x in (weight, grad))
        squares[0] += xp.vdot(w, w)
        squares[1] += xp.vdot(g, g)
    w_norm, g_norm = xp.sqrt(squares[0]), xp.sqrt(squares[1]) * abs(grad_scale)
    ratio = trust * w_norm / xp.maximum(g_norm + decay * w_norm, 1e-300)
    rate = (lr * xp.where(squares.min() > 0, ratio, 1.0)).astype(dtype)
    for tile in row_tiles(weight):
        w = weight[tile]
        v = xp.multiply(grad[tile], grad_scale, dtype=dtype)
        if decay:
            v += w * decay
        v *= rate
        if buffer is not None:
            b = buffer[tile]
            b *= momentum
            b += v
            v = b
        w -= v
