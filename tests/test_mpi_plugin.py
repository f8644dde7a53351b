"""The marker itself: a failing, dying or deadlocked test fails, in time, and shows what every rank did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import os
import sys
from pathlib import Path
import numpy as np
import pytest

@pytest.fixture(autouse=True, scope="session")
def no_mpi_in_the_parent(pytestconfig):
    yield
    assert pytestconfig.getoption("--mpi-rank-of") or "mpi4py.MPI" not in sys.modules

@pytest.mark.mpi([1, 2], local=True)
@pytest.mark.parametrize("name", ["a", "b"])
def test_passes(comm, name, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "pi", 3)
    (tmp_path / f"{name}{comm.rank}").write_text("x")
    comm.barrier()
    assert len(list(tmp_path.iterdir())) == comm.size

@pytest.mark.mpi(2)
def test_skips(world):
    pytest.skip("for a reason")

@pytest.mark.mpi(2)
def test_asserts(comm):
    print("hello from", comm.rank)
    assert comm.rank + 7 == 7

@pytest.mark.mpi(3)
def test_raises_while_others_wait(comm):
    if comm.rank == 1:
        for source in (0, 2):
            comm.irecv(np.zeros(1), source, 1).wait()
        raise KeyError("boom")
    comm.isend(np.zeros(1), 1, 1).wait()
    comm.barrier()

@pytest.mark.mpi(2, timeout=2)
def test_deadlocks(comm):
    comm.irecv(np.zeros(1), 1 - comm.rank, 1).wait()

@pytest.mark.mpi(2)
def test_is_killed(comm):
    if comm.rank == 1:
        os.kill(os.getpid(), 9)
    comm.barrier()

@pytest.mark.mpi(2)
@pytest.mark.parametrize("name", ["first", "second"])
def test_says_its_process(comm, name):
    comm.barrier()
    Path(__file__).with_name(f"{name}{comm.rank}").write_text(str(os.getpid()))

@pytest.mark.mpi(2, alone=True)
def test_is_alone(comm):
    comm.barrier()
    Path(__file__).with_name(f"alone{comm.rank}").write_text(str(os.getpid()))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What pytest prints for the suite, whole and cut into the sections of its failures, and the suite's folder."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text('pytest_plugins = ["mpi_plugin"]\n')
    (folder / "test_suite.py").write_text(SUITE)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--import-mode=importlib", "-W", "error", "test_suite.py"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    sections = {}
    for line in run.stdout.splitlines():
        if line.startswith("____"):
            name = line.strip("_ ")
        if sections or line.startswith("____"):
            sections.setdefault(name, []).append(line)
    return run.stdout, {name: "\n".join(lines) for name, lines in sections.items()}, folder


def test_the_right_tests_pass_fail_and_skip(report):
    out, failures, _ = report
    assert "4 failed, 11 passed, 1 skipped" in out
    assert "for a reason" in out
    names = ["test_asserts[mpi2]", "test_deadlocks[mpi2]", "test_is_killed[mpi2]", "test_raises_while_others_wait[mpi3]"]
    assert [name for name in failures if name.startswith("test_")] == names


def test_an_assertion_shows_its_values_and_every_ranks_output(report):
    text = report[1]["test_asserts[mpi2]"]
    assert "assert (1 + 7) == 7" in text
    assert "hello from 0" in text
    assert "hello from 1" in text
    assert "--- rank 0: passed" in text
    assert "--- rank 1: failed" in text


def test_an_exception_ends_the_ranks_that_wait(report):
    text = report[1]["test_raises_while_others_wait[mpi3]"]
    assert "KeyError: 'boom'" in text
    assert "--- rank 0: did not end" in text
    assert "no end within" not in text
    assert text.count("in barrier") == 2


def test_a_deadlock_shows_the_stacks_of_every_rank(report):
    text = report[1]["test_deadlocks[mpi2]"]
    assert "no end within 2 s" in text
    assert text.count("in test_deadlocks") == 2
    assert "site-packages" not in text


def test_a_killed_rank_is_a_failure(report):
    text = report[1]["test_is_killed[mpi2]"]
    assert "exit code 137" in text or "exit code 9" in text  # Open MPI, MPICH
    assert "--- rank 1: did not end" in text


def test_a_start_is_shared_after_failures_too_but_not_by_a_test_that_is_alone(report):
    folder = report[2]
    pids = {name: [(folder / f"{name}{rank}").read_text() for rank in range(2)] for name in ("first", "second", "alone")}
    assert pids["first"] == pids["second"]
    assert not set(pids["first"]) & set(pids["alone"])
