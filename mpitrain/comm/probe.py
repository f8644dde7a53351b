"""The constants of `allreduce.cost`, measured on a communicator in some milliseconds.

Invariant: all ranks end with the same constants.  A time is that of the slowest rank, and the least of the last of some
repetitions, so that neither what else the machine does nor a network's burst has much part in it; on a machine that is busy it
takes longer, but not without bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mpitrain.arrays import empty_beside
from mpitrain.comm.allreduce.cost import Constants, Line
from mpitrain.comm.allreduce.hierarchical import Hierarchical
from mpitrain.comm.allreduce.rounding import Algorithm
from mpitrain.comm.collective import Collective, finish
from mpitrain.comm.communicator import Communicator, Reduction

#: Bytes of the arrays that are timed.
SIZES = (8, 1 << 14, 1 << 18, 1 << 21)

#: A call is repeated so often, or at least three times until it has taken so many seconds in all.
_REPEATS, _ENOUGH_S = 15, 0.04


def measure(comm: Communicator, native: Algorithm[Communicator], hierarchical: Hierarchical | None) -> Constants:
    """Time messages, combinations, `native` and, if there is one, `hierarchical`.  Collective; `comm` must be at rest."""
    largest = max(SIZES) // 4
    x, y = _pair(largest)
    exchange = measure_message(comm)
    whole = fit(SIZES, [least_seconds(comm, partial(_run, native, comm, x[: n // 4])) for n in SIZES])
    gamma = least_seconds(comm, partial(np.add, x, y, out=x)) / x.nbytes
    if hierarchical is None:
        return Constants(p=comm.size, message=exchange, native=whole, gamma=gamma)
    host, leaders = hierarchical.host, hierarchical.leaders
    sizes = np.array([host.size, hierarchical.across.size])
    comm.allreduce(sizes, Reduction.MAX)
    most, hosts = sizes.tolist()
    within = Hierarchical(host, host)
    shared = within.memory(largest, np.float32)
    total = least_seconds(comm, partial(_run, within, host, shared))
    # Each rank of a host combines one share of as many as it has ranks, reading all of them.
    sigma = max(total - 2 * (most - 1).bit_length() * exchange.alpha, total / 2) / shared.nbytes
    return Constants(
        p=comm.size, message=exchange, native=whole, gamma=gamma, sigma=sigma, hosts=hosts, most=most, fewest=leaders
    )


def measure_message(comm: Communicator, apart: int = 1) -> Line:
    """The time of a message to the rank that is so far `apart`, while one comes from the other side.  As `measure`."""
    ends = list(_pair(max(SIZES) // 4))

    def message(n: int) -> Collective:
        arriving = comm.irecv(ends[0][: n // 4], (comm.rank - apart) % comm.size, 0)
        leaving = comm.isend(ends[1][: n // 4], (comm.rank + apart) % comm.size, 0)
        yield arriving
        yield leaving
        ends.reverse()  # what is sent is what was written last, as in an algorithm

    return fit(SIZES, [least_seconds(comm, partial(_run, message, n)) for n in SIZES])


def _pair(elements: int) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of zeros whose pages are there."""
    x, y = (empty_beside(np.empty(0, np.float32), (elements,)) for _ in range(2))
    x.fill(0)
    y.fill(0)
    return x, y


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Line:
    """The line α + nβ with the least squares of the times' relative errors, no faster than the largest size was; α, β > 0.

    Where a network lets a burst pass before it limits the rate, messages of middle size promise more than it keeps.
    """
    n, t = np.asarray(sizes, float), np.asarray(seconds)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([1 / t, n / t], axis=1), np.ones_like(t), rcond=None)
    beta = max(float(beta), (t[-1] - float(alpha)) / n[-1])
    return Line(alpha=max(float(alpha), 1e-9), beta=max(beta, 1e-14))


def _run(algorithm: Callable[..., Collective], *arguments: object) -> None:
    finish(algorithm(*arguments))


def least_seconds(comm: Communicator, call: Callable[[], object]) -> float:
    """The least seconds of the last two thirds of some calls, each on its slowest rank.  Collective.

    The first ones may be served from what a network that limits its rate had saved up (a token bucket's burst).
    """
    call()
    comm.barrier()
    found: list[float] = []
    while len(found) < _REPEATS and (len(found) < 3 or sum(found) < _ENOUGH_S):
        begin = time.perf_counter()
        call()
        elapsed = np.array([time.perf_counter() - begin])
        comm.allreduce(elapsed, Reduction.MAX)  # and nobody begins the next before all are done
        found.append(float(elapsed[0]))
    return min(found[len(found) // 3 :])
