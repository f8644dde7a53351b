"""Hugging Face folders: logits and gradients against `transformers`, round trips, layouts, and what a wrong folder says."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.autograd import Context, Tensor, backward
from mpitrain.checkpoint.families import FAMILIES
from mpitrain.checkpoint.huggingface import from_pretrained, save_pretrained, shard_tensors, write_config, write_index
from mpitrain.nn.models import GPT

HOST = Arrays()

GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 3, "vocab_size": 41, "n_positions": 19}
GPT2_UNTIED = {
    "n_embd": 20,
    "n_layer": 1,
    "n_head": 1,
    "vocab_size": 7,
    "n_positions": 5,
    "n_inner": 13,
    "tie_word_embeddings": False,
}
LLAMA = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 37, "intermediate_size": 29}
LLAMA_GROUPED = {
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 11,
    "intermediate_size": 50,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
}
LLAMA_ONE_KEY_HEAD = {
    "hidden_size": 30,
    "num_hidden_layers": 1,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "vocab_size": 13,
    "intermediate_size": 7,
}
CONFIGS = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2, untied, narrow mlp": GPT2Config(**GPT2_UNTIED, layer_norm_epsilon=1e-3),
    "llama": LlamaConfig(**LLAMA),
    "llama, grouped, tied": LlamaConfig(**LLAMA_GROUPED),
    "llama, one key head": LlamaConfig(**LLAMA_ONE_KEY_HEAD),
}


def theirs_of(name, dtype=torch.float32):
    """A randomly initialised model, its weights scaled up so that no part of it is nearly linear."""
    config = CONFIGS[name]
    torch.manual_seed(len(name))
    model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens_of(model):
    time = min(17, model.config.max_position_embeddings)
    return np.random.default_rng(0).integers(0, model.config.vocab_size, (3, time + 1))


def logits_of(model, ids):
    return model(Tensor(ids, context=Context(record=False, train=False))).data


#: `transformers` computes Llama's norms and angles in float32 whatever the model's type, so float64 is sharper for GPT-2 only.
PRECISIONS = [(name, np.float32, 1e-5) for name in CONFIGS] + [(name, np.float64, 1e-12) for name in CONFIGS if "gpt2" in name]


@pytest.mark.parametrize(("name", "dtype", "tolerance"), PRECISIONS)
def test_logits_and_all_gradients_equal_transformers(name, dtype, tolerance, tmp_path):
    theirs = theirs_of(name, torch.float64 if dtype is np.float64 else torch.float32)
    theirs.save_pretrained(tmp_path)
    ids = tokens_of(theirs)
    their_logits = theirs(torch.tensor(ids[:, :-1])).logits
    loss = torch.nn.functional.cross_entropy(their_logits.flatten(0, 1), torch.tensor(ids[:, 1:]).flatten())
    loss.backward()

    ours = from_pretrained(tmp_path)
    ours.materialize(HOST, np.dtype(dtype))
    logits = ours(Tensor(ids[:, :-1]))
    scale = np.abs(their_logits.detach().numpy()).max()
    np.testing.assert_allclose(logits.data, their_logits.detach().numpy(), rtol=0, atol=tolerance * scale)
    targets = ids[:, 1:]
    backward([ours.loss(logits, targets)], [np.asarray(1 / ours.loss.count(targets), dtype)])
    # Our gradients under their names, by the way that weights are written.
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    gradients = shard_tensors(ours, ours.parameters())
    assert set(gradients) == {n for n, _ in theirs.named_parameters()}
    for key, parameter in theirs.named_parameters():
        difference = np.linalg.norm(gradients[key] - parameter.grad.numpy())
        assert difference <= tolerance * np.linalg.norm(parameter.grad.numpy()), key


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_loads_in_transformers(name, tmp_path):
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path / "a")
    ours = from_pretrained(tmp_path / "a")
    ours.materialize(HOST, np.dtype(np.float32))
    save_pretrained(ours, tmp_path / "b")
    again = type(theirs).from_pretrained(tmp_path / "b").eval()
    ids = torch.tensor(tokens_of(theirs)[:, :-1])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_write_a_sharded_folder_that_both_read(name, tmp_path):
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path / "a")
    ours = from_pretrained(tmp_path / "a")
    folder = tmp_path / "b"
    folder.mkdir()
    write_config(ours, folder)
    shards, written = {}, set()
    for i, (start, stop) in enumerate(((0, 2), (2, len(ours.layers)))):
        [stage] = ours.cut([(start, stop)])
        stage.materialize(HOST, np.dtype(np.float32))
        mine = [p for p in stage.parameters() if p.name not in written]  # a tied weight lies on both stages
        written |= {p.name for p in mine}
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        shard = shard_tensors(ours, mine)
        save_file(shard, folder / file, metadata={"format": "pt"})
        shards[file] = {key: array.nbytes for key, array in shard.items()}
    write_index(folder, shards)
    ids = tokens_of(theirs)[:, :-1]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
        assert torch.equal(type(theirs).from_pretrained(folder).eval()(torch.tensor(ids)).logits, expected)
    back = from_pretrained(folder)
    back.materialize(HOST, np.dtype(np.float32))
    np.testing.assert_allclose(logits_of(back, ids), expected.numpy(), rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_box_of_a_parameter_is_that_part_of_it(name, tmp_path):
    theirs_of(name).save_pretrained(tmp_path)
    whole, part = from_pretrained(tmp_path), from_pretrained(tmp_path)
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        b.box = tuple((n // 3, n - n // 4) for n in b.shape)
        a.materialize(HOST, np.dtype(np.float32), 0)
        b.materialize(HOST, np.dtype(np.float32), 0)
        np.testing.assert_array_equal(b.data, a.data[tuple(slice(*bounds) for bounds in b.box)])


def test_bfloat16_weights_are_read_and_written(tmp_path):
    theirs = theirs_of("llama, grouped, tied", torch.bfloat16)
    theirs.save_pretrained(tmp_path / "a")
    ours = from_pretrained(tmp_path / "a")
    ours.materialize(HOST, BFLOAT16)
    save_pretrained(ours, tmp_path / "b")
    again = type(theirs).from_pretrained(tmp_path / "b", dtype=torch.bfloat16)
    for (key, a), (_, b) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert b.dtype == torch.bfloat16
        assert torch.equal(a, b), key


def test_names_without_the_prefix_and_stored_masks_are_understood(tmp_path):
    theirs_of("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {key.removeprefix("transformer."): array for key, array in load_file(file).items()}
    save_file(tensors | {"h.0.attn.bias": np.ones((1, 1, 19, 19), np.float32)}, file)
    model = from_pretrained(tmp_path, recompute=True)
    assert model.settings["recompute"] is True
    model.materialize(HOST, np.dtype(np.float32))
    np.testing.assert_array_equal(model.layers[0].tokens.weight.data, tensors["wte.weight"])


def broken(tmp_path, name="gpt2"):
    theirs_of(name).save_pretrained(tmp_path)
    return tmp_path / "config.json", tmp_path / "model.safetensors"


def test_missing_extra_and_wrong_tensors_are_named(tmp_path):
    _, file = broken(tmp_path)
    tensors = load_file(file)
    moved = dict(tensors)
    moved["transformer.h.7.ln_1.bias"] = moved.pop("transformer.h.1.ln_1.bias")
    save_file(moved, file)
    with pytest.raises(
        ValueError, match=r"missing \['transformer.h.1.ln_1.bias'\], not expected \['transformer.h.7.ln_1.bias'\]"
    ):
        from_pretrained(tmp_path)
    save_file(tensors | {"transformer.wpe.weight": np.zeros((18, 24), np.float32)}, file)
    with pytest.raises(ValueError, match=r"wpe.weight has shape \(18, 24\); expected \(19, 24\)"):
        from_pretrained(tmp_path)


def test_damaged_or_absent_files_are_named(tmp_path):
    config, file = broken(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model.safetensors is cut or no safetensors file"):
        from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing; expected the file"):
        from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON object"):
        from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(ValueError, match=r"config.json is missing; expected a folder with"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"model_type": "mamba"}, "model_type 'mamba'; expected one of gpt2, llama"),
        ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu'; expected 'gelu_new' or"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True; expected False"),
        ("llama", {"attention_bias": True}, "attention_bias = True; expected False"),
        ("llama", {"rope_scaling": {"factor": 2.0}}, "rope_scaling = .*; expected None"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling = .*llama3.*; expected None"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'; expected 'silu'"),
        ("llama", {"head_dim": 8}, "head_dim is hidden_size / num_attention_heads = False; expected True"),
    ],
)
def test_a_configuration_without_counterpart_is_named(name, changes, message, tmp_path):
    config, _ = broken(tmp_path, name)
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_a_model_without_a_format_is_named(tmp_path):
    class Mine(GPT):
        pass

    with pytest.raises(ValueError, match="a Mine has no Hugging Face format here"):
        save_pretrained(Mine(width=4, depth=1, heads=1, vocab=3, context=2), tmp_path)


def test_every_parameter_of_a_family_has_its_place():
    model = GPT(width=4, depth=3, heads=1, vocab=3, context=2, tied=False)
    assert set(FAMILIES["gpt2"].table(model.settings)) == {p.name for p in model.parameters()}
