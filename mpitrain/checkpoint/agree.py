"""Whether all is well on every rank.

Invariant: every rank comes away with the same answer, so that either all go on or all raise.
"""

from __future__ import annotations

import numpy as np

from mpitrain.comm import Communicator, Reduction, gather_text


def first_failure(comm: Communicator, failure: str | None) -> str | None:
    """`failure` of the lowest rank that has one, with that rank's number; `None` if no rank has.  Collective."""
    failed = np.array([comm.size if failure is None else comm.rank])
    comm.allreduce(failed, Reduction.MIN)
    rank = int(failed[0])
    if rank == comm.size:
        return None
    return f"rank {rank}: {gather_text(comm, failure or '')[rank]}"
