"""SGD's step in one sweep; what it computes: see the twin."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.kernels.compiled import compiled, plain


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
    """See the twin."""
    assert weight.flags.carray, "a view would be updated in a copy"
    weight, grad = weight.reshape(-1), plain(grad).reshape(-1)
    if momentum_buffer is None:
        _sgd(weight, grad, lr, grad_scale, l2)
    else:
        assert momentum_buffer.flags.carray, "a view would be updated in a copy"
        # The direction is b, or g + momentum * b.
        parts = (1.0, momentum) if nesterov else (0.0, 1.0)
        _sgd_momentum(weight, grad, momentum_buffer.reshape(-1), lr, momentum, *parts, grad_scale, l2)


@compiled("void(float32[::1], float32[::1], float32, float32, float32)")
def _sgd(weight: Array, grad: Array, lr: float, scale: float, l2: float) -> None:
    for i in range(weight.size):
        weight[i] -= lr * (scale * grad[i] + l2 * weight[i])


@compiled("void(float32[::1], float32[::1], float32[::1], float32, float32, float32, float32, float32, float32)")
def _sgd_momentum(
    weight: Array, grad: Array, buffer: Array, lr: float, momentum: float, of_g: float, of_b: float, scale: float, l2: float
) -> None:
    for i in range(weight.size):
        g = scale * grad[i] + l2 * weight[i]
        b = momentum * buffer[i] + g
        buffer[i] = b
        weight[i] -= lr * (of_g * g + of_b * b)
