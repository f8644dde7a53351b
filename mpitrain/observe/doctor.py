"""`doctor`: what this job's ranks run on, asked of every rank, and what is wrong with it.

Invariant: a fact is found out by trying it (a sum of bfloat16 is summed, MPI is asked about device memory), on every rank; rank
0 prints what they agree on once and what they do not agree on by rank.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mpitrain.arrays import BFLOAT16, arithmetic, choose
from mpitrain.comm import Communicator, gather_text, spans, world
from mpitrain.comm.launch import find_launcher
from mpitrain.observe.communication import communication

_PACKAGES = (
    "mpitrain", "numpy", "numba", "mpi4py", "ml_dtypes", "safetensors", "openmpi", "mpich", "cupy-cuda12x", "cupy-cuda13x",
)  # fmt: skip


_ROUNDING = "ranks that differ in this round differently: reproducible = true refuses them"
#: What to say where ranks differ in a fact.
_ALIKE = dict.fromkeys(("BLAS", "compiled loops", "NumPy", "GPU", "CuPy"), _ROUNDING) | {
    "software": "every rank must run the same software"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fact: `advice` says what to do about it, and `problem` that a job cannot run (well) as it is."""

    name: str
    found: str
    advice: str = ""
    problem: bool = False

    def __str__(self) -> str:
        mark = "PROBLEM" if self.problem else "note" if self.advice else "ok"
        return f"{mark:<9}{self.name:<18}{self.found}" + (f"\n{'':27}{self.advice}" if self.advice else "")


def doctor(environment: Mapping[str, str] = os.environ, *, comm: bool = False) -> int:
    """Print the findings on rank 0 and return 0; `SystemExit` with a sentence (exit code 1) if there is a problem.

    With `comm`, measure the collectives too.
    """
    findings, rank = diagnose(environment)
    if rank == 0:
        print("\n".join(map(str, findings)), flush=True)
    problems = sum(finding.problem for finding in findings)
    if problems:
        raise SystemExit(f"mpitrain doctor: {problems} problem{'s' * (problems > 1)} found")
    if comm:
        world(environment).run(_print_communication)
    return 0


def diagnose(environment: Mapping[str, str] = os.environ) -> tuple[list[Finding], int]:
    """The findings of all ranks of this job, the same on each, and this process's rank."""
    try:
        (result,) = world(environment).run(lambda comm: (_merged(comm, environment), comm.rank))
        return result
    except ValueError as error:
        return [*_software(), _machine(1, environment), Finding(name="MPI", found=str(error), problem=True)], 0


def merge(ranks: list[list[Finding]]) -> list[Finding]:
    """The findings of several ranks as one list: a fact on which they differ names who found what."""
    by_name: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    advice: dict[tuple[str, str], Finding] = {}
    for rank, findings in enumerate(ranks):
        for finding in findings:
            by_name[finding.name][finding.found].append(rank)
            advice.setdefault((finding.name, finding.found), finding)
    merged = []
    for name, found in by_name.items():
        for value, who in found.items():
            first = advice[name, value]
            everyone = len(found) == 1
            unlike = not everyone and name in _ALIKE
            merged.append(
                Finding(
                    name=name,
                    found=value if everyone else f"{value} (rank {spans(who)})",
                    advice=_ALIKE[name] if unlike else first.advice,
                    problem=first.problem or (unlike and name == "software"),
                )
            )
    return merged


def _print_communication(comm: Communicator) -> None:
    for line in communication(comm):
        if comm.rank == 0:
            print(line, flush=True)


def _merged(comm: Communicator, environment: Mapping[str, str]) -> list[Finding]:
    mine = json.dumps([asdict(finding) for finding in _of_this_rank(comm, environment)])
    return merge([[Finding(**fields) for fields in json.loads(text)] for text in gather_text(comm, mine)])


def _of_this_rank(comm: Communicator, environment: Mapping[str, str]) -> Iterator[Finding]:
    host = comm.same_host()
    yield from _software()
    yield from _mpi(comm, host, environment)
    yield _machine(host.size, environment)
    yield from _arrays(host, environment)
    yield _sums(comm)


def _software() -> list[Finding]:
    installed = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    return [Finding(name="software", found=", ".join([f"Python {platform.python_version()}", *installed]))]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mpi(comm: Communicator, host: Communicator, environment: Mapping[str, str]) -> Iterator[Finding]:
    from mpi4py import MPI

    from mpitrain.comm.mpi import reads_device_memory

    major, minor = MPI.Get_version()
    library = MPI.Get_library_version().replace("\0", "").split("\n")[0].split(",")[0].strip()
    vendor = " ".join([MPI.get_vendor()[0], ".".join(map(str, MPI.get_vendor()[1]))])
    yield Finding(name="MPI library", found=f"{vendor}, MPI {major}.{minor} ({library})")
    if comm.rank == 0:
        yield _launcher()
    yield Finding(name="ranks", found=f"{comm.size} in all")
    yield Finding(name="host", found=f"{socket.gethostname()}, {host.size} of the ranks")
    level = {getattr(MPI, f"THREAD_{name}"): name for name in ("SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE")}[
        MPI.Query_thread()
    ]
    advice = "" if level == "MULTIPLE" else "the watchdog and checkpoints use threads; build or start MPI with THREAD_MULTIPLE"
    yield Finding(name="MPI threads", found=level, advice=advice)
    yield Finding(
        name="device memory", found="MPI reads it" if reads_device_memory() else "staged through the host (MPI's own word)"
    )


def _launcher() -> Finding:
    try:
        return Finding(name="launcher", found=f"{find_launcher().mpiexec}")
    except ValueError as error:
        return Finding(name="launcher", found="none beside the library", advice=str(error))


def _machine(ranks: int, environment: Mapping[str, str]) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = next((environment[name] for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if name in environment), None)
    found = f"{cores} for {ranks} rank{'s' * (ranks > 1)}, BLAS threads a rank: {threads or cores}"
    if ranks > 1 and threads is None:
        return Finding(
            name="cores", found=found, advice=f"set OMP_NUM_THREADS={max(1, cores // ranks)}, or ranks fight for cores"
        )
    return Finding(name="cores", found=found)


def _arrays(host: Communicator, environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        arrays = choose(environment.get("MPITRAIN_ARRAYS"), local_rank=host.rank, local_size=host.size)
    except ValueError as error:
        yield Finding(name="arrays", found="none", advice=str(error), problem=True)
        return
    yield Finding(name="arrays", found="numpy, on the host" if arrays.on_host else f"cupy, device {arrays.device}")
    for name, found in arithmetic(arrays).items():
        yield Finding(name=name, found=found)


def _sums(comm: Communicator) -> Finding:
    """Whether 16-bit sums over all ranks are right: 1 and, from the others, halves of the spacing above it."""
    right: list[str] = []
    for dtype, spacing in ((BFLOAT16, 2.0**-7), (np.dtype(np.float16), 2.0**-10)):
        x = np.array([1.0 if comm.rank == 0 else spacing / 2], dtype)
        comm.allreduce(x)
        if x[0] == dtype.type(1 + (comm.size - 1) * spacing / 2):
            right.append(dtype.name)
    ok = len(right) == 2
    advice = "" if ok else "this MPI library adds wrongly; try another"
    return Finding(name="16-bit sums", found=f"right for {', '.join(right) or 'none'}", advice=advice, problem=not ok)
