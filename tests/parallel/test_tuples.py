"""Layers may hand on several tensors: what skips a stage travels along, integers without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
from layout_cases import Case, check, vectors

import mpitrain as mt
from mpitrain.autograd import Tensor, ops


class Split(mt.nn.Module):
    """x to (a linear map of x, x itself, which entries are positive)."""

    def __init__(self, width):
        self.linear = mt.nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x), x, Tensor((x.data > 0).astype(np.int64), context=x.context)


class Middle(mt.nn.Module):
    """Works on the first and hands the others on."""

    def __init__(self, width):
        self.linear = mt.nn.Linear(width, width)

    def forward(self, parts):
        y, skip, mask = parts
        return self.linear(y) + skip, skip * 0.5, mask


class Join(mt.nn.Module):
    """Uses all three."""

    def __init__(self, width, classes):
        self.linear = mt.nn.Linear(width, classes)

    def forward(self, parts):
        y, skip, mask = parts
        return self.linear(y * Tensor(mask.data.astype(y.data.dtype), context=y.context) + skip)


def model():
    layers = [mt.nn.Linear(12, 9), Split(9), Middle(9), Middle(9), Join(9, 7)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


@pytest.mark.parametrize(("dp", "pp", "schedule"), [(1, 2, "1f1b"), (1, 5, "gpipe"), (2, 3, "1f1b"), (2, 4, "zb_h1")])
def test_equals_one_rank(dp, pp, schedule):
    case = Case(model, vectors, dp, pp, 2, schedule, 8, "float64")
    check(mt.comm.local(case.size), case)


class Both(mt.nn.Module):
    """Of two inputs and a mask, a list; of one tensor a list of it."""

    def __init__(self, width):
        self.linear = mt.nn.Linear(width, width)

    def forward(self, parts):
        if isinstance(parts, Tensor):
            return [self.linear(parts)]
        x, z, mask = parts
        return [self.linear(x + z), x * 0.5, mask]


def pairs():
    random = np.random.default_rng(8)
    inputs = random.normal(size=(50, 12)), random.normal(size=(50, 12)).astype(np.float32), random.integers(0, 2, (50, 12))
    return mt.data.ArrayDataset(inputs, random.integers(0, 7, 50))


def model_of_pairs():
    return mt.nn.Model([Both(12), Middle(12), Join(12, 7), Both(7), mt.nn.Linear(7, 7)], mt.nn.CrossEntropy())


@pytest.mark.parametrize(("dp", "pp", "settings"), [(2, 1, {}), (1, 5, {}), (2, 2, {"stages": "auto"})])
def test_samples_of_several_inputs_and_layers_that_give_lists_equal_one_rank(dp, pp, settings):
    case = Case(model_of_pairs, pairs, dp, pp, 2, "1f1b", 8, "float64", settings=settings)
    check(mt.comm.local(case.size), case)


def test_several_inputs_are_planned_predicted_and_evaluated():
    data, settings = pairs(), mt.settings.Settings(schedule=mt.program.schedule_named("1f1b"), microbatches=2, batch=4)
    (x, z, mask), targets = data.batch(np.arange(4))
    found = mt.plan.plan(model_of_pairs(), mt.optim.SGD(lr=0.1), mt.Layout(pp=2), settings, (x[:1], z[:1], mask[:1]))
    assert found.microbatch == 2
    losses = []
    for pp in (1, 3):
        job = mt.Trainer(
            model_of_pairs(),
            mt.optim.SGD(lr=0.1),
            mt.data.Subset(data, 0, 4),
            mesh=mt.Mesh(mt.comm.local(pp), mt.Layout(pp=pp)),
            batch=4,
            dtype="float64",
            arrays="numpy",
        )
        logits = job.mesh.world.run(lambda comm: job.workers[comm.rank].predict((x, z, mask)))[-1]  # noqa: B023
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(job.evaluate(mt.data.Subset(data, 0, 4)).loss)
        assert losses[-1] == pytest.approx(-logits[np.arange(4), targets].mean(), rel=1e-12)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


class Gives(mt.nn.Module):
    """Gives `value`."""

    def __init__(self, value):
        self.value = value

    def forward(self, x):
        return self.value(x)


class Batches:
    """Six samples, of which `value` is made."""

    def __init__(self, value):
        self.value = value

    def __len__(self):
        return 6

    def batch(self, numbers):
        return self.value(np.ones((len(numbers), 12)), np.zeros(len(numbers), np.int64))


REFUSED = {
    "layer gives an array": (Gives(lambda x: x.data), None, r"layer layers.0 \(Gives\) gives ndarray; expected a Tensor"),
    "layer gives nothing": (Gives(lambda x: None), None, r"layer layers.0 \(Gives\) gives NoneType; expected a Tensor"),
    "layer gives a dict": (Gives(lambda x: {"y": x}), None, r"layer layers.0 \(Gives\) gives dict; expected a Tensor"),
    "layer gives an empty tuple": (Gives(lambda x: ()), None, r"layer layers.0 \(Gives\) gives nothing; expected a Tensor"),
    "data of three": (None, Batches(lambda x, y: (x, x, y)), "Batches.batch gives 3 values; expected a pair of inputs and"),
    "list of inputs": (None, Batches(lambda x, y: ([x, x], y)), "gives a list as inputs; expected an array whose dim 0"),
    "short inputs": (None, Batches(lambda x, y: ((x, x[1:]), y)), r"gives an array of shape \(\d, 12\) as inputs; expected"),
    "no target": (None, Batches(lambda x, y: (x, None)), "gives a NoneType as targets; expected an array whose dim 0 counts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_tensor_or_no_array_is_refused(name):
    layer, data, words = REFUSED[name]
    layers = [layer or mt.nn.Linear(12, 12), mt.nn.Linear(12, 7)]
    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(pp=2))
    with pytest.raises(ValueError, match=words):
        mt.Trainer(mt.nn.Model(layers, mt.nn.CrossEntropy()), mt.optim.SGD(lr=1), data or vectors(), mesh=mesh, batch=4).fit(1)


def test_a_tensor_without_a_dim_does_not_cross():
    """Not even for one sample, of which it would look like a row."""
    layers = [Gives(lambda x: ops.sum(x)), mt.nn.Linear(12, 7)]
    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(pp=2))
    with pytest.raises(ValueError, match=r"a tensor of shape \(\) and dtype float32 crosses into stage 1"):
        mt.Trainer(mt.nn.Model(layers, mt.nn.CrossEntropy()), mt.optim.SGD(lr=1), vectors(), mesh=mesh, batch=1).fit(1)


def test_a_layer_that_cannot_take_several_inputs_is_named():
    model = mt.nn.Model([mt.nn.Linear(12, 7)], mt.nn.CrossEntropy())
    mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
    with pytest.raises(AttributeError) as caught:
        mt.Trainer(model, mt.optim.SGD(lr=1), pairs(), mesh=mesh).fit(1)
    assert "in layer layers.0 (Linear), given (1, 12), (1, 12), (1, 12)" in caught.value.__notes__


def test_too_many_tensors_are_refused():
    class Many(mt.nn.Module):
        def forward(self, x):
            return (x,) * 9

    class First(mt.nn.Module):
        def forward(self, parts):
            return parts[0]

    many = mt.nn.Model([mt.nn.Linear(12, 9), Many(), First(), mt.nn.Linear(9, 7)], mt.nn.CrossEntropy())
    mesh = mt.Mesh(mt.comm.local(4), mt.Layout(pp=4))
    with pytest.raises(ValueError, match="9 tensors cross into stage 2; expected at most 8"):
        mt.Trainer(many, mt.optim.SGD(lr=1), vectors(), mesh=mesh).fit(1)
