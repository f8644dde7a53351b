"""Sums of arrays of which every rank has chosen a few elements of its own.

Invariant: the ranks choose equally many and the sum runs in the order of the ranks, so all of them get the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitrain.arrays import Array, namespace
from mpitrain.comm import Collective, Peers
from mpitrain.comm.allgather import allgather
from mpitrain.parallel.compression.compressor import joined

#: A sample of every so many elements bounds what can be among the largest of an array that is not small.
_STRIDE, _SMALL = 97, 1 << 16


def largest(flat: Array, count: int) -> Array:
    """Where the `count` elements of largest magnitude are, in no order; what is not a number is largest.

    A bound that about twice as many pass is taken from a sample, and only those are compared, which takes a quarter of the time
    (Lin et al. 2018, section 5, hierarchical selection).
    """
    xp = namespace(flat)
    if count == flat.size:
        return xp.arange(flat.size)
    magnitude = xp.abs(flat)
    sample = magnitude[::_STRIDE]
    passing = 2 * count // _STRIDE + 16
    if flat.size > _SMALL and 2 * passing < sample.size:
        bound = xp.partition(sample, sample.size - passing)[sample.size - passing]
        found = xp.flatnonzero(~(magnitude < bound))
        if found.size >= count:
            return found[_last(magnitude[found], count)]
    return _last(magnitude, count)


def _last(magnitude: Array, count: int) -> Array:
    return namespace(magnitude).argpartition(magnitude, magnitude.size - count)[magnitude.size - count :]


def sum_sparse(peers: Peers, where: Sequence[Array], values: Sequence[Array], out: Sequence[Array], tag: int) -> Collective:
    """Overwrite `out` with the sums over the ranks of arrays that are `values` at the flat indices `where` and zero elsewhere.

    Values and 32-bit indices travel as one message: (p-1) k (w+4) bytes for k values of w bytes.
    """
    xp, dtype, count = namespace(out[0]), values[0].dtype, sum(x.size for x in values)
    payload = joined([joined(values).view(np.uint8), joined([x.astype(np.uint32) for x in where]).view(np.uint8)])
    parts = [payload if rank == peers.rank else xp.empty_like(payload) for rank in range(peers.size)]
    yield from allgather(peers, parts, tag)
    cut = count * dtype.itemsize
    sums = [xp.zeros(x.size, dtype) for x in out]
    for part in parts:
        found, places = part[:cut].view(dtype), part[cut:].view(np.uint32)
        start = 0
        for total, mine in zip(sums, values, strict=True):
            here = slice(start, start + mine.size)
            total[places[here]] += found[here]
            start += mine.size
    for total, x in zip(sums, out, strict=True):
        x[...] = total.reshape(x.shape)
