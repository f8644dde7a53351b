"""The section `[model]`: one class for each `kind`.

Invariant: the keys are the constructor's arguments, so `build` passes them on as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mpitrain.checkpoint.huggingface import from_pretrained
from mpitrain.config.section import Section
from mpitrain.nn import Model
from mpitrain.nn.models import GPT, MLP, Llama, ResNet


class GPTSection(Section):
    """GPT-2."""

    describes = (GPT,)
    kind: Literal["gpt"]
    width: int
    """Width of the residual stream, a multiple of `heads`."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads."""
    vocab: int
    """Tokens that there are."""
    context: int
    """Longest sequence."""
    dropout: float = 0.0
    """Part of the activations that training drops."""
    mlp: int | None = None
    """Hidden width, by default 4 x width."""
    tied: bool = True
    """Whether the output weight is the embedding's."""
    eps: float = 1e-5
    """What the norms add to the variance."""
    recompute: bool = False
    """Whether blocks keep only their input for backward."""

    def build(self) -> Model:
        """The model."""
        return GPT(**self.settings())


class LlamaSection(Section):
    """Llama and its relatives: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    describes = (Llama,)
    kind: Literal["llama"]
    width: int
    """Width of the residual stream, a multiple of `heads` unless `head_dim` is given."""
    depth: int
    """Number of blocks."""
    heads: int
    """Query heads, a multiple of `kv_heads`."""
    kv_heads: int | None = None
    """Key and value heads, by default as many as `heads`."""
    head_dim: int | None = None
    """Width of a head, by default width / heads."""
    vocab: int
    """Tokens that there are."""
    context: int
    """Longest sequence."""
    mlp: int
    """Hidden width."""
    theta: float = 10000.0
    """Base of the rotary angles."""
    rope: dict[str, Any] | None = None
    """Scaling of the rotary angles: `rope_type` and its keys, as in the `rope_scaling` of a config.json."""
    window: int | None = None
    """How many tokens one sees, itself included, by default all before it."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases."""
    out_bias: bool = False
    """Whether attention's output product has a bias."""
    mlp_bias: bool = False
    """Whether the products of SwiGLU have biases."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normed."""
    tied: bool = False
    """Whether the output weight is the embedding's."""
    padding: int | None = None
    """A token whose vector is not trained as an input."""
    eps: float = 1e-5
    """What the norms add to the mean square."""
    recompute: bool = False
    """Whether blocks keep only their input for backward."""

    def build(self) -> Model:
        """The model."""
        return Llama(**self.settings())


class MLPSection(Section):
    """Linear layers with ReLU between them."""

    describes = (MLP,)
    kind: Literal["mlp"]
    sizes: Annotated[tuple[int, ...], Field(min_length=2)]
    """Widths, from the input's to the number of classes."""

    def build(self) -> Model:
        """The model."""
        return MLP(**self.settings())


class ResNetSection(Section):
    """A residual network for small images."""

    describes = (ResNet,)
    kind: Literal["resnet"]
    depth: Annotated[tuple[int, ...], Field(min_length=1)]
    """Residual blocks of each group."""
    width: int
    """Channels of the first group; each further one has twice as many."""
    channels: int
    """Channels of an image."""
    classes: int
    """Number of classes."""

    def build(self) -> Model:
        """The model."""
        return ResNet(**self.settings())


class PretrainedSection(Section):
    """A folder in Hugging Face's format: GPT-2, Llama, Mistral, Qwen2, Qwen3, Phi-3."""

    describes = (GPT,)
    kind: Literal["pretrained"]
    folder: str
    """The folder with config.json and the safetensors files."""
    dropout: float | None = None
    """Part of the activations that training drops, in a model that has dropout; none by default."""
    recompute: bool = False
    """Whether blocks keep only their input for backward."""

    def build(self) -> Model:
        """The model with its weights."""
        return from_pretrained(**{key: value for key, value in self.settings().items() if value is not None})


ModelSection = Annotated[
    GPTSection | LlamaSection | MLPSection | ResNetSection | PretrainedSection, Field(discriminator="kind")
]
