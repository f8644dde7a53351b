"""Ranks as threads: the same sums whatever the timing, and an end to every wait."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.arrays import BFLOAT16
from mpitrain.comm import PeerGoneError, RankDiedError, Reduction, local, post

FLOATS = st.sampled_from([np.float16, BFLOAT16, np.float32, np.float64])
COMBINE = {Reduction.SUM: np.sum, Reduction.MAX: np.max, Reduction.MIN: np.min}


@st.composite
def contributions(draw, dtypes, elements):
    """One array for each of 1 to 5 ranks, of one shape and dtype; the values that the dtype rounds them to."""
    size, shape, dtype = draw(st.integers(1, 5)), draw(arrays.array_shapes(max_dims=3, max_side=4)), draw(dtypes)
    return draw(arrays.arrays(np.float64, (size, *shape), elements=elements)).astype(dtype)


def allreduce(parts, op):
    def run(comm):
        x = parts[comm.rank].copy()
        comm.allreduce(x, op)
        return x

    return local(len(parts)).run(run)


@settings(max_examples=60, deadline=None)
@given(parts=contributions(FLOATS, st.floats(-100, 100)), op=st.sampled_from(list(COMBINE)))
def test_float_reductions_equal_float64(parts, op):
    results = allreduce(parts, op)
    exact = COMBINE[op](parts.astype(np.float64), axis=0)
    # Each addition rounds in float32 (float64 where that is the dtype) relative to at most the sum of magnitudes; then one
    # rounding to the dtype, half a spacing of float16 or bfloat16 (half the smallest number of float16 near zero).
    summed = np.finfo(np.float64 if parts.dtype == np.float64 else np.float32).eps
    once = {np.dtype(np.float16): 2.0**-11, BFLOAT16: 2.0**-8}.get(parts.dtype, 0.0)
    bound = len(parts) * summed * np.abs(parts.astype(np.float64)).sum(axis=0)
    bound = bound + once * (np.abs(exact) + bound) + 2.0**-25
    for result in results:
        assert result.dtype == parts.dtype
        assert (np.abs(result.astype(np.float64) - exact) <= bound).all()
        assert result.tobytes() == results[0].tobytes()


@settings(max_examples=30, deadline=None)
@given(
    parts=contributions(st.sampled_from([np.int32, np.int64]), st.integers(-1000, 1000).map(float)),
    op=st.sampled_from(list(COMBINE)),
)
def test_integer_reductions_are_exact(parts, op):
    for result in allreduce(parts, op):
        np.testing.assert_array_equal(result, COMBINE[op](parts, axis=0))


@settings(max_examples=30, deadline=None)
@given(parts=contributions(FLOATS, st.floats(-100, 100)), data=st.data())
def test_gather_and_broadcast_copy_bits(parts, data):
    root = data.draw(st.integers(0, len(parts) - 1))

    def run(comm):
        x = parts[comm.rank].copy()
        gathered = comm.allgather(x)
        comm.broadcast(x, root)
        return gathered.tobytes(), x.tobytes()

    assert local(len(parts)).run(run) == [(parts.tobytes(), parts[root].tobytes())] * len(parts)


class Waits:
    """Notes the waits of a local world's ranks: `began` counts them, `woken` says of each that ended whether it was told to."""

    def __init__(self, world, monkeypatch):
        self.began, self.woken = threading.Semaphore(0), []
        changed = world._post.changed
        wait = changed.wait

        def noted(timeout):
            self.began.release()
            self.woken.append(wait(timeout))

        monkeypatch.setattr(changed, "wait", noted)


def test_sums_are_in_rank_order_whoever_comes_first(monkeypatch):
    parts = np.array([1e100, -1e100, 1.0, 1.0])  # 2 in this order; 0 or 1 where a 1 meets a large one
    came, put = [threading.Event() for _ in parts], post.Post.put

    def noted(self, channel, array, kind):
        put(self, channel, array, kind)
        if channel[2] == len(parts) - 1:  # the last that it is sent to
            came[channel[1]].set()

    monkeypatch.setattr(post.Post, "put", noted)

    def run(comm):
        if comm.rank:  # 0 comes first, then 3, 2, 1
            assert came[(comm.rank + 1) % 4].wait(60)
        x = parts[comm.rank : comm.rank + 1].copy()
        comm.allreduce(x)
        return x[0]

    assert local(4).run(run) == [2.0] * 4


def test_each_rank_is_a_thread_and_inherits_the_context():
    with np.errstate(over="raise"):
        results = local(3).run(lambda comm: (threading.current_thread().name, np.geterr()["over"]))
    assert results == [(f"rank {rank}", "raise") for rank in range(3)]


def test_a_message_waits_for_a_later_run():
    world = local(2)
    world.run(lambda comm: comm.isend(np.array([4.0]), 1, 1) if comm.rank == 0 else None)

    def receive(comm):
        x = np.zeros(1)
        if comm.rank == 1:
            comm.irecv(x, 0, 1).wait()
        return x[0]

    assert world.run(receive) == [0.0, 4.0]


