"""A few numbers summed exactly over the whole range of float64, in a form that an integer allreduce adds up.

Invariant: every finite float64 is a whole number of 2⁻¹⁰⁷⁴, below 2²⁰⁹⁸ of them.  Python adds such numbers exactly; for the
wire their two's complement is cut into words of 32 bits, held in int64 so that 2³¹ ranks can add theirs without a carry.  The
sum of n < 2³⁰ numbers has less than 2²¹²⁸ units: 67 words, and one that holds the sign.  The result is correctly rounded, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_UNIT_BITS, _WORD_BITS, _WORDS = 1074, 32, 68
#: Length of the integer array that stands for a sum.
EXACT_WORDS = _WORDS + 1


def to_exact(numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    """The sum of at most 2³⁰ `numbers` as int64 of shape (EXACT_WORDS,); such arrays may be added.

    The last word counts NaN and infinities.
    """
    x = np.asarray(numbers, np.float64).reshape(-1)
    finite = np.isfinite(x)
    fraction, exponent = np.frexp(x[finite])
    magnitude, sign = np.ldexp(np.abs(fraction), 53).astype(np.int64), np.sign(fraction).astype(np.int64)
    # A number is sign · magnitude · 2^place units; the smallest have zeros below place 0.
    place = exponent.astype(np.int64) - 53 + _UNIT_BITS
    magnitude >>= np.maximum(-place, 0)
    place = np.maximum(place, 0)
    word, shift = place // _WORD_BITS, place % _WORD_BITS
    mask = (1 << _WORD_BITS) - 1
    found = np.zeros(_WORDS, np.int64)
    for half, part in enumerate((magnitude & mask, magnitude >> _WORD_BITS)):  # below 2³² and 2²¹: shifted, they fit in 63 bits
        part <<= shift
        np.add.at(found, word + half, sign * (part & mask))
        np.add.at(found, word + half + 1, sign * (part >> _WORD_BITS))
    units = sum(word << (_WORD_BITS * i) for i, word in enumerate(found.tolist()))
    words = [units >> (_WORD_BITS * i) for i in range(_WORDS)]
    return np.array([*(word & mask for word in words[:-1]), words[-1], len(x) - finite.sum()], np.int64)


def from_exact(words: np.ndarray) -> float:
    """The nearest float64 to the sum that `words` stand for; NaN if an addend was not finite."""
    *found, not_finite = words.tolist()
    if not_finite:
        return math.nan
    return sum(word << (_WORD_BITS * i) for i, word in enumerate(found)) / (1 << _UNIT_BITS)
