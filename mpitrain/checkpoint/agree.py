"""Whether all is well on every rank.

Invariant: every rank comes away with the same answer, so that either all go on or all raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError

from mpitrain.comm import Communicator, Reduction, gather_text

T = TypeVar("T")


class WriteError(OSError):
    """One rank could not write; every rank raises it, and it names the lowest that could not."""


def together(comm: Communicator, write: Callable[[], T], *, here: bool = True) -> T | None:
    """`write()` where `here` is true; `WriteError` on every rank if one could not.  Collective."""
    failed, result = None, None
    try:
        result = write() if here else None
    except (OSError, SafetensorError) as error:
        failed = error
    check_written(comm, failed)
    return result


def check_written(comm: Communicator, failed: Exception | None) -> None:
    """`WriteError` on every rank if one has `failed`.  Collective."""
    if (first := first_failure(comm, None if failed is None else f"{type(failed).__name__}: {failed}")) is not None:
        raise WriteError(first)


def first_failure(comm: Communicator, failure: str | None) -> str | None:
    """`failure` of the lowest rank that has one, with that rank's number; `None` if no rank has.  Collective."""
    failed = np.array([comm.size if failure is None else comm.rank])
    comm.allreduce(failed, Reduction.MIN)
    rank = int(failed[0])
    if rank == comm.size:
        return None
    return f"rank {rank}: {gather_text(comm, failure or '')[rank]}"
