"""Batch norm over the replicas: the microbatches i of all replicas are normalised as the one that they are parts of.

Invariant: every sum over images and pixels, forward and backward, goes over all replicas and is divided by their true count, so
the layer's function depends on the joined microbatch alone, not on how it was dealt.  Weight and bias collect this replica's
part of their gradients, as other weights do.  Replicas run the same actions in the same order, and the messages have a
communicator of their own, so they are never taken for a bucket's.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd import Op, Tensor, Weight, checks
from mpitrain.autograd.ops.batch_norm import scale_shift_grad
from mpitrain.comm import Communicator
from mpitrain.kernels import batch_norm as kernels
from mpitrain.kernels import convolution
from mpitrain.nn import BatchNorm2d, Module


def sync_batch_norm(module: Module, comm: Communicator) -> None:
    """Let every `BatchNorm2d` inside of `module` normalise over the ranks of `comm`; each has a microbatch of its own, of any
    size.

    Layers stay what they are: a subclass with a `forward` of its own keeps it, and normalises jointly where that calls
    `BatchNorm2d.forward`.
    """

    def jointly(x: Tensor, weight: Weight, bias: Weight, eps: float) -> tuple[Tensor, Array, Array, float]:
        op = _SyncBatchNorm(eps, comm)
        y = op(x, weights=(weight, bias))
        return y, op.mean, op.variance, op.count

    for _, found in module.modules():
        if isinstance(found, BatchNorm2d):
            found.normalise = jointly


class _SyncBatchNorm(Op):
    def __init__(self, eps: float, comm: Communicator) -> None:
        self.eps, self.comm = eps, comm

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        x = checks.normed_images(x, weight, bias)
        mean, variance, self.count = joined_moments(*kernels.moments(x), x.size // x.shape[1], self.comm)
        self.mean, self.variance = mean.astype(x.dtype), variance.astype(x.dtype)
        y, self.x_hat, self.inverse = kernels.batch_norm(x, weight, bias, self.mean, self.variance, self.eps)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if not self.wanted[0]:
            return (None,)
        sums = namespace(dy).empty((2, dy.shape[1]), dy.dtype)
        kernels.scale_grad(dy, self.x_hat, sums[0])
        convolution.convolution_bias_grad(dy, sums[1])
        along, mean = (self.comm.allgather(sums).sum(axis=0, dtype="float64") / self.count).astype(dy.dtype)
        dx = self.x_hat * -along[:, None, None]
        dx += dy
        dx -= mean[:, None, None]
        dx *= (self.weights[0].data * self.inverse)[:, None, None]
        return (dx,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        scale_shift_grad(dy, self.x_hat, *out)


def joined_moments(mean: Array, variance: Array, count: int, comm: Communicator) -> tuple[Array, Array, float]:
    """Mean and (biased) variance of each channel, shape (c,), and the count of values, over all ranks.

    Each gives its own.  They are joined by Chan, Golub and LeVeque 1983, equation 2.1, which loses no digits to a large mean,
    in float64 and in rank order: every rank gets the same bits.
    """
    xp, channels = namespace(mean), len(mean)
    mine = xp.empty(2 * channels + 1, "float64")
    mine[:channels], mine[channels:-1], mine[-1] = mean, variance, count
    parts = comm.allgather(mine)
    means, variances, counts = parts[:, :channels], parts[:, channels:-1], parts[:, -1:]
    total = counts.sum()
    mean = (counts * means).sum(axis=0) / total
    return mean, (counts * (variances + (means - mean) ** 2)).sum(axis=0) / total, float(total)
