"""Dropout."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import dropout
from mpitrain.bounds import Rate, checked
from mpitrain.nn.module import Module


class Dropout(Module):
    """Zero each element with probability `rate` in training; each call on a sample has its own mask."""

    @checked
    def __init__(self, rate: Rate) -> None:
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return dropout(x, self.rate, name=self.name)
