"""Batch norm of images (n, c, h, w): each channel c normalised over its n h w values (Ioffe and Szegedy 2015, algorithm 1).

Invariant: x̂, the normalised input before scale and shift, and 1/σ of each channel are all that the gradients need.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace, sum_dtype

_OVER = (0, 2, 3)


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel, shape (c,)."""
    mean = namespace(x).mean(x, axis=_OVER)
    centred = x - mean[:, None, None]
    return mean, _mean_product(centred, centred)


def batch_norm(x: Array, weight: Array, bias: Array, mean: Array, variance: Array, eps: float) -> tuple[Array, Array, Array]:
    """`y` = x̂ weight + bias with x̂ = (x - mean) / sqrt(variance + eps); returns y, x̂ and 1/σ of shape (c,)."""
    inverse = 1.0 / namespace(x).sqrt(variance + eps)
    x_hat = x - mean[:, None, None]
    x_hat *= inverse[:, None, None]
    y = x_hat * weight[:, None, None]
    y += bias[:, None, None]
    return y, x_hat, inverse


def batch_norm_grad(dy: Array, x_hat: Array, inverse: Array, weight: Array) -> Array:
    """`dx` = (dy - mean(dy) - x̂ mean(dy x̂)) weight / σ, where mean and variance were x's own."""
    mean = namespace(dy).mean(dy, axis=_OVER)
    dx = x_hat * -_mean_product(dy, x_hat)[:, None, None]
    dx += dy
    dx -= mean[:, None, None]
    dx *= (weight * inverse)[:, None, None]
    return dx


def scale_grad(dy: Array, x_hat: Array, out: Array) -> None:
    """Write the weight's gradient, the sum of dy x̂ over each channel, into `out`."""
    out[...] = _product(dy, x_hat)


def _product(a: Array, b: Array) -> Array:
    """The sum of a b over each channel, in the type that sums take."""
    return namespace(a).einsum("nchw,nchw->c", a, b, dtype=sum_dtype(a.dtype))


def _mean_product(a: Array, b: Array) -> Array:
    """The mean of a b over each channel, in the type of `a`."""
    mean = _product(a, b) / (a.size // a.shape[1])
    return mean.astype(a.dtype, copy=False)
