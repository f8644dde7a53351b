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


def reduced(x, op):
    def call(comm):
        mine = x(comm.rank)
        comm.allreduce(mine, op)
        return mine

    return call


def passed_on(x, inbox):
    """Each rank's `x` to the next one's `inbox`."""

    def call(comm):
        mine, found = x(comm.rank), inbox()
        receive = comm.irecv(found, (comm.rank - 1) % 3, 1)
        send = comm.isend(mine, (comm.rank + 1) % 3, 1)
        receive.wait()
        send.wait()
        return found - (comm.rank - 1) % 3  # the same on every rank

    return call


def spread(dtype):
    """An array that lies in every other element of another."""
    return np.zeros((2, 6), dtype)[:, ::2]


NAN = np.array([1.0, np.nan, 3.0])
#: What three ranks do, and what comes of it on each of them: an array, or a sentence.
ONE_BEHAVIOUR = {
    "max with NaN": (reduced(lambda r: np.where(r == 1, NAN, r), Reduction.MAX), [2.0, np.nan, 3.0]),
    "min with NaN": (reduced(lambda r: np.where(r == 2, NAN, r).astype(np.float16), Reduction.MIN), [0.0, np.nan, 0.0]),
    "max of NaN alone": (reduced(lambda r: -NAN.astype(np.float32), Reduction.MAX), [-1.0, np.nan, -3.0]),
    "sum of infinities": (reduced(lambda r: np.array([[np.inf, -np.inf, 1.0][r], np.inf]), Reduction.SUM), [np.nan, np.inf]),
    "integers wrap": (reduced(lambda r: np.full(2, 100, np.uint8), Reduction.SUM), [44, 44]),
    "product": (reduced(lambda r: np.array([r + 1, -1], np.int16), Reduction.PRODUCT), [6, -1]),
    "complex": (reduced(lambda r: np.array([r + 1j]), Reduction.MEAN), [1 + 1j]),
    "any": (reduced(lambda r: np.array([r == 1, False, True]), Reduction.MAX), [True, False, True]),
    "all": (reduced(lambda r: np.array([r == 1, False, True]), Reduction.MIN), [False, False, True]),
    "big-endian": (reduced(lambda r: np.array([r, 0.5], ">f8"), Reduction.SUM), [3.0, 1.5]),
    "big-endian, 16 bits": (reduced(lambda r: np.array([r, 0.5], ">f2"), Reduction.SUM), [3.0, 1.5]),
    "transposed": (reduced(lambda r: np.arange(6.0).reshape(2, 3).T, Reduction.SUM), 3 * np.arange(6.0).reshape(2, 3).T),
    "every other": (reduced(lambda r: spread(np.float32) + np.float32(r), Reduction.MEAN), np.ones((2, 3))),
    "gather of a part": (lambda c: c.allgather(np.arange(12)[3::4]), [[3, 7, 11]] * 3),
    "message to every other": (
        passed_on(lambda r: r + np.arange(6).reshape(3, 2).T, lambda: spread("i8")),
        [[0, 2, 4], [1, 3, 5]],
    ),
    "message of one": (passed_on(lambda r: np.asarray(r), lambda: np.zeros((), "i8")), 0),
    "message of none": (passed_on(lambda r: np.zeros((0, 2)), lambda: np.zeros((0, 2))), np.zeros((0, 2))),
    "big-endian message": (passed_on(lambda r: np.array([r], ">i4"), lambda: np.zeros(1, ">i4")), [0]),
    "sum of bool": (reduced(lambda r: np.ones(2, bool), Reduction.SUM), "the sum of bool; expected numbers"),
    "mean of integers": (reduced(lambda r: np.ones(2, int), Reduction.MEAN), "the mean of int64; expected floating-point"),
    "max of complex": (reduced(lambda r: np.ones(2, complex), Reduction.MAX), "the max of complex128, which has no order"),
    "sum of dates": (reduced(lambda r: np.zeros(2, "M8[s]"), Reduction.SUM), r"a reduction of datetime64"),
    "objects": (lambda c: c.allgather(np.array([None])), r"Python objects \(dtype object\) cannot travel"),
    "request of a mean": (lambda c: c.iallreduce(np.ones(1), Reduction.MEAN), r"allreduce\(mean\) of float64 by request"),
    "rank": (lambda c: c.isend(np.ones(1), 3, 0), "rank 3 is not in a group of 3; expected 0 to 2"),
    "root": (lambda c: c.broadcast(np.ones(1), -1), "rank -1 is not in a group of 3; expected 0 to 2"),
    "tag": (lambda c: c.irecv(np.ones(1), 0, -1), "a message with tag -1; expected 0 to"),
    "group": (lambda c: c.group([c.rank, c.rank]), r"rank \d asks for the group \[\d, \d\]; expected each rank once"),
    "other shapes": (reduced(lambda r: np.zeros((r // 2, 2)), Reduction.SUM), r"rank \d came .*\(\d, 2\) and .* same shape"),
    "as many bytes": (
        lambda c: c.allgather(np.zeros((4, 6) if c.rank == 1 else (6, 4))),
        r"rank \d came to allgather of float64 \(\d, \d\) and rank \d to allgather of float64 \(\d, \d\)",
    ),
    "other dtypes": (
        lambda c: c.broadcast(np.zeros(2, f"f{4 + 4 * (c.rank > 1)}"), 0),
        r"broadcast\(0\) of float\d\d \(2,\) and",
    ),
    "other collectives": (
        lambda c: c.barrier() if c.rank == 1 else c.allgather(np.zeros(2)),
        r"came to (barrier|allgather of .*) and rank \d to (barrier|allgather of .*); every rank must call",
    ),
    "another reduction": (
        lambda c: c.allreduce(np.zeros(2), Reduction.MAX if c.rank else Reduction.MIN),
        r"came to allreduce\((max|min)\) of .* and rank \d to allreduce\((max|min)\)",
    ),
}  # fmt: skip


@pytest.mark.mpi(3, local=True)
def test_threads_and_processes_are_one_behaviour(comm):
    for name, (call, expected) in ONE_BEHAVIOUR.items():
        if isinstance(expected, str):
            with pytest.raises(ValueError, match=expected):
                call(comm)
        else:
            np.testing.assert_array_equal(call(comm), expected, err_msg=name)
        comm.barrier()  # whatever happened, the next one goes on
    largest = np.array([np.nan, 1.0]) if comm.rank else np.zeros(2)
    comm.iallreduce(largest, Reduction.MAX).wait()
    np.testing.assert_array_equal(largest, [np.nan, 1.0])


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
