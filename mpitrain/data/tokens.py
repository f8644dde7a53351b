"""`TokenDataset`: a stream of tokens cut into windows for next-token prediction.

Invariant: sample i is tokens i*context .. (i+1)*context and its targets are the tokens one further, so that over an epoch each
token but the first is a target once (up to a remainder shorter than a window).
"""

from __future__ import annotations

import numpy as np


class TokenDataset:
    """Windows of `context` tokens of `tokens`, a 1-D array or memory map of integers.  `ValueError` if not one is full."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(f"the tokens are {tokens.dtype} of shape {tokens.shape}; expected integers in one dim")
        if len(tokens) <= context:
            raise ValueError(
                f"there are {len(tokens)} tokens; expected {context + 1} or more for a context of {context}: "
                "give more data, or a shorter context"
            )
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int64 of shape (n, context) each."""
        positions = np.asarray(numbers)[:, None] * self.context + np.arange(self.context + 1)
        windows = self.tokens[positions].astype(np.int64)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])

    def largest_token(self) -> int:
        """The largest token there is, found by reading all of them."""
        return int(self.tokens.max())


def check_vocab(dataset: TokenDataset, vocab: int) -> None:
    """`ValueError`, naming the first one, if a token is not in 0 .. vocab - 1.

    Reads all tokens, unless their type settles it.
    """
    tokens = dataset.tokens
    signed = tokens.dtype.kind == "i"
    if not signed and np.iinfo(tokens.dtype).max < vocab:
        return
    if dataset.largest_token() < vocab and not (signed and tokens.min() < 0):
        return
    position = int(np.argmax((tokens < 0) | (tokens >= vocab)))
    raise ValueError(
        f"token {tokens[position]} at position {position} of the data; the vocabulary holds {vocab} (tokens 0 .. {vocab - 1}): "
        "give the model a larger vocabulary, or check how the data was tokenised"
    )
