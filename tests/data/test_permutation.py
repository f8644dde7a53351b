"""The permutation: a bijection for every size, and no order more likely than another."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.arrays import Stream
from mpitrain.data import permute


@given(st.integers(1, 5000), st.integers(0, 2**63))
@settings(deadline=None)
def test_it_is_a_bijection(size, seed):
    np.testing.assert_array_equal(np.sort(permute(np.arange(size), size, Stream(seed, "x"))), np.arange(size))


@given(st.integers(1, 2**60), st.lists(st.integers(0, 2**60 - 1), max_size=20, unique=True))
@settings(deadline=None)
def test_large_domains_need_no_memory_and_keep_numbers_apart(size, numbers):
    numbers = np.unique(np.array(numbers, np.int64) % size)
    images = permute(numbers, size, Stream(0, "x"))
    assert ((images >= 0) & (images < size)).all()
    assert len(np.unique(images)) == len(numbers)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_is_equally_likely(size):
    """Pearson's χ² over the orders, k - 1 degrees of freedom: mean k - 1, variance 2 (k - 1); 4 deviations are allowed."""
    orders, draws = list(permutations(range(size))), 6000
    seen = Counter(tuple(permute(np.arange(size), size, Stream(seed, "x")).tolist()) for seed in range(draws))
    expected, freedom = draws / len(orders), len(orders) - 1
    chi2 = sum((seen[order] - expected) ** 2 / expected for order in orders)
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_neighbours_end_up_far_apart():
    """The mean distance of two independent uniform numbers is a third of the range; its error over 100,000 pairs is 0.1 %."""
    images = permute(np.arange(100_000), 100_000, Stream(0, "x"))
    assert np.abs(np.diff(images)).mean() == pytest.approx(100_000 / 3, rel=0.01)
