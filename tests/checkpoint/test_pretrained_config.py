"""What a config.json may say: every key that changes the function is honoured, as `transformers` does, or refused."""

import json

import numpy as np
import pytest
import torch
from pretrained_cases import CONFIGS, LLAMA, LONG, PART, SHORT, change, rope, theirs_of, tokens_of
from transformers import AutoModelForCausalLM, LlamaConfig

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.checkpoint.export import save_pretrained
from mpitrain.checkpoint.families import FAMILIES
from mpitrain.checkpoint.huggingface import from_pretrained, unused_dropout
from mpitrain.nn.models import GPT, Llama


def difference(folder):
    """Between our logits and those of `transformers`, relative to the largest."""
    ours = from_pretrained(folder)
    ours.materialize(Arrays(), np.dtype(np.float32))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokens_of(theirs)[:, :-1]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    return np.abs(ours(Tensor(ids, context=Context(record=False, train=False))).data - expected).max() / np.abs(expected).max()


OLD = ["rope_parameters"]
LINEAR = {"factor": 4.0, "rope_theta": 500.0}
HONOURED = {
    "the key 'type' of a scaling": ("llama", {"rope_parameters": {"type": "linear", **LINEAR}}, ()),
    "a scaling beside a base": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 500.0}, OLD),
    "a base before that of a scaling": ("llama", {"rope_scaling": {"rope_type": "linear", **LINEAR}, "rope_theta": 9.0}, OLD),
    "no scaling": ("llama", {"rope_scaling": {"type": "default"}}, OLD),
    "nothing of positions": ("llama", {}, OLD),
    "an original length beside a scaling": (
        "llama, rope llama3",
        {"original_max_position_embeddings": 24, "max_position_embeddings": 99},
        (),
    ),
    "no original length": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 9},
        OLD,
    ),
    "no factor": (
        "llama",
        {
            "rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 9},
            "max_position_embeddings": 63,
        },
        OLD,
    ),
    "a given attention factor": (
        "llama",
        {
            "rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 0.6, "original_max_position_embeddings": 9},
            "max_position_embeddings": 63,
        },
        OLD,
    ),
    "longrope outside of phi3": (
        "llama",
        {
            "rope_scaling": {**PART["rope_parameters"], "short_factor": [*SHORT, 9.0, 9.0], "long_factor": [*LONG, 9.0, 9.0]}
            | {"partial_rotary_factor": 1.0},
            "original_max_position_embeddings": 3,
        },
        OLD,
    ),
    "longrope's older names": (
        "phi3, part of a head, long",
        {
            "rope_scaling": {"type": "su", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 99},
            "partial_rotary_factor": 0.6,
            "max_position_embeddings": 99,
        },
        OLD,
    ),
    "hidden_act swish": ("llama", {"hidden_act": "swish"}, ()),
    "null for a number that has a default": ("llama", {"num_key_value_heads": None, "head_dim": None}, ()),
    "absent heads of keys": ("mistral", {"hidden_size": 32, "num_attention_heads": 8}, ["num_key_value_heads", "head_dim"]),
    "the common names in gpt2": (
        "gpt2",
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 19},
        ["n_embd", "n_layer", "n_head", "n_positions"],
    ),
    "layer types without a window": ("qwen3", {"layer_types": ["full_attention"] * 2, "sliding_window": 3}, ()),
}


@pytest.mark.parametrize("case", HONOURED)
def test_what_a_config_says_is_honoured(case, tmp_path):
    name, keys, without = HONOURED[case]
    theirs_of(name).save_pretrained(tmp_path)
    change(tmp_path, without=without, **keys)
    if case == "absent heads of keys":  # another shape than the weights have
        AutoModelForCausalLM.from_config(type(CONFIGS[name]).from_pretrained(tmp_path)).save_pretrained(tmp_path)
        change(tmp_path, without=without)
    assert difference(tmp_path) < 1e-5


