"""Causal attention."""

from mpitrain.kernels.attention.twin import attention, attention_grad

__all__ = ["attention", "attention_grad"]
