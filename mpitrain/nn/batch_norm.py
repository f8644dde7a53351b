"""The batch norm layer."""

from __future__ import annotations

from collections.abc import Callable

from mpitrain.arrays import Array
from mpitrain.autograd import Tensor, Weight, ops
from mpitrain.bounds import Count, NotNegative, Part, checked
from mpitrain.nn.init import ONES, ZEROS
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter, Statistic

#: Normalises x (n, c, h, w) by its moments, then scales and shifts it (by weight, bias, and eps for small variances): the
#: output, mean and biased variance of each channel, and the count of values that these are taken over.
Normalise = Callable[[Tensor, Weight, Weight, float], tuple[Tensor, Array, Array, float]]


class BatchNorm2d(Module):
    """Channels normalised over images and pixels, then scaled and shifted (Ioffe and Szegedy 2015).

    In training each microbatch is normalised by its own moments, so another number of microbatches is another function.
    Outside it the running moments serve: averages over the steps of what their microbatches saw, the variance unbiased.
    """

    @checked
    def __init__(self, channels: Count, *, eps: NotNegative = 1e-5, momentum: Part = 0.1) -> None:
        self.eps = eps
        self.weight, self.bias = Parameter((channels,), ONES), Parameter((channels,), ZEROS)
        self.running_mean = Statistic((channels,), ZEROS, momentum=momentum)
        self.running_variance = Statistic((channels,), ONES, momentum=momentum)
        #: What training normalises with; `parallel.sync_batch_norm` puts the moments of all replicas here.
        self.normalise: Normalise = alone

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape.  `ValueError` in training if a channel has one value only."""
        if not x.context.train:
            running = self.running_mean.data, self.running_variance.data
            return ops.batch_norm(x, self.weight, self.bias, eps=self.eps, moments=running)[0]
        y, mean, variance, count = self.normalise(x, self.weight, self.bias, self.eps)
        if count < 2:
            raise ValueError(
                f"batch norm {self.name!r} sees one value of each channel (shape {x.shape}), over all replicas where they are "
                "normalised together; expected two or more: use larger microbatches or larger images"
            )
        if x.context.record:
            self.running_mean.observe(mean, x.shape[0])
            self.running_variance.observe(variance * (count / (count - 1)), x.shape[0])
        return y


def alone(x: Tensor, weight: Weight, bias: Weight, eps: float) -> tuple[Tensor, Array, Array, float]:
    """Normalise x by its own moments."""
    y, (mean, variance) = ops.batch_norm(x, weight, bias, eps=eps)
    n, _, h, w = x.shape
    return y, mean, variance, n * h * w
