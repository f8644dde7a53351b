"""A pretrained model in a job: the text that it writes under a layout is that of `transformers`, and its dropout is told."""

import numpy as np
import pytest
import torch
from pretrained_cases import change, theirs_of

import mpitrain as mt
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
