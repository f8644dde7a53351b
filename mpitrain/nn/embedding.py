"""The embedding layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import embedding
from mpitrain.nn.init import Initializer, Normal
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class Embedding(Module):
    """A table of `rows` vectors of `width`, looked up by integers in 0 .. rows."""

    def __init__(self, rows: int, width: int, *, init: Initializer | None = None) -> None:
        self.weight = Parameter((rows, width), init or Normal(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Integers of any shape to (*shape, width)."""
        return embedding(x, self.weight)
