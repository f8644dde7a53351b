"""Activations as layers."""

from __future__ import annotations

from mpitrain.autograd import Tensor, ops
from mpitrain.nn.module import Module


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return ops.relu(x)


class SiLU(Module):
    """The product of x and its logistic function (Elfwing et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return ops.silu(x)


class GELU(Module):
    """x Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel 2016); `tanh` asks for their approximation, GPT-2's."""

    def __init__(self, *, tanh: bool = False) -> None:
        self.tanh = tanh

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return ops.gelu_tanh(x) if self.tanh else ops.gelu_erf(x)


class SwiGLU(Module):
    """silu(gate) * up for x = [gate | up] (Shazeer 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2m) to (..., m)."""
        return ops.swiglu(x)
