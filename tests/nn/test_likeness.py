"""Modules are alike if nothing but names and the values of parameters tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.nn.init import ONES
from mpitrain.nn.likeness import likeness


def test_the_blocks_of_a_transformer_are_alike_and_its_ends_are_not():
    model = mt.nn.models.GPT(width=16, depth=4, heads=2, vocab=31, context=8)
    kinds = [likeness(layer) for layer in model.layers]
    assert len(set(kinds)) == 3
    assert len(set(kinds[1:5])) == 1
    assert likeness(model.cut([(1, 2)])[0].layers[0]) == kinds[1]


class Holds(mt.nn.Module):
    def __init__(self, setting):
        self.setting = setting


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (mt.nn.Linear(3, 4), mt.nn.Linear(3, 4), True),
        (mt.nn.Linear(3, 4), mt.nn.Linear(4, 3), False),
        (mt.nn.Dropout(0.1), mt.nn.Dropout(0.2), False),
        (mt.nn.Conv2d(2, 2, 3, stride=1), mt.nn.Conv2d(2, 2, 3, stride=2), False),
        (Holds((1, 2)), Holds((1, 2)), True),
        (Holds(len), Holds(len), True),
        (Holds(len), Holds(max), False),
        (Holds(np.ones(2)), Holds(np.ones(2)), False),
        (Holds([1]), Holds([1]), True),
        (Holds([1]), Holds((1,)), False),
        (Holds([mt.nn.Linear(3, 4), 1]), Holds([mt.nn.Linear(3, 4), 1]), True),
        (Holds([mt.nn.Linear(3, 4), 1]), Holds([mt.nn.Linear(3, 4), 2]), False),
        (Holds({"a": mt.nn.Linear(3, 4)}), Holds({"a": mt.nn.Linear(4, 3)}), False),
        (Holds({"a": mt.nn.Parameter((2,), ONES)}), Holds({"a": mt.nn.Parameter((2,), ONES)}), True),
        (Holds({"a": mt.nn.Parameter((2,), ONES)}), Holds({"a": mt.nn.Parameter((3,), ONES)}), False),
    ],
)
def test_what_tells_modules_apart(a, b, alike):
    assert (likeness(a) == likeness(b)) is alike


def test_a_model_with_layers_of_different_stride_is_planned_right():
    from mpitrain.plan.activations import saved_bytes

    layers = [mt.nn.Conv2d(2, 2, 3, stride=1, padding=1), mt.nn.Conv2d(2, 2, 3, stride=2, padding=1), mt.nn.ReLU()]
    found = saved_bytes(mt.nn.Model(layers, mt.nn.MeanSquaredError()), np.zeros((1, 2, 8, 8), np.float32))
    assert found[2] == 2 * 4 * 4  # the sign of each element, in a byte
