"""One step of Adam and AdamW."""

from mpitrain.kernels.adam.twin import adam, update_moments

__all__ = ["adam", "update_moments"]
