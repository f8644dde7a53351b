"""Modules, parameters, layers, losses."""

from mpitrain.nn.activation import GELU, ReLU, SiLU, SwiGLU
from mpitrain.nn.attention import Attention
from mpitrain.nn.batch_norm import BatchNorm2d
from mpitrain.nn.convolution import Conv2d
from mpitrain.nn.dropout import Dropout
from mpitrain.nn.embedding import Embedding
from mpitrain.nn.init import Box
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy, MeanSquaredError
from mpitrain.nn.model import Classification, Loss, Model, Sequential, Source, Stage, handed_on, tensors_of
from mpitrain.nn.module import Module, NotFiniteError
from mpitrain.nn.norm import LayerNorm, RMSNorm
from mpitrain.nn.parameter import Parameter, Statistic
from mpitrain.nn.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d
from mpitrain.nn.rotary import Rotary

__all__ = [
    "GELU",
    "Attention",
    "AvgPool2d",
    "BatchNorm2d",
    "Box",
    "Classification",
    "Conv2d",
    "CrossEntropy",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "LayerNorm",
    "Linear",
    "Loss",
    "MaxPool2d",
    "MeanSquaredError",
    "Model",
    "Module",
    "NotFiniteError",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Rotary",
    "Sequential",
    "SiLU",
    "Source",
    "Stage",
    "Statistic",
    "SwiGLU",
    "handed_on",
    "tensors_of",
]
