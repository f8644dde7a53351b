"""Rotary position embedding (Su et al. 2021, section 3.2), with the halves of a head as the pairs that turn together.

Legend: b batch, t time, h heads, e pairs of a head that turn.  Invariant: `rotate(rotate(x), inverse=True)` is x up to rounding
and the square of the tables' scale; the gradient of a rotation is its inverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mpitrain.arrays import Array, namespace


def rope_tables(time: int, frequency_e: np.ndarray, scale: float, xp: Any, dtype: DTypeLike) -> tuple[Array, Array]:
    """Cosine and sine of position * frequency, times `scale`, each of shape (t, 1, e), computed in float64."""
    angle_te = np.arange(time)[:, None] * frequency_e
    return xp.asarray(scale * np.cos(angle_te)[:, None], dtype), xp.asarray(scale * np.sin(angle_te)[:, None], dtype)


def rotate(x: Array, cos: Array, sin: Array, out: Array, *, inverse: bool = False) -> None:
    """Write x of shape (b, t, h, d), each pair (k, k + e) turned by its position's angle, into `out`, which may not be x.

    What lies behind the pairs is copied.
    """
    xp, e = namespace(x), cos.shape[-1]
    left, right = x[..., :e], x[..., e : 2 * e]
    turned_left, turned_right = (xp.add, xp.subtract) if inverse else (xp.subtract, xp.add)
    turned_left(left * cos, right * sin, out=out[..., :e])
    turned_right(right * cos, left * sin, out=out[..., e : 2 * e])
    if x.shape[-1] > 2 * e:
        out[..., 2 * e :] = x[..., 2 * e :]
