"""Memory that the ranks of one host share.

Invariant: it has no name in any file system, so nothing of it outlives the ranks; it goes when the last array over it goes.
Whoever writes must send a message before another reads: MPI's own shared memory orders what came before.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from mpitrain.comm.communicator import Communicator, Reduction


def shared_memory(host: Communicator, nbytes: int) -> list[np.ndarray] | None:
    """`nbytes` zeroed bytes for each rank of `host`, by rank, that all of them read and write.

    `None`, on every rank, if one of them has no way to it (not Linux; another process namespace).  Collective.
    """
    stride = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE  # no two ranks write to one page
    token = os.urandom(8)
    where = np.array([os.getpid(), -1, int.from_bytes(token, "little", signed=True)])
    file = _create(stride * host.size) if host.rank == 0 else -1
    if file >= 0:
        where[1] = file
        os.pwrite(file, token, 0)
    host.broadcast(where, 0)
    process, number, secret = where.tolist()
    mapped = _map(process, number, secret.to_bytes(8, "little", signed=True), stride * host.size)
    found = np.array([mapped is not None])
    everyone = found.astype(np.int64)
    host.allreduce(everyone, Reduction.MIN)  # from here on nobody opens the file
    if file >= 0:
        os.pwrite(file, bytes(8), 0)
        os.close(file)
    host.barrier()
    if mapped is None or not everyone[0]:
        return None
    return [np.ndarray((nbytes,), np.uint8, mapped, rank * stride) for rank in range(host.size)]


def _create(size: int) -> int:
    """A file in memory, -1 where the system has none."""
    if not hasattr(os, "memfd_create"):
        return -1
    file = os.memfd_create("mpitrain")
    os.truncate(file, size)
    return file


def _map(process: int, file: int, token: bytes, size: int) -> mmap.mmap | None:
    """The memory of another process's `file`, if it can be opened and begins with `token`."""
    try:
        opened = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
    except OSError:
        return None
    with os.fdopen(opened, "r+b") as found:
        if os.pread(found.fileno(), 8, 0) != token:
            return None
        return mmap.mmap(found.fileno(), size)
