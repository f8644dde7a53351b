"""`world`: join the MPI job that this process was started in, or say why it cannot be joined.

Invariant: MPI is loaded by the call and not by an import, and a job of N ranks is never mistaken for N jobs of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpitrain.comm.failure import report_failures

if TYPE_CHECKING:
    from mpitrain.comm.mpi import MpiWorld

#: What launchers tell each process about the number of them.  (Slurm's SLURM_NTASKS is the allocation's, not the step's.)
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def world(environment: Mapping[str, str] = os.environ) -> MpiWorld:
    """Initialise MPI and return all ranks of the job; one rank without a launcher.

    It is this process's communicator too, with its `rank`, its `size`, and whether it `leads`, as rank 0 does.  With more than
    one rank, an exception that nothing catches ends the whole job from here on (see `failure`).  `ValueError` if no MPI library
    can be loaded, or if the launcher in `environment` belongs to another one.
    """
    try:
        from mpi4py import MPI

        from mpitrain.comm.mpi import MpiWorld, reads_device_memory
    except (ImportError, RuntimeError) as error:
        raise ValueError(no_library(str(error))) from error
    size = MPI.COMM_WORLD.size
    if size == 1:
        check_launcher(environment, MPI.Get_library_version().partition(",")[0].partition("\n")[0])
    else:
        report_failures()
    return MpiWorld(MPI.COMM_WORLD.Dup(), device_aware=reads_device_memory())


def no_library(reason: str) -> str:
    """What to say where no libmpi could be loaded, for the `reason` that mpi4py gave."""
    return (
        f"no MPI library could be loaded: {reason}\n"
        'Install one from PyPI with `pip install "mpitrain[laptop]"`, load your site\'s MPI module, or name the library: '
        "MPI4PY_LIBMPI=/path/to/libmpi.so"
    )


def check_launcher(environment: Mapping[str, str], library: str) -> None:
    """`ValueError` if `environment` says that a launcher started more processes than the one that `library` sees."""
    for name in _SIZES:
        if int(environment.get(name, "1")) > 1:
            raise ValueError(
                f"{name}={environment[name]} processes were started, but {library} sees a world of 1: their launcher belongs "
                f"to another MPI library. Start with `mpitrain run -n {environment[name]} …`, with that library's mpiexec, "
                "or under Slurm with the plugin that it speaks (`srun --mpi=list`; Open MPI: pmix, MPICH: pmi2)"
            )
