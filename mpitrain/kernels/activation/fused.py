"""GELU by the tanh approximation and its slope, in one sweep; what they compute: see the twin."""

from __future__ import annotations

import math

from numpy import float32

from mpitrain.arrays import Array, empty_beside
from mpitrain.kernels.compiled import compiled, plain
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


@compiled("void(float32[::1], float32[::1])")
def _gelu_tanh(x: Array, y: Array) -> None:
    for i in range(x.size):
        p = float32(_A) + float32(_B) * (x[i] * x[i])
        s = float32(0.5) + float32(0.5) * tanh(x[i] * p)
        y[i] = x[i] * s


@compiled("void(float32[::1], float32[::1], float32[::1])")
def _gelu_tanh_slope(x: Array, y: Array, d: Array) -> None:
    for i in range(x.size):
        q = x[i] * x[i]
        s = float32(0.5) + float32(0.5) * tanh(x[i] * (float32(_A) + float32(_B) * q))
        y[i] = x[i] * s
        d[i] = s + x[i] * (s * (float32(1) - s)) * (float32(2 * _A) + float32(6 * _B) * q)
