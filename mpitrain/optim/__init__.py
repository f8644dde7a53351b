"""Optimizers, learning-rate schedules, clipping."""

from mpitrain.optim.clip import clip_scale, squared_norms
from mpitrain.optim.optimizer import LAMB, SGD, Adam, AdamW, Group, Optimizer
from mpitrain.optim.schedule import WSD, Constant, Cosine, LearningRate, Linear
from mpitrain.optim.state import OptimizerState

__all__ = [
    "LAMB",
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
    "squared_norms",
]
