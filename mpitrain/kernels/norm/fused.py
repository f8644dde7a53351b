"""Layer norm over the last dim and its gradients, each in one sweep over the rows; what they compute: see the twin."""

from __future__ import annotations

import math

from numpy import float32

from mpitrain.arrays import Array, empty_beside
from mpitrain.kernels.compiled import compiled, plain


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """See the twin."""
    x_nd = plain(x.reshape(-1, x.shape[-1]))
    y, x_hat, inverse = empty_beside(x), empty_beside(x), empty_beside(x, (len(x_nd), 1))
    _layer_norm(x_nd, plain(weight), plain(bias), eps, y.reshape(x_nd.shape), x_hat.reshape(x_nd.shape), inverse)
    return y, x_hat, inverse


def layer_norm_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array) -> Array:
    """See the twin."""
    dy_nd = plain(dy.reshape(-1, dy.shape[-1]))
    dx = empty_beside(dy)
    _layer_norm_grad(dy_nd, x_hat.reshape(dy_nd.shape), inverse, plain(weight), dx.reshape(dy_nd.shape))
    return dx


def scale_shift_grad(dy: Array, x_hat: Array, d_weight: Array, d_bias: Array) -> None:
    """See the twin."""
    dy_nd = plain(dy.reshape(-1, dy.shape[-1]))
    _scale_shift_grad(dy_nd, x_hat.reshape(dy_nd.shape), d_weight, d_bias)


_ROWS, _ROW = "float32[:, ::1]", "float32[::1]"


@compiled(f"void({_ROWS}, {_ROW}, {_ROW}, float32, {_ROWS}, {_ROWS}, {_ROWS})", sums=True)
def _layer_norm(x: Array, weight: Array, bias: Array, eps: float, y: Array, x_hat: Array, inverse: Array) -> None:
    n, d = x.shape
    for i in range(n):
        mean = float32(0)
        for j in range(d):
            mean += x[i, j]
        mean /= float32(d)
        variance = float32(0)
        for j in range(d):
            centred = x[i, j] - mean
            variance += centred * centred
        inverse[i, 0] = float32(1) / math.sqrt(variance / float32(d) + eps)
        for j in range(d):
            x_hat[i, j] = (x[i, j] - mean) * inverse[i, 0]
            y[i, j] = x_hat[i, j] * weight[j] + bias[j]


@compiled(f"void({_ROWS}, {_ROWS}, {_ROWS}, {_ROW}, {_ROWS})", sums=True)
def _layer_norm_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array, dx: Array) -> None:
    n, d = dy.shape
    for i in range(n):
        mean = along = float32(0)
        for j in range(d):
            g = dy[i, j] * weight[j]
            mean += g
            along += g * x_hat[i, j]
        mean /= float32(d)
        along /= float32(d)
        for j in range(d):
            dx[i, j] = (dy[i, j] * weight[j] - mean - x_hat[i, j] * along) * inverse[i, 0]


@compiled(f"void({_ROWS}, {_ROWS}, {_ROW}, {_ROW})")
def _scale_shift_grad(dy: Array, x_hat: Array, d_weight: Array, d_bias: Array) -> None:
    n, d = dy.shape
    d_weight[:] = 0
    d_bias[:] = 0
    for i in range(n):
        for j in range(d):
            d_weight[j] += dy[i, j] * x_hat[i, j]
            d_bias[j] += dy[i, j]
