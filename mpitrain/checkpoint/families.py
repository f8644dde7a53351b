"""Families of Hugging Face models: which tensor of a folder is which parameter of ours, and which setting which.

Invariant: each stands once, in a table that reading and writing share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpitrain.nn import Model, Parameter
from mpitrain.nn.models import GPT, Llama


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """The tensors of a folder that make one parameter of ours: joined along dim 0, after a transpose if theirs is (in, out).

    `splits` gives the rows of each, as a function of the model's settings; `{i}` in a name is the block's number, from 0.
    """

    names: tuple[str, ...]
    transposed: bool = False
    splits: Callable[[Mapping[str, Any]], tuple[int, ...]] | None = None

    def rows(self, parameter: Parameter, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """How many rows of the parameter each tensor holds."""
        return self.splits(settings) if self.splits else parameter.shape[:1]


def _one(name: str, *, transposed: bool = False) -> Tensors:
    return Tensors(names=(name,), transposed=transposed)


def _qkv_rows(settings: Mapping[str, Any]) -> tuple[int, ...]:
    head_dim = settings["width"] // settings["heads"]
    return settings["width"], settings["kv_heads"] * head_dim, settings["kv_heads"] * head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How one `model_type` of config.json and its tensors map to a model of ours.

    `settings` maps our setting to (their key, their default); `fixed` holds what config.json may say of things that our model
    has in one form only, key to (accepted values, default first); `read` first brings spellings of a config.json to one.
    A tensor's name may lack `prefix`; `ignored` are ends of names of tensors that are no weights.
    """

    model: Callable[..., Model]
    architecture: str
    settings: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, tuple[Any, ...]]
    first: Mapping[str, Tensors]
    block: Mapping[str, Tensors]
    last: Mapping[str, Tensors]
    prefix: str
    ignored: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def table(self, settings: Mapping[str, Any]) -> dict[str, Tensors]:
        """For each parameter's name, the tensors that hold it; a tied output weight is the embedding's."""
        depth = settings["depth"]
        table = {f"layers.0.{ours}": theirs for ours, theirs in self.first.items()}
        for i in range(depth):
            for ours, theirs in self.block.items():
                names = tuple(name.format(i=i) for name in theirs.names)
                table[f"layers.{i + 1}.{ours}"] = Tensors(names=names, transposed=theirs.transposed, splits=theirs.splits)
        table |= {f"layers.{depth + 1}.{ours}": theirs for ours, theirs in self.last.items()}
        if settings["tied"]:
            del table[f"layers.{depth + 1}.out.weight"]
        return table


_GPT2 = Family(
    model=GPT,
    architecture="GPT2LMHeadModel",
    settings={
        "width": ("n_embd", 768),
        "depth": ("n_layer", 12),
        "heads": ("n_head", 12),
        "vocab": ("vocab_size", 50257),
        "context": ("n_positions", 1024),
        "mlp": ("n_inner", None),
        "eps": ("layer_norm_epsilon", 1e-5),
        "tied": ("tie_word_embeddings", True),
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    first={"tokens.weight": _one("transformer.wte.weight"), "positions.weight": _one("transformer.wpe.weight")},
    block={
        "norm1.weight": _one("transformer.h.{i}.ln_1.weight"),
        "norm1.bias": _one("transformer.h.{i}.ln_1.bias"),
        "attention.qkv.weight": _one("transformer.h.{i}.attn.c_attn.weight", transposed=True),
        "attention.qkv.bias": _one("transformer.h.{i}.attn.c_attn.bias"),
        "attention.out.weight": _one("transformer.h.{i}.attn.c_proj.weight", transposed=True),
        "attention.out.bias": _one("transformer.h.{i}.attn.c_proj.bias"),
        "norm2.weight": _one("transformer.h.{i}.ln_2.weight"),
        "norm2.bias": _one("transformer.h.{i}.ln_2.bias"),
        "up.weight": _one("transformer.h.{i}.mlp.c_fc.weight", transposed=True),
        "up.bias": _one("transformer.h.{i}.mlp.c_fc.bias"),
        "down.weight": _one("transformer.h.{i}.mlp.c_proj.weight", transposed=True),
        "down.bias": _one("transformer.h.{i}.mlp.c_proj.bias"),
    },
    last={
        "norm.weight": _one("transformer.ln_f.weight"),
        "norm.bias": _one("transformer.ln_f.bias"),
        "out.weight": _one("lm_head.weight"),
    },
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks that older versions stored
)

#: Not a key of config.json: what `_read_llama` finds out about `head_dim`.
HEAD_DIM = "head_dim is hidden_size / num_attention_heads"


def _read_llama(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings under their older names, and what follows from other values filled in."""
    rope = config.get("rope_parameters") or {}
    known = dict(config) | ({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})
    if rope.get("rope_type", "default") != "default":
        known["rope_scaling"] = rope
    heads = known.get("num_attention_heads", 32)
    known["num_key_value_heads"] = known.get("num_key_value_heads") or heads
    known[HEAD_DIM] = (known.get("head_dim") or 0) in (0, known.get("hidden_size", 4096) // heads)
    return known


_LLAMA = Family(
    model=Llama,
    architecture="LlamaForCausalLM",
    settings={
        "width": ("hidden_size", 4096),
        "depth": ("num_hidden_layers", 32),
        "heads": ("num_attention_heads", 32),
        "kv_heads": ("num_key_value_heads", None),
        "vocab": ("vocab_size", 32000),
        "context": ("max_position_embeddings", 2048),
        "mlp": ("intermediate_size", 11008),
        "theta": ("rope_theta", 10000.0),
        "eps": ("rms_norm_eps", 1e-6),
        "tied": ("tie_word_embeddings", False),
    },
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "rope_scaling": (None,),
        HEAD_DIM: (True,),
    },
    first={"weight": _one("model.embed_tokens.weight")},
    block={
        "norm1.weight": _one("model.layers.{i}.input_layernorm.weight"),
        "attention.qkv.weight": Tensors(
            names=tuple(f"model.layers.{{i}}.self_attn.{part}_proj.weight" for part in "qkv"), splits=_qkv_rows
        ),
        "attention.out.weight": _one("model.layers.{i}.self_attn.o_proj.weight"),
        "norm2.weight": _one("model.layers.{i}.post_attention_layernorm.weight"),
        "gate_up.weight": Tensors(
            names=("model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"),
            splits=lambda settings: (settings["mlp"], settings["mlp"]),
        ),
        "down.weight": _one("model.layers.{i}.mlp.down_proj.weight"),
    },
    last={"norm.weight": _one("model.norm.weight"), "out.weight": _one("lm_head.weight")},
    prefix="model.",
    ignored=(".rotary_emb.inv_freq",),
    read=_read_llama,
)

#: By the `model_type` of config.json.
FAMILIES = {"gpt2": _GPT2, "llama": _LLAMA}
