"""Dealing a batch: contiguous, complete, even, and the same for every factoring of dp x microbatches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.data import check_batch, share, share_jointly, split

small = st.integers(1, 12)


@given(st.integers(0, 300), st.integers(1, 40))
@settings(deadline=None)
def test_split_is_numpys_array_split(count, parts):
    theirs = np.array_split(np.arange(count), parts)
    for (start, stop), part in zip(split(count, parts), theirs, strict=True):
        np.testing.assert_array_equal(np.arange(start, stop), part)


@given(st.integers(0, 300), small, small)
@settings(deadline=None)
def test_shares_are_the_parts_of_the_whole_batch(count, dp, microbatches):
    dealt = [run for rank in range(dp) for run in share(count, dp, rank, microbatches)]
    assert dealt == split(count, dp * microbatches)


@given(st.integers(0, 300), small, small)
@settings(deadline=None)
def test_joint_shares_make_up_the_microbatches_of_one_replica(count, dp, microbatches):
    by_rank = [share_jointly(count, dp, rank, microbatches) for rank in range(dp)]
    dealt = sorted(run for runs in by_rank for run in runs)
    assert [i for start, stop in dealt for i in range(start, stop)] == list(range(count))
    for start, stop in split(count, microbatches):
        sizes = [b - a for a, b in dealt if start <= a and b <= stop]
        assert sum(sizes) == stop - start
        assert not sizes or max(sizes) - min(sizes) <= 1


@given(small, small, st.integers(0, 100))
@settings(deadline=None)
def test_a_batch_that_passes_leaves_no_microbatch_empty(dp, microbatches, more):
    batch = dp * microbatches + more
    check_batch(batch, dp, microbatches)
    for deal in (share, share_jointly):
        assert all(start < stop for rank in range(dp) for start, stop in deal(batch, dp, rank, microbatches))


@pytest.mark.parametrize(("batch", "microbatches"), [(7, 4), (0, 1), (8, 0)])
def test_a_batch_too_small_is_an_error(batch, microbatches):
    with pytest.raises(ValueError, match=f"has {batch} samples for dp=2 x microbatches={microbatches}; expected at least one"):
        check_batch(batch, 2, microbatches)
