"""A few numbers summed exactly over the whole range of float64, in a form that an integer allreduce adds up.

Invariant: every finite float64 is a whole number of 2⁻¹⁰⁷⁴, below 2²⁰⁹⁸ of them.  Python adds such numbers exactly; for the
wire their two's complement is cut into words of 32 bits, held in int64 so that 2³¹ ranks can add theirs without a carry.  The
sum of n < 2³⁰ numbers has less than 2²¹²⁸ units: 67 words, and one that holds the sign.  The result is correctly rounded, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_UNIT_BITS, _WORD_BITS, _WORDS = 1074, 32, 68
#: Length of the integer array that stands for a sum.
EXACT_WORDS = _WORDS + 1


def to_exact(numbers: Iterable[float]) -> np.ndarray:
    """The sum of `numbers` as int64 of shape (EXACT_WORDS,); such arrays may be added.

    The last word counts NaN and infinities.
    """
    units, not_finite = 0, 0
    for x in numbers:
        if math.isfinite(x):
            numerator, denominator = x.as_integer_ratio()
            units += numerator * ((1 << _UNIT_BITS) // denominator)
        else:
            not_finite += 1
    mask = (1 << _WORD_BITS) - 1
    words = [units >> (_WORD_BITS * i) for i in range(_WORDS)]
    return np.array([*(word & mask for word in words[:-1]), words[-1], not_finite], np.int64)


def from_exact(words: np.ndarray) -> float:
    """The nearest float64 to the sum that `words` stand for; NaN if an addend was not finite."""
    *found, not_finite = words.tolist()
    if not_finite:
        return math.nan
    return sum(word << (_WORD_BITS * i) for i, word in enumerate(found)) / (1 << _UNIT_BITS)
