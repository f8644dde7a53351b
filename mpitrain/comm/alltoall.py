"""All-to-all: every rank gives each rank an array of its own.

Invariant: all messages are under way at once, so no order of the ranks makes one wait for another's computation.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpitrain.arrays import Array
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import Peers


def alltoall(comm: Peers, outgoing: Sequence[Array], incoming: Sequence[Array], tag: int = 0) -> Collective:
    """Send `outgoing[peer]` to each rank and fill `incoming[peer]` from each; sizes may differ, empty arrays do not travel.

    (p-1)α + (p-1)nβ for p ranks and messages of n bytes.
    """
    p, rank = comm.size, comm.rank
    incoming[rank][...] = outgoing[rank]
    order = range(1, p)  # every rank begins with another peer
    sources = [(rank - step) % p for step in order if incoming[(rank - step) % p].size]
    dests = [(rank + step) % p for step in order if outgoing[(rank + step) % p].size]
    arriving = [comm.irecv(incoming[source], source, tag) for source in sources]
    leaving = [comm.isend(outgoing[dest], dest, tag) for dest in dests]
    yield from arriving
    yield from leaving
