"""`communication`: what the collectives of this job take by size, and the algorithm and the bucket size that follow.

Invariant: every rank measures, and all of them find the same lines; times are the least of some repetitions, each that of its
slowest rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.comm import Communicator, choose_progress, finish
from mpitrain.comm.allreduce import Allreduce
from mpitrain.comm.allreduce.cost import LATENCY_SHARE, Constants
from mpitrain.comm.probe import least_seconds

#: Makes a call of a collective with so many bytes.
Prepare = Callable[[int], Callable[[], object]]

#: Bytes that each rank hands over.
SIZES = {"8 B": 1 << 3, "1 KiB": 1 << 10, "32 KiB": 1 << 15, "1 MiB": 1 << 20, "16 MiB": 1 << 24}


def communication(comm: Communicator) -> Iterator[str]:
    """The lines of the report.  Collective."""
    if comm.size == 1:
        yield "one rank communicates with nobody; start more: mpitrain run -n 2 doctor --comm"
        return
    yield f"{'µs (GB/s)':<26}" + "".join(f"{name:>16}" for name in SIZES)
    for name, prepare in _collectives(comm).items():
        times = [(n, least_seconds(comm, prepare(n))) for n in SIZES.values()]
        yield f"{name:<26}" + "".join(f"{f'{1e6 * t:.1f} ({n / t / 1e9:.2f})':>16}" for n, t in times)
    for what, overlapped in (("while backward runs", True), ("after backward", False)):
        allreduce = Allreduce(comm, overlapped=overlapped)
        constants, nbytes = allreduce.constants, allreduce.bucket_bytes
        assert constants is not None
        assert nbytes is not None
        if overlapped:
            yield from _told(constants)
        yield f"{what}: {allreduce.explain([nbytes])}"
    yield f"(of a bucket's time, latency takes {LATENCY_SHARE:.0%}; [train] allreduce and bucket_mib override both)"
    yield f"while backward runs, messages are {choose_progress(comm, 'auto', Arrays())}; [train] progress overrides it"


def _collectives(comm: Communicator) -> dict[str, Prepare]:
    """Each collective by name."""

    def array(n: int) -> np.ndarray:
        return np.zeros(n // 4, np.float32)

    def algorithm(name: str, *, overlapped: bool = True) -> Prepare:
        allreduce = Allreduce(comm, name, overlapped=overlapped)

        def prepare(n: int) -> Callable[[], object]:
            x = allreduce.zeros(Arrays(), n // 4, np.dtype(np.float32))
            return lambda: finish(allreduce(x))

        return prepare

    def both_ways(n: int) -> Callable[[], object]:
        x, y = array(n), array(n)

        def call() -> None:
            arriving = comm.irecv(y, (comm.rank - 1) % comm.size, 0)
            comm.isend(x, (comm.rank + 1) % comm.size, 0).wait()
            arriving.wait()

        return call

    def broadcast(n: int) -> Callable[[], object]:
        x = array(n)
        return lambda: comm.broadcast(x, 0)

    def allgather(n: int) -> Callable[[], object]:
        x = array(n)
        return lambda: comm.allgather(x)

    found: dict[str, Prepare] = {"message around the ring": both_ways, "broadcast": broadcast, "allgather": allgather}
    found["allreduce native"] = algorithm("native", overlapped=False)
    for name in Allreduce(comm).algorithms:
        found[f"allreduce {name}{', request' * (name == 'native')}"] = algorithm(name)
    return found


def _told(constants: Constants) -> Iterator[str]:
    """The fitted constants, with what they mean."""
    message, native = constants.message, constants.native
    yield f"message: α {1e6 * message.alpha:.3g} µs, β {1e9 * message.beta:.3g} ns/byte"  # noqa: RUF001  # the field's letters
    yield f"combining two arrays: γ {1e9 * constants.gamma:.3g} ns/byte"  # noqa: RUF001
    if constants.sigma is not None:
        yield f"reading, combining and writing in a host's shared memory: σ {1e9 * constants.sigma:.3g} ns/byte"  # noqa: RUF001
    yield f"native allreduce by request: {1e6 * native.alpha:.3g} µs + {1e9 * native.beta:.3g} ns/byte"
