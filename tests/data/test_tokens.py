"""Windows of tokens, and tokens against the vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.data import TokenDataset, check_vocab


@given(st.integers(1, 20), st.integers(1, 200))
@settings(deadline=None)
def test_every_token_but_the_first_is_a_target_once(context, more):
    tokens = np.arange(context + more, dtype=np.uint16)
    dataset = TokenDataset(tokens, context)
    inputs, targets = dataset.batch(np.arange(len(dataset)))
    assert inputs.shape == targets.shape == (len(dataset), context)
    assert inputs.dtype == targets.dtype == np.int64
    np.testing.assert_array_equal(inputs + 1, targets)
    np.testing.assert_array_equal(targets.ravel(), tokens[1 : 1 + targets.size])
    assert len(tokens) - 1 - targets.size < context


@pytest.mark.parametrize("count", [0, 1, 8])
def test_too_few_tokens_are_an_error(count):
    with pytest.raises(ValueError, match=f"there are {count} tokens; expected 9 or more for a context of 8"):
        TokenDataset(np.zeros(count, np.uint8), 8)


@pytest.mark.parametrize("tokens", [np.zeros((3, 3), np.uint8), np.zeros(9)])
def test_tokens_are_integers_in_one_dim(tokens):
    with pytest.raises(ValueError, match="expected integers in one dim"):
        TokenDataset(tokens, 2)


@pytest.mark.parametrize(("dtype", "token"), [(np.uint16, 257), (np.int32, 256), (np.int64, -1)])
def test_the_first_token_outside_the_vocabulary_is_named(dtype, token):
    tokens = np.full(2000, 255, dtype)
    tokens[[1234, 1999]] = token
    with pytest.raises(ValueError, match=f"token {token} at position 1234 of the data; the vocabulary holds 256"):
        check_vocab(TokenDataset(tokens, 8), 256)


@pytest.mark.parametrize(("dtype", "vocab"), [(np.uint8, 256), (np.uint16, 256), (np.int64, 256)])
def test_tokens_inside_the_vocabulary_pass(dtype, vocab):
    dataset = TokenDataset(np.arange(256).astype(dtype), 8)
    assert dataset.largest_token() == 255
    check_vocab(dataset, vocab)
    with pytest.raises(ValueError, match="token 255 at position 255"):
        check_vocab(dataset, 255)
