"""Parameters that a step has no gradient of, against torch, which leaves those alone whose `grad` is None, on every layout.

The model has three branches that only some samples of a run of 48 take: one that the first step takes and the second does not,
one the other way round, and one, tied to the second over stages, that nearly nothing takes; and weights that nothing ever uses.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import mpitrain as mt
from mpitrain.checkpoint import Checkpoint
from mpitrain.selfcheck import gather

BATCH, STEPS, WIDTH = 8, 6, 6
#: The samples that take each branch, by their place in the global order.
FIRST, LATE, RARE = {1, 2, 30, 46}, {9, 27, 41}, {20, 45}


class Branch(mt.nn.Module):
    """x W, and x V besides for the samples that take the branch."""

    def __init__(self, taken, weight=None):
        self.taken = taken
        self.main = mt.nn.Linear(WIDTH, WIDTH, bias=False)
        self.spare = mt.nn.Linear(WIDTH, WIDTH, bias=False, weight=weight)
        self.unused = mt.nn.Linear(WIDTH, 2, bias=False)

    def forward(self, x):
        y, takes = self.main(x), [float(sample in self.taken) for sample in x.context.samples]
        return y + mt.autograd.Tensor(np.array(takes)[:, None], context=x.context) * self.spare(x) if any(takes) else y


def model():
    late = Branch(LATE)
    layers = [Branch(FIRST), late, Branch(RARE, weight=late.spare.weight), mt.nn.Linear(WIDTH, 4, bias=False)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


def data():
    random = np.random.default_rng(0)
    return mt.data.ArrayDataset(random.normal(size=(60, WIDTH)), random.integers(0, 4, 60))


OPTIMIZERS = {
    "momentum": (
        mt.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
    ),
    "adamw": (
        mt.optim.AdamW(lr=0.05, weight_decay=0.1),
        lambda weights: torch.optim.AdamW(weights, lr=0.05, weight_decay=0.1),
    ),
}


def trainer(optimizer, *, dp=1, pp=1, **settings):
    mesh = mt.Mesh(mt.comm.local(mt.Layout(dp=dp, pp=pp).size), mt.Layout(dp=dp, pp=pp))
    settings = {"batch": BATCH, "dtype": "float64", "arrays": "numpy"} | settings
    return mt.Trainer(model(), optimizer, data(), mesh=mesh, **settings)


def weights_of(job):
    return job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]


def fit(job, steps=STEPS, **how):
    return [metrics.loss for metrics in job.fit(steps, report=lambda step: None, **how)]


@pytest.fixture(scope="module")
def torchs():
    """By optimizer, torch's losses, and its weights after each step."""
    found = {}
    for name, (ours, theirs) in OPTIMIZERS.items():
        job = trainer(ours)
        weights = {name: torch.tensor(w, requires_grad=True) for name, w in weights_of(job).items()}
        optimizer, (sampler, position) = theirs(weights.values()), (job.workers[0].sampler, job.workers[0].position)
        losses, after = [], []
        for step in range(STEPS):
            numbers, position = sampler.take(position, BATCH)
            inputs, targets = data().batch(numbers)
            y = torch.tensor(inputs)
            for layer, (taken, spare) in enumerate([(FIRST, 0), (LATE, 1), (RARE, 1)]):
                takes = torch.tensor([float(step * BATCH + i in taken) for i in range(BATCH)], dtype=torch.float64)
                x, y = y, y @ weights[f"layers.{layer}.main.weight"].T
                if takes.any():
                    y = y + takes[:, None] * (x @ weights[f"layers.{spare}.spare.weight"].T)
            loss = torch.nn.functional.cross_entropy(y @ weights["layers.3.weight"].T, torch.tensor(targets))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            after.append({name: w.detach().numpy().copy() for name, w in weights.items()})
        found[name] = losses, after
    return found


