"""Softmax and cross entropy."""

from mpitrain.kernels.cross_entropy.twin import cross_entropy

__all__ = ["cross_entropy"]
