"""The embedding layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import embedding
from mpitrain.bounds import Count, checked
from mpitrain.nn.init import Initializer, Normal
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class Embedding(Module):
    """A table of `rows` vectors of `width`, looked up by integers in 0 .. rows.

    Looking up the row `padding` gives no gradient; a negative one counts from the end.  `ValueError` if there is no such row.
    """

    @checked
    def __init__(self, rows: Count, width: Count, *, init: Initializer | None = None, padding: int | None = None) -> None:
        if padding is not None and not -rows <= padding < rows:
            raise ValueError(f"the padding token is {padding}; expected one of the {rows} rows of the embedding, or none")
        self.weight = Parameter((rows, width), init or Normal(1.0))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Integers of any shape to (*shape, width)."""
        return embedding(x, self.weight, padding=self.padding)
