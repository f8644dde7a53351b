"""A step of SGD on one weight, with momentum (Sutskever et al. 2013, section 2, in the form that most libraries have).

Invariant: `weight` and `momentum_buffer` are contiguous, of one shape, and change in place, a cache-sized tile at a time;
`grad` is only read.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace, row_tiles


def sgd(
    weight: Array,
    grad: Array,
    momentum_buffer: Array | None,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    grad_scale: float = 1.0,
    l2: float = 0.0,
) -> None:
    """`g = grad_scale * grad + l2 * weight`, `b ← momentum * b + g`, `w ← w - lr * d`.

    The direction d is b, `g + momentum * b` with `nesterov`, and g where there is no `momentum_buffer`.
    """
    xp = namespace(weight)
    assert weight.flags.c_contiguous, "a view would be updated in a copy"
    weight, grad = weight.reshape(-1), grad.reshape(-1)
    buffer = None if momentum_buffer is None else momentum_buffer.reshape(-1)
    for tile in row_tiles(weight):
        w = weight[tile]
        g = xp.multiply(grad[tile], grad_scale)
        if l2:
            g += w * l2
        if buffer is not None:
            b = buffer[tile]
            b *= momentum
            b += g
            g = g + b * momentum if nesterov else b
        w -= g * lr