LAYOUTS = {
    "one": {},
    "microbatches": {"microbatches": 4},
    "replicas": {"dp": 2, "microbatches": 2},
    "replicas, uneven": {"dp": 3, "bucket_mib": 1e-5},
    "replicas, a bucket for each": {"dp": 2, "microbatches": 2, "bucket_mib": 1e-5},
    "after backward": {"dp": 2, "microbatches": 2, "overlap": False},
    "pipeline": {"pp": 4, "microbatches": 2},
    "pipeline, split backward": {"pp": 2, "microbatches": 4, "schedule": "zb_v"},
    "both": {"dp": 2, "pp": 2, "microbatches": 2, "schedule": "interleaved"},
    "widths": {"dp": (2, 1), "pp": 2, "microbatches": 2},
    "zero 1": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 1},
    "zero 2": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 2},
    "zero 3": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 3},
    "reproducible": {"dp": 2, "pp": 2, "microbatches": 2, "reproducible": True},
    "reproducible, zero 2": {"dp": 2, "pp": 2, "microbatches": 2, "reproducible": True, "zero": 2},
    "cast": {"dp": 2, "pp": 2, "compression": mt.parallel.Cast(dtype="float64")},
    "top-k": {"dp": 2, "compression": mt.parallel.TopK(density=1.0)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_torchs(torchs, optimizer, layout):
    losses, after = torchs[optimizer]
    job = trainer(OPTIMIZERS[optimizer][0], **LAYOUTS[layout])
    np.testing.assert_allclose(fit(job), losses, rtol=1e-10)
    for name, w in weights_of(job).items():
        np.testing.assert_allclose(w, after[-1][name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_some_branch_is_left_alone_in_each_way(torchs):
    """The reference does have the steps that the layouts are tested by."""
    _, after = torchs["adamw"]

    def moved(name):
        return [not np.array_equal(a[name], b[name]) for a, b in itertools.pairwise(after)]

    assert moved("layers.0.spare.weight") == [False, False, True, False, True]
    assert moved("layers.1.spare.weight") == [True, True, True, False, True]
    assert not any(moved("layers.0.unused.weight"))


@pytest.mark.parametrize(("optimizer", "other"), [("adamw", {"dp": 2, "zero": 3}), ("momentum", {"pp": 2, "microbatches": 2})])
def test_a_checkpoint_knows_the_steps_that_a_parameter_missed(torchs, tmp_path, optimizer, other):
    rule, layout = OPTIMIZERS[optimizer][0], {"dp": 2, "pp": 2, "microbatches": 2, "zero": 1}
    straight, first, second = (trainer(rule, **layout) for _ in range(3))
    fit(straight)
    fit(first, 3, folder=tmp_path)
    assert second.resume(tmp_path)
    fit(second, 3)
    for name, w in weights_of(straight).items():
        np.testing.assert_array_equal(weights_of(second)[name], w, err_msg=name)
    elsewhere = trainer(rule, **other)
    assert elsewhere.resume(tmp_path)
    fit(elsewhere, 3, folder=tmp_path)
    _, after = torchs[optimizer]
    for name, w in weights_of(elsewhere).items():
        np.testing.assert_allclose(w, after[-1][name], rtol=1e-8, atol=1e-12, err_msg=name)
    found = Checkpoint.open(tmp_path / "step-00000006")
    assert int(found.read("missed/layers.1.spare.weight", ())) == 2
    assert "missed/layers.1.main.weight" not in found.manifest.tensors


@pytest.mark.parametrize(
    "compression",
    [
        mt.parallel.TopK(density=0.2),
        mt.parallel.RandomK(density=0.2),
        mt.parallel.EF21(density=0.2),
        mt.parallel.DGC(density=0.2),
        mt.parallel.Sign(),
        mt.parallel.PowerSGD(rank=1),
    ],
    ids=lambda compression: type(compression).__name__,
)
def test_what_a_compressor_remembers_is_left_alone_too(compression):
    job = trainer(mt.optim.SGD(lr=0.1), dp=2, compression=compression)
    name, taken = "layers.0.spare.weight", [True, False, False, True, False, True]

    def kept():
        slots = {r.name: r.array.copy() for r in job.workers[0].compression.remembered() if r.name.endswith(name)}
        assert slots
        return slots | {name: weights_of(job)[name]}

    for wanted in taken:
        before = kept()
        fit(job, 1)
        after = kept()
        assert {key for key in before if not np.array_equal(before[key], after[key])} <= (set(before) if wanted else set())
        assert np.array_equal(before[name], after[name]) != wanted
