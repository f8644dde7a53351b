"""How one rank's failure ends the whole job: its traceback is written, and then every rank is stopped.

Invariant: of failures that come together (a wrong setting fails on every rank), the lowest rank's is written, once; nothing is
written after it by this package; the exit code is the one that the failing rank would have had alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

#: Names the file that the first rank to fail writes its report to; `launch` ends the job when it sees it, and prints it.
REPORT_VARIABLE = "MPITRAIN_FAILURE_REPORT"

#: What launchers tell a process about its rank; asked only where MPI is not there to be asked.
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")

_STAGGER_S, _LONGEST_STAGGER_S = 0.05, 1.0
_LAUNCH_LIMIT_S, _ABORT_LIMIT_S = 2.0, 2.0


@contextlib.contextmanager
def end_job_on_failure() -> Iterator[None]:
    """Around a main function: an exception, `sys.exit(3)` or Ctrl-C that leaves it ends the job on every rank."""
    try:
        yield
    except BaseException as error:
        end_job(_describe(error), exit_code(error))
        raise


def report_failures() -> None:
    """From here on an exception that nothing catches, in any thread, ends the job, and a crash shows Python's stacks.

    The interpreter's hooks do not see `sys.exit(3)` in the main thread: `end_job_on_failure` does.
    """
    faulthandler.enable(2)  # the process's own stderr, whatever sys.stderr has become

    def main_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        end_job(_describe(error), exit_code(error))
        sys.__excepthook__(kind, error, trace)

    def thread_hook(args: Any) -> None:
        end_job(_describe(args.exc_value), exit_code(args.exc_value))
        threading.__excepthook__(args)

    sys.excepthook = main_hook
    threading.excepthook = thread_hook


def end_job(report: str, code: int) -> None:
    """Write `report` and stop every rank with the exit code `code`.

    Returns, having done nothing, where the process is alone: with `code` 0, or without both a launcher of ours and peers.
    """
    rank, size = _place()
    mine = report_file()
    if code == 0 or (size == 1 and mine is None):
        return
    sys.stdout.flush()
    time.sleep(min(rank * _STAGGER_S, _LONGEST_STAGGER_S))
    report = "".join(f"[rank {rank}] {line}\n" for line in report.splitlines())
    if mine is None:
        sys.stderr.write(report)
        sys.stderr.flush()
    else:
        mine.write_text(f"{code}\n{report}", encoding="utf-8", errors="replace")
        with contextlib.suppress(FileExistsError):  # another rank was first
            os.link(mine, os.environ[REPORT_VARIABLE])
        time.sleep(_LAUNCH_LIMIT_S)  # `launch` ends the job in silence, where Abort makes mpiexec say so at length
    backstop = threading.Timer(_ABORT_LIMIT_S, os._exit, [code])  # should MPI hang in Abort, the launcher sees the exit
    backstop.daemon = True
    backstop.start()
    if size > 1:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)
    os._exit(code)


def report_file() -> Path | None:
    """Where this rank writes for `launch` to read; `None` where something else started it."""
    launched = os.environ.get(REPORT_VARIABLE)
    return None if launched is None else Path(f"{launched}.{_place()[0]}")


def exit_code(error: BaseException) -> int:
    """The exit code of a process that `error` ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _describe(error: BaseException) -> str:
    """The traceback, or only the message of `sys.exit("message")`, as Python has it."""
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return error.code
    return "".join(traceback.format_exception(error))


def _place() -> tuple[int, int]:
    """Rank and size of the world that MPI is running; without it, size 1 and the rank that a launcher gave."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0), 1
    return mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size
