"""GPT-2: its settings, and its tensors, whose matrices are (in, out)."""

from __future__ import annotations

from mpitrain.checkpoint.families.family import FLAG, NOT_NEGATIVE, Family, Rate, key, one
from mpitrain.nn.models import GPT

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    model=GPT,
    settings={
        "width": key("n_embd", "hidden_size", default=768),
        "depth": key("n_layer", "num_hidden_layers", default=12),
        "heads": key("n_head", "num_attention_heads", default=12),
        "vocab": key("vocab_size", default=50257),
        "context": key("n_positions", "max_position_embeddings", default=1024),
        "mlp": key("n_inner", default=None, nullable=True),
        "eps": key("layer_norm_epsilon", values=NOT_NEGATIVE, default=1e-5),
        "tied": key("tie_word_embeddings", values=FLAG, default=True),
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    rates={
        "embd_pdrop": Rate(default=0.1, setting="dropout"),
        "resid_pdrop": Rate(default=0.1, setting="dropout"),
        "attn_pdrop": Rate(default=0.1),
    },
    # Of a double head's summary, of masks that older versions stored, and of how a product is rounded.
    harmless=frozenset(
        {
            "n_ctx",
            "n_special",
            "predict_special_tokens",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
    first={"tokens.weight": one("transformer.wte.weight"), "positions.weight": one("transformer.wpe.weight")},
    block={
        "norm1.weight": one("transformer.h.{i}.ln_1.weight"),
        "norm1.bias": one("transformer.h.{i}.ln_1.bias"),
        "attention.qkv.weight": one("transformer.h.{i}.attn.c_attn.weight", transposed=True),
        "attention.qkv.bias": one("transformer.h.{i}.attn.c_attn.bias"),
        "attention.out.weight": one("transformer.h.{i}.attn.c_proj.weight", transposed=True),
        "attention.out.bias": one("transformer.h.{i}.attn.c_proj.bias"),
        "norm2.weight": one("transformer.h.{i}.ln_2.weight"),
        "norm2.bias": one("transformer.h.{i}.ln_2.bias"),
        "up.weight": one("transformer.h.{i}.mlp.c_fc.weight", transposed=True),
        "up.bias": one("transformer.h.{i}.mlp.c_fc.bias"),
        "down.weight": one("transformer.h.{i}.mlp.c_proj.weight", transposed=True),
        "down.bias": one("transformer.h.{i}.mlp.c_proj.bias"),
    },
    last={
        "norm.weight": one("transformer.ln_f.weight"),
        "norm.bias": one("transformer.ln_f.bias"),
        "out.weight": one("lm_head.weight"),
    },
    tied=("transformer.wte.weight", "lm_head.weight"),
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks that older versions stored
)
