"""The linear map y = x Wᵀ + b and its three gradients, each one large product of contiguous operands.

Legend: n rows, i inputs, o outputs; W has shape (o, i).  Leading dims of x are rows.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The output y, of shape (..., o) for x of shape (..., i)."""
    xp, (o, i) = namespace(x), weight.shape
    y_no = xp.matmul(x.reshape(-1, i), weight.T)
    if bias is not None:
        y_no += bias
    return y_no.reshape(*x.shape[:-1], o)


def linear_input_grad(dy: Array, weight: Array) -> Array:
    """The gradient dx = dy W."""
    xp, (o, i) = namespace(dy), weight.shape
    return xp.matmul(dy.reshape(-1, o), weight).reshape(*dy.shape[:-1], i)


def linear_weight_grad(dy: Array, x: Array, out: Array) -> None:
    """Write dW = dyᵀ x into `out`."""
    xp, (o, i) = namespace(dy), out.shape
    xp.matmul(dy.reshape(-1, o).T, x.reshape(-1, i), out=out)


def linear_bias_grad(dy: Array, out: Array) -> None:
    """Write db, the sum of dy over rows, into `out`."""
    xp = namespace(dy)
    xp.sum(dy.reshape(-1, dy.shape[-1]), axis=0, out=out)
