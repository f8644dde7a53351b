"""`roll_call`: wait until every rank has come to one place, for a limited time, and name those that have not.

Invariant: no rank blocks inside the library, so that each can say how long it has waited; rank 0 knows who is missing, and the
others know whether rank 0 is.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, sleep

import numpy as np

from mpitrain.comm.communicator import Communicator
from mpitrain.comm.text import spans

#: Seconds between two looks, and by which the others let rank 0 speak first.
_POLL_S, _GRACE_S = 1e-3, 5.0


def roll_call(comm: Communicator, place: str, limit_s: float) -> None:
    """Return once every rank has come to `place`.  Collective.

    `TimeoutError` names the ranks that have not come `limit_s` seconds after rank 0, or rank 0, if it is missing.
    """
    here = np.zeros(1, np.uint8)
    if comm.rank == 0:
        others = range(1, comm.size)
        sent = [comm.isend(here, rank, 0) for rank in others]
        _await(comm, others, place, limit_s)
        sent += [comm.isend(here, rank, 0) for rank in others]
    else:
        sent = [comm.isend(here, 0, 0)]
        _await(comm, [0], place, limit_s + _GRACE_S)  # it is there
        _await(comm, [0], place, limit_s + _GRACE_S)  # everyone is
    for request in sent:
        request.wait()


def _await(comm: Communicator, ranks: Iterable[int], place: str, limit_s: float) -> None:
    """Wait for a message of each of `ranks`."""
    waiting = {rank: comm.irecv(np.empty(1, np.uint8), rank, 0) for rank in ranks}
    begun = monotonic()
    while True:
        late = monotonic() - begun > limit_s  # before the last look, so that who has come meanwhile is not named
        waiting = {rank: request for rank, request in waiting.items() if not request.done()}
        if not waiting:
            return
        if late:
            who = f"rank{'s' * (len(waiting) > 1)} {spans(waiting)} of {comm.size}"
            raise TimeoutError(
                f"{who} did not come to {place} within {limit_s:g} s, where the others wait; expected every rank to make the "
                "same calls: look at what it did before, and whether its process is still there"
            )
        sleep(_POLL_S)
