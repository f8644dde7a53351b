"""Ring: every rank passes shares of the array to its right-hand neighbour, first to sum them, then to hand them out.

Invariant: each share is summed in the order of the ring that ends at its owner, on one rank, so all ranks get the same bits.
"""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import COMBINE, Peers, Reduction


def ring(comm: Peers, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
    """Combine the flat array `x` over all ranks, in place.

    2(p-1) steps of n/p elements: 2(p-1)α + 2(p-1)/p nβ + (p-1)/p nγ for p ranks and n bytes; bandwidth-optimal, for large
    arrays.  Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 3.
    """
    p, rank = comm.size, comm.rank
    share = [slice(len(x) * i // p, len(x) * (i + 1) // p) for i in range(p)]
    right, left = (rank + 1) % p, (rank - 1) % p
    buffer = x[: max(s.stop - s.start for s in share)].copy()
    for step in range(p - 1):  # the share that a rank completes in the end is its right-hand neighbour's number
        outgoing, incoming = share[(rank - step) % p], share[(rank - step - 1) % p]
        received = buffer[: incoming.stop - incoming.start]
        arriving = comm.irecv(received, left, tag)
        leaving = comm.isend(x[outgoing], right, tag)
        yield arriving
        COMBINE[op](x[incoming], received, out=x[incoming])
        yield leaving
    for step in range(p - 1):
        outgoing, incoming = share[(rank + 1 - step) % p], share[(rank - step) % p]
        arriving = comm.irecv(x[incoming], left, tag)
        leaving = comm.isend(x[outgoing], right, tag)
        yield arriving
        yield leaving
