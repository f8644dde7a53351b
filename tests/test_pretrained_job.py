"""A pretrained model in a job: the text that it writes under a layout is that of `transformers`, and its dropout is told."""

import numpy as np
import pytest
import torch
from pretrained_cases import change, theirs_of
from transformers import AutoModelForCausalLM

import mpitrain as mt
from mpitrain.cli import main
from mpitrain.config import load
from mpitrain.job import prepare, run


@pytest.mark.parametrize("name", ["llama, rope dynamic, long", "phi3, part of a head, long"])
def test_greedy_text_is_that_of_transformers(name, tmp_path):
    theirs = theirs_of(name).eval()
    theirs.save_pretrained(tmp_path)
    prompt, tokens = [3, 1, 4], 19  # from before the length that matters to after it
    data = mt.data.TokenDataset(np.zeros(2 * 25 + 1, np.uint8), 25)
    job = mt.Trainer(
        mt.from_pretrained(tmp_path), mt.optim.SGD(lr=0.1), data, mesh=mt.Mesh(mt.comm.local(2), mt.Layout(pp=2)), batch=2
    )
    given = {"max_new_tokens": tokens, "do_sample": False, "use_cache": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 3, dtype=torch.long), **given)
    assert job.generate(prompt, tokens, temperature=0.0) == expected[0].tolist()


TEXT = """\
[run]
steps = 1
[model]
kind = "pretrained"
folder = "source"
[data]
kind = "tokens"
format = "npy"
train = "tokens.npy"
validation = "tokens.npy"
context = 8
[train]
batch = 4
[optimizer]
kind = "sgd"
lr = 0.1
"""


def test_a_job_tells_the_dropout_that_it_trains_without(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    theirs_of("gpt2").save_pretrained("source")
    change(tmp_path / "source", resid_pdrop=0.25, embd_pdrop=0.25, attn_pdrop=0.125)
    np.save("tokens.npy", np.arange(100, dtype=np.uint16) % 41)
    (tmp_path / "tiny.toml").write_text(TEXT)
    for overrides, told in (
        ([], "embd_pdrop = 0.25, resid_pdrop = 0.25, attn_pdrop = 0.125"),
        (["model.dropout=0.25"], "attn_pdrop = 0.125"),
    ):
        assert run(prepare(load("tiny.toml", overrides), mt.comm.local(1), "never", arrays="numpy")) == 0
        assert f"without the dropout of the pretrained model's folder: {told}\n" in capsys.readouterr().out


def test_fine_tuning_ends_in_a_folder_that_transformers_loads(tmp_path, monkeypatch, capsys):
    """Twenty steps of a folder's model over four ranks: what is exported is what torch gets by the same steps."""
    monkeypatch.chdir(tmp_path)
    theirs = theirs_of("gpt2", torch.float64)
    theirs.save_pretrained("source")
    tokens = np.random.default_rng(0).integers(0, theirs.config.vocab_size, 20 * 8 + 1).astype(np.uint16)
    np.save("tokens.npy", tokens)
    (tmp_path / "tiny.toml").write_text(TEXT)
    layout = ["layout.dp=2", "layout.pp=2", "train.zero=2", "train.microbatches=2"]
    overrides = ["run.steps=20", "run.dtype=float64", "train.batch=20", *layout]
    job = prepare(load("tiny.toml", overrides), mt.comm.local(4), "never", arrays="numpy")
    assert run(job) == 0
    with pytest.raises(SystemExit) as end:
        main(["export", "tiny", "--to", "trained", "--shard-gb", "1e-5"])
    assert end.value.code == 0
    assert "runs/tiny/step-00000020" in capsys.readouterr().out
    assert 'folder = "source"' in (tmp_path / "runs" / "tiny" / "config.toml").read_text()

    x, y = map(torch.tensor, mt.data.TokenDataset(tokens, 8).batch(np.arange(20)))  # a step sees all that there is
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(theirs(x).logits.flatten(0, 1), y.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    trained = AutoModelForCausalLM.from_pretrained("trained")
    with torch.no_grad():
        expected, found = theirs(x).logits, trained(x).logits
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