REFUSED = [
    ("gpt2", {"model_type": "mamba"}, "model_type 'mamba'; expected one of gpt2, llama, mistral, qwen2, qwen3, phi3"),
    ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu'; expected 'gelu_new' or"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True; expected False"),
    ("gpt2", {"hidden_size": 25}, "n_embd = 24 and hidden_size = 25, two names of one thing; expected one of them"),
    ("gpt2", {"embd_pdrop": None}, r"embd_pdrop = None; expected a number in \[0, 1\)"),
    ("gpt2", {"n_layer": 2.0}, "n_layer = 2.0; expected an integer of at least 1"),
    ("llama", {"rms_norm_eps": None}, "rms_norm_eps = None; expected a number of at least 0"),
    ("llama", {"rope_parameters": {"rope_theta": None}}, "rope_theta = None; expected a positive number"),
    ("llama", {"head_dim": "8"}, "head_dim = '8'; expected an integer of at least 1 or null"),
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings = 1; expected true or false"),
    ("llama", {"rope_scaling": {"factor": 2.0}}, "rope_scaling = .* and rope_parameters = .*, two names of one thing"),
    (
        "llama",
        {"rope_parameters": {"factor": 2.0}},
        "rope_type 'default': missing nothing, unknown factor; expected no",
    ),
    (
        "llama",
        rope("llama3", factor=8.0),
        "rope_type 'llama3': missing low_freq_factor, high_freq_factor, unknown nothing",
    ),
    ("llama", rope("linear", factor=None), "rope_type 'linear' has factor = None; expected a positive number"),
    ("llama", rope("yarn", truncate="no"), "rope_type 'yarn' has truncate = 'no'; expected true or false"),
    (
        "llama",
        rope("longrope", short_factor=SHORT, long_factor=LONG),
        r"has short_factor = \[1.0.*; expected 5 pos",
    ),
    ("llama", rope("mrope"), "rope_type is 'mrope'; expected one of default, linear, dynamic, llama3, yarn, longrope"),
    ("llama", rope("linear", type="yarn"), "type = 'yarn' and rope_type = 'linear', two names of one thing; expected one"),
    ("llama", {"rope_parameters": [1]}, r"rope_scaling or rope_parameters is \[1\]; expected an object or null"),
    (
        "llama",
        rope("default", partial_rotary_factor=0.5),
        "partial_rotary_factor: nothing is known of this key",
    ),
    ("llama", {"rope_interleaved": True}, "rope_interleaved = True; expected False"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'; expected 'silu' or 'swish'"),
    ("llama", {"pad_token_id": 37}, "the padding token is 37; expected one of the 37 rows of the embedding, or none"),
    (
        "llama",
        {"quantization_config": {}, "soft_cap": 3, "unsloth_version": "1"},
        "quantization_config, soft_cap: nothing is known of these keys of a llama model; expected keys that .*: delete",
    ),
    ("qwen2, tied, padding", {"use_sliding_window": True}, "use_sliding_window = True; expected False"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = .*; expected None or 'full_attention'"),
    ("phi3", rope("linear", factor=2.0), "rope_scaling = .*; expected an object with the rope_type 'default' or 'longrope'"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_has_no_counterpart_is_refused(name, changes, message, tmp_path):
    theirs_of(name).save_pretrained(tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"config.json(:| has) .*{message}"):
        from_pretrained(tmp_path)


def test_dropout_is_off_unless_asked_for_and_its_rates_are_told(tmp_path):
    theirs_of("gpt2").save_pretrained(tmp_path)
    assert unused_dropout(from_pretrained(tmp_path)) == {}
    change(tmp_path, resid_pdrop=0.25, embd_pdrop=0.5, attn_pdrop=0.125)
    assert difference(tmp_path) < 1e-5
    model = from_pretrained(tmp_path)
    assert unused_dropout(model) == {"resid_pdrop": 0.25, "embd_pdrop": 0.5, "attn_pdrop": 0.125}
    assert unused_dropout(GPT(width=4, depth=1, heads=1, vocab=3, context=2)) == {}
    save_config = FAMILIES["gpt2"].config(model.settings, model.source.config)
    assert [save_config[name] for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")] == [0.25, 0.5, 0.125]
    model = from_pretrained(tmp_path, dropout=0.25)
    assert {rate for _, module in model.modules() if (rate := getattr(module, "rate", None)) is not None} == {0.25}
    assert unused_dropout(model) == {"embd_pdrop": 0.5, "attn_pdrop": 0.125}
    with pytest.raises(ValueError, match=r"window: no setting of a GPT, which .* is; leave it out"):
        from_pretrained(tmp_path, window=3)


def test_every_key_that_transformers_writes_is_in_a_table():
    """So a key that a new version adds to a family is noticed."""
    for config in CONFIGS.values():
        FAMILIES[config.model_type].arguments(json.loads(config.to_json_string(use_diff=False)))


#: Keys of public files beside those that `transformers` writes today.
PUBLIC = {
    "gpt2": {"n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
    "llama": {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}, "pretraining_tp": 1},
    "mistral": {"_attn_implementation_autoset": True, "attention_bias": False},
    "qwen2": {"use_mrope": False, "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False},
    "phi3": {"auto_map": {}, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "sliding_window": 262144},
}


@pytest.mark.parametrize("family", PUBLIC)
def test_keys_of_public_files_are_known(family):
    FAMILIES[family].arguments({"model_type": family, "torch_dtype": "bfloat16", **PUBLIC[family]})


SMALL = {"width": 8, "depth": 1, "heads": 2, "vocab": 5, "context": 9, "mlp": 6}


@pytest.mark.parametrize(
    ("settings", "family"),
    [
        ({}, "llama"),
        ({"rope": {"rope_type": "linear", "factor": 2.0}, "mlp_bias": True}, "llama"),
        ({"window": 3}, "mistral"),
        ({"heads": 3, "head_dim": 4}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": True, "head_dim": 6}, "qwen3"),
        ({"rope": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "phi3"),
    ],
)
def test_a_model_of_our_own_is_written_as_the_first_family_that_can_hold_it(settings, family, tmp_path):
    model = Llama(**SMALL | settings)
    model.materialize(Arrays(), np.dtype(np.float32))
    save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
    back = from_pretrained(tmp_path)
    back.materialize(Arrays(), np.dtype(np.float32))
    ids = np.array([[3, 1, 4]])
    np.testing.assert_array_equal(back(Tensor(ids)).data, model(Tensor(ids)).data)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor(ids)).logits.numpy(), model(Tensor(ids)).data, rtol=1e-4, atol=1e-6)


def test_a_model_without_a_format_is_named(tmp_path):
    class Mine(GPT):
        pass

    with pytest.raises(ValueError, match="a Mine has no Hugging Face format here"):
        save_pretrained(Mine(width=4, depth=1, heads=1, vocab=3, context=2), tmp_path)
    with pytest.raises(ValueError, match=r"\(llama: qkv_bias is True and out_bias False.*; qwen2: window is 3; "):
        save_pretrained(Llama(**SMALL, qkv_bias=True, window=3), tmp_path)


def test_what_a_config_says_beside_the_settings_is_kept(tmp_path):
    LlamaConfig(**LLAMA, eos_token_id=7, attention_dropout=0.1).save_pretrained(tmp_path)
    source = json.loads((tmp_path / "config.json").read_text())
    family = FAMILIES["llama"]
    model = Llama(**family.arguments(source) | {"tied": True})
    written = family.config(model.settings, source)
    kept = {"eos_token_id": 7, "attention_dropout": 0.1, "tie_word_embeddings": True, "num_key_value_heads": 1}
    assert written | kept == written
    assert "rope_parameters" not in written
