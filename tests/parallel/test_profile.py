"""A profile is what layers take, the same on every rank, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.parallel import profile_layers

CALLS: list[str] = []


class Counts(mt.nn.Module):
    """Notes each forward pass."""

    def __init__(self, width):
        self.inner = mt.nn.Linear(width, width)

    def forward(self, x):
        CALLS.append(self.name)
        return self.inner(x)


def profile(comm, model, rows=4, width=5):
    inputs, targets = np.ones((rows, width)), np.zeros(rows, np.int64)
    return profile_layers(comm, model, inputs, targets, mt.arrays.Arrays(), np.dtype(np.float64))


@pytest.mark.mpi(3, local=True)
def test_every_rank_gets_the_same(comm):
    found = profile(comm, mt.nn.models.MLP(sizes=(5, 8, 3)))
    numbers = np.array([[layer.forward, layer.input_grad, layer.weight_grad, layer.saved, layer.output] for layer in found])
    assert (comm.allgather(numbers) == numbers).all()
    assert (numbers[:, :3] > 0).all()
    assert [layer.output for layer in found] == [4 * width * 8 for width in (5, 8, 8, 3)]  # rows, width, bytes of a float64


def test_layers_that_are_alike_run_once_and_the_model_is_left_alone():
    model = mt.nn.Model([Counts(5) for _ in range(6)], mt.nn.CrossEntropy())
    CALLS.clear()
    found = mt.comm.local(1).run(lambda comm: profile(comm, model))[0]
    first, middle, last = "layers.0", "layers.1", "layers.5"  # the first needs no input gradient, the last has the loss
    assert [CALLS.count(name) for name in (first, middle, last)] == [4, 4, 4]
    assert len(CALLS) == 12
    assert [layer.seconds for layer in found[1:5]] == [found[1].seconds] * 4
    assert not any(hasattr(p, "data") for p in model.parameters())


def test_what_is_kept_is_a_microbatchs():
    model = mt.nn.Model([mt.nn.Linear(5, 5), mt.nn.Linear(5, 5)], mt.nn.MeanSquaredError())

    def run(comm, rows):
        x = np.ones((rows, 5))
        return profile_layers(comm, model, x, x, mt.arrays.Arrays(), np.dtype(np.float64))[0].saved

    sizes = [mt.comm.local(1).run(lambda comm, rows=rows: run(comm, rows))[0] for rows in (8, 16)]
    assert sizes == [8 * 8 * 5, 8 * 16 * 5]  # the layer's input, which is the data itself
