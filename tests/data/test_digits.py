"""The digits against scikit-learn's own."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mpitrain.data import digits


def test_each_image_is_in_one_of_the_two():
    found = load_digits()
    train, validation = digits()
    assert (len(train), len(validation)) == (1437, 360)
    inputs = np.empty((1797, 1, 8, 8), np.float32)
    targets = np.empty(1797, np.int64)
    is_validation = np.arange(1797) % 5 == 0
    inputs[~is_validation], targets[~is_validation] = train.batch(np.arange(1437))
    inputs[is_validation], targets[is_validation] = validation.batch(np.arange(360))
    np.testing.assert_array_equal(inputs[:, 0] * 16, found.images)
    np.testing.assert_array_equal(targets, found.target)
    assert inputs.min() == 0
    assert inputs.max() == 1


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"install mpitrain\[data\]"):
        digits()
