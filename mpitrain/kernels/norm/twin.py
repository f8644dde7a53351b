"""Layer norm and RMS norm over the last dim, with their gradients.

Legend: n rows, d the normalised dim.  Invariant: forward hands back x̂ (normalised, before scale and shift) and 1/sigma for
each row, and these and the weight are all that the gradients need.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside, namespace, row_tiles
from mpitrain.kernels.linear import linear_bias_grad


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """The output y = x̂ weight + bias with x̂ = (x - mean) / sqrt(variance + eps) (Ba et al. 2016, section 3).

    Returns y and x̂ of the shape of x, and 1/sigma of shape (n, 1).
    """
    return _normalise(x, weight, bias, eps)


def rms_norm(x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """As `layer_norm`, with x̂ = x / sqrt(mean(x²) + eps) and without bias (Zhang and Sennrich 2019, section 4)."""
    return _normalise(x, weight, None, eps)


def layer_norm_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array) -> Array:
    """The gradient dx = (g - mean(g) - x̂ mean(g x̂)) / sigma with g = dy weight."""
    return _normalise_grad(dy, x_hat, inverse, weight, centred=True)


def rms_norm_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array) -> Array:
    """The gradient dx = (g - x̂ mean(g x̂)) / sigma with g = dy weight."""
    return _normalise_grad(dy, x_hat, inverse, weight, centred=False)


def scale_grad(dy: Array, x_hat: Array, out: Array) -> None:
    """Write the gradient of the weight, the sum over rows of dy x̂, into `out`."""
    xp, d = namespace(dy), dy.shape[-1]
    dy_nd, x_nd = dy.reshape(-1, d), x_hat.reshape(-1, d)
    out.fill(0)
    for rows in row_tiles(dy_nd):
        tile = xp.multiply(dy_nd[rows], x_nd[rows], out=empty_beside(dy_nd[rows]))
        out += xp.matmul(xp.ones(len(tile), tile.dtype), tile)


def scale_shift_grad(dy: Array, x_hat: Array, d_weight: Array, d_bias: Array) -> None:
    """As `scale_grad`, and write the gradient of the bias, the sum over rows of dy, too."""
    scale_grad(dy, x_hat, d_weight)
    linear_bias_grad(dy, d_bias)


def _normalise(x: Array, weight: Array, bias: Array | None, eps: float) -> tuple[Array, Array, Array]:
    xp, d = namespace(x), x.shape[-1]
    x_nd = x.reshape(-1, d)
    y, x_hat, inverse = empty_beside(x_nd), empty_beside(x_nd), empty_beside(x_nd, (len(x_nd), 1))
    mean_of = xp.full((d, 1), 1.0 / d, x.dtype)  # means as products: a quarter of the time of sums along rows
    for rows in row_tiles(x_nd):
        centred, x_rows, y_rows = x_nd[rows], x_hat[rows], y[rows]
        if bias is not None:
            centred = xp.subtract(centred, centred @ mean_of, out=x_rows)
        xp.multiply(centred, centred, out=y_rows)
        variance = y_rows @ mean_of
        variance += eps
        xp.sqrt(variance, out=variance)
        xp.divide(1.0, variance, out=inverse[rows])
        xp.multiply(centred, inverse[rows], out=x_rows)
        xp.multiply(x_rows, weight, out=y_rows)
        if bias is not None:
            y_rows += bias
    return y.reshape(x.shape), x_hat.reshape(x.shape), inverse


def _normalise_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array, *, centred: bool) -> Array:
    xp, d = namespace(dy), dy.shape[-1]
    dy_nd, x_nd = dy.reshape(-1, d), x_hat.reshape(-1, d)
    dx = empty_beside(dy_nd)
    mean_of = xp.full((d, 1), 1.0 / d, dy.dtype)
    for rows in row_tiles(dy_nd):
        g, x_rows = dx[rows], x_nd[rows]
        xp.multiply(dy_nd[rows], weight, out=g)
        along = xp.multiply(g, x_rows, out=empty_beside(g))
        mean = along @ mean_of
        if centred:
            g -= g @ mean_of
        g -= xp.multiply(x_rows, mean, out=along)
        g *= inverse[rows]
    return dx.reshape(dy.shape)
