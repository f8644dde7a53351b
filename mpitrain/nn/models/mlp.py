"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mpitrain.bounds import Count, checked
from mpitrain.nn.activation import ReLU
from mpitrain.nn.init import he_normal
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy
from mpitrain.nn.model import Model
from mpitrain.nn.module import Module
from mpitrain.nn.pooling import Flatten


class MLP(Model):
    """Logits (n, sizes[-1]) of samples with sizes[0] values each, of any shape: linear layers with a ReLU between each two."""

    @checked
    def __init__(self, *, sizes: Sequence[Count] = (64, 128, 10)) -> None:
        layers: list[Module] = [Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [Linear(inputs, outputs, init=he_normal(inputs)), ReLU()]
        super().__init__(layers[:-1], CrossEntropy(), sizes=tuple(sizes))
