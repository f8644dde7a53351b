"""Parameters of every shape, of none dimension and of no element included, in everything that is done to parameters."""

from __future__ import annotations

import numpy as np
import pytest
from compression_cases import EVERY

import mpitrain as mt
from mpitrain.autograd import ops
from mpitrain.nn.init import Normal
from mpitrain.selfcheck import gather

SHAPES = [(), (0,), (1,), (5,), (0, 3), (3, 0), (2, 4), (1, 2, 2)]


class Every(mt.nn.Module):
    """x times all elements of its parameters, one after the other: every element counts in what it gives."""

    def __init__(self, shared):
        self.shaped = [mt.nn.Parameter(shape, Normal(0.5)) for shape in SHAPES]
        self.shared = shared

    def forward(self, x):
        for parameter in (*self.shaped, *self.shared):
            x = x * (ops.sum(ops.value(parameter, x)) * 0.1 + 1.0)
        return x


def model():
    shared = [mt.nn.Parameter(shape, Normal(0.5)) for shape in SHAPES]
    layers = [Every(shared), mt.nn.Linear(4, 5), Every(shared), mt.nn.Linear(5, 3)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


def data():
    random = np.random.default_rng(2)
    return mt.data.ArrayDataset(random.normal(size=(24, 4)), random.integers(0, 3, 24))


def trainer(layout, optimizer=None, **settings):
    return mt.Trainer(
        model(),
        optimizer or mt.optim.SGD(lr=0.05, momentum=0.9),
        data(),
        mesh=mt.Mesh(mt.comm.local(layout.size), layout),
        microbatches=2,
        batch=8,
        stages=[2, 2] if layout.pp == 2 else "parameters",
        dtype="float64",
        arrays="numpy",
        **settings,
    )


def weights(job):
    return job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]


def quiet(step):
    """Print nothing."""


FEATURES = {
    "one rank": (mt.Layout(), {}),
    "dp": (mt.Layout(dp=3), {}),
    "dp, no overlap": (mt.Layout(dp=2), {"overlap": False, "bucket_mib": 1e-5}),
    "tied": (mt.Layout(dp=2, pp=2), {}),
    "tied, uneven widths": (mt.Layout(dp=(2, 1), pp=2), {}),
    "tied, uneven widths, ZeRO 1": (mt.Layout(dp=(2, 3), pp=2), {"zero": 1}),
    "ZeRO 1": (mt.Layout(dp=3), {"zero": 1}),
    "ZeRO 2": (mt.Layout(dp=2, pp=2), {"zero": 2}),
    "ZeRO 3": (mt.Layout(dp=3), {"zero": 3}),
    "tied, ZeRO 3": (mt.Layout(dp=2, pp=2), {"zero": 3}),
    "reproducible": (mt.Layout(dp=2, pp=2), {"reproducible": True}),
    "reproducible, ZeRO 2": (mt.Layout(dp=2, pp=2), {"reproducible": True, "zero": 2}),
    "reproducible, ZeRO 3": (mt.Layout(dp=2), {"reproducible": True, "zero": 3}),
    "clipped": (mt.Layout(dp=2, pp=2), {"clip": 0.1, "clip_value": 0.05, "zero": 1}),
}


@pytest.fixture(scope="module")
def alone():
    found = {}
    for clipped in ({}, {"clip": 0.1, "clip_value": 0.05}):
        job = trainer(mt.Layout(), **clipped)
        losses = [m.loss for m in job.fit(4, report=quiet)]
        found[bool(clipped)] = losses, weights(job)
    return found


@pytest.mark.parametrize("name", FEATURES)
def test_every_layout_equals_one_rank_and_passes_its_checks(name, alone, tmp_path):
    layout, settings = FEATURES[name]
    expected, after = alone["clip" in settings]
    job = trainer(layout, debug=True, **settings)
    losses = [m.loss for m in job.fit(3, report=quiet, folder=tmp_path)]
    assert job.self_check().equal
    elsewhere = trainer(mt.Layout(dp=2), **{key: settings[key] for key in settings if key.startswith("clip")})
    assert elsewhere.resume(tmp_path) is not None
    for goes_on in (job, elsewhere):
        last = goes_on.fit(1, report=quiet)[0].loss
        np.testing.assert_allclose([*losses, last], expected, rtol=1e-10)
        for key, w in weights(goes_on).items():
            np.testing.assert_allclose(w, after[key], rtol=1e-9, err_msg=key)
    plan = mt.plan.plan(model(), mt.optim.Adam(lr=0.1), layout, job.workers[0].settings, data().batch(np.arange(1))[0])
    assert str(plan)


@pytest.mark.parametrize("compressor", EVERY, ids=str)
def test_compressed_replicas_stay_alike_and_train(compressor):
    job = trainer(mt.Layout(dp=2, pp=2), compression=compressor)
    losses = [m.loss for m in job.fit(12, report=quiet)]
    job.check_replicas()
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", [mt.optim.LAMB(lr=0.01), mt.optim.LARS(lr=0.1), mt.optim.AdamW(lr=0.01)], ids=str)
def test_optimizers_of_whole_tensors_equal_one_rank(optimizer):
    jobs = [trainer(layout, optimizer) for layout in (mt.Layout(), mt.Layout(dp=2, pp=2))]
    one, many = ([m.loss for m in job.fit(4, report=quiet)] for job in jobs)
    np.testing.assert_allclose(many, one, rtol=1e-9)
    assert one[-1] < one[0]
