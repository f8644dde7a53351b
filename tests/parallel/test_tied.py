"""Tied weights: which ranks share them, and sums in one order on every rank."""

from __future__ import annotations

import numpy as np

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.nn import Parameter
from mpitrain.nn.init import ZEROS
from mpitrain.parallel import TiedWeights, holders
from mpitrain.program import Action, Kind


def parameter(name, grad):
    p = Parameter((2,), ZEROS)
    p.name = name
    p.materialize(Arrays(), np.dtype(np.float64), seed=0)
    p.settled_grad()[...] = grad
    return p


def test_holders_are_ranks_and_not_stages():
    model = mt.nn.models.GPT(width=8, depth=2, heads=2, vocab=5, context=4)
    ranges = [(i, i + 1) for i in range(4)]
    loop, fold = dict(enumerate([0, 1, 0, 1])), dict(enumerate([0, 1, 1, 0]))
    (name,) = holders(model, ranges, loop)
    assert holders(model, ranges, loop) == {name: (0, 1)}
    assert holders(model, ranges, fold) == {}, "both ends are on rank 0 and share the array"


def test_two_shared_weights_that_ranks_come_to_in_opposite_orders():
    shared = {"a": (0, 1), "b": (0, 1)}

    def sums(comm):
        a, b = parameter("a", comm.rank + 1), parameter("b", 10 * (comm.rank + 1))
        stages = {0: [a], 2: [b]} if comm.rank == 0 else {1: [b], 3: [a]}
        tied = TiedWeights(mesh.place(comm), shared, stages)
        tied.tie(Action(Kind.TIE, min(stages)))
        return a.settled_grad()[0], b.settled_grad()[0]

    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(pp=2))
    assert mesh.world.run(sums) == [(3, 30), (3, 30)]
