"""A wait that is too long ends the job and says who waits for what."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from mpitrain.comm import Watchdog, watchdog

STUCK = """
import os, sys, time, types
import numpy as np
import mpitrain.comm

def main(comm):
    def sleep(seconds):  # until every rank has lost its patience
        open(sys.argv[1] + str(comm.rank), "w").close()
        while not os.path.exists(sys.argv[1] + str(1 - comm.rank)):
            time.sleep(0.01)
        time.sleep(seconds)

    mpitrain.comm.watchdog.time = types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    dog = mpitrain.comm.Watchdog(1.0, rank=comm.rank)
    source = (comm.rank + 1) % comm.size
    with dog.waiting(f"RECV_F stage 1 microbatch {comm.rank} from rank {source}"):
        comm.irecv(np.zeros(1), source, 1).wait()

mpitrain.comm.world().run(main)
"""


def test_ranks_stuck_in_mpi_are_named_with_their_stacks(tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    code = "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, sys.argv[1:]))"
    job = subprocess.run(
        [sys.executable, "-c", code, os.fspath(script), os.fspath(tmp_path / "stuck")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert job.returncode == 124
    for rank in (0, 1):
        assert f"for RECV_F stage 1 microbatch {rank} from rank {1 - rank}" in job.stderr
    assert job.stderr.count('stuck.py", line 17 in main') == 2
    assert job.stderr.rstrip().splitlines()[-1].startswith(("[rank 0] (the limit is 1 s", "[rank 1] (the limit is 1 s"))


class Clock:
    """Shows `now`; counts how often the thread `looker` has looked."""

    def __init__(self):
        self.now, self.looks, self.looker = 0.0, 0, None
        self.looked = threading.Condition()

    def monotonic(self):
        now = self.now
        if threading.current_thread() is self.looker:
            with self.looked:
                self.looks += 1
                self.looked.notify_all()
        return now

    def sleep(self, seconds):
        self.now += seconds

    def wait_for_a_look(self):
        """The second look from here on begins after the first has ended."""
        with self.looked:
            assert self.looked.wait_for(lambda stop=self.looks + 2: self.looks >= stop, 60)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    return clock


@pytest.fixture
def ended(monkeypatch):
    """What the job was ended with."""
    reports, came = [], threading.Event()
    monkeypatch.setattr(watchdog, "end_job", lambda report, code: (reports.append((report, code)), came.set()))
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback", lambda *_, **__: None)
    return reports, came


def watching(limit_s):
    """A watchdog and its thread."""
    before = set(threading.enumerate())
    dog = Watchdog(limit_s, rank=0)
    (thread,) = (thread for thread in threading.enumerate() if thread not in before and thread.name == "watchdog")
    return dog, thread


def test_only_a_wait_beyond_the_limit_ends_the_job(clock, ended):
    reports, came = ended
    dog, clock.looker = watching(0.04)
    for _ in range(4):
        with dog.waiting("an outer wait"), dog.waiting("an inner one"):
            clock.now += 0.03
            clock.wait_for_a_look()
    clock.now += 10
    clock.wait_for_a_look()
    assert not reports
    with dog.waiting("a long wait"):
        clock.now += 5
        assert came.wait(60)
    ((report, code),) = reports
    assert (report.splitlines()[0], code) == ("rank 0 has waited 5 s for a long wait", 124)


def test_nobody_looks_after_close(clock, ended):
    dog, thread = watching(0.04)
    dog.close()
    thread.join(60)
    assert not thread.is_alive()
    with dog.waiting("whatever takes long"):
        clock.now += 10
    assert not ended[0]


def test_watching_is_cheap():
    """Some calls each, none of which starts a thread, sleeps or writes: what a file or a lock takes, no wait pays for."""
    dog, calls = Watchdog(60, rank=0), []
    sys.setprofile(lambda frame, event, value: calls.append(getattr(value, "__name__", frame.f_code.co_name))
                   if event in ("call", "c_call") else None)  # fmt: skip
    for _ in range(1000):
        with dog.waiting("x"):
            pass
    sys.setprofile(None)
    dog.close()
    assert len(calls) < 20 * 1000
    assert not {"write", "flush", "open", "fsync", "sleep", "start", "wait", "acquire"} & set(calls)


def test_the_limit_is_positive():
    with pytest.raises(ValueError, match="limit is 0 s; expected more than 0"):
        Watchdog(0, rank=0)
