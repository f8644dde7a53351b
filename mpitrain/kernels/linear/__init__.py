"""The linear map."""

from mpitrain.kernels.linear.twin import linear, linear_bias_grad, linear_input_grad, linear_weight_grad

__all__ = ["linear", "linear_bias_grad", "linear_input_grad", "linear_weight_grad"]
