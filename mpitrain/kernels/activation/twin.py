"""Element-wise activations and, in the same sweep, their slopes.

Invariant: `f(x, slope=True)` returns the same bits of y as `f(x)`.  A backward pass then multiplies by the slope and neither
keeps x nor evaluates a transcendental function again.  Each chain runs over cache-sized tiles, see `row_tiles`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mpitrain.arrays import Array, empty_beside, namespace, row_tiles

#: Beyond it, in both directions, GELU's logistic function is 0 or 1 in float64; its square is finite in float16.
GELU_BOUND = 16.0

#: A chain on one tile: (xp, x, y to write, slope to write or None).
Chain = Callable[[Any, Array, Array, Array | None], None]


def relu(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """max(x, 0).  The slope at 0 is 0."""
    xp = namespace(x)
    return xp.maximum(x, 0), (x > 0) if slope else None


def silu(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """The product x s(x) (Elfwing et al. 2018, section 2), with the logistic function s."""
    return _tiled(_silu, x, slope)


def gelu_tanh(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """The tanh approximation of GELU that GPT-2 uses (Hendrycks and Gimpel 2016, section 2)."""
    return _tiled(_gelu_tanh, x, slope)


def gelu_erf(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """The product x Φ(x) with the normal distribution's Φ (Hendrycks and Gimpel 2016, section 2)."""
    return _tiled(_gelu_erf, x, slope)


def swiglu(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """silu(gate) * up (Shazeer 2020, section 2) for x = [gate | up] of shape (..., 2m); y has shape (..., m).

    The slope has the shape of x: dx = slope * [dy | dy].
    """
    xp, m = namespace(x), x.shape[-1] // 2
    y = empty_beside(x, (*x.shape[:-1], m))
    d = empty_beside(x) if slope else None
    flat_x, flat_y, flat_d = x.reshape(-1, 2 * m), y.reshape(-1, m), None if d is None else d.reshape(-1, 2 * m)
    for rows in row_tiles(flat_x):
        gate, up = flat_x[rows, :m], flat_x[rows, m:]
        if flat_d is None:
            _silu(xp, gate, flat_y[rows], None)
            flat_y[rows] *= up
        else:
            d_gate, d_up = flat_d[rows, :m], flat_d[rows, m:]
            _silu(xp, gate, d_up, d_gate)
            d_gate *= up
            xp.multiply(d_up, up, out=flat_y[rows])
    return y, d


def swiglu_grad(dy: Array, slope: Array) -> Array:
    """The gradient of swiglu's input, from that of its output."""
    xp, m = namespace(dy), dy.shape[-1]
    dx = empty_beside(slope)
    xp.multiply(slope[..., :m], dy, out=dx[..., :m])
    xp.multiply(slope[..., m:], dy, out=dx[..., m:])
    return dx


def erf(x: Array) -> Array:
    """The error function, to a few units in the last place of float64.

    Cody 1969, "Rational Chebyshev approximations for the error function", as coefficients stand in his CALERF: x P(x²)/Q(x²)
    near 0 and 1 - exp(-x²) P(x)/Q(x) above 0.46875.  He gives a third form for |x| > 4 that keeps erfc's own relative accuracy;
    erf does not need it, since erfc is below 2e-8 there.
    """
    xp = namespace(x)
    a = xp.minimum(xp.abs(x), 6.0)  # 1 - erf(6) is 2e-17
    squares = a * a
    near = x * _horner(squares, _NEAR[0]) / _horner(squares, _NEAR[1])
    far = xp.copysign(1.0 - xp.exp(-squares) * _horner(a, _FAR[0]) / _horner(a, _FAR[1]), x)
    return xp.where(a <= 0.46875, near, far)


#: Numerator and denominator of each range, highest power first.
_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_FAR = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = x * coefficients[0]
    for c in coefficients[1:-1]:
        total += c
        total *= x
    total += coefficients[-1]
    return total


def _tiled(chain: Chain, x: Array, slope: bool) -> tuple[Array, Array | None]:
    xp = namespace(x)
    y = empty_beside(x)
    d = empty_beside(x) if slope else None
    flat_x, flat_y, flat_d = x.reshape(-1), y.reshape(-1), None if d is None else d.reshape(-1)
    for rows in row_tiles(flat_x):
        chain(xp, flat_x[rows], flat_y[rows], None if flat_d is None else flat_d[rows])
    return y, d


def _silu(xp: Any, x: Array, y: Array, d: Array | None) -> None:
    _logistic(xp, x, 0.5, y)
    if d is not None:  # s (1 + x (1 - s))
        xp.subtract(1.0, y, out=d)
        d *= x
        d += 1.0
        d *= y
    y *= x


def _gelu_tanh(xp: Any, x: Array, y: Array, d: Array | None) -> None:
    a = math.sqrt(2.0 / math.pi)
    b = 0.044715 * a
    c = xp.clip(x, -GELU_BOUND, GELU_BOUND, out=empty_beside(x))
    p = xp.multiply(c, c, out=empty_beside(x))
    p *= b
    p += a
    _logistic(xp, c, p, y)
    if d is not None:  # s + c s (1 - s) (2 a + 6 b c²)
        xp.subtract(1.0, y, out=d)
        d *= y
        d *= c
        p *= 6.0
        p -= 4.0 * a
        d *= p
        d += y
    y *= x


def _logistic(xp: Any, x: Array, half: Array | float, out: Array) -> None:
    """The logistic function of 2 `half` x, as (1 + tanh(half x)) / 2, which does not overflow."""
    xp.multiply(x, half, out=out)
    xp.tanh(out, out=out)
    out *= 0.5
    out += 0.5


def _gelu_erf(xp: Any, x: Array, y: Array, d: Array | None) -> None:
    phi = erf(x * math.sqrt(0.5))
    phi *= 0.5
    phi += 0.5
    xp.multiply(x, phi, out=y)
    if d is not None:  # Φ + x exp(-x²/2) / sqrt(2π)
        xp.multiply(x, x, out=d)
        d *= -0.5
        xp.exp(d, out=d)
        d *= x
        d *= 1.0 / math.sqrt(2.0 * math.pi)
        d += phi
