"""Running moments of a batch norm that a pass uses twice, or that only some microbatches reach, against torch's."""

import numpy as np
import pytest
import torch

import mpitrain as mt
from mpitrain.nn import BatchNorm2d, Flatten, Linear, Model, Module
from mpitrain.selfcheck import gather

ROWS, MICROBATCH = 8, 2
IMAGES = np.random.default_rng(3).normal(5.0, 1.0, (ROWS, 2, 3, 3))


class Uses(Module):
    """`norm`, `times` over, in the microbatches that begin with every `every`th sample."""

    def __init__(self, norm, times, every):
        self.norm, self.times, self.every = norm, times, every

    def forward(self, x):
        if x.context.samples[0] // MICROBATCH * MICROBATCH % self.every == 0:  # joined replicas have parts of a microbatch
            for _ in range(self.times):
                x = x + self.norm(x) * 0.0
        return x


#: The layers that share one batch norm: how often each uses it, and in which microbatches.
USES = {"twice": [(2, 1)], "in_some": [(1, 4)], "shared_by_stages": [(1, 1), (3, 4)], "never": [(0, 1)]}


def model(uses):
    norm = BatchNorm2d(2, momentum=1.0)
    return Model([*(Uses(norm, *use) for use in uses), Flatten(), Linear(18, 3)], mt.nn.CrossEntropy())


def expected(uses):
    """The mean over the uses in which it was observed."""
    found = []
    for start in range(0, ROWS, MICROBATCH):
        norm = torch.nn.BatchNorm2d(2, momentum=1.0).double()
        norm(torch.tensor(IMAGES[start : start + MICROBATCH]))
        moments = np.stack([norm.running_mean.numpy(), norm.running_var.numpy()])
        found += [moments for times, every in uses if start % every == 0 for _ in range(times)]
    return np.mean(found, axis=0) if found else np.stack([np.zeros(2), np.ones(2)])


JOBS = {
    "one_rank": (mt.Layout(), {}),
    "dp2": (mt.Layout(dp=2), {}),
    "dp2_pp2": (mt.Layout(dp=2, pp=2), {}),
    "dp2_pp2_zero3": (mt.Layout(dp=2, pp=2), {"zero": 3}),
    "dp2_pp2_reproducible": (mt.Layout(dp=2, pp=2), {"reproducible": True}),
    "dp2_joined": (mt.Layout(dp=2), {"sync_batch_norm": True}),
    "dp2+1_pp2_zero1_joined": (mt.Layout(dp=(2, 1), pp=2), {"sync_batch_norm": True, "zero": 1}),
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("use", USES)
def test_running_moments_are_the_mean_over_what_was_observed(name, use):
    layout, settings = JOBS[name]
    job = mt.Trainer(
        model(USES[use]),
        mt.optim.SGD(lr=0.0),
        mt.data.ArrayDataset(IMAGES, np.zeros(ROWS, np.int64)),
        mesh=mt.Mesh(mt.comm.local(layout.size), layout),
        microbatches=ROWS // MICROBATCH // (1 if "sync_batch_norm" in settings else layout.widest),
        batch=ROWS,
        dtype="float64",
        arrays="numpy",
        stages=[1, len(USES[use]) + 1] if layout.pp == 2 else "parameters",
        **settings,
    )
    for worker in job.workers.values():  # whose samples come in their order, as the moments are of microbatches
        worker.sampler = mt.data.Sampler(ROWS, shuffle=False)
    job.fit(2, report=lambda step: None)
    weights = job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]
    found = [next(w for key, w in weights.items() if key.endswith(end)) for end in ("mean", "variance")]
    np.testing.assert_allclose(found, expected(USES[use]), rtol=1e-12)
