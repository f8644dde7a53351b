"""One step of LAMB."""

from mpitrain.kernels.lamb.twin import lamb

__all__ = ["lamb"]
