"""Random numbers that are a function of (seed, name, index) and of nothing else.

Invariant: element i of a stream is the same number whoever draws it, in whatever pieces and order, so that no layout
changes a weight or a dropout mask.  The generator is Philox4x64-10, counter-based (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), as NumPy has it: block k of the counter holds the words 4k .. 4k+3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless sequence of 64-bit words, keyed by a seed and a name."""

    seed: int
    name: str

    def words(self, start: int, count: int) -> np.ndarray:
        """Words `start .. start + count` of the stream, uint64 of shape (count,)."""
        digest = hashlib.blake2b(f"{self.seed}/{self.name}".encode(), digest_size=16).digest()
        block, skip = divmod(start, 4)
        # NumPy increments the counter before it produces a block, so a fresh generator stands before block 1.
        generator = np.random.Philox(key=int.from_bytes(digest, "little")).advance(block)
        return np.asarray(generator.random_raw(skip + count)[skip:])

    def uniform(self, start: int, count: int) -> np.ndarray:
        """Numbers in [0, 1), float64 of shape (count,), one word each."""
        return (self.words(start, count) >> np.uint64(11)) * 2.0**-53

    def normal(self, start: int, count: int) -> np.ndarray:
        """Standard normal numbers, float64 of shape (count,), one word each (Box and Muller 1958, on its two halves)."""
        words = self.words(start, count)
        radius = np.sqrt(-2.0 * np.log(((words >> np.uint64(32)) + 0.5) * 2.0**-32))
        return np.asarray(radius * np.cos(2.0 * np.pi * ((words & np.uint64(0xFFFFFFFF)) + 0.5) * 2.0**-32))
