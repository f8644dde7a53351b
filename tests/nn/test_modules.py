"""Lists, tuples and dicts of modules and parameters against torch's containers: names, and that they train."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import mpitrain as mt
from mpitrain.autograd import Tensor, ops
from mpitrain.nn import Linear, Module, Parameter
from mpitrain.nn.init import ONES, Normal
from mpitrain.selfcheck import gather


class Ours(Module):
    def __init__(self):
        self.layers = [Linear(4, 4), (Linear(4, 4), {"deep": Linear(4, 4, bias=False)})]
        self.heads = {"a": Linear(4, 2), "b": Linear(4, 2)}
        self.scales = [Parameter((4,), Normal(1.0)), Parameter((4,), Normal(1.0))]
        self.named = {"bias": Parameter((4,), ONES)}
        self.sizes, self.absent = [4, 4, 2], [None]

    def forward(self, x):
        first, (second, inner) = self.layers
        x = inner["deep"](second(first(x)))
        for scale in self.scales:
            x = x * ops.value(scale, x)
        x = x + ops.value(self.named["bias"], x)
        return self.heads["a"](x) + self.heads["b"](x)


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        inner = nn.ModuleDict({"deep": nn.Linear(4, 4, bias=False)})
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4), inner])])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)})
        self.scales = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.named = nn.ParameterDict({"bias": torch.ones(4)})

    def forward(self, x):
        first, (second, inner) = self.layers
        x = inner["deep"](second(first(x)))
        for scale in self.scales:
            x = x * scale
        x = x + self.named["bias"]
        return self.heads["a"](x) + self.heads["b"](x)


@pytest.mark.parametrize("zero", [0, 3])
def test_containers_have_torchs_names_and_gradients(zero):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 4)), random.normal(size=(8, 2))
    layout = mt.Layout(dp=2)
    job = mt.Trainer(
        mt.nn.Model([Ours()], mt.nn.MeanSquaredError()),
        mt.optim.SGD(lr=0.0),
        mt.data.ArrayDataset(x, y),
        mesh=mt.Mesh(mt.comm.local(2), layout),
        batch=8,
        dtype="float64",
        arrays="numpy",
        zero=zero,
    )

    def passed(comm):
        worker = job.workers[comm.rank]
        weights = gather(worker, lambda p: p.data)
        worker.gradients_only()
        return weights, gather(worker, lambda p: p.settled_grad())

    weights, gradients = job.mesh.world.run(passed)[0]
    theirs = Theirs().double()
    names = {f"layers.0.{name}": parameter for name, parameter in theirs.named_parameters()}
    assert weights.keys() == names.keys()
    with torch.no_grad():
        for name, parameter in names.items():
            parameter[...] = torch.tensor(weights[name])
    ((theirs(torch.tensor(x)) - torch.tensor(y)) ** 2).sum().div(8).backward()
    for name, parameter in names.items():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


class Holds(Module):
    def __init__(self, value):
        self.value = value

    def forward(self, x):
        return x * ops.value(self.value.hidden, x)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({Linear(2, 2)}, "value of Holds is a set of modules or parameters"),
        ({3: Linear(2, 2)}, "value of Holds is a dict with Linear under the key 3"),
        ([{"a.b": Parameter((2,), ONES)}], "value.0 of Holds is a dict with Parameter under the key 'a.b'"),
    ],
)
def test_a_container_without_names_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        mt.nn.Model([Holds(value)], mt.nn.MeanSquaredError())


def test_a_parameter_that_no_module_has_is_named():
    layer = Holds(SimpleNamespace(hidden=Parameter((2,), ONES)))
    with pytest.raises(ValueError, match=r"uses a weight that has no array \(Parameter\(\?, shape=\(2,\)\)\); expected every"):
        layer(Tensor(np.ones((1, 2))))
