"""The constants that a communicator shows, and the choices that follow from them."""

from __future__ import annotations

import math
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from mpitrain.comm import Reduction, local
from mpitrain.comm.allreduce import Allreduce, Hierarchical, halving, ring
from mpitrain.comm.allreduce.cost import COSTS, LARGEST_BUCKET, SMALLEST_BUCKET, Constants, Line, bucket_bytes, choose
from mpitrain.comm.probe import fit, least_seconds

#: A network of 10 µs and 1 GB/s, that combines 10 GB/s, whose MPI takes twice the ring's time a byte.
NETWORK = {"message": Line(alpha=1e-5, beta=1e-9), "gamma": 1e-10, "native": Line(alpha=5e-6, beta=4e-9)}


def test_a_line_is_found_again():
    line = Line(alpha=3e-6, beta=2e-10)
    sizes = (8, 1 << 14, 1 << 18, 1 << 21)
    found = fit(sizes, [line(n) for n in sizes])
    assert found.alpha == pytest.approx(line.alpha, rel=1e-9)
    assert found.beta == pytest.approx(line.beta, rel=1e-9)


def test_what_passes_within_a_burst_promises_nothing():
    """8 ns/byte, but for the first 200 KiB of a message: at 1/10 of that."""
    sizes = (8, 1 << 14, 1 << 18, 1 << 21)
    times = [1e-5 + 8e-10 * min(n, 200 << 10) + 8e-9 * max(0, n - (200 << 10)) for n in sizes]
    assert fit(sizes, times).beta == pytest.approx(8e-9, rel=0.1)


def test_a_burst_is_not_the_bandwidth(monkeypatch):
    """A token bucket: calls are quick until what it saved is spent, and then as slow as the rate that is sustained."""
    now = [0.0]
    monkeypatch.setattr("mpitrain.comm.probe.time", SimpleNamespace(perf_counter=lambda: now[0]))
    for burst in (0, 2, 3):
        calls = count()

        def call(calls=calls, burst=burst):
            now[0] += 0.012 if next(calls) >= burst else 0.0005

        (seconds,) = local(1).run(lambda comm, call=call: least_seconds(comm, call))
        assert seconds == pytest.approx(0.012)


def test_formulas_in_closed_form():
    n = 1_000_000
    of = {p: Constants(p=p, **NETWORK) for p in (2, 4, 5)}
    assert COSTS["ring"](of[4], n) == pytest.approx(6e-5 + 1.5 * n * 1e-9 + 0.75 * n * 1e-10)
    assert COSTS["halving"](of[4], n) == pytest.approx(4e-5 + 1.5 * n * 1e-9 + 0.75 * n * 1e-10)
    extra = 2 * (1e-5 + n * 1e-9) + n * 1e-10
    assert COSTS["halving"](of[5], n) == pytest.approx(COSTS["halving"](of[4], n) + extra)
    assert COSTS["ring"](of[2], n) == COSTS["halving"](of[2], n)
    assert COSTS["native"](of[4], n) == pytest.approx(5e-6 + 4e-3)
    assert COSTS["hierarchical"](of[4], n) == math.inf
    hosts = Constants(p=8, hosts=2, most=4, fewest=4, sigma=1e-10, **NETWORK)
    across = 2 * 1e-5 + n / 4 * 1e-9 + n / 8 * 1e-10
    assert COSTS["hierarchical"](hosts, n) == pytest.approx(4e-5 + n * 1e-10 + across)


class Counted:
    """A communicator that counts the messages and bytes that its rank sends."""

    def __init__(self, comm):
        self.rank, self.size, self.comm = comm.rank, comm.size, comm
        self.messages = self.bytes = 0

    def isend(self, x, dest, tag):
        self.messages += 1
        self.bytes += x.nbytes
        return self.comm.isend(x, dest, tag)

    def irecv(self, x, source, tag):
        return self.comm.irecv(x, source, tag)


