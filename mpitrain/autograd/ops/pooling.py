"""Pooling over images (n, c, h, w)."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.bounds import Count, NotNegativeInt, checked
from mpitrain.kernels import pooling as kernels
from mpitrain.kernels.convolution import Windows


@checked
def max_pool(x: Tensor, size: Count, *, stride: Count | None = None, padding: NotNegativeInt = 0) -> Tensor:
    """The largest value in each `size` x `size` window, `stride` (by default `size`) apart.

    Where several are the largest, the gradient goes to the first.
    """
    return _MaxPool(_windows(size, stride, padding))(x)


@checked
def average_pool(x: Tensor, size: Count, *, stride: Count | None = None, padding: NotNegativeInt = 0) -> Tensor:
    """The mean over each `size` x `size` window, `stride` (by default `size`) apart; padding counts as zeros."""
    return _AveragePool(_windows(size, stride, padding))(x)


def _windows(size: int, stride: int | None, padding: int) -> Windows:
    if 2 * padding > size:
        raise ValueError(
            f"pooling over {size} x {size} has padding {padding}; expected at most half, so no window sees an edge alone"
        )
    return Windows(height=size, width=size, stride=size if stride is None else stride, padding=padding)


class _MaxPool(Op):
    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def forward(self, x: Array) -> Array:
        checks.images("pooling", x)
        self.shape = x.shape
        y, self.where = kernels.max_pool(checks.real(x, self.context.dtype), self.windows)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.max_pool_grad(dy, self.where, self.shape, self.windows),)


class _AveragePool(Op):
    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def forward(self, x: Array) -> Array:
        checks.images("pooling", x)
        self.shape = x.shape
        return kernels.average_pool(checks.real(x, self.context.dtype), self.windows)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.average_pool_grad(dy, self.shape, self.windows),)
