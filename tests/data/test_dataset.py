"""Arrays, and parts of a dataset."""

import numpy as np
import pytest

from mpitrain.data import ArrayDataset, Subset

INPUTS, TARGETS = np.arange(12, dtype=np.uint8).reshape(6, 2), np.arange(6)


def test_rows_come_in_the_order_asked_for():
    inputs, targets = ArrayDataset(INPUTS, TARGETS).batch(np.array([4, 0, 4]))
    np.testing.assert_array_equal(inputs, [[8, 9], [0, 1], [8, 9]])
    np.testing.assert_array_equal(targets, [4, 0, 4])
    assert inputs.dtype == np.uint8


def test_scaled_bytes_are_float32():
    inputs, _ = ArrayDataset(INPUTS, TARGETS, scale=1 / 255).batch(np.arange(6))
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs, INPUTS * np.float32(1 / 255))


def test_lengths_must_match():
    with pytest.raises(ValueError, match="6 inputs and 5 targets"):
        ArrayDataset(INPUTS, TARGETS[:5])


def test_a_subset_counts_from_its_start():
    part = Subset(ArrayDataset(INPUTS, TARGETS), 2, 5)
    assert len(part) == 3
    np.testing.assert_array_equal(part.batch(np.array([0, 2]))[1], [2, 4])


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 7)])
def test_a_subset_that_is_not_there_is_an_error(start, stop):
    with pytest.raises(ValueError, match=rf"samples {start} \.\. {stop} were asked for; expected some of 0 \.\. 6"):
        Subset(ArrayDataset(INPUTS, TARGETS), start, stop)
