"""Small models of `transformers`, of every family and form that ours read, at odd sizes."""

import json

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

TIME = 17
GPT2 = {
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "vocab_size": 41,
    "n_positions": 19,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
NARROW = {"n_embd": 20, "n_layer": 1, "n_head": 1, "vocab_size": 7, "n_positions": 5, "n_inner": 13}
LLAMA = {
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 37,
    "intermediate_size": 29,
    "pad_token_id": None,
}
GROUPED = {
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 11,
    "intermediate_size": 50,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-3,
}
BIASED = {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "pad_token_id": 3}


def rope(kind, **keys):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0} | keys}


# Of a head's five pairs, llama3 keeps one, slows three down and is in between with one.
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=1000)
YARN_MORE = {"beta_fast": 2.0, "beta_slow": 1e-4, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False}
SHORT, LONG = [1.0, 1.5, 2.0], [2.5, 3.0, 5.0]
PART = rope("longrope", short_factor=SHORT, long_factor=LONG, partial_rotary_factor=0.6)
CONFIGS = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2, untied, narrow mlp": GPT2Config(**GPT2 | NARROW, layer_norm_epsilon=1e-3, tie_word_embeddings=False),
    "llama": LlamaConfig(**LLAMA | {"num_key_value_heads": 3}),
    "llama, grouped, tied": LlamaConfig(**GROUPED, **rope("default")),
    "llama, biases, wide heads, padding": LlamaConfig(**LLAMA | BIASED),
    "llama, rope llama3": LlamaConfig(**LLAMA, **LLAMA3),
    "llama, rope linear": LlamaConfig(**LLAMA, **rope("linear", factor=3.0)),
    "llama, rope dynamic, short": LlamaConfig(**LLAMA, **rope("dynamic", factor=3.0), max_position_embeddings=TIME),
    "llama, rope dynamic, long": LlamaConfig(**LLAMA, **rope("dynamic", factor=3.0), max_position_embeddings=7),
    "llama, rope yarn": LlamaConfig(**LLAMA, **YARN, max_position_embeddings=4000),
    "llama, rope yarn, all keys": LlamaConfig(
        **LLAMA, rope_parameters=YARN["rope_parameters"] | YARN_MORE, max_position_embeddings=4000
    ),
    "mistral": MistralConfig(**LLAMA, sliding_window=None),
    "mistral, window": MistralConfig(**LLAMA, sliding_window=6),
    "qwen2, tied, padding": Qwen2Config(**LLAMA | {"tie_word_embeddings": True, "pad_token_id": 5}),
    "qwen3": Qwen3Config(**LLAMA, head_dim=14),
    "qwen3, biases": Qwen3Config(**LLAMA, head_dim=8, attention_bias=True),
    "phi3, window of one": Phi3Config(**LLAMA | {"num_key_value_heads": None}, sliding_window=1),
    "phi3": Phi3Config(**LLAMA | {"num_key_value_heads": None}),
    "phi3, part of a head, short": Phi3Config(**LLAMA, **PART, original_max_position_embeddings=TIME),
    "phi3, part of a head, long": Phi3Config(**LLAMA, **PART, original_max_position_embeddings=TIME - 1),
}


def of_random_sizes(kind, seed):
    """A configuration of odd sizes, the same for the same seed."""
    draw = np.random.default_rng([seed, *kind.model_type.encode()]).integers
    kv_heads, group, head_dim = (int(draw(1, high)) for high in (4, 4, 8))
    heads, head_dim = kv_heads * group, 2 * head_dim
    given = {"head_dim": head_dim} if kind in (MistralConfig, Qwen3Config) else {}
    return kind(
        hidden_size=int(draw(3, 40)) if given else heads * head_dim,
        num_hidden_layers=int(draw(1, 4)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=int(draw(5, 60)),
        intermediate_size=int(draw(1, 50)),
        tie_word_embeddings=bool(draw(2)),
        pad_token_id=None,
        **given,
    )


RANDOM = {
    f"{kind.model_type} {seed}": of_random_sizes(kind, seed)
    for kind in (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Phi3Config)
    for seed in range(4)
}


def theirs_of(name, dtype=torch.float32):
    """A randomly initialised model, its weights scaled up so that no part of it is nearly linear."""
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config((CONFIGS | RANDOM)[name]).to(dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens_of(model):
    """Three sequences, padding among them, with the token after each."""
    time = min(TIME, model.config.max_position_embeddings) if model.config.model_type == "gpt2" else TIME
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, time + 1))
    ids[1, 2] = getattr(model.config, "pad_token_id", None) or 0
    return ids


def change(folder, *, without=(), **keys):
    """Change keys of a folder's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))
