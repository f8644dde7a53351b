"""Exact sums against rational arithmetic and `math.fsum`, at random and at the edges that the proof names."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.kernels.exact_sum import (
    CARRY_EVERY,
    EXACT_WORDS,
    LIMIT,
    MAX_ADDENDS,
    NARROW,
    RESOLUTION,
    carry,
    exact_zeros,
    fold,
    from_exact,
    narrow,
    restore,
    to_exact,
)


def total_of(rows):
    """The total of some arrays, and its peak."""
    total, peak = exact_zeros(rows[0]), np.zeros((), rows[0].dtype)
    for row in rows:
        fold(row, total, peak)
    return total, peak


def restored(total, dtype):
    out = np.empty(total.shape[1], dtype)
    restore(total, out)
    return out


def on_the_grid(x):
    """The nearest multiple of RESOLUTION, ties to even, as a Fraction."""
    return round(Fraction(float(x)) / Fraction(RESOLUTION)) * Fraction(RESOLUTION)


BELOW = float(np.nextafter(np.float32(LIMIT), np.float32(0)))
float32s = st.floats(-BELOW, BELOW, width=32) | st.floats(-(2.0**-34), 2.0**-34, width=32)
float64s = st.floats(-LIMIT, LIMIT, exclude_min=True, exclude_max=True) | st.floats(-1e-8, 1e-8)


@settings(deadline=None)
@given(st.lists(float32s, min_size=1, max_size=20))
def test_float32_total_is_the_rounded_addends_total(numbers):
    total, _ = total_of([np.array([x], np.float32) for x in numbers])
    exact = sum(on_the_grid(x) for x in numbers)
    assert Fraction(int(total[0, 0]), 2**12) + Fraction(int(total[1, 0]), 2**56) == exact
    # Correctly rounded to float64, as Fraction's conversion is, and then to float32.
    assert restored(total, np.float32)[0] == np.float32(float(exact))


@settings(deadline=None)
@given(st.lists(float64s, min_size=1, max_size=20))
def test_float64_total_is_within_half_a_unit_an_addend(numbers):
    total, _ = total_of([np.array([x]) for x in numbers])
    exact = sum(on_the_grid(x) for x in numbers)
    assert abs(exact - sum(Fraction(x) for x in numbers)) <= len(numbers) * Fraction(RESOLUTION) / 2
    assert restored(total, np.float64)[0] == float(exact)


@settings(deadline=None)
@given(st.lists(st.floats(2.0**-33, BELOW, width=32) | st.floats(-BELOW, -(2.0**-33), width=32), min_size=1, max_size=50))
def test_usual_float32_numbers_lose_nothing(numbers):
    total, _ = total_of([np.array([x], np.float32) for x in numbers])
    assert restored(total, np.float64)[0] == math.fsum(numbers)


@settings(max_examples=25, deadline=None)  # a shared core may stall any of them
@given(st.integers(0, 2**32), st.integers(2, 9), st.sampled_from([np.float16, ml_dtypes.bfloat16, np.float32, np.float64]))
def test_order_and_grouping_do_not_matter(seed, count, dtype):
    """Shuffled, and dealt to ranks whose totals are added as integers; more than one tile, and no multiple of one."""
    random = np.random.default_rng(seed)
    scale = 2.0 ** random.integers(-70, 10, (count, 20_001))
    rows = [(random.normal(size=20_001) * s).astype(dtype) for s in scale]
    one, _ = total_of(rows)
    shuffled = [rows[i] for i in random.permutation(count)]
    cut = int(random.integers(1, count))
    several = total_of(shuffled[:cut])[0] + total_of(shuffled[cut:])[0]
    assert restored(one, dtype).tobytes() == restored(several, dtype).tobytes()


def test_plain_sums_do_depend_on_the_order():
    """What the test above would find if sums were floats."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(5, 1000)).astype(np.float32)
    assert (rows[0] + rows[1] + rows[2] + rows[3] + rows[4] != rows[4] + rows[3] + rows[2] + rows[1] + rows[0]).any()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_as_many_of_the_largest_as_allowed_fit(sign):
    """MAX_ADDENDS of the largest addend, and of the one with the largest lo: by doubling, as ranks' totals are added."""
    half = sign * (2.0**-13 - 2.0**-52)  # hi 0 and lo just below 2**43
    x = np.array([sign * np.nextafter(LIMIT, 0), half, sign * LIMIT - half])
    total, peak = total_of([x])
    assert peak < LIMIT
    n = MAX_ADDENDS
    total = total.astype(object) * n
    assert max(abs(total.reshape(-1))) < 2**63
    expected = [float(n * on_the_grid(value)) for value in x]
    # Beyond 2**41 there is one rounding more: within one unit in the last place.
    np.testing.assert_array_max_ulp(restored(total.astype(np.int64), np.float64), np.array(expected), 1)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**-5), 2.0**-5) | st.integers(-9, 9).map(lambda n: n * 2.0**-57), min_size=1, max_size=20))
