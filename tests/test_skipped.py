"""A batch in which nothing is counted teaches nothing, and says so."""

import io

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.data import Sampler
from mpitrain.observe import Progress


def ignored():
    """Samples of which no target counts."""
    return mt.data.ArrayDataset(np.random.default_rng(0).normal(size=(8, 6)), np.full(8, -100))


@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (2, 2)])
def test_a_batch_without_a_counted_target_is_skipped(dp, pp):
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    optimizer = mt.optim.AdamW(lr=0.1, weight_decay=0.1)
    reports = []
    job = mt.Trainer(
        mt.nn.models.MLP(sizes=(6, 8, 4)), optimizer, ignored(), mesh=mesh, batch=8, dtype="float64", arrays="numpy"
    )
    arrays = [p.data for worker in job.workers.values() for p in worker.holding.owned]
    before = [a.copy() for a in arrays]
    metrics = job.fit(2, report=reports.append)
    assert [(m.skipped, m.count) for m in metrics] == [(True, 0), (True, 0)]
    assert [r.skipped for r in reports] == [True, True]
    assert job.step == 2
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for worker in job.workers.values():
        for state in worker.holding.states.values():
            assert all(not array.any() for array, _ in state.arrays().values())
    stream = io.StringIO()
    Progress(stream, bar=False).step(reports[0])
    assert stream.getvalue().startswith("step 1 is skipped: none of its targets is counted")


INPUTS, LABELS = np.random.default_rng(1).normal(size=(32, 6)), np.random.default_rng(2).integers(0, 4, 32)


def batches():
    """The sample numbers of the four batches of eight."""
    sampler = Sampler(32, 0)
    position, found = sampler.start(), []
    for _ in range(4):
        numbers, position = sampler.take(position, 8)
        found.append(numbers)
    return found


def middle_ignored():
    """Samples of which none of the second batch counts."""
    labels = LABELS.copy()
    labels[batches()[1]] = -100
    return mt.data.ArrayDataset(INPUTS, labels)


def middle_absent():
    """The same without the second batch: the ones after it come a batch earlier."""
    _, second, third, fourth = batches()
    order = np.arange(32)
    order[second], order[third] = third, fourth
    return mt.data.ArrayDataset(INPUTS[order], LABELS[order])


def trainer(data, optimizer, layout=None, **options):
    layout = layout or mt.Layout()
    return mt.Trainer(
        mt.nn.models.MLP(sizes=(6, 8, 8, 4)),
        optimizer,
        data,
        mesh=mt.Mesh(mt.comm.local(layout.dp * layout.pp), layout),
        batch=8,
        dtype="float64",
        arrays="numpy",
        **options,
    )


def held(job):
    """Copies of the weights and of the optimizer's arrays of every rank."""
    holdings = [worker.holding for worker in job.workers.values()]
    weights = [p.data.copy() for holding in holdings for p in holding.owned]
    slots = [array.copy() for h in holdings for state in h.states.values() for array, _ in state.arrays().values()]
    return weights + slots


@pytest.mark.parametrize("optimizer", [mt.optim.SGD(lr=0.1, momentum=0.9), mt.optim.AdamW(lr=0.1, weight_decay=0.1)])
@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ({}, {}),
        ({"dp": 2}, {}),
        ({"pp": 2}, {}),
        ({"dp": 2, "pp": 2}, {}),
        ({"dp": 2}, {"zero": 1}),
        ({"dp": 2}, {"zero": 2}),
        ({"dp": 2}, {"zero": 3}),
        ({"dp": 2}, {"reproducible": True}),
        ({"dp": 2}, {"overlap": False}),
        ({"dp": 2}, {"compression": mt.parallel.TopK(density=1.0)}),
    ],
)
def test_training_goes_on_as_if_the_skipped_batch_had_never_been(layout, options, optimizer):
    job = trainer(middle_ignored(), optimizer, mt.Layout(**layout), **options)
    first = job.fit(1, report=lambda report: None)
    before = held(job)
    skipped = job.fit(1, report=lambda report: None)
    assert [m.skipped for m in skipped] == [True]
    for a, b in zip(held(job), before, strict=True):
        np.testing.assert_array_equal(a, b)
    after = job.fit(2, report=lambda report: None)
    other = trainer(middle_absent(), optimizer).fit(3, report=lambda report: None)
    np.testing.assert_allclose([m.loss for m in first + after], [m.loss for m in other], rtol=1e-13)
    np.testing.assert_allclose([m.grad_norm for m in first + after], [m.grad_norm for m in other], rtol=1e-12)


def test_running_statistics_move_in_a_skipped_step_as_in_any_forward_pass():
    images = np.random.default_rng(0).normal(size=(8, 1, 8, 8))
    mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
    moved = []
    for labels in (np.full(8, -100), np.zeros(8, np.int64)):
        data = mt.data.ArrayDataset(images, labels)
        job = mt.Trainer(mt.nn.models.ResNet(classes=4), mt.optim.SGD(lr=0.1), data, mesh=mesh, batch=8, arrays="numpy")
        job.fit(1, report=lambda report: None)
        states = job.workers[0].holding.states.values()
        moved.append([statistic.data for state in states for statistic in state.statistics])
    for skipped, counted in zip(*moved, strict=True):
        np.testing.assert_array_equal(skipped, counted)
    assert any(statistic.any() for statistic in moved[0])
