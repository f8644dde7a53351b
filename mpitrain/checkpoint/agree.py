"""What ranks tell each other about a checkpoint: whether all is well, and JSON.

Invariant: every rank comes away with the same answer, so that either all go on or all raise; nothing is pickled.
"""

from __future__ import annotations

import numpy as np

from mpitrain.comm import Communicator, Reduction


def first_failure(comm: Communicator, failure: str | None) -> str | None:
    """`failure` of the lowest rank that has one, with that rank's number; `None` if no rank has.  Collective."""
    failed = np.array([comm.size if failure is None else comm.rank])
    comm.allreduce(failed, Reduction.MIN)
    rank = int(failed[0])
    if rank == comm.size:
        return None
    return f"rank {rank}: {gather_text(comm, failure or '')[rank]}"


def gather_text(comm: Communicator, text: str) -> list[str]:
    """The text of every rank.  Collective."""
    raw = np.frombuffer(text.encode(), np.uint8)
    sizes = comm.allgather(np.array([raw.size]))[:, 0]
    padded = np.zeros(max(1, int(sizes.max())), np.uint8)
    padded[: raw.size] = raw
    return [row[:size].tobytes().decode() for row, size in zip(comm.allgather(padded), sizes, strict=True)]
