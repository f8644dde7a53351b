"""One step of stochastic gradient descent."""

from mpitrain.kernels.sgd.twin import sgd

__all__ = ["sgd"]
