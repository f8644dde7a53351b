"""The linear layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import linear
from mpitrain.bounds import Count, checked
from mpitrain.nn.init import ZEROS, Initializer, lecun_uniform
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class Linear(Module):
    """y = x Wᵀ + b over the last dim, with a weight of shape (outputs, inputs).

    `init` draws the weight (by default uniform in ±1/sqrt(inputs)), the bias starts at zero.  A `weight` that is handed in is
    shared with its owner: an embedding's table as the output layer ties the two.
    """

    @checked
    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        *,
        bias: bool = True,
        init: Initializer | None = None,
        weight: Parameter | None = None,
    ) -> None:
        self.weight = weight or Parameter((outputs, inputs), init or lecun_uniform(inputs))
        self.bias = Parameter((outputs,), ZEROS) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs); `ValueError` for another number of inputs."""
        return linear(x, self.weight, self.bias)
