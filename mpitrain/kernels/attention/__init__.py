"""Causal attention."""

from mpitrain.kernels.attention.blocks import TWIN, Parts, attention, attention_grad

__all__ = ["TWIN", "Parts", "attention", "attention_grad"]
