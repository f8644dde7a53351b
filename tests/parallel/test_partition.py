"""`partition` against all cuts that there are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mpitrain.parallel import partition

NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=8)


def cuts(layers, stages):
    return [list(pairwise([0, *inner, layers])) for inner in combinations(range(1, layers), stages - 1)]


def slowest(costs, ranges):
    return max(sum(costs[start:stop]) for start, stop in ranges)


@given(costs=NUMBERS, stages=st.integers(1, 8))
def test_no_cut_is_better(costs, stages):
    assume(stages <= len(costs))
    found = partition(costs, stages)
    assert found in cuts(len(costs), stages)
    assert slowest(costs, found) == min(slowest(costs, ranges) for ranges in cuts(len(costs), stages))


@given(costs=NUMBERS, stages=st.integers(1, 4), limit=st.integers(0, 60), by_stage=st.booleans(), data=st.data())
def test_no_cut_within_the_memory_is_better(costs, stages, limit, by_stage, data):
    assume(stages <= len(costs))
    row = st.lists(st.integers(0, 20), min_size=len(costs), max_size=len(costs))
    rows = data.draw(st.lists(row, min_size=stages, max_size=stages) if by_stage else row.map(lambda row: [row] * stages))
    memory = rows if by_stage else rows[0]

    def largest(ranges):
        return max(sum(row[start:stop]) for row, (start, stop) in zip(rows, ranges, strict=True))

    allowed = [ranges for ranges in cuts(len(costs), stages) if largest(ranges) <= limit]
    if allowed:
        found = partition(costs, stages, memory, limit)
        assert found in allowed
        assert slowest(costs, found) == min(slowest(costs, ranges) for ranges in allowed)
    else:
        least = min(map(largest, cuts(len(costs), stages)))
        with pytest.raises(ValueError, match=f"within {limit} bytes a rank, the best needs {least};"):
            partition(costs, stages, memory, limit)


def test_more_stages_than_layers():
    with pytest.raises(ValueError, match="4 stages were asked for and the model has 3 layers; expected 1 to 3 stages"):
        partition([1, 2, 3], 4)
