"""A job that cannot be joined says why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpitrain.comm.start import check_launcher

ALONE = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "SLURM", "MV2_"))}


def start(environment, code="import mpitrain.comm; mpitrain.comm.world()"):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_without_a_launcher_the_world_has_one_rank():
    result = start(ALONE, "import mpitrain as mt; w = mt.comm.world(); print(w.rank, w.size, w.leads, w.run(lambda c: c.rank))")
    assert (result.returncode, result.stdout) == (0, "0 1 True [0]\n"), result.stderr


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_the_launcher_of_another_library_is_an_error(name):
    with pytest.raises(
        ValueError, match=rf"{name}=4 processes were started, but Open MPI v9 sees a world of 1.*mpitrain run -n 4"
    ):
        check_launcher({name: "4"}, "Open MPI v9")


@pytest.mark.parametrize("environment", [{}, {"PMI_SIZE": "1"}, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}])
def test_one_rank_that_was_meant_is_none(environment):
    assert check_launcher(environment, "Open MPI v9") is None


def test_a_mismatch_stops_the_process():
    result = start({**ALONE, "SLURM_STEP_NUM_TASKS": "4"})
    assert result.returncode == 1
    assert "ValueError: SLURM_STEP_NUM_TASKS=4 processes were started" in result.stderr


def test_a_missing_library_names_the_extra_and_the_variable():
    result = start({**ALONE, "MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert result.returncode == 1
    last = result.stderr[result.stderr.rindex("ValueError: ") :]
    assert last.startswith("ValueError: no MPI library could be loaded: cannot load MPI library")
    assert 'pip install "mpitrain[laptop]"' in last
    assert "MPI4PY_LIBMPI=" in last


def test_importing_the_package_loads_no_mpi():
    result = start(ALONE, "import sys, mpitrain, mpitrain.comm; print([m for m in sys.modules if m.startswith('mpi4py')])")
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
