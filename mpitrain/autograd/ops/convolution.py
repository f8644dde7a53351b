"""Convolution over images (n, c, h, w)."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.bounds import Count, NotNegativeInt, checked
from mpitrain.kernels import convolution as kernels


@checked
def convolution(
    x: Tensor, weight: Weight, bias: Weight | None = None, *, stride: Count = 1, padding: NotNegativeInt = 0
) -> Tensor:
    """Cross-correlation of x (n, c, h, w) with weight (o, c, a, b), plus a bias (o,).

    The output is (n, o, (h + 2 padding - a) // stride + 1, the same of w and b).  `ValueError` if the window does not fit.
    """
    return _Convolution(stride, padding)(x, weights=(weight,) if bias is None else (weight, bias))


class _Convolution(Op):
    def __init__(self, stride: int, padding: int) -> None:
        self.stride, self.padding = stride, padding

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        outputs, inputs, height, width = weight.shape
        checks.images("a convolution", x, inputs)
        if bias is not None:
            checks.vectors("a convolution", outputs, bias)
        x = checks.like_weight("a convolution", x, weight)
        self.windows = kernels.Windows(height=height, width=width, stride=self.stride, padding=self.padding)
        self.shape, self.x = x.shape, x if self.weights[0].trained else None
        return kernels.convolution(x, weight, bias, self.windows)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if not self.wanted[0]:
            return (None,)
        return (kernels.convolution_input_grad(dy, self.weights[0].data, self.shape, self.windows),)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        if out[0] is not None:
            kernels.convolution_weight_grad(dy, self.x, out[0], self.windows)
        if len(out) > 1 and out[1] is not None:
            kernels.convolution_bias_grad(dy, out[1])
