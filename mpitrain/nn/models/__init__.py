"""Models."""

from mpitrain.nn.models.gpt import GPT
from mpitrain.nn.models.llama import Llama
from mpitrain.nn.models.mlp import MLP
from mpitrain.nn.models.resnet import ResNet

__all__ = [
    "GPT",
    "MLP",
    "Llama",
    "ResNet",
]
