"""Models read from Hugging Face folders: logits and gradients against `transformers`, round trips, and parts of a parameter."""

import numpy as np
import pytest
import torch
from pretrained_cases import CONFIGS, RANDOM, theirs_of, tokens_of
from safetensors.numpy import load_file

from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.autograd import Tensor, backward
from mpitrain.checkpoint.export import save_pretrained
from mpitrain.checkpoint.huggingface import from_pretrained

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


@pytest.mark.parametrize("name", [*CONFIGS, *RANDOM])
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
    save_pretrained(ours, tmp_path / "gradients")
    gradients = load_file(tmp_path / "gradients" / "model.safetensors")
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
