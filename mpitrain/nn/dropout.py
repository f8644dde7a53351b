"""Dropout."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import dropout
from mpitrain.nn.module import Module


class Dropout(Module):
    """Zero each element with probability `rate` in training; the mask depends on the layer's name and the sample's number."""

    def __init__(self, rate: float) -> None:
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"dropout rate is {rate}; expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return dropout(x, self.rate, name=self.name)
