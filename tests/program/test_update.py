"""The end of a step under every layout: norms and clipping as torch has them on one rank, accuracy as scikit-learn has it."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import mpitrain as mt
from mpitrain.nn import Statistic
from mpitrain.program import Metrics
from mpitrain.selfcheck import gather

BATCH, CONTEXT = 6, 8


def gpt():
    return mt.nn.models.GPT(width=16, depth=2, heads=2, vocab=31, context=CONTEXT)


def resnet():
    return mt.nn.models.ResNet(depth=(1, 1), width=4, channels=1, classes=5)


def tokens():
    return mt.data.TokenDataset((np.arange(CONTEXT * 30 + 1) ** 2 % 31).astype(np.uint8), CONTEXT)


def images():
    random = np.random.default_rng(0)
    return mt.data.ArrayDataset(random.normal(size=(30, 1, 8, 8)), random.integers(0, 5, 30))


def trainer(model, data, *, dp=1, pp=1, **settings):
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    settings = {"batch": BATCH, "dtype": "float64", "arrays": "numpy"} | settings
    return mt.Trainer(model, mt.optim.SGD(lr=1.0), data, mesh=mesh, **settings)


def gathered(job, of):
    return job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], of))[0]


def step(job):
    """Metrics of one step, and by how much it moved each trained weight: with a rate of 1, the clipped mean gradient."""
    before = gathered(job, lambda p: p.data)
    (metrics,) = job.fit(1, report=lambda report: None)
    after = gathered(job, lambda p: p.data)
    statistics = {p.name for p in job.model.parameters() if isinstance(p, Statistic)}
    return metrics, {name: before[name] - after[name] for name in before if name not in statistics}


def in_torch(gradients):
    parameters = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients.values()]
    for parameter, grad in zip(parameters, gradients.values(), strict=True):
        parameter.grad = torch.tensor(grad)
    return parameters


LAYOUTS = {
    "one": {},
    "replicas": {"dp": 3},
    "tied": {"pp": 2},
    "tied-replicas": {"dp": 2, "pp": 2, "microbatches": 2},
    "tied-pipeline-of-4": {"pp": 4, "microbatches": 3},
    "optimizer-shared-out": {"dp": 2, "zero": 1},
    "gradients-shared-out": {"dp": 2, "pp": 2, "zero": 2},
    "weights-shared-out": {"dp": 2, "zero": 3},
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@each_layout
def test_the_norm_counts_each_parameter_once(layout):
    """Against `clip_grad_norm_` of the gradients that one rank steps along when it does not clip."""
    _, gradients = step(trainer(gpt(), tokens()))
    parameters = in_torch(gradients)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 0.1))
    assert norm > 0.2
    metrics, moved = step(trainer(gpt(), tokens(), clip=0.1, **layout))
    assert metrics.grad_norm == pytest.approx(norm, rel=1e-12)
    for (name, ours), theirs in zip(moved.items(), parameters, strict=True):
        # torch adds 1e-6 to the norm before it divides
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-5, atol=1e-12, err_msg=name)


@each_layout
def test_values_are_clipped_in_the_mean_gradient(layout):
    _, gradients = step(trainer(gpt(), tokens()))
    limit = 0.01
    parameters = in_torch(gradients)
    torch.nn.utils.clip_grad_value_(parameters, limit)
    assert sum(int((abs(g) > limit).sum()) for g in gradients.values()) > 100
    _, moved = step(trainer(gpt(), tokens(), clip_value=limit, **layout))
    for (name, ours), theirs in zip(moved.items(), parameters, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-10, atol=1e-13, err_msg=name)


def test_the_norm_is_clipped_before_the_values():
    _, gradients = step(trainer(gpt(), tokens()))
    parameters = in_torch(gradients)
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    torch.nn.utils.clip_grad_value_(parameters, 0.002)
    _, moved = step(trainer(gpt(), tokens(), clip=0.1, clip_value=0.002))
    for ours, theirs in zip(moved.values(), parameters, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-5, atol=1e-12)


def test_statistics_have_no_part_in_the_norm():
    for microbatches, dp in ((2, 1), (1, 2)):  # the same microbatches, so the same batch norm
        metrics, gradients = step(trainer(resnet(), images(), dp=dp, microbatches=microbatches))
        norm = float(torch.nn.utils.clip_grad_norm_(in_torch(gradients), 1.0))
        assert metrics.grad_norm == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("layout", [{}, {"dp": 3}, {"pp": 2, "dp": 2, "microbatches": 2}])
def test_accuracy_weighs_every_sample_alike(layout):
    """30 samples in batches of 8: the last one is smaller, and is dealt unevenly."""
    job = trainer(resnet(), images(), batch=8, **layout)
    inputs, targets = images().batch(np.arange(30))
    (predicted,) = {
        tuple(y.argmax(axis=1).tolist())
        for y in job.mesh.world.run(lambda comm: job.workers[comm.rank].predict(inputs))
        if y is not None
    }
    metrics = job.evaluate(images())
    assert metrics.count == 30
    assert metrics.accuracy == pytest.approx(accuracy_score(targets, predicted), rel=1e-12)
    assert 0 < metrics.accuracy < 1


def test_a_loss_without_classes_has_no_accuracy_and_neither_has_a_training_step():
    random = np.random.default_rng(0)
    data = mt.data.ArrayDataset(random.normal(size=(12, 5)), random.normal(size=(12, 3)))
    assert trainer(mt.nn.Model([mt.nn.Linear(5, 3)], mt.nn.MeanSquaredError()), data).evaluate(data).accuracy is None
    assert trainer(resnet(), images()).fit(1, report=lambda report: None)[0].accuracy is None


def test_reports_hold_the_accuracy_of_each_validation():
    reports = []
    job = trainer(resnet(), images(), validation=images())
    job.fit(3, report=reports.append, validate_every=2)
    assert [report.validation_accuracy is not None for report in reports] == [False, True, True]
    assert reports[-1].validation_accuracy == job.evaluate().accuracy


def test_a_mean_of_evaluations_leaves_out_what_counted_nothing():
    found = [
        Metrics(loss=2.0, count=3, accuracy=1.0),
        Metrics(loss=float("nan"), count=0),
        Metrics(loss=6.0, count=1, accuracy=0),
    ]
    assert Metrics.mean(found) == Metrics(loss=3.0, count=4, accuracy=0.75)
