"""Batch norm over the replicas: the microbatches i of all replicas are normalised as the one that they are parts of.

Invariant: every sum over images and pixels, forward and backward, goes over all replicas and is divided by their true count, so
the layer's function depends on the joined microbatch alone, not on how it was dealt.  Weight and bias collect this replica's
part of their gradients, as other weights do.  Replicas run the same actions in the same order, and the messages have a
communicator of their own, so they are never taken for a bucket's.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd import Op, Tensor
from mpitrain.comm import Communicator
from mpitrain.kernels import batch_norm as kernels
from mpitrain.kernels import convolution
from mpitrain.nn import BatchNorm2d, Module


def sync_batch_norm(module: Module, comm: Communicator) -> None:
    """Let every `BatchNorm2d` inside of `module` normalise over the ranks of `comm`, with the parameters that it has."""
    for _, parent in list(module.modules()):
        for name, value in vars(parent).items():
            if isinstance(value, BatchNorm2d):
                setattr(parent, name, SyncBatchNorm2d(value, comm))
            elif isinstance(value, (list, tuple)):
                synced = [SyncBatchNorm2d(item, comm) if isinstance(item, BatchNorm2d) else item for item in value]
                setattr(parent, name, type(value)(synced))


class SyncBatchNorm2d(Module):
    """`norm` with moments over the ranks of `comm`, in training; each has a microbatch of its own, of any size."""

    def __init__(self, norm: BatchNorm2d, comm: Communicator) -> None:
        self.name, self.norm, self.comm = norm.name, norm, comm

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape.  `ValueError` on all ranks if a channel has one value only."""
        norm = self.norm
        if not x.context.train:
            return norm(x)
        op = _SyncBatchNorm(norm.eps, self.comm)
        y = op(x, weights=(norm.weight, norm.bias))
        if op.count < 2:
            raise ValueError(
                f"batch norm {self.name!r} sees one value of each channel over all replicas (shape {x.shape}); expected two or "
                "more: use larger microbatches or larger images"
            )
        if x.context.record:
            norm.running_mean.observe(op.mean, x.shape[0])
            norm.running_variance.observe(op.variance * (op.count / (op.count - 1)), x.shape[0])
        return y


class _SyncBatchNorm(Op):
    def __init__(self, eps: float, comm: Communicator) -> None:
        self.eps, self.comm = eps, comm

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        mean, variance, self.count = joined_moments(*kernels.moments(x), x.size // x.shape[1], self.comm)
        self.mean, self.variance = mean.astype(x.dtype), variance.astype(x.dtype)
        y, self.x_hat, self.inverse = kernels.batch_norm(x, weight, bias, self.mean, self.variance, self.eps)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
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
        kernels.scale_grad(dy, self.x_hat, out[0])
        convolution.convolution_bias_grad(dy, out[1])


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
