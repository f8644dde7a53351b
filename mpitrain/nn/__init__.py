"""Modules, parameters, layers, losses."""

from mpitrain.nn.model import Loss, Model, Sequential
from mpitrain.nn.module import Module, NotFiniteError
from mpitrain.nn.parameter import Box, Parameter, Statistic

__all__ = ["Box", "Loss", "Model", "Module", "NotFiniteError", "Parameter", "Sequential", "Statistic"]
