"""What a worker does where a step fails.  This file is also the program that the ranks of a real MPI job run."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

import mpitrain as mt
from mpitrain.autograd import Op
from mpitrain.comm import end_job_on_failure
from mpitrain.nn.init import ONES

#: Values of a sample: 1 MiB, which no MPI sends before it is received.
WIDTH = 1 << 17


class Scale(Op):
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x, w):
        self.x = x
        return x * w * self.factor

    def input_grad(self, dy):
        return (dy * self.weights[0].data,)

    def weight_grad(self, dy, *out):
        out[0][...] = (dy * self.x).sum(axis=0)


class Scaled(mt.nn.Module):
    """Times a weight, and times infinity for one sample."""

    def __init__(self, breaks_at=None):
        self.breaks_at = breaks_at
        self.weight = mt.nn.Parameter((WIDTH,), ONES)

    def forward(self, x):
        return Scale(np.inf if x.context.samples == (self.breaks_at,) else 1.0)(x, weights=[self.weight])


def train(world):
    data = mt.data.ArrayDataset(np.ones((8, WIDTH)), np.ones((8, WIDTH)))
    mt.Trainer(
        mt.nn.Model([Scaled(6), Scaled(3), Scaled(), Scaled()], mt.nn.MeanSquaredError()),
        mt.optim.SGD(lr=0.1),
        data,
        mesh=mt.Mesh(world, mt.Layout(pp=2)),
        schedule="interleaved",
        microbatches=8,
        dtype="float64",
        arrays="numpy",
    ).fit(1, report=lambda report: None)


def test_ranks_that_each_find_a_culprit_do_not_wait_for_each_other():
    """Each has sent what the other one will never receive: rank 0 microbatches 4 and 5, rank 1 the first three of its own."""
    start = [sys.executable, "-c", "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, sys.argv[1:]))"]
    job = subprocess.run(
        [*start, __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    said = job.stderr.decode(errors="replace")
    assert job.returncode == 1, said
    assert "NotFiniteError: the output of module layers." in said, said


if __name__ == "__main__":
    with end_job_on_failure():
        train(mt.comm.world())
