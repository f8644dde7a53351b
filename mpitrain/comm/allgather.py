"""All-gather: every rank gets the array of every rank, passed on around a ring.

Invariant: the arrays may differ in size and be empty; each travels as it is, so all ranks get the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpitrain.arrays import Array
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import Peers


def allgather(comm: Peers, parts: Sequence[Array], tag: int = 0) -> Collective:
    """Fill `parts`, one array a rank and of the same shapes everywhere; `parts[comm.rank]` is there.

    p-1 steps of n bytes: (p-1)(α + nβ) for p ranks and n bytes a rank; bandwidth-optimal.  Thakur, Rabenseifner and Gropp 2005,
    "Optimization of collective communication operations in MPICH", section 4.1.
    """
    p, rank = comm.size, comm.rank
    right, left = (rank + 1) % p, (rank - 1) % p
    for step in range(p - 1):
        outgoing, incoming = parts[(rank - step) % p], parts[(rank - step - 1) % p]
        arriving = comm.irecv(incoming, left, tag) if incoming.size else None
        leaving = comm.isend(outgoing, right, tag) if outgoing.size else None
        if arriving is not None:
            yield arriving
        if leaving is not None:
            yield leaving