@pytest.mark.parametrize(("algorithm", "name"), [(ring, "ring"), (halving, "halving")])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_formulas_count_the_messages_and_bytes_that_are_sent(algorithm, name, p):
    n = 8000

    def run(comm):
        counted = Counted(comm)
        for request in algorithm(counted, np.ones(n // 4, np.float32)):
            request.wait()
        return counted.messages, counted.bytes

    free = {"gamma": 0.0, "native": NETWORK["native"]}
    latency = COSTS[name](Constants(p=p, message=Line(alpha=1.0, beta=0.0), **free), n)
    transfer = COSTS[name](Constants(p=p, message=Line(alpha=0.0, beta=1.0), **free), n)
    assert set(local(p).run(run)) == {(latency, transfer)}


def test_the_least_cost_is_chosen():
    constants = Constants(p=8, **NETWORK)
    assert choose(constants, 8) == "native"
    assert choose(constants, 100_000) == "halving"
    assert choose(constants, 1 << 24) == "ring"  # halving is less than a tenth faster, and after it in the table
    assert choose(constants, 1 << 24, ["native"]) == "native"
    on_a_host = Constants(p=8, most=8, fewest=8, sigma=1e-10, **NETWORK)
    assert choose(on_a_host, 1 << 24) == "hierarchical"


def test_latency_is_a_twentieth_of_a_buckets_time():
    constants = Constants(p=4, **NETWORK)
    n = bucket_bytes(constants, ["ring"])
    assert SMALLEST_BUCKET < n < LARGEST_BUCKET
    assert COSTS["ring"](constants, 0) / COSTS["ring"](constants, n) == pytest.approx(0.05, rel=1e-3)
    fast = Constants(p=4, message=Line(alpha=1e-9, beta=1e-9), gamma=0.0, native=NETWORK["native"])
    slow = Constants(p=4, message=Line(alpha=1.0, beta=1e-9), gamma=0.0, native=NETWORK["native"])
    assert bucket_bytes(fast, ["ring"]) == SMALLEST_BUCKET
    assert bucket_bytes(slow, ["ring"]) == LARGEST_BUCKET


@pytest.mark.mpi(3)
def test_ranks_measure_the_same_and_choose_the_same(comm):
    assert "native" not in Allreduce(comm, overlapped=True).among
    allreduce = Allreduce(comm, overlapped=False)
    constants = allreduce.constants
    assert (constants.p, constants.hosts, constants.most, constants.fewest) == (3, 1, 3, 3)
    values = np.array([constants.message.alpha, constants.message.beta, constants.gamma, constants.sigma])
    assert (values > 0).all()
    assert (values < [1, 1e-6, 1e-6, 1e-6]).all()  # a second, and 1 MB/s
    for op in (Reduction.MAX, Reduction.MIN):
        reduced = values.copy()
        comm.allreduce(reduced, op)
        np.testing.assert_array_equal(reduced, values)
    chosen, explained = allreduce.choice(1 << 23), allreduce.explain([1 << 23, 1 << 22])
    assert explained.startswith(f"allreduce over 3 ranks: {chosen} for ")
    again = Allreduce(comm, overlapped=False, constants=constants)
    assert (again.constants, again.bucket_bytes) == (constants, allreduce.bucket_bytes)


def test_the_choice_is_told_for_each_size():
    constants = Constants(p=8, **NETWORK)

    def told(comm):
        allreduce = Allreduce(comm, overlapped=False, constants=constants)
        allreduce.among = ["ring", "halving"]
        return allreduce.explain([1 << 24, 100_000, 1 << 23])

    assert (
        local(2)
        .run(told)[0]
        .startswith("allreduce over 2 ranks: ring for 2 buckets of 8 to 16 MiB, halving for 1 bucket of 97.7 KiB (latency")
    )


@pytest.mark.mpi(4)
def test_hosts_are_counted(comm):
    from mpitrain.comm.allreduce import native
    from mpitrain.comm.probe import measure

    host = comm.group([0, 1, 2]) if comm.rank < 3 else comm.group([3])
    constants = measure(comm, native, Hierarchical(comm, host))
    assert (constants.p, constants.hosts, constants.most, constants.fewest) == (4, 2, 3, 1)


def test_ranks_that_are_threads_are_not_timed():
    assert local(3).run(lambda comm: Allreduce(comm).constants) == [None] * 3
