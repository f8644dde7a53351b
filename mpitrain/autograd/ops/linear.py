"""The linear map with a weight of shape (outputs, inputs) and, if given, a bias."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.kernels import linear as kernels


def linear(x: Tensor, weight: Weight, bias: Weight | None = None) -> Tensor:
    """The product x Wᵀ + b, for x of shape (..., inputs)."""
    return _Linear()(x, weights=(weight,) if bias is None else (weight, bias))


class _Linear(Op):
    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        outputs, inputs = weight.shape
        checks.last_dim("a linear layer", x, inputs)
        if bias is not None:
            checks.vectors("a linear layer", outputs, bias)
        x = checks.like_weight("a linear layer", x, weight)
        self.x = x if self.weights[0].trained else None
        return kernels.linear(x, weight, bias)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.linear_input_grad(dy, self.weights[0].data) if self.wanted[0] else None,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        if out[0] is not None:
            kernels.linear_weight_grad(dy, self.x, out[0])
        if len(out) > 1 and out[1] is not None:
            kernels.linear_bias_grad(dy, out[1])
