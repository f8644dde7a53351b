"""Adam's step on one weight (Kingma and Ba 2015, Algorithm 1; decoupled decay: Loshchilov and Hutter 2019, Algorithm 2).

Invariant: `weight`, `exp_avg` and `exp_avg_sq` are contiguous, of one shape, and change in place, a cache-sized tile at a
time; `grad` is only read, so that what scales it (averaging, clipping) costs no pass of its own.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside, namespace, row_tiles


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
    """Step number `step` (the first is 1) with gradient `g = grad_scale * grad + l2 * weight`.

    `w ← (1 - lr decay) w - lr m̂ / (√v̂ + eps)`, where m̂ and v̂ are the moments corrected for their start at zero.
    """
    xp = namespace(weight)
    # lr m̂ / (√v̂ + eps) with the two corrections moved out of the arrays.
    correction = (1.0 - betas[1] ** step) ** 0.5
    rate, eps = lr * correction / (1.0 - betas[0] ** step), eps * correction
    assert all(x.flags.c_contiguous for x in (weight, exp_avg, exp_avg_sq)), "a view would be updated in a copy"
    weight, grad, exp_avg, exp_avg_sq = (x.reshape(-1) for x in (weight, grad, exp_avg, exp_avg_sq))
    scratch = None
    for tile in row_tiles(exp_avg):
        w, g, m, v, scale = weight[tile], grad[tile], exp_avg[tile], exp_avg_sq[tile], grad_scale
        if scratch is None:
            scratch = empty_beside(m)
        t = scratch[: m.size]
        if l2:
            g, scale = g * scale + w * l2, 1.0
        update_moments(g, m, v, t, betas=betas, grad_scale=scale)
        xp.sqrt(v, out=t)
        t += eps
        xp.divide(m, t, out=t)
        t *= rate
        if decay:
            w *= 1.0 - lr * decay
        w -= t


def update_moments(
    g: Array, exp_avg: Array, exp_avg_sq: Array, scratch: Array, *, betas: tuple[float, float], grad_scale: float
) -> None:
    """`m ← β₁ m + (1 - β₁) s g` and `v ← β₂ v + (1 - β₂) (s g)²` for s = `grad_scale`; `scratch` has their shape and dtype."""
    xp = namespace(g)
    xp.multiply(g, (1.0 - betas[0]) * grad_scale, out=scratch)
    exp_avg *= betas[0]
    exp_avg += scratch
    xp.multiply(g, (1.0 - betas[1]) ** 0.5 * grad_scale, out=scratch)
    scratch *= scratch
    exp_avg_sq *= betas[1]
    exp_avg_sq += scratch
