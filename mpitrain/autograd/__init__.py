"""Define-by-run differentiation with input and weight gradients apart."""

from mpitrain.autograd.backward import WeightWork, backward, run_weights
from mpitrain.autograd.context import Calls, Context
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.autograd.transforms import checkpoint, no_grad

__all__ = ["Calls", "Context", "Op", "Tensor", "Weight", "WeightWork", "backward", "checkpoint", "no_grad", "run_weights"]
