"""Models read from Hugging Face folders: logits and gradients against `transformers`, round trips, and parts of a parameter."""

import numpy as np
import pytest
import torch
from pretrained_cases import CONFIGS, theirs_of, tokens_of
from safetensors.numpy import save_file

from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.autograd import Context, Tensor, backward
from mpitrain.checkpoint.huggingface import from_pretrained, save_pretrained, shard_tensors, write_config, write_index

HOST = Arrays()


@pytest.fixture(params=[(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"])
def precision(request, monkeypatch):
    """Our type and the tolerance.  `transformers` asks for float32 in norms and angles, and gets float64 where all is."""
    dtype, _ = request.param
    if dtype is np.float64:
        monkeypatch.setattr(torch, "float32", torch.float64)
        monkeypatch.setattr(torch, "float", torch.float64)
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
    yield request.param
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)


def logits_of(model, ids):
    return model(Tensor(ids, context=Context(record=False, train=False))).data


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_all_gradients_equal_transformers(name, precision, tmp_path):
    dtype, tolerance = precision
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
        a.materialize(HOST, np.dtype(np.float32), 0)
        rows, *others = b.shape
        for first in ((rows // 3, rows - rows // 4), (rows, rows)):  # a rank may hold no row
            b.box = (first, *((n // 3, n - n // 4) for n in others))
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
