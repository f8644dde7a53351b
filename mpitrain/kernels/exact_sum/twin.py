"""Sums of float arrays as integers on a fixed grid: each addend is rounded once, by itself, and the sum of those is exact.

Invariant: a total is a pair of integers (hi, lo) for each element and stands for hi 2⁻¹² + lo 2⁻⁵⁶.  Integers add without
rounding, so totals of the same addends, in any order, grouping and place, stand for the same number; `restore` depends on that
number alone.  The idea is Demmel and Nguyen 2013, "Fast reproducible floating-point summation", with bins that never move.

Proof.  Let x be finite with |x| < 2³² = `LIMIT`; float16, bfloat16 and float32 are float64 exactly.  `fold` computes in float64

    s = 2¹² x             exact: a power of two;      |s| < 2⁴⁴
    h = rint(s)           exact: an integer;          |h| ≤ 2⁴⁴
    r = s - h             exact: |r| ≤ ½, and a multiple of the last bit of s, so it has no more bits than s
    l = rint(2⁴⁴ r)       the one rounding;           |l| ≤ 2⁴³, |2⁴⁴ r - l| ≤ ½

so an addend enters as h 2⁻¹² + l 2⁻⁵⁶, off by at most 2⁻⁵⁷, half of `RESOLUTION`; not at all if its last bit is worth 2⁻⁵⁶ or
more, which holds for every float32 with |x| ≥ 2⁻³³ ≈ 1.2e-10 and every float64 with |x| ≥ 2⁻⁴. Where |x| < 2⁻⁵ it may enter as
rint(2⁵⁶ x) 2⁻⁵⁶, in lo alone: that is the same number, since 2⁵⁶ x = 2⁴⁴ h + 2⁴⁴ r, and 2⁴⁴ h is even; |lo| grows by up to 2⁵¹.
Whoever folds carries after each 2¹⁰ = `CARRY_EVERY` addends, so with at most 2¹⁸ = `MAX_ADDENDS` in all |hi| < 2⁶³ and |lo| <
2⁶²: int64 does not overflow, whatever the order. `restore` carries, so that -2⁴³ ≤ lo < 2⁴³; a number has one such pair. Then
hi + lo 2⁻⁴⁴ in float64 is the correctly rounded total while |total| < 2⁴¹ (hi and lo are exact there) and within one more
rounding beyond; it is then rounded to the wanted type.

A total of addends whose magnitudes add up to less than 2⁶ = `NARROW` fits into lo alone: |hi 2⁴⁴ + lo| ≤ 2⁶² + 2¹⁷.  So does
the sum of several totals, if the magnitudes of all their addends do; `narrow` halves what then travels, and changes no number.

What lies outside is not summed wrongly in silence: `peak` keeps the largest |x| that came in, NaN if one was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace, row_tiles

#: Addends have to be smaller.
LIMIT = 2.0**32
#: Distance of the numbers that a total can stand for.
RESOLUTION = 2.0**-56
#: Addends of one total, over all ranks.
MAX_ADDENDS = 2**18
#: Addends of one total after which it has to be carried.
CARRY_EVERY = 2**10
#: Sums whose addends' magnitudes add up to less fit into one integer.
NARROW = 2.0**6

_COARSE_BITS, _FINE_BITS = 12, 44

#: Below, an addend in units of `RESOLUTION` is less than 2⁵¹: then adding 1.5 2⁵² to it, a float64 whose last bit is worth one
#: unit, rounds as rint does, and leaves the integer in the low bits; that takes half the time of rint and a conversion.
_SMALL, _SHIFT = 2.0**-5, 1.5 * 2.0**52
_SHIFT_BITS = np.array(_SHIFT).view(np.int64)


def exact_zeros(x: Array, size: int | None = None) -> Array:
    """A total of nothing for arrays of `size` (by default that of `x`) in its memory: hi and lo, int64 of shape (2, size)."""
    total = empty_beside(x, (2, x.size if size is None else size), np.dtype(np.int64))
    total.fill(0)
    return total


def fold(x: Array, total: Array, peak: Array) -> None:
    """Add `x` to `total` and raise `peak` (shape (), of x's dtype) to the largest |x|.

    Where an |x| is NaN or `LIMIT` or more, `peak` says so and `total` holds nothing of use any more.
    """
    xp, flat = namespace(x), x.reshape(-1)
    with np.errstate(invalid="ignore"):  # of what is not finite, or too large for an integer: `peak` tells
        for tile in row_tiles(flat):
            part, (hi, lo) = flat[tile], total[:, tile]
            largest = xp.maximum(part.max(), -part.min())
            xp.maximum(peak, largest, out=peak)
            if isinstance(flat, np.ndarray) and largest < _SMALL:  # of a device it would have to be waited for
                s = np.multiply(part, 2.0 ** (_COARSE_BITS + _FINE_BITS), dtype=np.float64)
                s += _SHIFT
                integers = s.view(np.int64)
                integers -= _SHIFT_BITS
                lo += integers
                continue
            s = part.astype(np.float64)
            s *= 2.0**_COARSE_BITS
            h = xp.rint(s)
            s -= h
            hi += h.astype(np.int64)
            s *= 2.0**_FINE_BITS
            lo += xp.rint(s, out=s).astype(np.int64)


def narrow(total: Array) -> Array:
    """Bring `total` into its lo, leaving hi zero; the lo, shape (1, n).  Magnitudes add up to less than `NARROW`."""
    for tile in row_tiles(total[0]):
        hi, lo = total[:, tile]
        hi <<= _FINE_BITS
        lo += hi
        hi.fill(0)
    return total[1:]


def carry(total: Array) -> Array:
    """Bring lo, which may have been all of it, back to -2⁴³ ≤ lo < 2⁴³; `total`."""
    for tile in row_tiles(total[0]):
        _carry(*total[:, tile])
    return total


def restore(total: Array | Sequence[Array], out: Array) -> None:
    """Write the number that `total` stands for, rounded to its type, into the flat array `out`; `total` is carried."""
    his, los = total
    for tile in row_tiles(his):
        hi, lo = his[tile], los[tile]
        _carry(hi, lo)
        x = lo * 2.0**-_FINE_BITS
        x += hi
        x *= 2.0**-_COARSE_BITS
        out[tile] = x


def _carry(hi: Array, lo: Array) -> None:
    over = lo + (1 << (_FINE_BITS - 1))
    over >>= _FINE_BITS
    hi += over
    over <<= _FINE_BITS
    lo -= over
