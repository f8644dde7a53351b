"""The elements of largest magnitude, against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.parallel.compression.sparse import largest

KINDS = ["normal", "equal", "rising", "periodic"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200_000), st.floats(1e-4, 1.0), st.integers(0, 9), st.sampled_from(KINDS))
def test_the_largest_are_found_in_arrays_of_any_size_and_kind(size, density, seed, kind):
    values = {
        "normal": np.random.default_rng(seed).normal(size=size),
        "equal": np.ones(size),
        "rising": np.arange(size) - size / 2,
        "periodic": np.where(np.arange(size) % 97, 0.0, 1.0),  # a sample at regular distances sees one side of it only
    }[kind].astype(np.float32)
    count = max(1, round(size * density))
    found = largest(values, count)
    assert len(set(found.tolist())) == count
    np.testing.assert_array_equal(np.sort(np.abs(values[found])), np.sort(np.abs(values))[size - count :])


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_is_not_a_number_is_sent(size):
    values = np.random.default_rng(0).normal(size=size)
    values[[3, size // 2]] = np.nan
    assert {3, size // 2} <= set(largest(values, 5).tolist())
