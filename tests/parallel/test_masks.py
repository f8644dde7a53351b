"""Dropout masks on one rank and on many: a layer that is applied twice, or stands twice in a model, drops other numbers each
time, and the same ones however the model is cut, ordered and recomputed.
"""

from __future__ import annotations

import numpy as np
import pytest
from layout_cases import TOLERANCE, Case, train, vectors

import mpitrain as mt
from mpitrain.autograd import checkpoint


class Block(mt.nn.Module):
    """Half of x + 0.2 drop(f(x)), and again, with one `drop`."""

    def __init__(self, drop, recompute):
        self.drop, self.recompute = drop, recompute
        self.linear = mt.nn.Linear(12, 12)

    def forward(self, x):
        # One half inside of the other, so that what is recomputed recomputes.
        return self.wrapped(lambda x: self.wrapped(self.half)(self.half(x)))(x)

    def half(self, x):
        return 0.5 * (x + 0.2 * self.drop(self.linear(x)))

    def wrapped(self, function):
        return checkpoint(function) if self.recompute else function


def model(*, recompute=False):
    drop = mt.nn.Dropout(0.5)
    first, second = Block(drop, recompute), Block(drop, recompute)
    return mt.nn.Model([drop, first, second, first, drop, mt.nn.Linear(12, 7)], mt.nn.CrossEntropy())


def run(case):
    return train(mt.comm.local(case.size), case, case.layout, case.microbatches)


@pytest.fixture(scope="module")
def alone():
    return run(Case(model, vectors, 1, 1, 1, "gpipe", 8, "float64"))


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    ("dp", "pp", "schedule"), [(1, 1, "gpipe"), (2, 3, "1f1b"), (1, 2, "zb_v"), (1, 3, "interleaved"), (1, 6, "zb_h1")]
)
def test_masks_are_those_of_one_rank(alone, recompute, dp, pp, schedule):
    many = run(Case(lambda: model(recompute=recompute), vectors, dp, pp, 2, schedule, 8, "float64"))
    np.testing.assert_allclose(many.losses, alone.losses, rtol=TOLERANCE["float64"])
    for name, w in alone.weights.items():
        np.testing.assert_allclose(many.weights[name], w, rtol=1e-8, atol=1e-12, err_msg=name)


def test_a_layer_that_stands_twice_in_a_model_drops_others_the_second_time():
    drop = mt.nn.Dropout(0.5)
    context = mt.autograd.Context(samples=(0, 1))
    x = mt.autograd.Tensor(np.ones((2, 500)), context=context)
    y = mt.nn.Model([drop, drop], mt.nn.MeanSquaredError())(x).data
    assert abs((y == 0).mean() - 0.75) < 0.05
