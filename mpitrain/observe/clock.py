"""How far each rank's clock is from rank 0's, so that times of several hosts can be laid side by side.

Invariant: the true offset lies within `error` of the estimate, whatever the network did, as long as clocks do not drift
while they are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpitrain.comm import Communicator

#: The clock of `Measured`, in seconds.
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds to add to this rank's clock to get rank 0's, and how wrong that can be."""

    seconds: float = 0.0
    error: float = 0.0


def offset_to_first(comm: Communicator, *, rounds: int = 20, clock: Clock = time.perf_counter) -> Offset:
    """This rank's offset to rank 0.  Collective; rank 0 answers one rank after the other, `rounds` times each.

    A rank asks at t0, rank 0 answers with its time t, the answer is there at t1: with equal ways t belongs to (t0 + t1) / 2,
    and it can never be off by more than (t1 - t0) / 2.  The round with the shortest way counts (Mills 1991, "Internet time
    synchronization: the network time protocol", section on the clock filter).
    """
    question, answer = np.zeros(0), np.zeros(1)
    if comm.rank == 0:
        for rank in range(1, comm.size):
            for tag in range(rounds):
                comm.irecv(question, rank, tag).wait()
                answer[0] = clock()
                comm.isend(answer, rank, tag).wait()
        return Offset()
    found = []
    for tag in range(rounds):
        begin = clock()
        comm.isend(question, 0, tag).wait()
        comm.irecv(answer, 0, tag).wait()
        end = clock()
        found.append(Offset(float(answer[0]) - (begin + end) / 2, (end - begin) / 2))
    return min(found, key=lambda offset: offset.error)
