"""What every communicator promises, held by `local` and by MPI alike."""

from __future__ import annotations

import sys
import types

import ml_dtypes
import numpy as np
import pytest

from mpitrain.arrays import BFLOAT16
from mpitrain.comm import Reduction
from mpitrain.comm.local import LocalWorld

DTYPES = [np.float16, BFLOAT16, np.float32, np.float64, np.int32, np.int64]
SHAPES = [(), (1,), (7,), (3, 5), (0,), (2, 3, 4)]
NUMPY = {Reduction.SUM: np.sum, Reduction.MAX: np.max, Reduction.MIN: np.min}


def contribution(rank, shape, dtype):
    """What a rank hands over: values that every dtype holds exactly, different on each rank."""
    return np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 11 - 5 + 3 * rank, dtype)


@pytest.mark.mpi([1, 3], local=True)
def test_allreduce_equals_numpy(comm):
    for dtype in DTYPES:
        for shape in SHAPES:
            for op, combine in NUMPY.items():
                x = contribution(comm.rank, shape, dtype)
                comm.allreduce(x, op)
                everyone = np.stack([contribution(rank, shape, np.float64) for rank in range(comm.size)])
                np.testing.assert_array_equal(x.astype(np.float64), combine(everyone, axis=0))  # small integers: no rounding
                assert x.dtype == dtype


@pytest.mark.mpi(4, local=True)
def test_16_bit_sums_round_once(comm):
    # 1 and three times half the spacing above it: rounded after each addition that stays 1, rounded once it is 1 + 2 spacings
    # (both by ties to even).
    for dtype in (np.float16, BFLOAT16):
        spacing = float(ml_dtypes.finfo(dtype).eps)
        x = np.full(3, 1.0 if comm.rank == 0 else spacing / 2, dtype)
        comm.allreduce(x)
        np.testing.assert_array_equal(x.astype(np.float64), 1 + 2 * spacing)


@pytest.mark.mpi([1, 3], local=True)
def test_broadcast_and_allgather(comm):
    for dtype in DTYPES:
        for shape in SHAPES:
            for root in range(comm.size):
                x = contribution(comm.rank, shape, dtype)
                comm.broadcast(x, root)
                np.testing.assert_array_equal(x, contribution(root, shape, dtype))
            gathered = comm.allgather(contribution(comm.rank, shape, dtype))
            np.testing.assert_array_equal(gathered, np.stack([contribution(r, shape, dtype) for r in range(comm.size)]))
            assert gathered.dtype == dtype


@pytest.mark.mpi([1, 4], local=True)
def test_messages_match_by_source_and_tag_in_order(comm):
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for dtype in DTYPES:
        inbox = {(tag, i): np.zeros((2, 3), dtype) for tag in (5, comm.max_tag) for i in range(2)}
        receives = [comm.irecv(x, left, tag) for (tag, _), x in inbox.items()]
        outbox = {(tag, i): contribution(comm.rank + i, (2, 3), dtype) for tag in (comm.max_tag, 5) for i in range(2)}
        sends = [comm.isend(x, right, tag) for (tag, _), x in outbox.items()]
        for request in [*reversed(receives), *sends]:
            request.wait()
        assert all(request.done() for request in [*receives, *sends])
        for (_, i), x in inbox.items():
            np.testing.assert_array_equal(x, contribution(left + i, (2, 3), dtype))


@pytest.mark.mpi(2, local=True)
def test_done_makes_progress_and_says_when(comm):
    x = np.zeros(1000)
    if comm.rank == 0:
        request = comm.irecv(x, 1, 3)
        assert not request.done()
        comm.barrier()
        while not request.done():
            pass
        np.testing.assert_array_equal(x, 7)
    else:
        comm.barrier()
        comm.isend(np.full(1000, 7.0), 0, 3).wait()


