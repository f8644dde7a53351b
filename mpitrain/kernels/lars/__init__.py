"""One step of LARS."""

from mpitrain.kernels.lars.twin import lars

__all__ = ["lars"]
