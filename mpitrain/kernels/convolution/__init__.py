"""Convolution over images, and the windows that it shares with pooling."""

from mpitrain.kernels.convolution.twin import (
    convolution,
    convolution_bias_grad,
    convolution_input_grad,
    convolution_weight_grad,
)
from mpitrain.kernels.convolution.windows import Windows

__all__ = ["Windows", "convolution", "convolution_bias_grad", "convolution_input_grad", "convolution_weight_grad"]
