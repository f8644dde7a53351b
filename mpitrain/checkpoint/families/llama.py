"""Llama and its relatives Mistral, Qwen2, Qwen3 and Phi-3: what each says of the one model, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mpitrain.checkpoint.families.family import (
    COUNT,
    FLAG,
    INTEGER,
    NOT_NEGATIVE,
    POSITIVE,
    Family,
    Rate,
    Tensors,
    Values,
    key,
    one,
)
from mpitrain.checkpoint.families.rope import read, read_phi3, write_phi3
from mpitrain.nn.models import Llama


def _parts(name: str, *parts: str) -> tuple[str, ...]:
    return tuple("model.layers.{i}." + name.format(part=part) for part in parts)


def _qkv_rows(settings: Mapping[str, Any]) -> tuple[int, ...]:
    queries, keys = (settings[heads] * settings["head_dim"] for heads in ("heads", "kv_heads"))
    return queries, keys, keys


def _gate_up_rows(settings: Mapping[str, Any]) -> tuple[int, ...]:
    return settings["mlp"], settings["mlp"]


def _write_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same; `transformers` refuses a Llama, of all these families, whose heads do not divide its width."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if width % heads:
        raise ValueError(f"width is {width} and heads {heads}; a llama folder has heads that divide the width")
    return dict(config)


_SCALING = Values(words="an object, and all of a head to turn", fit=lambda rope: "partial_rotary_factor" not in rope)
_PHI3_SCALING = Values(
    words="an object with the rope_type 'default' or 'longrope', the two of a phi3 model",
    fit=lambda rope: rope["rope_type"] in ("default", "longrope"),
)

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    model=Llama,
    settings={
        "width": key("hidden_size", default=4096),
        "depth": key("num_hidden_layers", default=32),
        "heads": key("num_attention_heads", default=32),
        "kv_heads": key("num_key_value_heads", default=None, nullable=True),
        "head_dim": key("head_dim", default=None, nullable=True),
        "vocab": key("vocab_size", default=32000),
        "context": key("max_position_embeddings", default=2048),
        "mlp": key("intermediate_size", default=11008),
        "theta": key("rope_theta", values=POSITIVE, default=10000.0),
        "rope": key("rope_scaling", values=_SCALING, default=None, nullable=True),
        "eps": key("rms_norm_eps", values=NOT_NEGATIVE, default=1e-6),
        "tied": key("tie_word_embeddings", values=FLAG, default=False),
        "padding": key("pad_token_id", values=INTEGER, default=None, nullable=True),
        "qkv_bias": key("attention_bias", values=FLAG, default=False),
        "out_bias": key("attention_bias", values=FLAG, default=False),
        "mlp_bias": key("mlp_bias", values=FLAG, default=False),
    },
    fixed={"hidden_act": ("silu", "swish")},
    absent={"rope_interleaved": (False,)},
    rates={"attention_dropout": Rate(default=0.0)},
    harmless=frozenset({"is_llama_config", "max_sequence_length", "pretraining_tp"}),
    first={"weight": one("model.embed_tokens.weight")},
    block={
        "norm1.weight": one("model.layers.{i}.input_layernorm.weight"),
        "attention.qkv.weight": Tensors(names=_parts("self_attn.{part}_proj.weight", "q", "k", "v"), splits=_qkv_rows),
        "attention.qkv.bias": Tensors(names=_parts("self_attn.{part}_proj.bias", "q", "k", "v"), splits=_qkv_rows),
        "attention.out.weight": one("model.layers.{i}.self_attn.o_proj.weight"),
        "attention.out.bias": one("model.layers.{i}.self_attn.o_proj.bias"),
        "norm2.weight": one("model.layers.{i}.post_attention_layernorm.weight"),
        "gate_up.weight": Tensors(names=_parts("mlp.{part}_proj.weight", "gate", "up"), splits=_gate_up_rows),
        "gate_up.bias": Tensors(names=_parts("mlp.{part}_proj.bias", "gate", "up"), splits=_gate_up_rows),
        "down.weight": one("model.layers.{i}.mlp.down_proj.weight"),
        "down.bias": one("model.layers.{i}.mlp.down_proj.bias"),
    },
    last={"norm.weight": one("model.norm.weight"), "out.weight": one("lm_head.weight")},
    tied=("model.embed_tokens.weight", "lm_head.weight"),
    prefix="model.",
    ignored=(".rotary_emb.inv_freq",),
    read=read,
    write=_write_llama,
)

_BIASES = ("qkv_bias", "out_bias", "mlp_bias")
_UNBIASED = {ours: key for ours, key in LLAMA.settings.items() if ours not in _BIASES}
_NO_BIAS = {"attention_bias": (False,), "mlp_bias": (False,)}
_WINDOW = key("sliding_window", values=COUNT, default=None, nullable=True)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    settings=_UNBIASED
    | {
        "kv_heads": key("num_key_value_heads", default=8, nullable=True),
        "context": key("max_position_embeddings", default=4096 * 32),
        "mlp": key("intermediate_size", default=14336),
        "window": replace(_WINDOW, default=4096),
    },
    absent=_NO_BIAS,
    harmless=frozenset(),
    write=dict,
)

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    settings=_UNBIASED
    | {
        "kv_heads": key("num_key_value_heads", default=32, nullable=True),
        "vocab": key("vocab_size", default=151936),
        "context": key("max_position_embeddings", default=32768),
        "mlp": key("intermediate_size", default=22016),
    },
    implied={"qkv_bias": True},
    # Windows of some layers only, which a config may describe and not use.
    absent={"use_sliding_window": (False,), "layer_types": (None, "full_attention")},
    harmless=frozenset({"sliding_window", "max_window_layers", "use_mrope"}),
    write=dict,
)

QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    settings={
        **QWEN2.settings,
        "head_dim": key("head_dim", default=128),
        **{ours: LLAMA.settings[ours] for ours in ("qkv_bias", "out_bias")},
    },
    implied={"qk_norm": True},
    block={
        **LLAMA.block,
        "attention.q_norm.weight": one("model.layers.{i}.self_attn.q_norm.weight"),
        "attention.k_norm.weight": one("model.layers.{i}.self_attn.k_norm.weight"),
    },
)

PHI3 = replace(
    LLAMA,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    settings=_UNBIASED
    | {
        "width": key("hidden_size", default=3072),
        "vocab": key("vocab_size", default=32064),
        "context": key("max_position_embeddings", default=4096),
        "mlp": key("intermediate_size", default=8192),
        "eps": key("rms_norm_eps", values=NOT_NEGATIVE, default=1e-5),
        "padding": key("pad_token_id", values=INTEGER, default=32000, nullable=True),
        "window": _WINDOW,
        "rope": replace(LLAMA.settings["rope"], values=_PHI3_SCALING),
    },
    absent={**_NO_BIAS, "lm_head_bias": (False,), "full_attn_mod": (1,), "interpolate_factor": (1,)},
    rates={**LLAMA.rates, "resid_pdrop": Rate(default=0.0)},
    harmless=frozenset({"embd_pdrop"}),  # which no layer uses
    block={ours: theirs for ours, theirs in LLAMA.block.items() if not ours.endswith("bias")}
    | {
        "attention.qkv.weight": one("model.layers.{i}.self_attn.qkv_proj.weight"),
        "gate_up.weight": one("model.layers.{i}.mlp.gate_up_proj.weight"),
    },
    read=read_phi3,
    write=write_phi3,
)
