"""Pooling over images (n, c, h, w)."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.kernels import pooling as kernels
from mpitrain.kernels.convolution import Windows


def max_pool(x: Tensor, size: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """The largest value in each `size` x `size` window, `stride` (by default `size`) apart.

    Where several are the largest, the gradient goes to the first.
    """
    return _MaxPool(_windows(size, stride, padding))(x)


def average_pool(x: Tensor, size: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """The mean over each `size` x `size` window, `stride` (by default `size`) apart; padding counts as zeros."""
    return _AveragePool(_windows(size, stride, padding))(x)


def _windows(size: int, stride: int | None, padding: int) -> Windows:
    return Windows(height=size, width=size, stride=stride or size, padding=padding)


class _MaxPool(Op):
    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        y, self.where = kernels.max_pool(x, self.windows)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.max_pool_grad(dy, self.where, self.shape, self.windows),)


class _AveragePool(Op):
    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return kernels.average_pool(x, self.windows)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.average_pool_grad(dy, self.shape, self.windows),)
