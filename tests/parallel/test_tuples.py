"""Layers may hand on several tensors: what skips a stage travels along, integers without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
from layout_cases import Case, check, vectors

import mpitrain as mt
from mpitrain.autograd import Tensor


class Split(mt.nn.Module):
    """x to (a linear map of x, x itself, which entries are positive)."""

    def __init__(self, width):
        self.linear = mt.nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x), x, Tensor((x.data > 0).astype(np.int64), context=x.context)


class Middle(mt.nn.Module):
    """Works on the first and hands the others on."""

    def __init__(self, width):
        self.linear = mt.nn.Linear(width, width)

    def forward(self, parts):
        y, skip, mask = parts
        return self.linear(y) + skip, skip * 0.5, mask


class Join(mt.nn.Module):
    """Uses all three."""

    def __init__(self, width, classes):
        self.linear = mt.nn.Linear(width, classes)

    def forward(self, parts):
        y, skip, mask = parts
        return self.linear(y * Tensor(mask.data.astype(y.data.dtype), context=y.context) + skip)


def model():
    layers = [mt.nn.Linear(12, 9), Split(9), Middle(9), Middle(9), Join(9, 7)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


@pytest.mark.parametrize(("dp", "pp", "schedule"), [(1, 2, "1f1b"), (1, 5, "gpipe"), (2, 3, "1f1b"), (2, 4, "zb_h1")])
def test_equals_one_rank(dp, pp, schedule):
    case = Case(model, vectors, dp, pp, 2, schedule, 8, "float64")
    check(mt.comm.local(case.size), case)


def test_too_many_tensors_are_refused():
    class Many(mt.nn.Module):
        def forward(self, x):
            return (x,) * 9

    class First(mt.nn.Module):
        def forward(self, parts):
            return parts[0]

    many = mt.nn.Model([mt.nn.Linear(12, 9), Many(), First(), mt.nn.Linear(9, 7)], mt.nn.CrossEntropy())
    mesh = mt.Mesh(mt.comm.local(4), mt.Layout(pp=4))
    with pytest.raises(ValueError, match="9 tensors cross into stage 2; expected at most 8"):
        mt.Trainer(many, mt.optim.SGD(lr=1), vectors(), mesh=mesh).fit(1)
