"""A run that goes on from a checkpoint sums its gradients by the algorithms that the run before it had measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.checkpoint import Checkpoint
from mpitrain.comm.allreduce.cost import Constants, Line

#: Shared memory wins or loses by its own time, sigma.
CONSTANTS = Constants(
    p=3, message=Line(alpha=1e-9, beta=1e-9), gamma=1e-10, native=Line(alpha=9.0, beta=1e-8), most=3, fewest=3
)


def trainer(world, **settings):
    random = np.random.default_rng(0)
    data = mt.data.ArrayDataset(random.normal(size=(30, 7)).astype(np.float32), random.integers(0, 5, 30))
    mesh = mt.Mesh(world, mt.Layout(dp=3))
    return mt.Trainer(
        mt.nn.models.MLP(sizes=(7, 9, 5)), mt.optim.SGD(lr=0.1), data, mesh=mesh, batch=6, arrays="numpy", **settings
    )


@pytest.mark.mpi(3)
def test_algorithms_are_taken_from_the_checkpoint(world, tmp_path):
    for sigma, name in {1e-15: "hierarchical", 1.0: "ring"}.items():
        job = trainer(world)
        (worker,) = job.workers.values()
        constants = replace(CONSTANTS, sigma=sigma)
        assert worker.summing.constants.of_one_kind(constants)
        worker.recall(constants)
        job.fit(2, folder=tmp_path / name, report=lambda step: None)
        again = trainer(world)
        (worker,) = again.workers.values()
        path = again.resume(tmp_path / name)
        assert worker.summing.constants == constants
        assert worker.reduction.startswith(f"allreduce over 3 ranks: {name} for 1 bucket of")
        assert ", chosen as in the checkpoint; " in worker.reduction
        assert len(again.fit(1, report=lambda step: None)) == 1
        (stored,) = Checkpoint.open(path).meta["allreduce"]
        assert stored["message"] == {"alpha": constants.message.alpha, "beta": constants.message.beta}


@pytest.mark.mpi(3)
def test_other_hosts_and_a_named_algorithm_are_not_overruled(world, tmp_path):
    job = trainer(world)
    (worker,) = job.workers.values()
    measured = worker.summing.constants
    worker.recall(replace(measured, most=2, hosts=2))
    job.fit(1, folder=tmp_path, report=lambda step: None)
    again = trainer(world)
    (worker,) = again.workers.values()
    measured = worker.summing.constants
    again.resume(tmp_path)
    assert worker.summing.constants is measured
    named = trainer(world, allreduce="ring")
    (worker,) = named.workers.values()
    named.resume(tmp_path)
    assert worker.reduction.startswith("allreduce over 3 ranks: ring for 1 bucket")
    assert "as in the checkpoint" not in worker.reduction
