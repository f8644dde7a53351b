"""Ring: every rank passes shares of the array to its right-hand neighbour, first to combine them, then to hand them out.

Invariant: each share is combined in the order of the ring that ends at its owner, on one rank, so all ranks get the same bits.
"""

from __future__ import annotations

from collections import deque

from mpitrain.arrays import Array, empty_beside
from mpitrain.comm.allreduce.rounding import rounded_once
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import COMBINE, Peers, Reduction, Request

#: Bytes of a piece: smaller ones take turns with their own announcements on a slow network (over 1 Gbit/s, pieces of 1 MiB
#: reached 60 % of the rate and these 98 %), larger ones leave the cache before they are combined.
PIECE_BYTES = 1 << 22

#: Receives that are posted ahead of the piece that is being combined.
_AHEAD = 2


@rounded_once
def ring(comm: Peers, x: Array, op: Reduction, tag: int) -> Collective:
    """Combine the flat array `x` over all ranks, in place.

    2(p-1) steps of n/p bytes: 2(p-1)α + 2(p-1)/p nβ + (p-1)/p nγ for p ranks and n bytes; bandwidth-optimal, for large
    arrays.  A share goes in pieces, each of which is passed on as soon as it is combined, while the next one arrives.
    Share i is combined in the order i, i+1, ..., i-1 of the ranks, and is complete on rank i-1.
    Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 3.
    """
    p, rank = comm.size, comm.rank
    pieces = max(1, round(x.nbytes / p / PIECE_BYTES))
    right, left = (rank + 1) % p, (rank - 1) % p

    def piece(step: int, number: int) -> Array:
        """What the left-hand neighbour sends in `step`; this rank sends the same in the step after."""
        first = (rank - step - 1) % p * pieces + number
        return x[len(x) * first // (p * pieces) : len(x) * (first + 1) // (p * pieces)]

    order = [(step, number) for step in range(2 * (p - 1)) for number in range(pieces)]
    combining = (p - 1) * pieces  # so many pieces arrive to be combined, and as many that are complete
    scratch = [empty_beside(x, (len(x) // (p * pieces) + 1,)) for _ in range(_AHEAD)]
    leaving = [comm.isend(piece(-1, number), right, tag) for number in range(pieces)]
    arriving: deque[tuple[Request, Array]] = deque()
    for i in range(-_AHEAD, len(order)):
        if i >= 0:
            request, received = arriving.popleft()
            yield request
            step, number = order[i]
            target = piece(step, number)
            if i < combining:
                COMBINE[op](target, received, out=target)
            if step < 2 * (p - 1) - 1:
                leaving.append(comm.isend(target, right, tag))
        if i + _AHEAD < len(order):
            target = piece(*order[i + _AHEAD])
            if i + _AHEAD < combining:
                target = scratch[i % _AHEAD][: len(target)]
            else:
                yield leaving[i + _AHEAD - combining]  # the part of this piece that this rank passed on before
            arriving.append((comm.irecv(target, left, tag), target))
    yield from leaving
