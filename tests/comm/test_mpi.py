"""Long messages in pieces that MPI can count, and device memory only where MPI reads it."""

from __future__ import annotations

import os
import sys
import types

import numpy as np
import pytest

from mpitrain.arrays import BFLOAT16
from mpitrain.comm import Reduction


def with_chunk(chunk, *, device_aware=False):
    """The world's communicator, handing MPI at most `chunk` elements or bytes in one call."""
    from mpi4py import MPI

    from mpitrain.comm.mpi import MpiCommunicator

    return MpiCommunicator(MPI.COMM_WORLD.Dup(), device_aware=device_aware, chunk=chunk)


@pytest.mark.mpi(3)
def test_every_call_works_in_chunks(comm):
    chunked = with_chunk(16)
    for count in (15, 16, 17, 100):
        for dtype in (np.float32, np.int64, BFLOAT16):
            mine = (np.arange(count) % 7 + comm.rank).astype(dtype)
            everyone = np.stack([np.arange(count) % 7 + rank for rank in range(3)])
            np.testing.assert_array_equal(chunked.allgather(mine), everyone.astype(dtype))
            inbox = np.zeros(count, dtype)
            receive = chunked.irecv(inbox, (comm.rank - 1) % 3, 1)
            chunked.isend(mine, (comm.rank + 1) % 3, 1).wait()
            receive.wait()
            np.testing.assert_array_equal(inbox.astype(float), everyone[(comm.rank - 1) % 3])
            chunked.broadcast(inbox, 1)
            np.testing.assert_array_equal(inbox.astype(float), everyone[0])
            chunked.allreduce(mine, Reduction.MAX)
            np.testing.assert_array_equal(mine.astype(float), everyone.max(axis=0))


def memory_short_of(gib):
    """Whether fewer than `gib` GiB are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < gib * 2**30


@pytest.mark.mpi(2, timeout=120)
@pytest.mark.skipif(memory_short_of(7), reason="needs 7 GiB of free memory: two ranks hold messages of more than 2 GiB")
def test_more_than_2_to_the_31_bytes(comm):
    count = 2**31 + 5
    x = np.zeros(count, np.uint8)
    x[[0, 2**30, 2**31 - 1, 2**31, -1]] = [1, 2, 3, 4, 5] if comm.rank == 0 else 0
    if comm.rank == 0:
        comm.isend(x, 1, 1).wait()
    else:
        comm.irecv(x, 0, 1).wait()
    np.testing.assert_array_equal(x[[0, 2**30, 2**31 - 1, 2**31, -1]], [1, 2, 3, 4, 5])
    assert np.count_nonzero(x[:: 2**10]) == 3  # 0, 2**30 and 2**31 are multiples of 2**10
    x[-1] = 17 + comm.rank
    comm.broadcast(x, 1)
    np.testing.assert_array_equal(x[[0, 2**30, 2**31 - 1, 2**31, -1]], [1, 2, 3, 4, 18])


@pytest.mark.mpi(1)
def test_the_library_is_asked_whether_it_reads_device_memory(comm):
    from mpi4py import MPI

    from mpitrain.comm.mpi import reads_device_memory

    assert "cuda" not in MPI.Get_library_version().lower(), "the wheels that the extra installs are built without CUDA"
    assert reads_device_memory() is False
    assert comm.size == 1


class AwareArray:
    """An array that MPI reads by itself (through DLPack), and NumPy's functions do not."""

    def __init__(self, memory):
        self.memory = memory
        self.shape, self.dtype, self.size, self.nbytes = memory.shape, memory.dtype, memory.size, memory.nbytes
        self.flags = memory.flags

    def reshape(self, *shape):
        return AwareArray(self.memory.reshape(*shape))

    def view(self, dtype):
        return AwareArray(self.memory.view(dtype))

    def astype(self, dtype):
        return AwareArray(self.memory.astype(dtype))

    def __getitem__(self, part):
        return AwareArray(self.memory[part])

    def __setitem__(self, part, values):
        self.memory[part] = values.memory

    def __dlpack__(self, **options):
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


@pytest.mark.mpi(2)
def test_device_memory_is_handed_over_once_its_stream_is_done(comm, monkeypatch):
    synchronised = []
    stream = types.SimpleNamespace(synchronize=lambda: synchronised.append(True))
    library = types.SimpleNamespace(
        cuda=types.SimpleNamespace(get_current_stream=lambda: stream),
        empty=lambda shape, dtype: AwareArray(np.empty(shape, dtype)),
    )
    monkeypatch.setitem(sys.modules, "aware_library", library)
    monkeypatch.setattr(AwareArray, "__module__", "aware_library.core")
    aware = with_chunk(1 << 30, device_aware=True)
    x, inbox = AwareArray(np.full(3, comm.rank + 1.0)), AwareArray(np.zeros(3))
    receive = aware.irecv(inbox, 1 - comm.rank, 1)
    assert len(synchronised) == 1
    aware.isend(x, 1 - comm.rank, 1).wait()
    receive.wait()
    np.testing.assert_array_equal(inbox.memory, 2.0 - comm.rank)
    assert len(synchronised) == 2
    aware.allreduce(x)
    np.testing.assert_array_equal(x.memory, 3.0)
    np.testing.assert_array_equal(aware.allgather(inbox).memory, [[2.0] * 3, [1.0] * 3])
    aware.broadcast(inbox, 0)
    np.testing.assert_array_equal(inbox.memory, 2.0)
    assert len(synchronised) == 6
    half = AwareArray(np.full(3, 0.5, np.float16))
    aware.allreduce(half)
    np.testing.assert_array_equal(half.memory, 1.0)
    assert len(synchronised) == 8  # once more for the float32 copy that MPI reads
