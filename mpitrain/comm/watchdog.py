"""`Watchdog`: a wait that lasts too long says who waits for what, shows every thread's stack, and ends the job.

Invariant: it needs nothing of the thread that waits, which may be blocked inside MPI; watching a wait costs some microseconds.
What is watched is noted for the launcher too, should the process be killed.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from types import TracebackType

from mpitrain.comm.failure import end_job
from mpitrain.comm.record import Record

#: The job's exit code when a wait was too long, as that of `timeout`.
EXIT_CODE = 124

#: Ranks that are stuck together write their stacks one after another; the job ends when all had the time to.
_GRACE_S = 1.0


class Watchdog:
    """Watches the waits of the process that is rank `rank`; one daemon thread, until `close`."""

    def __init__(self, limit_s: float, *, rank: int) -> None:
        if not limit_s > 0:
            raise ValueError(f"the watchdog's limit is {limit_s} s; expected more than 0")
        self._limit_s, self._rank = limit_s, rank
        self._since: dict[_Wait, float] = {}
        self._record = Record()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def waiting(self, what: str) -> _Wait:
        """A context in which this thread waits for `what`, such as "RECV_F stage 1 microbatch 3 from rank 1"."""
        return _Wait(self._since, self._record, what)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            now = time.monotonic()
            waits = [(now - since, wait.what) for wait, since in self._since.copy().items()]
            if any(waited > self._limit_s for waited, _ in waits):  # then tell the waits inside of it too, which began later
                report = "\n".join(f"rank {self._rank} has waited {waited:.0f} s for {what}" for waited, what in waits)
                print(report, file=sys.stderr, flush=True)
                faulthandler.dump_traceback(2, all_threads=True)
                time.sleep(_GRACE_S)
                end_job(f"{report}\n(the limit is {self._limit_s:g} s; stacks of all stuck ranks are above)", EXIT_CODE)
                return


class _Wait:
    """One wait, noted while it lasts."""

    __slots__ = ("_around", "_record", "_since", "what")

    def __init__(self, since: dict[_Wait, float], record: Record, what: str) -> None:
        self._since, self._record, self.what = since, record, what

    def __enter__(self) -> None:
        self._around = ", ".join(wait.what for wait in self._since)
        self._since[self] = time.monotonic()
        self._record.note(f"{self._around}, {self.what}" if self._around else self.what)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._since[self]
        self._record.note(self._around)
