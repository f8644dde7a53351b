"""Recursive halving and doubling: ranks exchange halves with ever nearer partners, then hand them back in reverse.

Invariant: each element is combined pairwise up one binary tree of ranks, on one rank, so all ranks get the same bits.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside
from mpitrain.comm.allreduce.rounding import rounded_once
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import COMBINE, Peers, Reduction


@rounded_once
def halving(comm: Peers, x: Array, op: Reduction, tag: int) -> Collective:
    """Combine the flat array `x` over all ranks, in place.

    For p = 2^k ranks and n bytes, k steps that halve and k that double: 2 log2(p) α + 2(p-1)/p nβ + (p-1)/p nγ; fewer
    messages than the ring's, for arrays of middle size.  Where p is not a power of two, the first r of each pair among the
    first 2r ranks, p = 2^k + r, hand all they have to the second, and get the result from it in the end: 2α + 2nβ + nγ more.
    An element is combined with that of the rank farthest away first (after the pairs).
    Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH", section 4.5.
    """
    p, rank = comm.size, comm.rank
    core = 1 << (p.bit_length() - 1)
    paired = 2 * (p - core)  # the ranks that come in pairs
    if rank < paired and rank % 2 == 0:
        yield comm.isend(x, rank + 1, tag)
        yield comm.irecv(x, rank + 1, tag)
        return
    scratch = empty_beside(x, (len(x) if rank < paired else (len(x) + 1) // 2,))
    if rank < paired:
        yield comm.irecv(scratch, rank - 1, tag)
        COMBINE[op](x, scratch, out=x)
    me = rank // 2 if rank < paired else rank - paired // 2  # among the 2^k that go on
    mine, undo = x, []
    distance = core // 2
    while distance:
        other = me ^ distance
        partner = 2 * other + 1 if other < paired // 2 else other + paired // 2
        low, high = mine[: len(mine) // 2], mine[len(mine) // 2 :]
        mine, theirs = (low, high) if me < other else (high, low)
        received = scratch[: len(mine)]
        arriving = comm.irecv(received, partner, tag)
        leaving = comm.isend(theirs, partner, tag)
        yield arriving
        COMBINE[op](mine, received, out=mine)
        yield leaving
        undo.append((partner, mine, theirs))
        distance //= 2
    for partner, mine, theirs in reversed(undo):
        arriving = comm.irecv(theirs, partner, tag)
        leaving = comm.isend(mine, partner, tag)
        yield arriving
        yield leaving
    if rank < paired:
        yield comm.isend(x, rank - 1, tag)