@pytest.mark.mpi(4, local=True)
def test_groups_number_their_ranks_as_asked(comm):
    mine = [[0, 3], [2, 1]][comm.rank in (1, 2)]
    group = comm.group(mine)
    assert (group.rank, group.size) == (mine.index(comm.rank), 2)
    np.testing.assert_array_equal(group.allgather(np.array(comm.rank)), mine)
    alone = group.group([group.rank])
    x = np.array([5.0])
    alone.allreduce(x)
    assert (alone.size, x[0]) == (1, 5.0)
    assert group.max_tag == comm.max_tag >= 32767  # the least that MPI allows


@pytest.mark.mpi(3, local=True)
def test_all_ranks_share_this_host(comm):
    host = comm.same_host()
    assert (host.rank, host.size) == (comm.rank, comm.size)


@pytest.mark.mpi(2, local=True)
def test_group_messages_do_not_mix_with_the_worlds(comm):
    group, other = comm.group([0, 1]), 1 - comm.rank
    world_x, group_x = np.zeros(1), np.zeros(1)
    receives = [group.irecv(group_x, other, 1), comm.irecv(world_x, other, 1)]
    comm.isend(np.array([1.0]), other, 1).wait()
    group.isend(np.array([2.0]), other, 1).wait()
    for request in receives:
        request.wait()
    assert (world_x[0], group_x[0]) == (1.0, 2.0)


@pytest.mark.mpi(2, local=True)
def test_a_message_of_another_size_is_an_error(comm):
    if comm.rank == 0:
        comm.isend(np.zeros(3, np.float32), 1, 4).wait()
    else:
        request = comm.irecv(np.zeros(4, np.float32), 0, 4)
        with pytest.raises(ValueError, match=r"from rank 0|rank 0 sent.*both ends must name the same shape"):
            request.wait()
    comm.barrier()


@pytest.mark.mpi([1, 3], local=True)
def test_world_runs_its_ranks_and_keeps_them(world):
    first = world.run(lambda comm: (comm.rank, comm.size))
    assert first in ([(rank, world.size) for rank in range(world.size)], [(first[0][0], world.size)])
    assert world.run(lambda comm: id(comm)) == world.run(lambda comm: id(comm))
    assert world.leads == (first[0][0] == 0)
    if not isinstance(world, LocalWorld):  # under MPI, this process's communicator
        x = np.array([1.0 + world.rank])
        world.allreduce(x)
        np.testing.assert_array_equal(x, world.size * (world.size + 1) / 2)


class DeviceArray:
    """An array whose memory only `get` and `set` reach, as CuPy's."""

    def __init__(self, host):
        self.memory = host
        self.shape, self.dtype, self.nbytes, self.flags = host.shape, host.dtype, host.nbytes, host.flags

    def get(self):
        return self.memory.copy()

    def set(self, host):
        np.copyto(self.memory, host)


@pytest.fixture
def _device_library(monkeypatch):
    library = types.ModuleType("device_library")
    library.empty = lambda shape, dtype: DeviceArray(np.empty(shape, dtype))
    monkeypatch.setitem(sys.modules, "device_library", library)
    monkeypatch.setattr(DeviceArray, "__module__", "device_library.core")


@pytest.mark.mpi(2, local=True)
@pytest.mark.usefixtures("_device_library")
def test_device_arrays_travel_through_host_memory(comm):
    for dtype in (np.float32, BFLOAT16):
        mine = DeviceArray(contribution(comm.rank, (2, 3), dtype))
        both = [contribution(rank, (2, 3), dtype) for rank in range(2)]
        inbox = DeviceArray(np.zeros((2, 3), dtype))
        receive = comm.irecv(inbox, 1 - comm.rank, 1)
        comm.isend(mine, 1 - comm.rank, 1).wait()
        receive.wait()
        np.testing.assert_array_equal(inbox.memory, both[1 - comm.rank])
        np.testing.assert_array_equal(comm.allgather(mine).memory, np.stack(both))
        comm.broadcast(inbox, 1)
        np.testing.assert_array_equal(inbox.memory, both[0])
        comm.allreduce(mine)
        np.testing.assert_array_equal(mine.memory, both[0] + both[1])
