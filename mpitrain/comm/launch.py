"""`launch`: start the ranks of a job on this machine, with the mpiexec of the libmpi that they will load.

Invariant: this process never loads MPI; when it returns or dies, no process that it started is left; what it sets is what a
small machine needs, and only where the user's environment says nothing.  On a cluster the site's `mpirun` or `srun` starts the
ranks and nothing here takes part.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mpitrain.comm.failure import REPORT_VARIABLE
from mpitrain.comm.record import last_notes
from mpitrain.comm.start import no_library

#: Names the vendor and the path of the libmpi that mpi4py loads.
_PROBE = """
import mpi4py, sys
mpi4py.rc.initialize = False
from mpi4py import MPI, run
print(MPI.get_vendor()[0], flush=True)
sys.argv[1:] = ["--mpi-library"]
run.main()
"""

#: Becomes mpiexec, after asking Linux to end it with SIGTERM when the process that started it is gone.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"

#: What Open MPI needs on a small machine.  Binding would pin parallel jobs to the same first core; the transports named spare
#: a second of probing for networks.
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
}

#: With more ranks than cores: a rank that waits sleeps, so that one that computes has the core.
_SHARED_CORES = {
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "10",
}

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: Set inside an allocation, where mpiexec may reach other machines over a network that it knows better.
_BATCH = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")

#: "1" or "0": whether the output of `launch` is a terminal, which a rank cannot tell (Open MPI gives each a pseudo-terminal).
TERMINAL_VARIABLE = "MPITRAIN_TERMINAL"

#: How often to look whether a rank has failed, and how long mpiexec may take to end its ranks when it is told to.
_LOOK_S, _PATIENCE_S = 0.05, 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """An mpiexec and the library that it belongs to; `vendor` as mpi4py names it."""

    vendor: str
    library: Path
    mpiexec: Path


def find_launcher() -> Launcher:
    """The mpiexec that belongs to the libmpi that mpi4py loads, asked of a child process.

    `ValueError` if mpi4py finds no libmpi, or if there is no mpiexec above it.
    """
    child = [sys.executable, "-c", _PROBE]
    probe = subprocess.run(child, capture_output=True, text=True, errors="surrogateescape", stdin=subprocess.DEVNULL)
    if probe.returncode:
        raise ValueError(no_library(probe.stderr.strip().splitlines()[-1]))
    vendor, library = probe.stdout.split("\n")[:2]
    names = (f"mpiexec.{vendor.replace(' ', '').lower()}", "mpiexec", "mpirun")  # Debian: several MPIs share /usr/bin
    for folder in (parent / "bin" for path in (Path(library), Path(library).resolve()) for parent in path.parents):
        for name in names:
            if os.access(folder / name, os.X_OK):
                return Launcher(vendor=vendor, library=Path(library), mpiexec=folder / name)
    raise ValueError(
        f"mpi4py loads {vendor} from {library}, and no bin/mpiexec lies above that; install that library's launcher, "
        'use the wheel that brings one (`pip install "mpitrain[laptop]"`), or start with your own `mpirun` or `srun`'
    )


def settings(ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment` for `ranks` ranks on this machine; nothing that it sets already."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = dict.fromkeys(_THREADS, str(max(1, cores // ranks)))
    if not any(name in environment for name in _BATCH):
        wanted |= _OPEN_MPI | (_SHARED_CORES if ranks > cores else {})
    return {name: value for name, value in wanted.items() if name not in environment}


def command(launcher: Launcher, ranks: int, target: Sequence[str]) -> list[str]:
    """What runs `target` (a script, or -m and a module, with arguments) on `ranks` ranks and dies with its parent."""
    tie = [sys.executable, "-S", "-c", _TIED] if sys.platform == "linux" else []
    return [*tie, os.fspath(launcher.mpiexec), "-n", str(ranks), sys.executable, "-m", "mpitrain.comm", *target]


def is_script(target: str) -> bool:
    """Whether `target` names a Python script rather than a verb."""
    return target.endswith(".py") or os.sep in target


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run `arguments` on `ranks` ranks and return the exit code of the one that failed, 0 if none did.

    `arguments` is a Python script (a path, or a name that ends in .py) with its arguments, or a verb of the `mpitrain` command
    with its.  Ctrl-C and SIGTERM end all ranks; the code is then 128 + the signal's number.
    """
    if ranks < 1:
        raise ValueError(f"{ranks} ranks were asked for; expected at least 1")
    if not arguments:
        raise ValueError("nothing to run was named; expected a verb of mpitrain or a Python script")
    script = is_script(arguments[0])
    if script and not Path(arguments[0]).is_file():
        raise ValueError(f"the script {arguments[0]} does not exist (from {Path.cwd()})")
    start = command(find_launcher(), ranks, arguments if script else ["-m", "mpitrain", *arguments])
    with tempfile.TemporaryDirectory(prefix="mpitrain-") as folder:
        report = Path(folder, "failure")
        environment = {**os.environ, **settings(ranks, os.environ), REPORT_VARIABLE: os.fspath(report)}
        environment[TERMINAL_VARIABLE] = str(int(sys.stdout.isatty()))
        environment["COLUMNS"] = str(shutil.get_terminal_size().columns)
        code = _wait(subprocess.Popen(start, stdin=subprocess.DEVNULL, env=environment, start_new_session=True), report)
        if report.exists():
            first, _, text = report.read_text(encoding="utf-8", errors="replace").partition("\n")
            sys.stderr.write(text)
            return int(first)
        if code:  # something else ended it, and has said so: a signal, the kernel short of memory, a crash
            sys.stderr.write(last_notes(report))
        return code


def _wait(job: subprocess.Popen[bytes], report: Path) -> int:
    """The exit code of `job`, which is ended by an interrupt, by a request to end, and by a `report` of a rank that failed.

    A signal that is ignored (`nohup`, a job in the background of a script) stays so.
    """
    received: list[int] = []
    deadline = math.inf

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, hand_on) for number in wanted if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        while True:
            try:
                code = job.wait(_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if deadline == math.inf and (received or report.exists()):
                    job.terminate()
                    deadline = time.monotonic() + _PATIENCE_S
                elif time.monotonic() > deadline:
                    os.killpg(job.pid, signal.SIGKILL)  # the ranks die with it (see __main__)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code