def test_latency_hides_a_message_for_a_while(monkeypatch):
    """On a clock that goes on by 0.05 s whenever it is read."""
    now, sent = [0.0], threading.Event()

    def monotonic():
        now[0] += 0.05
        return now[0]

    monkeypatch.setattr(post, "time", SimpleNamespace(monotonic=monotonic))

    def run(comm):
        if comm.rank == 0:
            comm.isend(np.zeros(1), 1, 1)
            sent.set()
            return
        assert sent.wait(60)
        request, start = comm.irecv(np.zeros(1), 0, 1), now[0]
        assert not request.done()
        request.wait()
        assert start + 0.2 <= now[0] <= start + 0.4  # and one reading more for the deadline, one for how long to wait

    local(2, latency=0.2).run(run)


def test_the_first_failure_is_raised_and_wakes_the_others(monkeypatch):
    others, world = [], local(3)
    waits = Waits(world, monkeypatch)

    def run(comm):
        if comm.rank == 1:
            assert all(waits.began.acquire(timeout=60) for _ in range(2))
            raise KeyError("boom")
        try:
            comm.irecv(np.zeros(1), 1, 7).wait()
        except PeerGoneError as error:
            others.append(str(error))
            raise

    with pytest.raises(KeyError, match="boom") as raised:
        world.run(run)
    assert all(waits.woken)
    assert raised.value.__notes__ == ["on rank 1 of 3"]
    assert len(others) == 2
    assert all("for tag 7 from rank 1, but rank 1 has failed with KeyError: 'boom'" in text for text in others)
    with pytest.raises(RuntimeError, match="rank 1 of this local world has failed; make a new world"):
        world.run(run)


@pytest.mark.parametrize("collective", ["barrier", "allreduce", "broadcast", "allgather"])
def test_a_dead_rank_is_named_by_those_who_wait_for_it(collective):
    calls = {
        "barrier": lambda comm: comm.barrier(),
        "allreduce": lambda comm: comm.allreduce(np.zeros(2)),
        "broadcast": lambda comm: comm.broadcast(np.zeros(2), 2),
        "allgather": lambda comm: comm.allgather(np.zeros(2)),
    }
    seen = {}

    def run(comm):
        for count in range(5):
            try:
                calls[collective](comm)
            except (PeerGoneError, RankDiedError) as error:
                seen[comm.rank] = (count, type(error), str(error))
                raise

    with pytest.raises(RankDiedError, match="rank 2 died after 3 operations"):
        local(3, deaths={2: 3}).run(run)
    for rank in (0, 1):
        count, kind, text = seen[rank]
        assert (count, kind) == (3, PeerGoneError)
        assert "from rank 2, but rank 2 has died" in text or "has failed with PeerGoneError" in text


def test_survivors_can_go_on_in_a_group():
    def run(comm):
        with pytest.raises(RankDiedError if comm.rank == 1 else PeerGoneError, match="rank 1"):
            comm.barrier()
        if comm.rank == 1:
            comm.barrier()
        survivors = comm.group([0, 2])
        x = np.array([float(comm.rank)])
        survivors.allreduce(x)
        sums.append(x[0])

    sums: list[float] = []
    with pytest.raises(RankDiedError):
        local(3, deaths={1: 0}).run(run)
    assert sums == [2.0, 2.0]


def test_kill_reaches_a_rank_that_is_blocked(monkeypatch):
    world = local(2)
    waits = Waits(world, monkeypatch)

    def run(comm):
        if comm.rank == 0:
            assert waits.began.acquire(timeout=60)
            world.kill(1)
        comm.irecv(np.zeros(1), 1 - comm.rank, 1).wait()

    with pytest.raises(RankDiedError, match="rank 1 died"):
        world.run(run)
    assert all(waits.woken)


def test_a_wait_for_a_rank_that_returned_ends():
    with pytest.raises(PeerGoneError, match="rank 0 waits in group world for tag 9 from rank 1, but rank 1 has returned"):
        local(2).run(lambda comm: comm.irecv(np.zeros(1), 1, 9).wait() if comm.rank == 0 else None)


def test_a_deadlock_ends_at_the_limit():
    with pytest.raises(TimeoutError, match=r"rank \d waits in group world for tag 1 from rank \d for more than 0.2 s"):
        local(2, limit_s=0.2).run(lambda comm: comm.irecv(np.zeros(1), 1 - comm.rank, 1).wait())


@pytest.mark.parametrize("sent", [np.zeros(3, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32)])
def test_both_ends_name_the_same_shape_and_dtype(sent):
    def run(comm):
        if comm.rank == 0:
            comm.isend(sent, 1, 2)
        else:
            comm.irecv(np.zeros(4, np.float32), 0, 2).wait()

    with pytest.raises(ValueError, match=r"rank 1 receives float32 \(4,\) where rank 0 sent"):
        local(2).run(run)


def test_a_world_has_ranks():
    with pytest.raises(ValueError, match="a local world of 0 ranks"):
        local(0)
