"""Text that a pretrained model writes under a layout is that of `transformers`, where its length changes how positions turn."""

import numpy as np
import pytest
import torch
from pretrained_cases import theirs_of

import mpitrain as mt


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
