"""`launch` starts the right mpiexec, adds what the machine needs, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpitrain.comm import launch
from mpitrain.comm.launch import find_launcher, settings


def start(arguments, ranks=2, **options):
    code = (
        "import signal, sys, mpitrain.comm\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the suite runs in the background
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as `nohup` does
        f"sys.exit(mpitrain.comm.launch({ranks}, sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, *map(os.fspath, arguments)], env=environment, **options)


def test_the_launcher_lies_beside_the_library():
    launcher = find_launcher()
    assert launcher.vendor in ("Open MPI", "MPICH")
    assert launcher.library.name.startswith("libmpi")
    assert launcher.mpiexec.is_relative_to(launcher.library.parents[1])


def test_another_mpiexec_in_the_path_is_not_taken(tmp_path, monkeypatch):
    decoy = tmp_path / "mpiexec"
    decoy.write_text("#!/bin/sh\nexit 77\n")
    decoy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_launcher().mpiexec != decoy


def test_no_library_is_a_sentence(monkeypatch):
    monkeypatch.setenv("MPI4PY_LIBMPI", "/nowhere/libmpi.so")
    with pytest.raises(ValueError, match=r"no MPI library could be loaded.*\n.*mpitrain\[laptop\]"):
        find_launcher()


def test_settings_leave_the_users_alone():
    many = settings(64, {"OMP_NUM_THREADS": "5", "OMPI_MCA_pml": "ucx"})
    assert "OMP_NUM_THREADS" not in many
    assert "OMPI_MCA_pml" not in many
    assert many["OPENBLAS_NUM_THREADS"] == "1"
    assert many["OMPI_MCA_threads_pthreads_yield_strategy"] == "nanosleep"
    cores = len(os.sched_getaffinity(0))
    assert settings(1, {})["OPENBLAS_NUM_THREADS"] == str(cores)
    assert "OMPI_MCA_threads_pthreads_yield_strategy" not in settings(1, {})


def test_settings_inside_an_allocation_are_the_sites():
    assert not [name for name in settings(64, {"SLURM_JOB_ID": "7"}) if "MCA" in name or "MPIR" in name]


@pytest.mark.parametrize(
    ("ranks", "arguments", "message"),
    [
        (0, ["x.py"], "0 ranks were asked for"),
        (2, [], "nothing to run was named"),
        (2, ["missing.py"], "the script missing.py does not exist"),
        (2, ["folder/missing"], "the script folder/missing does not exist"),
    ],
)
def test_what_cannot_start_is_said_before(ranks, arguments, message):
    with pytest.raises(ValueError, match=message):
        launch(ranks, arguments)


def test_a_script_sees_its_arguments_its_folder_and_no_input(tmp_path):
    (tmp_path / "neighbour.py").write_text("value = 5\n")
    (tmp_path / "script.py").write_text(
        "import os, sys, neighbour, mpitrain.comm\n"
        "if __name__ == '__main__':\n"
        "    world = mpitrain.comm.world()\n"
        "    [rank] = world.run(lambda comm: comm.rank)\n"
        f"    with open(f'{tmp_path}/out{{rank}}', 'w') as out:\n"
        "        print(world.size, sys.argv[1:], neighbour.value, repr(sys.stdin.read()), os.getcwd(), file=out)\n"
    )
    job = start([tmp_path / "script.py", "--a", "b c"], ranks=3)
    assert job.wait(60) == 0
    for rank in range(3):
        assert (tmp_path / f"out{rank}").read_text() == f"3 ['--a', 'b c'] 5 '' {os.getcwd()}\n"


WAITING = """
import os, sys, time, mpitrain.comm
world = mpitrain.comm.world()
[rank] = world.run(lambda comm: comm.rank)
open(os.path.join(sys.argv[1], f"pid{rank}"), "w").write(str(os.getpid()))
time.sleep(120)
"""


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids_of(folder, ranks):
    """The process ids of the ranks once all of them run."""

    def found():
        texts = [file.read_text() for file in folder.glob("pid*")]
        return len(texts) == ranks and all(texts) and [int(text) for text in texts]

    return until(found)


def until(found):
    """What `found` gives once that is true."""
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_rank(tmp_path, number):
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start([tmp_path / "waiting.py", tmp_path], ranks=3, stderr=subprocess.DEVNULL)
    pids = pids_of(tmp_path, 3)
    job.send_signal(signal.SIGHUP)  # what was ignored is ignored: the code is that of the other signal
    job.send_signal(number)
    assert job.wait(60) == 128 + number
    until(lambda: not any(map(alive, pids)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.parametrize("victim", ["mpiexec", "launch"])
def test_ranks_die_with_what_started_them(tmp_path, victim):
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start([tmp_path / "waiting.py", tmp_path], ranks=2, stderr=subprocess.DEVNULL)
    pids = pids_of(tmp_path, 2)
    (mpiexec,) = map(int, Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split())
    os.kill(mpiexec if victim == "mpiexec" else job.pid, signal.SIGKILL)
    assert job.wait(60) == (128 + signal.SIGKILL if victim == "mpiexec" else -signal.SIGKILL)
    pids.append(mpiexec)
    until(lambda: not any(map(alive, pids)))
