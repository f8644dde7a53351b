"""GELU by the tanh approximation and its slope, in one sweep; what they compute: see the twin."""

from __future__ import annotations

import math
from typing import Any

from numpy import float32

from mpitrain.arrays import Array, empty_beside
from mpitrain.kernels.activation.twin import GELU_BOUND
from mpitrain.kernels.compiled import compiled, inlined, plain
from mpitrain.kernels.functions import tanh


def gelu_tanh(x: Array, *, slope: bool = False) -> tuple[Array, Array | None]:
    """See the twin."""
    y = empty_beside(x)
    d = empty_beside(x) if slope else None
    flat_x, flat_y = plain(x).reshape(-1), y.reshape(-1)
    if d is None:
        _gelu_tanh(flat_x, flat_y)
    else:
        _gelu_tanh_slope(flat_x, flat_y, d.reshape(-1))
    return y, d


_A = math.sqrt(2.0 / math.pi)
_B = 0.044715 * _A


@inlined
def _bounded(x: Any) -> Any:
    """`x` within the bounds beyond which the logistic function is 0 or 1, so that its square is finite."""
    c = float32(GELU_BOUND) if x > float32(GELU_BOUND) else x
    return float32(-GELU_BOUND) if c < float32(-GELU_BOUND) else c


@compiled("void(float32[::1], float32[::1])")
def _gelu_tanh(x: Array, y: Array) -> None:
    for i in range(x.size):
        c = _bounded(x[i])
        s = float32(0.5) + float32(0.5) * tanh(c * (float32(_A) + float32(_B) * (c * c)))
        y[i] = x[i] * s


@compiled("void(float32[::1], float32[::1], float32[::1])")
def _gelu_tanh_slope(x: Array, y: Array, d: Array) -> None:
    for i in range(x.size):
        c = _bounded(x[i])
        q = c * c
        s = float32(0.5) + float32(0.5) * tanh(c * (float32(_A) + float32(_B) * q))
        y[i] = x[i] * s
        d[i] = s + c * (s * (float32(1) - s)) * (float32(2 * _A) + float32(6 * _B) * q)
