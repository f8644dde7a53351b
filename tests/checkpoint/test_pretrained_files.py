"""Which files of a Hugging Face folder are read, as `transformers` chooses them, and what a wrong or odd tensor says."""

import numpy as np
import pytest
import torch
from pretrained_cases import change, theirs_of, tokens_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.checkpoint.huggingface import from_pretrained

FORMAT = {"format": "pt"}


def saved(folder, name="gpt2", **how):
    """A model's folder, and the path of its weights."""
    theirs_of(name).save_pretrained(folder, **how)
    return folder / "model.safetensors"


def logits_of(model, ids):
    model.materialize(Arrays(), np.dtype(np.float32))
    return model(Tensor(ids, context=Context(record=False, train=False))).data


def assert_read_as_transformers_reads(folder):
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokens_of(theirs)[:, :-1]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(logits_of(from_pretrained(folder), ids), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_names_without_the_prefix_and_stored_masks_are_understood(tmp_path):
    file = saved(tmp_path)
    tensors = {key.removeprefix("transformer."): array for key, array in load_file(file).items()}
    save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 19, 19)}, file, FORMAT)
    assert_read_as_transformers_reads(tmp_path)
    assert from_pretrained(tmp_path, recompute=True).settings["recompute"] is True


def test_the_single_file_goes_before_an_index_and_a_named_one_before_both(tmp_path):
    saved(tmp_path, max_shard_size="8KB")  # an index and its files
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_read_as_transformers_reads(tmp_path)
    new = theirs_of("gpt2")
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(0.5)
    new.save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert_read_as_transformers_reads(tmp_path)
    read = from_pretrained(tmp_path)
    read.materialize(Arrays(), np.dtype(np.float32))
    np.testing.assert_array_equal(read.layers[0].tokens.weight.data, new.transformer.wte.weight.detach().numpy())
    change(tmp_path, transformers_weights="model.safetensors.index.json")
    assert_read_as_transformers_reads(tmp_path)
    named = from_pretrained(tmp_path)
    named.materialize(Arrays(), np.dtype(np.float32))
    np.testing.assert_array_equal(named.layers[0].tokens.weight.data, 2 * read.layers[0].tokens.weight.data)


def test_parts_of_several_types_are_joined_and_other_types_refused(tmp_path):
    file = saved(tmp_path, "llama")
    tensors = load_file(file)
    keys = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    for key, dtype in zip(keys, (torch.float16, torch.bfloat16, torch.float32), strict=True):
        tensors[key] = tensors[key].to(dtype)
    save_file(tensors, file, FORMAT)
    assert_read_as_transformers_reads(tmp_path)
    for dtype in (torch.float64, torch.float16):
        save_file(tensors | {keys[2]: tensors[keys[2]].to(dtype)}, file, FORMAT)
        assert_read_as_transformers_reads(tmp_path)
    save_file(tensors | {keys[1]: tensors[keys[1]].to(torch.float8_e4m3fn)}, file, FORMAT)
    with pytest.raises(ValueError, match=r"k_proj.weight is stored as F8_E4M3; expected F64, F32, F16, BF16: quantized"):
        from_pretrained(tmp_path)


def test_a_tied_weight_is_read_from_where_it_is_stored(tmp_path):
    file = saved(tmp_path, "llama, grouped, tied")
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding.clone()}, file, FORMAT)
    assert_read_as_transformers_reads(tmp_path)
    other = embedding.clone()
    other[-1, -1] += 1
    save_file(tensors | {"lm_head.weight": other}, file, FORMAT)
    with pytest.raises(ValueError, match=r'lm_head.weight is stored with other numbers.*"tie_word_embeddings": false'):
        from_pretrained(tmp_path)
    change(tmp_path, tie_word_embeddings=False)  # the way out
    assert_read_as_transformers_reads(tmp_path)
    change(tmp_path, tie_word_embeddings=True)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": other}, file, FORMAT)
    assert_read_as_transformers_reads(tmp_path)


def test_two_tensors_for_one_name_are_refused(tmp_path):
    file = saved(tmp_path)
    tensors = load_file(file)
    save_file(tensors | {"wte.weight": tensors["transformer.wte.weight"] + 1}, file, FORMAT)
    with pytest.raises(ValueError, match=r"transformer.wte.weight is stored twice, as \S*wte.weight in .* expected one tensor"):
        from_pretrained(tmp_path)
    file.unlink()
    saved(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    save_file(load_file(shards[1]) | load_file(shards[0]), shards[1], FORMAT)
    with pytest.raises(ValueError, match=r"stored twice, as .* in .*00001-of-\d+.safetensors and as .* in .*00002-of"):
        from_pretrained(tmp_path)


def test_missing_extra_and_wrong_tensors_are_named(tmp_path):
    file = saved(tmp_path)
    tensors = load_file(file)
    moved = dict(tensors)
    moved["transformer.h.7.ln_1.bias"] = moved.pop("transformer.h.1.ln_1.bias")
    save_file(moved, file)
    with pytest.raises(
        ValueError, match=r"missing \['transformer.h.1.ln_1.bias'\], not expected \['transformer.h.7.ln_1.bias'\]"
    ):
        from_pretrained(tmp_path)
    save_file(tensors | {"transformer.wpe.weight": torch.zeros(18, 24)}, file)
    with pytest.raises(ValueError, match=r"wpe.weight has shape \(18, 24\); expected \(19, 24\)"):
        from_pretrained(tmp_path)


def test_damaged_or_absent_files_are_named(tmp_path):
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model.safetensors is cut or no safetensors file"):
        from_pretrained(tmp_path)
    file.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model.safetensors is missing; there is pytorch_model.bin, which is not read"):
        from_pretrained(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index.json has no weight_map"):
        from_pretrained(tmp_path)
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(ValueError, match=r"gone.safetensors is missing; expected every file that model.safetensors.index.json"):
        from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config.json: the folder holds an adapter.*; expected whole weights: merge"):
        from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON object"):
        from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(ValueError, match=r"config.json is missing; expected a folder with"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder openai-community/gpt2; .*`hf download openai"):
        from_pretrained("openai-community/gpt2")
