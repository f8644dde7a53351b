"""The order of samples: every one once an epoch, and the same order however it is read."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.data import Position, Sampler, share

sizes = st.integers(1, 200)


def read(sampler, counts):
    """The numbers that batches of `counts` read, one after the other, and the position after them."""
    position, parts = sampler.start(), []
    for count in counts:
        numbers, position = sampler.take(position, count)
        assert numbers.dtype == np.int64
        assert len(numbers) == count
        parts.append(numbers)
    return np.concatenate([np.empty(0, np.int64), *parts]), position


@given(sizes, st.integers(0, 2**40), st.lists(st.integers(0, 50), max_size=6))
@settings(deadline=None)
def test_batches_of_any_sizes_read_the_same_order(size, seed, counts):
    sampler = Sampler(size, seed)
    pieces, position = read(sampler, counts)
    whole, end = read(sampler, [sum(counts)])
    np.testing.assert_array_equal(pieces, whole)
    assert position == end
    assert sampler.count_before(position) == sum(counts)


@given(sizes, st.integers(0, 9), st.booleans())
@settings(deadline=None)
def test_every_sample_comes_once_an_epoch(size, seed, shuffle):
    numbers, _ = read(Sampler(size, seed, shuffle=shuffle), [3 * size])
    for epoch in numbers.reshape(3, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


@given(sizes, st.integers(1, 30), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)
def test_every_layout_reads_the_same_order(size, batch, dp, microbatches):
    sampler = Sampler(size, 5)
    position, dealt = sampler.start(), []
    for _ in range(3):
        numbers, position = sampler.take(position, batch)
        for rank in range(dp):
            dealt += [n for start, stop in share(batch, dp, rank, microbatches) for n in numbers[start:stop]]
    np.testing.assert_array_equal(dealt, read(sampler, [3 * batch])[0])


@given(sizes, st.integers(0, 50), st.integers(0, 50))
@settings(deadline=None)
def test_a_run_goes_on_from_its_position_as_json(size, first, second):
    sampler = Sampler(size, 3)
    _, position = read(sampler, [first])
    again = Position(**json.loads(json.dumps(asdict(position))))
    np.testing.assert_array_equal(Sampler(size).take(again, second)[0], read(sampler, [first + second])[0][first:])


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [read(Sampler(1000, seed), [2000])[0].reshape(2, 1000) for seed in (0, 1)]
    orders = [tuple(epoch) for run in orders for epoch in run]
    assert len(set(orders)) == 4
    assert tuple(range(1000)) not in orders


def test_without_shuffling_the_order_is_the_datasets():
    np.testing.assert_array_equal(read(Sampler(5, shuffle=False), [7])[0], [0, 1, 2, 3, 4, 0, 1])


def test_nothing_to_read_is_an_error():
    with pytest.raises(ValueError, match="0 samples; expected at least one"):
        Sampler(0)


def test_a_position_in_other_data_is_an_error():
    with pytest.raises(ValueError, match=r"after sample 90 .* has 50; expected the data that the run began with"):
        Sampler(50).take(Position(seed=0, consumed=90), 1)