def test_small_addends_enter_as_the_same_number(numbers):
    """By the quick way, and by that of a tile with a larger one in it; half units, too."""
    small = total_of([np.array(numbers)])[0]
    among_others = total_of([np.array([*numbers, 1.0])])[0][:, :-1]
    np.testing.assert_array_equal(carry(small), carry(np.ascontiguousarray(among_others)))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_small_addends_fit_until_they_are_carried(sign):
    total, _ = total_of([np.array([sign * np.nextafter(2.0**-5, 0)])])
    assert not total[0].any()  # it went the quick way
    assert abs(int(total[1, 0])) * CARRY_EVERY + 2**43 < 2**62


def test_many_addends_are_rounded_once():
    """Where the sum of the los has more bits than a float64, and is no less than that of the his."""
    x = np.random.default_rng(2).uniform(2.0**-13, 2.0**-12, 1000)
    total, _ = total_of([x])
    n = MAX_ADDENDS - 1
    np.testing.assert_array_equal(restored(total * n, np.float64), [float(n * on_the_grid(value)) for value in x])


@settings(max_examples=25, deadline=None)  # a shared core may stall any of them
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(-60, 2))
def test_narrow_totals_add_up_to_the_same(seed, ranks, exponent):
    """Several ranks' totals as one integer each, up to the very limit, against their totals as pairs."""
    random = np.random.default_rng(seed)
    rows = [random.uniform(-1, 1, 20_001) * 2.0**exponent for _ in range(ranks)]
    rows += [np.full(20_001, NARROW - sum(abs(row).max() for row in rows) - 2.0**-40) * random.choice([-1, 1])]
    totals = [total_of([row])[0] for row in rows]
    wide = np.sum(totals, axis=0)
    lo = np.sum([narrow(total) for total in totals], axis=0)
    assert not any(total[0].any() for total in totals)
    narrowed = np.concatenate([np.zeros_like(lo), lo])
    # What was narrowed, of a size that only just fits, may go on to be added up wide.
    np.testing.assert_array_equal(restored(carry(narrowed) * 1000, np.float64), restored(carry(wide) * 1000, np.float64))


def test_every_number_is_rounded_to_the_nearest():
    """Numbers as small as half a unit, of both signs, a million of them at once."""
    units = np.random.default_rng(3).uniform(-4, 4, 1_000_000)
    total, _ = total_of([units * RESOLUTION])
    np.testing.assert_array_equal(total, [np.zeros(len(units)), np.rint(units)])


@pytest.mark.parametrize("bad", [LIMIT, -LIMIT, 1e30, math.inf, -math.inf])
def test_peak_shows_what_is_too_large(bad):
    x = np.ones(40_000, np.float32)
    x[30_000] = bad
    assert total_of([np.ones_like(x), x, np.ones_like(x)])[1] == abs(bad)


def test_peak_shows_nan_whatever_follows():
    x = np.full(3, math.nan, np.float32)
    assert np.isnan(total_of([np.ones_like(x), x, np.full_like(x, 1e30)])[1])


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e307, 1e307), max_size=8), min_size=1, max_size=6))
def test_scalars_are_fsum_over_the_whole_range(parts):
    """Every rank's numbers, added as integers: the correctly rounded sum of all."""
    words = sum(to_exact(numbers) for numbers in parts)
    assert words.shape == (EXACT_WORDS,)
    assert from_exact(words) == math.fsum(x for numbers in parts for x in numbers)


def test_many_scalars_of_all_magnitudes_are_fsum():
    random = np.random.default_rng(2)
    numbers = np.ldexp(random.standard_normal(20_000), random.integers(-1100, 1000, 20_000))  # the smallest are subnormal
    assert from_exact(to_exact(numbers[:7_000]) + to_exact(numbers[7_000:])) == math.fsum(numbers)
    small = numbers[np.abs(numbers) < 1e-290]
    assert from_exact(to_exact(small)) == math.fsum(small)


@settings(deadline=None)
@given(st.lists(st.floats(), min_size=1).filter(lambda numbers: not all(map(math.isfinite, numbers))))
def test_scalars_that_are_not_finite_stay_so(numbers):
    assert math.isnan(from_exact(to_exact([1.0]) + to_exact(numbers)))
