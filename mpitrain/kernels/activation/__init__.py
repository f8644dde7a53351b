"""Activations."""

from mpitrain.kernels.activation.twin import erf, gelu_erf, gelu_tanh, relu, silu, swiglu, swiglu_grad

__all__ = ["erf", "gelu_erf", "gelu_tanh", "relu", "silu", "swiglu", "swiglu_grad"]
