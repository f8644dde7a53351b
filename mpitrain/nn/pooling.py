"""Pooling as layers, and `Flatten`, which follows them."""

from __future__ import annotations

from mpitrain.autograd import Tensor, ops
from mpitrain.bounds import Count, NotNegativeInt, checked
from mpitrain.nn.module import Module


class MaxPool2d(Module):
    """The largest value in each window of `size` x `size`, `stride` (by default `size`) apart."""

    @checked
    def __init__(self, size: Count, *, stride: Count | None = None, padding: NotNegativeInt = 0) -> None:
        self.window, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, (h + 2 padding - size) // stride + 1, the same of w)."""
        return ops.max_pool(x, self.window, stride=self.stride, padding=self.padding)


class AvgPool2d(Module):
    """The mean over each window of `size` x `size`, `stride` (by default `size`) apart; padding counts as zeros."""

    @checked
    def __init__(self, size: Count, *, stride: Count | None = None, padding: NotNegativeInt = 0) -> None:
        self.window, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, (h + 2 padding - size) // stride + 1, the same of w)."""
        return ops.average_pool(x, self.window, stride=self.stride, padding=self.padding)


class GlobalAvgPool(Module):
    """The mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c)."""
        return ops.mean(x, (2, 3))


class Flatten(Module):
    """Each sample as one row."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, values a sample)."""
        return ops.reshape(x, (len(x.data), -1))
