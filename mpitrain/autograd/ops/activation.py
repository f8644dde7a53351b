"""Element-wise activations: forward keeps the slope, backward multiplies by it."""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside, namespace
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.kernels import activation as kernels
from mpitrain.kernels.table import Activation


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return _Activation(kernels.relu)(x)


def silu(x: Tensor) -> Tensor:
    """The product of x and its logistic function."""
    return _Activation(kernels.silu)(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by the tanh approximation, as in GPT-2."""
    return _Activation(x.context.kernels.taking(x.data.dtype).gelu_tanh)(x)


def gelu_erf(x: Tensor) -> Tensor:
    """GELU by the error function."""
    return _Activation(kernels.gelu_erf)(x)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for x = [gate | up] of shape (..., 2m)."""
    return _SwiGLU()(x)


class _Activation(Op):
    slope: Array

    def __init__(self, kernel: Activation) -> None:
        self.kernel = kernel

    def forward(self, x: Array) -> Array:
        x = checks.real(x, self.context.dtype)
        y, self.slope = self.kernel(x, slope=self.context.record and self.wanted[0])
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        out = self.slope if self.slope.dtype == dy.dtype else empty_beside(dy)  # where it is not bool, memory at hand
        return (namespace(dy).multiply(dy, self.slope, out=out),)


class _SwiGLU(Op):
    def forward(self, x: Array) -> Array:
        if not x.ndim or not x.shape[-1] or x.shape[-1] % 2:
            raise ValueError(f"swiglu is given shape {tuple(x.shape)}; expected a last dim of even size, half gate and half up")
        x = checks.real(x, self.context.dtype)
        y, self.slope = kernels.swiglu(x, slope=self.context.record and self.wanted[0])
        return y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.swiglu_grad(dy, self.slope),)
