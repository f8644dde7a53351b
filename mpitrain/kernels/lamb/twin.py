"""LAMB's step on one weight (You et al. 2020, "Large batch optimization for deep learning", Algorithm 2, with φ(z) = z).

Invariant: `weight`, `exp_avg` and `exp_avg_sq` are contiguous, of one shape, and change in place; `grad` is only read; the
two norms are summed in float64, and no value of theirs is brought to the host.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace, row_tiles
from mpitrain.kernels.adam import update_moments


def lamb(
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
    decay: float = 0.0,
    adapts: bool = True,
) -> None:
    """Step number `step` (the first is 1): `u = m̂ / (√v̂ + eps) + decay * w`, `w ← w - lr (‖w‖ / ‖u‖) u`.

    The ratio of the norms is 1 where one of them is zero, or if it is not to adapt.
    """
    xp = namespace(weight)
    assert all(x.flags.c_contiguous for x in (weight, exp_avg, exp_avg_sq)), "a view would be updated in a copy"
    weight, grad, exp_avg, exp_avg_sq = (x.reshape(-1) for x in (weight, grad, exp_avg, exp_avg_sq))
    correction = (1.0 - betas[1] ** step) ** 0.5
    rate, eps = correction / (1.0 - betas[0] ** step), eps * correction
    direction = xp.empty_like(exp_avg)
    squares = xp.zeros(2, "float64")  # of w and of u
    for tile in row_tiles(direction):
        m, v, u = exp_avg[tile], exp_avg_sq[tile], direction[tile]
        w = weight[tile].astype(u.dtype, copy=False)
        update_moments(grad[tile], m, v, u, betas=betas, grad_scale=grad_scale)
        xp.sqrt(v, out=u)
        u += eps
        xp.divide(m, u, out=u)
        u *= rate
        if decay:
            u += w * decay
        if adapts:
            squares[0] += xp.vdot(w, w)
            squares[1] += xp.vdot(u, u)
    trust = xp.where(squares.min() > 0, xp.sqrt(squares[0] / xp.maximum(squares[1], 1e-300)), 1.0)
    scale = (lr * trust).astype(direction.dtype)
    for tile in row_tiles(direction):
        u = direction[tile]
        u *= scale
        w = weight[tile]
        w -= u
