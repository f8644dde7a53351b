"""Who acts for a disk: folders of one name may be one folder that all ranks share, or one on each host's own disk.

Invariant: nothing is taken for granted of hosts and file systems; ranks share a disk if one sees what the other wrote.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from mpitrain.checkpoint.agree import together
from mpitrain.comm import Communicator, Reduction, broadcast_text


def leads_disk(comm: Communicator, folder: Path) -> bool:
    """Whether this rank is the first of those for which `folder`, made where there is none, is on the same disk.

    Collective; `WriteError` on every rank, naming the first that failed, if one could not write there.
    """
    mark = folder / f".disk-{broadcast_text(comm, uuid.uuid4().hex, 0)}"  # a new name, which no network file system remembers
    leader: int | None = None
    while True:
        without = np.array([comm.size if leader is not None else comm.rank])
        comm.allreduce(without, Reduction.MIN)
        if (candidate := int(without[0])) == comm.size:
            break
        together(comm, lambda: _touch(mark), here=comm.rank == candidate)
        if leader is None and mark.exists():
            leader = candidate
    if leader == comm.rank:
        mark.unlink()
    return leader == comm.rank


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
