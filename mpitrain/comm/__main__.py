"""`python -m mpitrain.comm [-m] TARGET [ARGUMENT …]`: run a script or a module as one rank of a job that `launch` started.

Invariant: the target runs as Python would run it, except that its failure ends the job, it dies with its launcher, and
there is nothing to read.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path

from mpitrain.comm.failure import end_job_on_failure

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Run the target that `arguments` name."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # Open MPI holds rank 0's input open, so that reading it would never end
    with end_job_on_failure():
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path[0] = os.fspath(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
