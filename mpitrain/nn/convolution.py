"""The convolution layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor, ops
from mpitrain.bounds import Count, NotNegativeInt, checked
from mpitrain.nn.init import ZEROS, Initializer, lecun_uniform
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class Conv2d(Module):
    """Cross-correlation of images with a weight of shape (outputs, inputs, size, size), plus a bias.

    `init` draws the weight (by default uniform in ±1/sqrt(inputs size²)), the bias starts at zero.
    """

    @checked
    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        size: Count,
        *,
        stride: Count = 1,
        padding: NotNegativeInt = 0,
        bias: bool = True,
        init: Initializer | None = None,
    ) -> None:
        self.stride, self.padding = stride, padding
        self.weight = Parameter((outputs, inputs, size, size), init or lecun_uniform(inputs * size * size))
        self.bias = Parameter((outputs,), ZEROS) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, (h + 2 padding - size) // stride + 1, the same of w)."""
        return ops.convolution(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
