"""The doctor finds out on every rank, prints once, and fails only on a real problem."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mpitrain.comm import local
from mpitrain.observe.communication import communication
from mpitrain.observe.doctor import Finding, merge

ALONE = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "SLURM", "MV2_"))}
DOCTOR = "from mpitrain.observe.doctor import doctor; raise SystemExit(doctor())"


def examine(**environment):
    command = [sys.executable, "-c", DOCTOR]
    return subprocess.run(command, env={**ALONE, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_a_healthy_machine_is_described():
    result = examine(MPITRAIN_ARRAYS="numpy")
    assert result.returncode == 0, result.stderr
    for text in ("numpy 2", "mpi4py 4", "1 in all", "numpy, on the host", "MULTIPLE", "right for bfloat16, float16", "mpiexec"):
        assert text in result.stdout
    assert "PROBLEM" not in result.stdout


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"MPITRAIN_ARRAYS": "jax"}, "the array library is 'jax'"),
        ({"MPI4PY_LIBMPI": "/nowhere/libmpi.so"}, "no MPI library could be loaded"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "sees a world of 1"),
    ],
)
def test_a_problem_is_named_and_sets_the_exit_code(environment, text):
    result = examine(**environment)
    assert result.returncode == 1
    assert text in result.stdout
    assert result.stdout.count("PROBLEM") == 1
    assert result.stderr == "mpitrain doctor: 1 problem found\n"


def test_ranks_that_round_differently_are_told_so():
    ranks = [[Finding(name="BLAS", found=found)] for found in ("openblas Zen", "openblas Haswell", "openblas Zen")]
    first, second = map(str, merge(ranks))
    assert first.startswith("note     BLAS              openblas Zen (rank 0, 2)")
    assert second.startswith("note     BLAS              openblas Haswell (rank 1)")
    assert "reproducible = true refuses" in first


@pytest.mark.mpi(3)
def test_ranks_agree_on_what_they_find(comm, capsys):
    from mpitrain.observe.doctor import doctor

    assert doctor({**os.environ, "MPITRAIN_ARRAYS": "numpy"}) == 0
    out = capsys.readouterr().out
    if comm.rank == 0:
        assert "3 in all" in out
        assert "3 of the ranks" in out
        assert out.count("16-bit sums") == 1
    else:
        assert out == ""


@pytest.mark.mpi(2)
def test_collectives_are_measured_on_demand(comm, capsys):
    from mpitrain.observe.doctor import doctor

    assert doctor({**os.environ, "MPITRAIN_ARRAYS": "numpy"}, comm=True) == 0
    out = capsys.readouterr().out
    if comm.rank > 0:
        assert out == ""
        return
    for name in ("broadcast", "allgather", "allreduce native, request", "allreduce ring", "allreduce hierarchical"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        times = [float(time) for time in re.findall(r"([\d.]+) \(", line)]
        assert len(times) == 5
        assert min(times) > 0
    assert re.search(r"message: α [\d.e+]+ µs, β [\d.e-]+ ns/byte", out)  # noqa: RUF001  # the field's letters
    assert re.search(
        r"while backward runs: allreduce over 2 ranks: (ring|halving|hierarchical) for 1 bucket of [\d.]+ [MK]iB", out
    )


def test_one_rank_has_nobody_to_measure():
    assert list(*local(1).run(lambda comm: list(communication(comm)))) == [
        "one rank communicates with nobody; start more: mpitrain run -n 2 doctor --comm"
    ]


def test_what_ranks_differ_in_names_the_ranks():
    base = [Finding(name="software", found="numpy 2.1"), Finding(name="arrays", found="numpy, on the host")]
    other = [replace(base[0], found="numpy 2.2"), base[1]]
    merged = merge([base, base, other, base])
    assert [(finding.found, finding.problem) for finding in merged] == [
        ("numpy 2.1 (rank 0-1, 3)", True),
        ("numpy 2.2 (rank 2)", True),
        ("numpy, on the host", False),
    ]
    assert "every rank must run the same software" in str(merged[0])


def test_what_rank_0_alone_knows_is_not_a_difference():
    (merged,) = merge([[Finding(name="launcher", found="/bin/mpiexec")], []])
    assert merged.found == "/bin/mpiexec"
