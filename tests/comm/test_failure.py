"""One rank's failure ends the job: soon, with its exit code, its traceback last and printed once."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mpitrain.comm import failure
from mpitrain.comm.failure import exit_code
from mpitrain.comm.launch import find_launcher, settings

#: The end of every script: all ranks but those that failed are blocked in MPI.
PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
import mpitrain.comm

world = mpitrain.comm.world()

def main(comm):
    {body}
    comm.irecv(np.zeros(1), (comm.rank + 1) % comm.size, 1).wait()

{start}
"""

#: Ranks give those below them as long as a busy machine may take.
PATIENT = "mpitrain.comm.failure._STAGGER_S = mpitrain.comm.failure._LONGEST_STAGGER_S = 60.0"

GUARDED = "with mpitrain.comm.end_job_on_failure():\n    world.run(main)"


@pytest.fixture
def run(tmp_path):
    """Run a program on 3 ranks; its exit code and what it wrote to stderr."""

    def run(body, *, ours, start=GUARDED):
        script = tmp_path / "program.py"
        script.write_text(PROGRAM.format(body=body, start=start))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if ours:
            code = "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(3, [sys.argv[1]]))"
            command = [sys.executable, "-c", code, os.fspath(script)]
        else:
            environment |= settings(3, environment)
            command = [os.fspath(find_launcher().mpiexec), "-n", "3", sys.executable, os.fspath(script)]
        job = subprocess.run(command, env=environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
        return job.returncode, job.stderr.decode(errors="replace").replace("\0", "").strip()

    return run


@pytest.mark.parametrize("ours", [True, False], ids=["launch", "mpiexec"])
@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("if comm.rank == 1: raise KeyError('boom')", 1, "[rank 1] KeyError: 'boom'"),
        ("if comm.rank == 2: sys.exit(3)", 3, "[rank 2] SystemExit: 3"),
        ("if comm.rank == 2: sys.exit('enough')", 1, "[rank 2] enough"),
        (
            "if comm.rank == 1: threading.Thread(target=lambda: 1 / 0).start()",
            1,
            "[rank 1] ZeroDivisionError: division by zero",
        ),
        (f"{PATIENT}; raise KeyError('everywhere')", 1, "[rank 0] KeyError: 'everywhere'"),
    ],
    ids=["exception", "sys.exit(3)", "sys.exit(text)", "thread", "all ranks"],
)
def test_a_failure_ends_the_job(run, ours, body, code, last):
    returned, errors = run(body, ours=ours)
    assert returned == code
    assert errors.count(last) == 1
    if ours:  # elsewhere mpiexec has its say, and the last word
        assert errors.endswith(last)
        assert all(line.startswith(last[:8]) for line in errors.splitlines()), errors
    if "sys.exit('" not in body:
        assert f"{last[:8]} Traceback (most recent call last):" in errors
    assert {line[:8] for line in errors.splitlines() if line.startswith("[rank")} == {last[:8]}


def test_the_end_takes_5_s_at_most_whatever_does_not_answer(tmp_path, monkeypatch):
    """A launcher that does not look, and an MPI that hangs in Abort: seconds are added up, not waited for."""
    asleep, timers, exits = [], [], []

    class Timer:
        started = False

        def __init__(self, interval, function, arguments):
            self.interval, self.call = interval, lambda: function(*arguments)
            timers.append(self)

        def start(self):
            self.started = True

    def hang(code):
        (timer,) = timers
        assert timer.started
        timer.call()

    abort = SimpleNamespace(COMM_WORLD=SimpleNamespace(Abort=hang))
    monkeypatch.setenv(failure.REPORT_VARIABLE, os.fspath(tmp_path / "failure"))
    monkeypatch.setattr(failure, "_place", lambda: (1000, 1001))
    monkeypatch.setattr(failure.time, "sleep", asleep.append)
    monkeypatch.setattr(failure.threading, "Timer", Timer)
    monkeypatch.setattr(failure.os, "_exit", exits.append)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", abort)
    failure.end_job("why", 7)
    assert exits[0] == 7
    assert sum(asleep) + timers[0].interval <= 5
    assert (tmp_path / "failure").read_text() == "7\n[rank 1000] why\n"


def test_an_exception_needs_no_guard(run):
    returned, errors = run("if comm.rank == 1: raise KeyError('boom')", ours=False, start="world.run(main)")
    assert returned == 1
    assert errors.count("[rank 1] KeyError: 'boom'") == 1


@pytest.mark.parametrize(("number", "name"), [("SIGKILL", "137"), ("SIGSEGV", "139")])
def test_a_killed_rank_ends_the_job(run, number, name):
    returned, errors = run(f"if comm.rank == 1: os.kill(os.getpid(), signal.{number})", ours=True)
    assert returned in (int(name), int(name) - 128)  # Open MPI adds 128 to the signal's number, MPICH does not
    if returned > 128:
        assert "rank 1" in errors  # MPICH says so on stdout
    if number == "SIGSEGV":
        assert "Fatal Python error: Segmentation fault" in errors
        assert "program.py" in errors


def test_a_failure_before_mpi_is_there_is_printed_once(run):
    returned, errors = run("pass", ours=True, start="raise KeyError('early')")
    assert returned == 1
    assert errors.count("KeyError: 'early'") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 1),
        (SystemExit(), 0),
        (SystemExit(0), 0),
        (SystemExit(3), 3),
        (SystemExit("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_are_those_of_python(error, code):
    assert exit_code(error) == code
