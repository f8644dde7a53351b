"""Layer norm and RMS norm over the last dim."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.bounds import NotNegative, checked
from mpitrain.kernels import linear, norm


@checked
def layer_norm(x: Tensor, weight: Weight, bias: Weight, *, eps: NotNegative) -> Tensor:
    """Rows of mean 0 and variance 1, scaled and shifted (Ba et al. 2016)."""
    return _LayerNorm(eps)(x, weights=(weight, bias))


@checked
def rms_norm(x: Tensor, weight: Weight, *, eps: NotNegative) -> Tensor:
    """Rows of mean square 1, scaled (Zhang and Sennrich 2019)."""
    return _RMSNorm(eps)(x, weights=(weight,))


class _LayerNorm(Op):
    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        x = _checked("a layer norm", x, weight, bias)
        self.kernels = self.context.kernels.taking(x.dtype)
        y, self.x_hat, self.inverse = self.kernels.layer_norm(x, weight, bias, self.eps)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if not self.wanted[0]:
            return (None,)
        return (self.kernels.layer_norm_grad(dy, self.x_hat, self.inverse, self.weights[0].data),)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        d_weight, d_bias = out
        if d_weight is None:
            linear.linear_bias_grad(dy, d_bias)
        elif d_bias is None:
            norm.scale_grad(dy, self.x_hat, d_weight)
        else:
            self.kernels.scale_shift_grad(dy, self.x_hat, d_weight, d_bias)


class _RMSNorm(Op):
    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, weight: Array) -> Array:
        x = _checked("an RMS norm", x, weight)
        y, self.x_hat, self.inverse = norm.rms_norm(x, weight, self.eps)
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if not self.wanted[0]:
            return (None,)
        return (norm.rms_norm_grad(dy, self.x_hat, self.inverse, self.weights[0].data),)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        norm.scale_grad(dy, self.x_hat, out[0])


def _checked(what: str, x: Array, *weights: Array) -> Array:
    """`x` in the type of the weights, which are vectors as long as its last dim."""
    checks.last_dim(what, x, weights[0].size)
    checks.vectors(what, weights[0].size, *weights)
    return checks.like_weight(what, x, weights[0])
