"""Replicas whose graphs differ, in the step that the buckets are learnt from too, sum the same gradients as one rank."""

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.nn.init import ZEROS
from mpitrain.parallel import DataParallel, sum_over
from mpitrain.selfcheck import gather

BATCH = 8


class OneOrTheOther(mt.nn.Module):
    """A choice of two layers by the microbatch's place in the batch: replica 0 takes the first, replica 1 the second."""

    def __init__(self, width):
        self.first, self.second = mt.nn.Linear(width, width), mt.nn.Linear(width, width)

    def forward(self, x):
        chosen = self.first if min(x.context.samples, default=0) % BATCH < BATCH // 2 else self.second
        return chosen(x)


def losses_and_weights(world, layout, microbatches):
    random = np.random.default_rng(0)
    layers = [mt.nn.Linear(5, 6), OneOrTheOther(6), OneOrTheOther(6), mt.nn.Linear(6, 3)]
    job = mt.Trainer(
        mt.nn.Model(layers, mt.nn.CrossEntropy()),
        mt.optim.SGD(lr=0.1, momentum=0.9),
        mt.data.ArrayDataset(random.normal(size=(48, 5)), random.integers(0, 3, 48)),
        mesh=mt.Mesh(world, layout),
        batch=BATCH,
        microbatches=microbatches,
        dtype="float64",
        arrays="numpy",
    )
    losses = [metrics.loss for metrics in job.fit(5, report=lambda step: None)]
    return losses, world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]


@pytest.mark.parametrize("bucket_bytes", [1, 400, 1 << 22])
def test_replicas_with_other_graphs_agree_on_their_buckets(bucket_bytes, monkeypatch):
    monkeypatch.setattr("mpitrain.gradients.BUCKET_BYTES", bucket_bytes)
    losses, weights = losses_and_weights(mt.comm.local(2), mt.Layout(dp=2), 1)
    expected, one = losses_and_weights(mt.comm.local(1), mt.Layout(), 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for name, weight in one.items():
        np.testing.assert_allclose(weights[name], weight, rtol=1e-10, atol=1e-13, err_msg=name)


def test_the_buckets_of_many_stages_have_numbers_that_are_tags():
    """MPI has to allow tags up to 32767, and no more."""

    def indices(comm):
        stages = {stage: [mt.nn.Parameter((3,), ZEROS) for _ in range(4)] for stage in range(100)}
        for parameter in (p for parameters in stages.values() for p in parameters):
            parameter.materialize(Arrays(), np.dtype(np.float32), 0)
        replicas = DataParallel(stages, sum_over(comm), Arrays(), np.dtype(np.float32), replicas=comm, bucket_bytes=1)
        return [bucket.index for stage in replicas.stages.values() for bucket in stage.buckets]

    (found,) = mt.comm.local(1).run(indices)
    assert sorted(found) == list(range(400))
