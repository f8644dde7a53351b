"""A wait that is too long ends the job and says who waits for what."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from mpitrain.comm import Watchdog

STUCK = """
import numpy as np
import mpitrain.comm

def main(comm):
    dog = mpitrain.comm.Watchdog(1.0, rank=comm.rank)
    source = (comm.rank + 1) % comm.size
    with dog.waiting(f"RECV_F stage 1 microbatch {comm.rank} from rank {source}"):
        comm.irecv(np.zeros(1), source, 1).wait()

mpitrain.comm.world().run(main)
"""


def test_ranks_stuck_in_mpi_are_named_with_their_stacks(tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    code = "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, [sys.argv[1]]))"
    job = subprocess.run(
        [sys.executable, "-c", code, os.fspath(script)],
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
    assert job.stderr.count('stuck.py", line 9 in main') == 2
    assert job.stderr.rstrip().splitlines()[-1].startswith(("[rank 0] (the limit is 1 s", "[rank 1] (the limit is 1 s"))


def test_waits_within_the_limit_are_left_alone():
    dog = Watchdog(0.2, rank=0)
    for _ in range(4):
        with dog.waiting("an outer wait"), dog.waiting("an inner one"):
            time.sleep(0.08)
    time.sleep(0.3)
    dog.close()
    with dog.waiting("nobody looks any more"):
        time.sleep(0.3)


def test_watching_is_cheap():
    dog = Watchdog(60, rank=0)
    begin = time.perf_counter()
    for _ in range(10_000):
        with dog.waiting("x"):
            pass
    dog.close()
    assert (time.perf_counter() - begin) / 10_000 < 20e-6  # a microsecond, and room for a busy machine


def test_the_limit_is_positive():
    with pytest.raises(ValueError, match="limit is 0 s; expected more than 0"):
        Watchdog(0, rank=0)
