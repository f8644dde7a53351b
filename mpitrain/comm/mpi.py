"""`MpiCommunicator`: a group of ranks of an MPI job.  Importing this file initialises MPI; `start.world` does so when asked.

Invariant: every message is bytes and every reduction a type that MPI knows, so no dtype and no count (MPI libraries before
MPI 4 stop at 2^31 - 1) is special to the rest of the package; device memory is handed to MPI only where the library said that
it reads it, and only when the stream that fills it is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np
from mpi4py import MPI

from mpitrain.arrays import Array, namespace, sum_dtype
from mpitrain.comm.accepted import (
    check_array,
    check_group,
    check_message,
    check_rank,
    check_reduction,
    check_started,
    described,
    disagreement,
)
from mpitrain.comm.communicator import Communicator, Reduction, Request, T
from mpitrain.comm.staging import fill, landing, staged

_OPS = {
    Reduction.SUM: MPI.SUM,
    Reduction.MEAN: MPI.SUM,
    Reduction.MAX: MPI.MAX,
    Reduction.MIN: MPI.MIN,
    Reduction.PRODUCT: MPI.PROD,
}

#: The most of a call's description that ranks show each other.
_CALL_BYTES = 160


def reads_device_memory() -> bool:
    """Whether the MPI library says that it was built to read and write CUDA memory."""
    library = ctypes.CDLL(MPI.__file__)  # finds the symbols of the libmpi that it is bound to
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI, MPICH
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):  # MPICH and its kin: MPIX_GPU_SUPPORT_CUDA is 0
        answer = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(0, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False


class MpiCommunicator:
    """A `Communicator` over an intracommunicator of mpi4py.

    `device_aware` says that MPI reads device memory.  `chunk` is the largest count handed to MPI in one call.
    """

    timed = True

    def __init__(self, comm: MPI.Intracomm, *, device_aware: bool, chunk: int = 1 << 30) -> None:
        self.rank = comm.rank
        self.size = comm.size
        self.max_tag: int = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB)  # type: ignore[assignment]  # an int for this key
        self.concurrent = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._comm, self._device_aware, self._chunk = comm, device_aware, chunk

    def isend(self, x: Array, dest: int, tag: int) -> Request:
        """As `Communicator.isend`."""
        check_message(self, x, dest, tag, self.max_tag)
        source = self._readable(x)
        return _Sent(self._comm.Isend(self._message(source), dest, tag), source)

    def irecv(self, x: Array, source: int, tag: int) -> Request:
        """As `Communicator.irecv`."""
        check_message(self, x, source, tag, self.max_tag)
        target = self._writable(x)
        return _Receive(self._comm.Irecv(self._message(target), source, tag), x, target, source)

    def allreduce(self, x: Array, op: Reduction = Reduction.SUM) -> None:
        """As `Communicator.allreduce`, a chunk at a time."""
        check_reduction(x, op)
        self._agree(described(f"allreduce({op.value})", x))
        host = self._readable(x)
        flat, wide = _countable(host), sum_dtype(x.dtype)
        chunk = self._chunk if wide == x.dtype else min(self._chunk, 1 << 24)  # bounds the float32 copy
        for start in range(0, flat.size, chunk):
            part = flat[start : start + chunk]
            total = part if wide == x.dtype else self._readable(part.astype(wide))
            lost = self._lost(total, op)
            self._comm.Allreduce(MPI.IN_PLACE, total, _OPS[op])
            if lost is not None:
                self._comm.Allreduce(MPI.IN_PLACE, lost, MPI.MAX)
                total[lost.view(bool)] = np.nan
            if op is Reduction.MEAN:
                total /= self.size
            if total is not part:
                part[...] = total.astype(x.dtype)
        self._arrived(x, host)

    def iallreduce(self, x: Array, op: Reduction = Reduction.SUM) -> Request:
        """As `Communicator.iallreduce`; all chunks are started at once."""
        check_started(x, op)
        host = self._readable(x)
        flat = _countable(host)
        parts = [flat[start : start + self._chunk] for start in range(0, flat.size, self._chunk)]
        losses = [(part, lost) for part in parts if (lost := self._lost(part, op)) is not None]
        requests = [self._comm.Iallreduce(MPI.IN_PLACE, part, _OPS[op]) for part in parts]
        requests += [self._comm.Iallreduce(MPI.IN_PLACE, lost, MPI.MAX) for _, lost in losses]

        def finish() -> None:
            for part, lost in losses:
                part[lost.view(bool)] = np.nan
            self._arrived(x, host)

        return _Combining(requests, finish)

    def broadcast(self, x: Array, root: int) -> None:
        """As `Communicator.broadcast`, a chunk at a time."""
        check_rank(self, root)
        check_array(x)
        self._agree(described(f"broadcast({root})", x))
        host = self._readable(x) if self.rank == root else self._writable(x)
        flat = _bytes(host)
        for start in range(0, flat.size, self._chunk):
            self._comm.Bcast([flat[start : start + self._chunk], MPI.BYTE], root)
        if self.rank != root:
            self._arrived(x, host)

    def allgather(self, x: Array) -> Array:
        """As `Communicator.allgather`, a chunk at a time."""
        check_array(x)
        self._agree(described("allgather", x))
        out = namespace(x).empty((self.size, *x.shape), x.dtype)
        host, target = self._readable(x), self._writable(out)
        mine, everyone = _bytes(host), _bytes(target).reshape(self.size, -1)
        if mine.size <= self._chunk:
            self._comm.Allgather([mine, MPI.BYTE], [everyone, MPI.BYTE])
        else:
            for start in range(0, mine.size, self._chunk):
                part = mine[start : start + self._chunk]
                parts = namespace(everyone).empty((self.size, part.size), np.uint8)
                self._comm.Allgather([part, MPI.BYTE], [parts, MPI.BYTE])
                everyone[:, start : start + part.size] = parts
        self._arrived(out, target)
        return out

    def barrier(self) -> None:
        """As `Communicator.barrier`."""
        self._agree("barrier")

    def group(self, ranks: Sequence[int]) -> MpiCommunicator:
        """As `Communicator.group`; only the members of one group wait for each other."""
        check_group(self.rank, list(ranks))
        members = self._comm.Get_group().Incl(list(ranks))
        return self._of(self._comm.Create_group(members))

    def same_host(self) -> MpiCommunicator:
        """As `Communicator.same_host`."""
        return self._of(self._comm.Split_type(MPI.COMM_TYPE_SHARED, key=self.rank))

    def _of(self, comm: MPI.Comm) -> MpiCommunicator:
        assert isinstance(comm, MPI.Intracomm)
        return MpiCommunicator(comm, device_aware=self._device_aware, chunk=self._chunk)

    def _agree(self, call: str) -> None:
        """`ValueError` on every rank if one came to another `call`, in words as `described` has them; MPI would not say it.

        Two numbers are combined, so it takes the time of the smallest allreduce.
        """
        mine = call.encode()
        word = crc32(mine)
        most = np.array([word, -word])
        self._comm.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        if most[0] == -most[1]:
            return
        calls = bytearray(self.size * _CALL_BYTES)
        self._comm.Allgather(mine[:_CALL_BYTES].ljust(_CALL_BYTES), calls)
        first, *others = (calls[i : i + _CALL_BYTES].decode().rstrip() for i in range(0, len(calls), _CALL_BYTES))
        peer, other = next((rank, call) for rank, call in enumerate(others, 1) if call != first)
        raise ValueError(disagreement(0, first, peer, other))

    def _lost(self, x: Array, op: Reduction) -> Array | None:
        """Where `x` is not a number, a byte an element, for reductions of which MPI does not say what becomes of it."""
        if op not in (Reduction.MAX, Reduction.MIN) or x.dtype.kind != "f":
            return None
        return self._readable(namespace(x).isnan(x).view(np.uint8))

    def _readable(self, x: Array) -> Array:
        """`x`, or a copy of it that MPI can read, with everything in it that its stream was asked for."""
        if not self._device_aware or isinstance(x, np.ndarray) or not x.flags.c_contiguous:
            return staged(x)
        namespace(x).cuda.get_current_stream().synchronize()
        return x

    def _writable(self, x: Array) -> Array:
        """`x`, or memory in its stead that MPI can write."""
        if not self._device_aware or isinstance(x, np.ndarray) or not x.flags.c_contiguous:
            return landing(x)
        namespace(x).cuda.get_current_stream().synchronize()  # earlier readers of x must be done before it is overwritten
        return x

    def _arrived(self, x: Array, target: Array) -> None:
        if target is not x:
            fill(x, target)

    def _message(self, x: Array) -> tuple[Array, int, MPI.Datatype]:
        """The bytes of `x`, as one element of a derived type where they are more than one call may count."""
        flat = _bytes(x)
        if flat.size <= self._chunk:
            return flat, flat.size, MPI.BYTE
        starts = range(0, flat.size, self._chunk)
        lengths = [min(self._chunk, flat.size - start) for start in starts]
        return flat, 1, MPI.BYTE.Create_hindexed(lengths, list(starts)).Commit()


class MpiWorld(MpiCommunicator):
    """All ranks of an MPI job, and the communicator of this process, which is one of them."""

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0."""
        return self.rank == 0

    def run(self, function: Callable[[Communicator], T]) -> list[T]:
        """Call `function` for this process's rank; a list of one result."""
        return [function(self)]


