"""`generate`: continue a sequence of tokens, through the same stages and the same executor as training.

Invariant: every rank knows every token, and the choice depends on (seed, position) and the logits alone, so any layout writes
the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitrain.arrays import Stream
from mpitrain.data import read
from mpitrain.worker import Worker


def generate(worker: Worker, prompt: Sequence[int], tokens: int, *, temperature: float = 1.0, seed: int = 0) -> list[int]:
    """`prompt` and `tokens` more, each drawn from softmax(logits / temperature), the likeliest where temperature is 0.

    The model sees at most its last window of tokens.  Collective: every rank calls with the same arguments.
    """
    if not prompt:
        raise ValueError("the prompt is empty; expected at least one token to continue from")
    (window, *_), _ = read(worker.data, np.zeros(1, np.int64))
    context = window.shape[1]
    text = list(prompt)
    chances = Stream(seed, "generate").uniform(0, tokens)
    for i in range(tokens):
        # No longer than the text is: the length of a sequence may change how positions turn.
        logits = worker.predict(np.array([text[-context:]], window.dtype))
        chosen = np.zeros(1, np.int64)
        if logits is not None:
            chosen[0] = _choose(logits[0, -1], temperature, chances[i])
        worker.place.comm.broadcast(chosen, worker.place.layout.rank(pp=worker.owner[worker.last_stage], dp=0))
        text.append(int(chosen[0]))
    return text


def _choose(logits: np.ndarray, temperature: float, chance: float) -> int:
    """The token at which the cumulative probability passes `chance`."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    cumulative = np.cumsum(np.exp(scaled - scaled.max()))
    return int(np.searchsorted(cumulative, chance * cumulative[-1], side="right"))
