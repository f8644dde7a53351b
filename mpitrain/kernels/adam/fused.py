"""Adam's step in one sweep; what it computes: see the twin."""

from __future__ import annotations

import math

from mpitrain.arrays import Array
from mpitrain.kernels.compiled import compiled, plain


def adam(
    weight: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    step: int,
    grad_scale: float = 1.0,
    l2: float = 0.0,
    decay: float = 0.0,
) -> None:
    """See the twin."""
    correction = (1.0 - betas[1] ** step) ** 0.5
    rate = lr * correction / (1.0 - betas[0] ** step)
    assert all(x.flags.carray for x in (weight, exp_avg, exp_avg_sq)), "a view would be updated in a copy"
    flat = weight.reshape(-1), plain(grad).reshape(-1), exp_avg.reshape(-1), exp_avg_sq.reshape(-1)
    shares = 1.0 - betas[0], 1.0 - betas[1]
    _adam(*flat, grad_scale, l2, *betas, *shares, eps * correction, rate, 1.0 - lr * decay)


_FLAT = "float32[::1]"


@compiled(f"void({', '.join([_FLAT] * 4 + ['float32'] * 9)})")
def _adam(
    weight: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, scale: float, l2: float, beta1: float, beta2: float,
    share1: float, share2: float, eps: float, rate: float, left: float,
) -> None:  # fmt: skip
    for i in range(weight.size):
        g = scale * grad[i] + l2 * weight[i]
        m = beta1 * exp_avg[i] + share1 * g
        v = beta2 * exp_avg_sq[i] + share2 * (g * g)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        weight[i] = left * weight[i] - rate * m / (math.sqrt(v) + eps)
