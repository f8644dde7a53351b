"""The batch norm layer."""

from __future__ import annotations

from mpitrain.autograd import Tensor, ops
from mpitrain.nn.init import ONES, ZEROS
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter, Statistic


class BatchNorm2d(Module):
    """Channels normalised over images and pixels, then scaled and shifted (Ioffe and Szegedy 2015).

    In training each microbatch is normalised by its own moments, so another number of microbatches is another function.
    Outside it the running moments serve: averages over the steps of what their microbatches saw, the variance unbiased.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.weight, self.bias = Parameter((channels,), ONES), Parameter((channels,), ZEROS)
        self.running_mean = Statistic((channels,), ZEROS, momentum=momentum)
        self.running_variance = Statistic((channels,), ONES, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape.  `ValueError` in training if a channel has one value only."""
        if not x.context.train:
            running = self.running_mean.data, self.running_variance.data
            return ops.batch_norm(x, self.weight, self.bias, eps=self.eps, moments=running)[0]
        n, _, h, w = x.shape
        if n * h * w < 2:
            raise ValueError(
                f"batch norm {self.name!r} sees one value of each channel (shape {x.shape}); expected two or more: "
                "use larger microbatches or larger images"
            )
        y, (mean, variance) = ops.batch_norm(x, self.weight, self.bias, eps=self.eps)
        if x.context.record:
            self.running_mean.observe(mean, n)
            self.running_variance.observe(variance * (n * h * w / (n * h * w - 1)), n)
        return y
