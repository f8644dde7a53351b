"""A random permutation of range(size) that is computed a number at a time, in no memory.

Invariant: `permute` is a bijection of range(size) for every size and key.  It is the generalized Feistel network of Black and
Rogaway 2002, "Ciphers with arbitrary finite domains", section 5, on pairs (left, right) of the smallest near-square a x b that
holds the size, with their cycle walking (section 4) where a pair's number falls outside.
"""

from __future__ import annotations

import math

import numpy as np

from mpitrain.arrays import Stream

#: Tiny domains need many: with 8 rounds some orders of 5 numbers come more often than others, with 16 none (tested).
_ROUNDS = 16


def permute(numbers: np.ndarray, size: int, key: Stream) -> np.ndarray:
    """Where the permutation of range(size) that belongs to `key` takes each of `numbers`, int64."""
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    round_keys = key.words(0, _ROUNDS)
    values = _feistel(numbers.astype(np.uint64), a, b, round_keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], a, b, round_keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, a: int, b: int, round_keys: np.ndarray) -> np.ndarray:
    """A permutation of range(a * b): each round adds a hash of one half to the other."""
    left, right = values % np.uint64(a), values // np.uint64(a)
    for i, key in enumerate(round_keys):
        if i % 2:
            right = (right + _hash(left, key)) % np.uint64(b)
        else:
            left = (left + _hash(right, key)) % np.uint64(a)
    return left + np.uint64(a) * right


def _hash(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """63 bits that look random, by the finalizer of SplitMix64 (Steele, Lea and Flood 2014, figure 17)."""
    x = x ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)
