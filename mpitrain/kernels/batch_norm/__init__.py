"""Batch normalisation."""

from mpitrain.kernels.batch_norm.twin import batch_norm, batch_norm_grad, moments, scale_grad

__all__ = ["batch_norm", "batch_norm_grad", "moments", "scale_grad"]
