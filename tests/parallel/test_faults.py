"""A replica that fails in the middle of a step ends the job, and what is said names rank, parameters and source line.

This file is also the program that the ranks of a real MPI job run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.autograd import Op
from mpitrain.comm import end_job_on_failure
from mpitrain.nn.init import ONES

#: Seconds after which a rank that waits ends the job.
LIMIT_S = 3.0


class Scale(Op):
    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, w):
        self.x = x
        return x * w

    def input_grad(self, dy):
        return (dy * self.weights[0].data,)

    def weight_grad(self, dy, *out):
        if self.layer.broken:
            raise ZeroDivisionError("the weight's gradient is broken")
        out[0][...] = (dy * self.x).sum(axis=0)


class Scaled(mt.nn.Module):
    broken = False

    def __init__(self, width):
        self.weight = mt.nn.Parameter((width,), ONES)

    def forward(self, x):
        return Scale(self)(x, weights=[self.weight])


class Late:
    """A request that takes its time, once it is waited for."""

    slept = False

    def done(self):
        return self.slept

    def wait(self):
        time.sleep(1.0)
        self.slept = True


def skip(rank_1):
    """Leave out one bucket, as a rank with another graph would; slowly, so that the other one loses its patience first."""
    (stage,) = rank_1.replicas.stages.values()
    sum_over_replicas = stage.exchange

    def exchange(bucket):
        if bucket is not stage.buckets[2]:
            return sum_over_replicas(bucket)
        time.sleep(1.0)
        return iter((Late(),))

    stage.exchange = exchange


def resize(elements):
    """Send a bucket that is longer by some elements."""

    def fault(rank_1):
        (stage,) = rank_1.replicas.stages.values()
        sum_over_replicas = stage.exchange

        def exchange(bucket):
            if bucket is not stage.buckets[2]:
                return sum_over_replicas(bucket)
            return sum_over_replicas(replace(bucket, flat=np.resize(bucket.flat, bucket.flat.size + elements)))

        stage.exchange = exchange

    return fault


def break_gradient(rank_1):
    rank_1.stages[0].layers[2].broken = True


BUCKET = "the sum over replicas of bucket 2 (layers.2.weight)"
#: What goes wrong on rank 1, the ranks that may say so, and what they say: in a local world, over MPI.
FAULTS = {
    "skips a bucket": (skip, {0}, ["TimeoutError", BUCKET, "data.py"], ["rank 0 has waited", f"s for {BUCKET}", "data.py"]),
    "sends a smaller one": (resize(-2), {0, 1}, *[["ValueError", BUCKET, "rank 1", "the same shape and dtype"]] * 2),
    "sends a larger one": (resize(2), {0, 1}, *[["ValueError", BUCKET, "rank 1", "the same shape and dtype"]] * 2),
    "raises in backward": (
        break_gradient,
        {1},
        *[["ZeroDivisionError", "in the gradient of Scale of Parameter(layers.2.weight, shape=(5,))", "in weight_grad", "0B0"]]
        * 2,
    ),
}


#: What carries the buckets: an algorithm, and who moves it on.
WAYS = [("ring", "points"), ("ring", "thread"), ("halving", "points"), ("native", "points"), ("native", "thread"),
        ("hierarchical", "points")]  # fmt: skip


def train(world, fault, allreduce, progress):
    """A step as it should be, and one with a fault on rank 1."""
    random = np.random.default_rng(0)
    layers = [mt.nn.Linear(4, 5), mt.nn.Linear(5, 5), Scaled(5), mt.nn.Linear(5, 3)]
    job = mt.Trainer(
        mt.nn.Model(layers, mt.nn.CrossEntropy()),
        mt.optim.SGD(lr=0.1),
        mt.data.ArrayDataset(random.normal(size=(40, 4)), random.integers(0, 3, 40)),
        mesh=mt.Mesh(world, mt.Layout(dp=2)),
        batch=4,
        bucket_mib=1e-6,
        allreduce=allreduce,
        progress=progress,
        arrays="numpy",
        dtype="float64",  # starts faster: the compiled kernels are for float32
        timeout_s=LIMIT_S,
    )
    job.fit(1, report=lambda report: None)
    if 1 in job.workers:
        fault(job.workers[1])
    job.fit(1, report=lambda report: None)


@pytest.mark.parametrize(("allreduce", "progress"), WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_itself_locally(name, allreduce, progress):
    fault, ranks, says, _ = FAULTS[name]
    with pytest.raises((TimeoutError, ValueError, ZeroDivisionError)) as caught:
        train(mt.comm.local(2, limit_s=LIMIT_S), fault, allreduce, progress)
    report = "".join(traceback.format_exception(caught.value))
    for text in says:
        assert text in report, report
    assert any(f"on rank {rank} of 2" in report for rank in ranks)


#: Each fault once, and what depends on the algorithm or on the thread for each of these.
OVER_MPI = [(name, *WAYS[0]) for name in FAULTS]
OVER_MPI += [("sends a larger one", *way) for way in WAYS[1:]] + [
    ("skips a bucket", *WAYS[4]),
    ("raises in backward", *WAYS[1]),
]


@pytest.mark.parametrize(("name", "allreduce", "progress"), OVER_MPI)
def test_a_fault_ends_the_job_over_mpi(name, allreduce, progress):
    _, ranks, _, says = FAULTS[name]
    start = [sys.executable, "-c", "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, sys.argv[1:]))"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [*start, __file__, name, allreduce, progress]
    job = subprocess.run(program, env=environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    report = job.stderr.decode(errors="replace")
    assert job.returncode != 0
    for text in says:
        assert text in report, report
    assert any(f"[rank {rank}]" in report for rank in ranks)


if __name__ == "__main__":
    with end_job_on_failure():
        train(mt.comm.world(), FAULTS[sys.argv[1]][0], *sys.argv[2:])
