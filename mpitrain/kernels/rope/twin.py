"""Rotary position embedding (Su et al. 2021, section 3.2), with the halves of a head as the pairs that turn together.

Legend: b batch, t time, h heads, e = half a head's width.  Invariant: `rotate(rotate(x), inverse=True)` is x up to rounding;
the gradient of a rotation is its inverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mpitrain.arrays import Array, namespace


def rope_tables(time: int, head_dim: int, theta: float, xp: Any, dtype: DTypeLike) -> tuple[Array, Array]:
    """Cosine and sine of position * theta^(-2k/head_dim), each of shape (t, 1, e), computed in float64."""
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angle_te = np.arange(time)[:, None] * frequency
    return xp.asarray(np.cos(angle_te)[:, None], dtype), xp.asarray(np.sin(angle_te)[:, None], dtype)


def rotate(x: Array, cos: Array, sin: Array, out: Array, *, inverse: bool = False) -> None:
    """Write x of shape (b, t, h, 2e), each pair (k, k + e) turned by its position's angle, into `out`, which may not be x."""
    xp, e = namespace(x), x.shape[-1] // 2
    left, right = x[..., :e], x[..., e:]
    turned_left, turned_right = (xp.add, xp.subtract) if inverse else (xp.subtract, xp.add)
    turned_left(left * cos, right * sin, out=out[..., :e])
    turned_right(right * cos, left * sin, out=out[..., e:])
