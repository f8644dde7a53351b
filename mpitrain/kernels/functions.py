"""exp and tanh of float32 for compiled loops: arithmetic alone, so that a loop that calls them is vectorised.

Invariant: a few units in the last place; NaN in, NaN out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import float32, int32

from mpitrain.kernels.compiled import inlined


@inlined
def exp(x: Any) -> Any:
    """The power e^x as 2^n e^r with |r| <= log(2)/2 (Cody and Waite 1980, chapter 6; coefficients: Moshier's Cephes, expf).

    0 below -80, so that all else, and thousandths of it, are normal numbers; e^88 above 88.
    """
    y = float32(-80) if x < float32(-80) else x
    y = float32(88) if y > float32(88) else y
    n = np.floor(y * float32(1.44269504) + float32(0.5))
    r = y - n * float32(0.693359375) - n * float32(-2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * (r * r) + r + float32(1)
    p *= int32((int32(n) + int32(127)) << int32(23)).view(float32)
    return float32(0) if x < float32(-80) else p


@inlined
def tanh(x: Any) -> Any:
    """The quotient x P(x²)/Q(x²), brought into [-1, 1], and exactly ±1 from ±9 on (coefficients: Eigen's ptanh_float)."""
    s = float32(9) if x > float32(9) else x
    s = float32(-9) if s < float32(-9) else s
    q = s * s
    p = float32(-2.76076847742355e-16)
    p = p * q + float32(2.00018790482477e-13)
    p = p * q + float32(-8.60467152213735e-11)
    p = p * q + float32(5.12229709037114e-08)
    p = p * q + float32(1.48572235717979e-05)
    p = p * q + float32(6.37261928875436e-04)
    p = p * q + float32(4.89352455891786e-03)
    d = float32(1.19825839466702e-06)
    d = d * q + float32(1.18534705686654e-04)
    d = d * q + float32(2.26843463243900e-03)
    d = d * q + float32(4.89352518554385e-03)
    t = s * p / d
    t = float32(1) if t > float32(1) else t
    return float32(-1) if t < float32(-1) else t
