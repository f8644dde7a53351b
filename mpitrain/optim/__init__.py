"""Optimizers, learning-rate schedules, clipping."""

from mpitrain.optim.clip import clip_scale, clip_values, squared_norms, squared_row_norms
from mpitrain.optim.optimizer import LAMB, LARS, SGD, Adam, AdamW, Group, Optimizer
from mpitrain.optim.scaling import SCALINGS, scaled_lr
from mpitrain.optim.schedule import WSD, Constant, Cosine, LearningRate, Linear
from mpitrain.optim.state import OptimizerState

__all__ = [
    "LAMB",
    "LARS",
    "SCALINGS",
    "SGD",
    "WSD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Group",
    "LearningRate",
    "Linear",
    "Optimizer",
    "OptimizerState",
    "clip_scale",
    "clip_values",
    "scaled_lr",
    "squared_norms",
    "squared_row_norms",
]
