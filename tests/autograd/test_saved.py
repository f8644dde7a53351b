"""What a graph keeps for backward, counted once and without weights."""

from __future__ import annotations

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.autograd import Context, Tensor
from mpitrain.autograd.saved import saved_bytes


def graph(layer, shape):
    layer.materialize(mt.arrays.Arrays(), np.dtype(np.float64))
    x = Tensor(np.ones(shape), context=Context(samples=tuple(range(shape[0]))), needs_grad=True)
    return saved_bytes([layer(x)], layer.parameters())


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        (mt.nn.Linear(5, 3), 4 * 5),  # its input
        (mt.nn.Sequential([mt.nn.Linear(5, 3), mt.nn.Linear(3, 2)]), 4 * 5 + 4 * 3),
        (mt.nn.Sequential([]), 0),
    ],
)
def test_a_layer_keeps_its_input(layer, numbers):
    assert 8 * numbers <= graph(layer, (4, 5)) <= 8 * numbers + 64  # what an op makes starts on a cache line


def test_an_array_that_two_ops_keep_counts_once_and_so_do_views_of_it():
    x = Tensor(np.ones((4, 6)), needs_grad=True)
    assert saved_bytes([x * x], []) == 8 * 24
    halves = [Tensor(x.data[:, :3], needs_grad=True), Tensor(x.data[:, 3:], needs_grad=True)]
    assert saved_bytes([halves[0] * halves[1]], []) == 8 * 24  # the whole that both lie in
