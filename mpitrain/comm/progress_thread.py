"""Who moves collectives on while a rank computes: the rank itself, between two ops, or a thread of its own beside it.

Invariant: the thread starts nothing, so replicas start their collectives in the same order, and each is moved on by one thread
at a time (`InFlight`): the choice changes when messages are answered, never a result.  What fails in the thread is raised in
the rank's own next step, and ends the job from the thread where the rank takes none.

On most builds MPI makes no progress by itself (Denis and Trahay 2016, "MPI overlap: benchmark and analysis"): a message that
arrives within a long op waits for its end, unless a core is free for a thread that asks meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.comm.communicator import Communicator, Reduction

#: What a job may ask for.
CHOICES = ("auto", "thread", "points")

#: Seconds between two looks of the thread: less than the messages that overlap is made for, more than the look itself.
_PAUSE_S = 1e-4

#: Seconds that the rank has to come by and raise what failed in its thread.
_GRACE_S = 5.0

#: Rows of the product that shows which threads compute; a library that has several uses them for much less.
_ROWS = 512


def progress_named(name: str) -> str:
    """`name`, if it is one of `CHOICES`; `ValueError` names those that there are."""
    if name not in CHOICES:
        raise ValueError(f"progress {name!r} is not known; expected one of {', '.join(CHOICES)}")
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressChoice:
    """Whether there is a thread, the same on every rank, and why."""

    thread: bool
    reason: str

    def __str__(self) -> str:
        return f"moved on {'by a thread' if self.thread else 'between ops'} ({self.reason})"


def choose_progress(comm: Communicator, name: str, arrays: Arrays) -> ProgressChoice:
    """A thread where every rank of `comm` has a core left for one, or what `name` says.  Collective.

    `ValueError` if `name` is none of `CHOICES`, or a thread that MPI does not allow.
    """
    if progress_named(name) != "auto":
        if name == "thread" and not comm.concurrent:
            raise ValueError(
                "progress = thread needs an MPI that was started with THREAD_MULTIPLE, and this one was not; build or load one "
                "that offers it, or set progress = points"
            )
        return ProgressChoice(thread=name == "thread", reason="as set")
    if not comm.timed:
        return ProgressChoice(thread=False, reason="ranks are threads of one process")
    if not comm.concurrent:
        return ProgressChoice(thread=False, reason="MPI was started without THREAD_MULTIPLE")
    mine, busy = allowed_cores(), computing_threads(arrays)
    known = np.array([bool(mine) and busy > 0], np.int64)
    comm.allreduce(known, Reduction.MIN)
    if not known[0]:
        return ProgressChoice(thread=False, reason="the system does not tell which cores and threads there are")
    host = comm.same_host()
    sets = _gathered(host, mine)
    # Each rank needs a core more than it computes on: among those that it may use itself, and among all of its host.
    threads = host.allgather(np.array(busy))
    spare = min(len(found) - int(n) - 1 for found, n in zip(sets, threads, strict=True))
    cores, total = len(set().union(*sets)), int(threads.sum())
    spare = min(spare, cores - total - host.size)
    hosts = comm.allgather(np.array([spare, cores, total, host.size])).tolist()
    spare, cores, total, ranks = min(hosts)
    reason = f"{cores} core{'s' * (cores > 1)} for {ranks} rank{'s' * (ranks > 1)} that compute{'s' * (ranks == 1)} on {total}"
    return ProgressChoice(thread=spare >= 0, reason=reason)


def allowed_cores() -> set[int]:
    """The cores that the system lets this process run on; none where it does not tell."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def computing_threads(arrays: Arrays) -> int:
    """How many threads of this process take part in a matrix product, as the kernel counts; 0 where it does not tell.

    Not the environment but the library decides, and on a device the host's threads only wait.
    """
    x = arrays.zeros((_ROWS, _ROWS), np.dtype(np.float32))
    arrays.xp.matmul(x, x)  # the first call may start the library's threads
    before = _time_by_thread()
    for _ in range(2):
        arrays.xp.matmul(x, x)
    took = [ran - before.get(thread, 0) for thread, ran in _time_by_thread().items()]
    return sum(ran > 0.1 * max(took) for ran in took)


def _time_by_thread() -> dict[str, int]:
    """Nanoseconds that each thread of this process has run so far; nothing on a system without such a count."""
    found = {}
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            found[task.parent.name] = int(task.read_bytes().split()[0])
        except OSError:  # it has ended meanwhile, or the kernel keeps no count
            continue
    return found


def _gathered(comm: Communicator, numbers: set[int]) -> list[set[int]]:
    """Everyone's set of small numbers."""
    length = np.array([max(numbers) + 1])
    comm.allreduce(length, Reduction.MAX)
    marks = np.zeros(int(length[0]), np.uint8)
    marks[sorted(numbers)] = 1
    return [set(np.flatnonzero(row).tolist()) for row in comm.allgather(marks)]


class ProgressThread:
    """A context in which a thread calls `advance`, which never waits, again and again; `begin` once before that."""

    def __init__(self, advance: Callable[[], None], begin: Callable[[], None]) -> None:
        self._advance, self._begin = advance, begin

    def __enter__(self) -> None:
        self._ended = threading.Event()
        self._error: BaseException | None = None
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="progress", daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and self._error is not error:
            raise self._error

    def _run(self) -> None:
        try:
            self._begin()
            while not self._ended.wait(_PAUSE_S):
                self._advance()
        except BaseException as error:
            self._error = error
            if not self._ended.wait(_GRACE_S):  # the rank is stuck, maybe for what this thread was to bring
                raise
