"""A rank that raises or dies inside an action of any kind ends the job, and what is said names the action.

This file is also the program that the ranks of a real MPI job run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.comm import end_job_on_failure
from mpitrain.program import Kind

#: Of each kind the rank that fails, in its last action of that kind, and how that is called.
FAILING = {
    Kind.F: (1, "1F1: F of stage 1, microbatch 1"),
    Kind.B: (1, "1B1: B of stage 1, microbatch 1"),
    Kind.I: (1, "1I1: I of stage 1, microbatch 1"),
    Kind.W: (1, "1W1: W of stage 1, microbatch 1"),
    Kind.RECV_F: (1, "1RECV_F1: RECV_F of stage 1, microbatch 1"),
    Kind.SEND_F: (0, "0SEND_F1: SEND_F of stage 0, microbatch 1"),
    Kind.RECV_B: (0, "0RECV_B1: RECV_B of stage 0, microbatch 1"),
    Kind.SEND_B: (1, "1SEND_B1: SEND_B of stage 1, microbatch 1"),
    Kind.ARM: (1, "1ARM: ARM of stage 1"),
    Kind.REDUCE: (1, "1REDUCE: REDUCE of stage 1"),
    Kind.GATHER: (1, "0GATHER: GATHER of stage 0"),
    Kind.FREE: (1, "0FREE: FREE of stage 0"),
    Kind.TIE: (1, "1TIE: TIE of stage 1"),
    Kind.TALLY: (1, "1TALLY: TALLY of stage 1"),
    Kind.STEP: (1, "1STEP: STEP of stage 1"),
}


def train(world, kind, fault):
    """A step as it should be, and one in which a rank ends its last action of `kind` by `fault`."""
    pipeline = {"schedule": "1f1b" if kind is Kind.B else "zb_h1"}
    shared_out = {"zero": 3, "schedule": "gpipe"}  # where weights come and go
    layout, settings = (mt.Layout(dp=2), shared_out) if kind in (Kind.GATHER, Kind.FREE) else (mt.Layout(pp=2), pipeline)
    job = mt.Trainer(
        mt.nn.models.GPT(width=8, depth=2, heads=2, vocab=17, context=4),  # its ends share a weight
        mt.optim.SGD(lr=0.1),
        mt.data.TokenDataset((np.arange(200) % 17).astype(np.uint8), 4),
        mesh=mt.Mesh(world, layout),
        microbatches=2,
        batch=4,
        arrays="numpy",
        dtype="float64",  # starts faster: the compiled kernels are for float32
        **settings,
    )
    job.fit(1, report=lambda report: None)
    failing, _ = FAILING[kind]
    if failing in job.workers:
        worker = job.workers[failing]
        handler = worker.handlers[kind]
        last = [action for action in worker.training if action.kind is kind][-1]

        def faulty(action):
            handler(action)
            if action == last:
                fault()

        worker.handlers[kind] = faulty
    job.fit(1, report=lambda report: None)


def break_down():
    raise ZeroDivisionError("broken on purpose")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {"raises": break_down, "dies": die}


def test_every_kind_of_action_is_here():
    assert set(FAILING) == set(Kind)


@pytest.mark.parametrize("kind", FAILING)
def test_an_exception_names_its_action_locally(kind):
    rank, name = FAILING[kind]
    with pytest.raises(ZeroDivisionError) as caught:
        train(mt.comm.local(2), kind, break_down)
    assert f"in action {name}" in caught.value.__notes__
    assert f"on rank {rank} of 2" in caught.value.__notes__
    assert "in break_down" in "".join(traceback.format_exception(caught.value))


def run(kind, fault):
    """A job over MPI; its exit code and what it said."""
    start = [sys.executable, "-c", "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, sys.argv[1:]))"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.run(
        [*start, __file__, kind.name, fault],
        env=environment,
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return job.returncode, job.stderr.decode(errors="replace").rstrip()


def test_an_exception_in_any_action_ends_the_job_over_mpi():
    with ThreadPoolExecutor(3) as several:  # starting a job is mostly waiting
        jobs = dict(zip(FAILING, several.map(lambda kind: run(kind, "raises"), FAILING), strict=True))
    for kind, (code, said) in jobs.items():
        rank, name = FAILING[kind]
        assert code == 1, said
        assert said.endswith(f"[rank {rank}] ZeroDivisionError: broken on purpose\n[rank {rank}] in action {name}"), said
        assert 'test_execute.py", line' in said
        assert "in break_down" in said


@pytest.mark.parametrize("kind", [Kind.W, Kind.RECV_F, Kind.TALLY])
def test_a_rank_that_is_killed_in_an_action_is_told_of(kind):
    rank, name = FAILING[kind]
    code, said = run(kind, "dies")
    assert code in (signal.SIGKILL, 128 + signal.SIGKILL), said  # Open MPI adds 128, MPICH does not
    assert f"[rank {rank}] was in {name}" in said.splitlines(), said


if __name__ == "__main__":
    with end_job_on_failure():
        train(mt.comm.world(), Kind[sys.argv[1]], FAULTS[sys.argv[2]])
