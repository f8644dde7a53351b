"""Families of Hugging Face models, each a table that reading and writing share."""

from mpitrain.checkpoint.families.family import Family, Tensors
from mpitrain.checkpoint.families.gpt2 import GPT2
from mpitrain.checkpoint.families.llama import LLAMA, MISTRAL, PHI3, QWEN2, QWEN3

#: By the `model_type` of config.json; a model that was not read from a folder is written as the first that can hold it.
FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, PHI3)}

__all__ = ["FAMILIES", "Family", "Tensors"]
