"""Batch norm of images (n, c, h, w), with the microbatch's own statistics or with given ones."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.bounds import NotNegative, checked
from mpitrain.kernels import batch_norm as kernels
from mpitrain.kernels import convolution

#: Mean and biased variance of each channel, shape (c,).
Moments = tuple[Array, Array]


@checked
def batch_norm(
    x: Tensor, weight: Weight, bias: Weight, *, eps: NotNegative, moments: Moments | None = None
) -> tuple[Tensor, Moments]:
    """Normalise x channel by channel, scale and shift it; also returns the moments that it was normalised with.

    These are x's own, and the gradient flows through them, unless some are given (Ioffe and Szegedy 2015, section 3).
    """
    op = _BatchNorm(eps, moments)
    return op(x, weights=(weight, bias)), op.moments


class _BatchNorm(Op):
    def __init__(self, eps: float, moments: Moments | None) -> None:
        self.eps, self.given = eps, moments

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        x = checks.normed_images(x, weight, bias, *(self.given or ()))
        if not (x.size or self.given):
            raise ValueError(f"batch norm of no images (shape {tuple(x.shape)}) has no moments; expected at least one image")
        self.moments = self.given or kernels.moments(x)
        y, self.x_hat, self.inverse = kernels.batch_norm(x, weight, bias, *self.moments, self.eps)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if not self.wanted[0]:
            return (None,)
        if self.given:
            return (dy * (self.weights[0].data * self.inverse)[:, None, None],)
        return (kernels.batch_norm_grad(dy, self.x_hat, self.inverse, self.weights[0].data),)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        scale_shift_grad(dy, self.x_hat, *out)


def scale_shift_grad(dy: Array, x_hat: Array, d_weight: Array | None, d_bias: Array | None) -> None:
    """Write the gradients of scale and shift, of those that are trained."""
    if d_weight is not None:
        kernels.scale_grad(dy, x_hat, d_weight)
    if d_bias is not None:
        convolution.convolution_bias_grad(dy, d_bias)
