"""MPI's own Allreduce: at once, or as a request that goes on when it is asked.

Invariant: all ranks do it at once, or all by request, since MPI does not match the one with the other.  The sum order is the
library's; MPI advises, and the libraries take care, that all ranks get the same bits.
"""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.comm.allreduce.rounding import rounded_once
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import Communicator, Reduction


def native(comm: Communicator, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
    """Combine `x` over all ranks, in place, before the first yield.

    The library picks steps by size and number of ranks itself: a measured α + nβ.  The tag is not used: collectives match in
    the order in which they are started.  MPI 4.1, section 6.9.1.
    """
    comm.allreduce(x, op)
    yield from ()


@rounded_once
def native_by_request(comm: Communicator, x: Array, op: Reduction, tag: int) -> Collective:
    """As `native`, while other work goes on; by itself it takes longer (Open MPI 5: 1.5 to 3 times).  MPI 4.1, section 6.12.8.

    Large arrays are combined in chunks that are all started at once, as collectives of a communicator have one order.
    """
    yield comm.iallreduce(x, op)
