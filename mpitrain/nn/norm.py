"""Layer norm and RMS norm."""

from __future__ import annotations

from mpitrain.autograd import Tensor
from mpitrain.autograd.ops import layer_norm, rms_norm
from mpitrain.bounds import Count, NotNegative, checked
from mpitrain.nn.init import ONES, ZEROS
from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


class LayerNorm(Module):
    """Mean 0 and variance 1 over the last dim, then scale and shift (Ba et al. 2016)."""

    @checked
    def __init__(self, width: Count, *, eps: NotNegative = 1e-5) -> None:
        self.weight = Parameter((width,), ONES)
        self.bias = Parameter((width,), ZEROS)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """Mean square 1 over the last dim, then scale (Zhang and Sennrich 2019)."""

    @checked
    def __init__(self, width: Count, *, eps: NotNegative = 1e-5) -> None:
        self.weight = Parameter((width,), ONES)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return rms_norm(x, self.weight, eps=self.eps)
