"""Models."""

from mpitrain.nn.models.gpt import GPT
from mpitrain.nn.models.llama import Llama

__all__ = [
    "GPT",
    "Llama",
]
