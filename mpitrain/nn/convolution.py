"""The convolution layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor, ops
from mpitrain.nn.init import ZEROS, Initializer, lecun_uniform
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class Conv2d(Module):
    """Cross-correlation of images with a weight of shape (outputs, inputs, size, size), plus a bias.

    `init` draws the weight (by default uniform in ±1/sqrt(inputs size²)), the bias starts at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        init: Initializer | None = None,
    ) -> None:
        self.stride, self.padding = stride, padding
        self.weight = Parameter((outputs, inputs, size, size), init or lecun_uniform(inputs * size * size))
        self.bias = Parameter((outputs,), ZEROS) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, (h + 2 padding - size) // stride + 1, the same of w)."""
        inputs = self.weight.shape[1]
        if len(x.shape) != 4 or x.shape[1] != inputs:
            raise ValueError(
                f"a convolution of {inputs} channels is given images of shape {tuple(x.shape)}; expected (n, {inputs}, h, w): "
                "change the layer's channels, or the data's shape"
            )
        return ops.convolution(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
