"""Normalisation over the last dim."""

from mpitrain.kernels.norm.twin import layer_norm, layer_norm_grad, rms_norm, rms_norm_grad, scale_grad, scale_shift_grad

__all__ = ["layer_norm", "layer_norm_grad", "rms_norm", "rms_norm_grad", "scale_grad", "scale_shift_grad"]