def _countable(x: Array) -> Array:
    """The elements of the contiguous `x` as MPI knows them: it has no order of bool."""
    return x.reshape(-1).view(np.uint8) if x.dtype.kind == "b" else x.reshape(-1)


def _bytes(x: Array) -> Array:
    """The memory of the contiguous `x` as uint8 of shape (x.nbytes,)."""
    return x.reshape(-1).view(np.uint8)


class _Sent:
    """A send under way; it keeps the memory that MPI reads."""

    def __init__(self, request: MPI.Request, source: Array) -> None:
        self._request, self._source = request, source

    def done(self) -> bool:
        return self._request.Test()

    def wait(self) -> None:
        self._request.Wait()


class _Receive:
    """A receive under way; `target` is `x` or the host memory in its stead."""

    def __init__(self, request: MPI.Request, x: Array, target: Array, source: int) -> None:
        self._request, self._x, self._target, self._source = request, x, target, source
        self._status = MPI.Status()
        self._complete = False

    def done(self) -> bool:
        if not self._complete and self._ask(self._request.Test):
            self._finish()
        return self._complete

    def wait(self) -> None:
        if not self._complete:
            self._ask(self._request.Wait)
            self._finish()

    def _ask(self, question: Callable[[MPI.Status], bool]) -> bool:
        try:
            return question(self._status)
        except MPI.Exception as error:
            if error.Get_error_class() != MPI.ERR_TRUNCATE:
                raise
            raise ValueError(
                f"more bytes came from rank {self._source} than the {self._x.nbytes} that were expected ({self._x.dtype} "
                f"{tuple(self._x.shape)}); both ends must name the same shape and dtype"
            ) from error

    def _finish(self) -> None:
        came = self._status.Get_elements(MPI.BYTE)
        if came != self._x.nbytes:
            raise ValueError(
                f"{came} bytes came from rank {self._status.source} with tag {self._status.tag} where {self._x.nbytes} were "
                f"expected ({self._x.dtype} {tuple(self._x.shape)}); both ends must name the same shape and dtype"
            )
        if self._target is not self._x:
            fill(self._x, self._target)
        self._complete = True


class _Combining:
    """A reduction under way; then `finish` has something to do."""

    def __init__(self, requests: list[MPI.Request], finish: Callable[[], None]) -> None:
        self._requests, self._finish = requests, finish

    def done(self) -> bool:
        if self._requests and MPI.Request.Testall(self._requests):
            self._end()
        return not self._requests

    def wait(self) -> None:
        if self._requests:
            MPI.Request.Waitall(self._requests)
            self._end()

    def _end(self) -> None:
        self._requests = []
        self._finish()
