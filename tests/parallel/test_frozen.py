"""Frozen parameters on every layout, against torch with `requires_grad=False`, and that they cost nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import mpitrain as mt
from mpitrain.autograd import checkpoint
from mpitrain.checkpoint import Checkpoint
from mpitrain.parallel import place_by_parameters
from mpitrain.program import Kind, schedule_named
from mpitrain.selfcheck import gather
from mpitrain.settings import Settings

VOCAB, WIDTH, TIME, BATCH, STEPS, CLIP = 13, 6, 5, 8, 3, 0.1
F = torch.nn.functional


class Block(mt.nn.Module):
    """x + down(gelu(up(norm(x))))."""

    def __init__(self, recompute):
        self.norm, self.up = mt.nn.LayerNorm(WIDTH), mt.nn.Linear(WIDTH, 2 * WIDTH)
        self.gelu, self.down = mt.nn.GELU(tanh=True), mt.nn.Linear(2 * WIDTH, WIDTH)
        self.recompute = recompute

    def forward(self, x):
        return checkpoint(self.apply)(x) if self.recompute else self.apply(x)

    def apply(self, x):
        return x + self.down(self.gelu(self.up(self.norm(x))))


class Head(mt.nn.Module):
    def __init__(self, weight):
        self.norm, self.out = mt.nn.LayerNorm(WIDTH), mt.nn.Linear(WIDTH, VOCAB, bias=False, weight=weight)

    def forward(self, x):
        return self.out(self.norm(x))


def model(*, tied, recompute=False):
    first = mt.nn.Embedding(VOCAB, WIDTH)
    layers = [first, *(Block(recompute) for _ in range(3)), Head(first.weight if tied else None)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


def data():
    return mt.data.TokenDataset((np.arange(TIME * 40 + 1) ** 2 % VOCAB).astype(np.uint8), TIME)


#: Whether the embedding is the output's weight too, and what is frozen.
CASES = {
    "lower": (False, r"^layers\.[012]\."),
    "middle": (False, r"^layers\.[23]\."),
    "all but the lowest": (False, r"^layers\.[1234]\."),
    "tied": (True, r"^layers\.0\."),
    "all but tied": (True, r"^layers\.[1234]\."),
    "weights": (True, r"weight$"),
    "biases": (False, r"bias$"),
}


def optimizer(frozen):
    groups = (mt.optim.Group(match=frozen, trained=False),) if frozen else ()
    return mt.optim.SGD(lr=0.2, momentum=0.9, weight_decay=0.01, groups=groups)


def trainer(case, *, dp=1, pp=1, recompute=False, **settings):
    tied, frozen = CASES[case]
    mesh = mt.Mesh(mt.comm.local(mt.Layout(dp=dp, pp=pp).size), mt.Layout(dp=dp, pp=pp))
    settings = {"batch": BATCH, "dtype": "float64", "arrays": "numpy", "clip": CLIP} | settings
    return mt.Trainer(model(tied=tied, recompute=recompute), optimizer(frozen), data(), mesh=mesh, **settings)


def weights_of(job):
    return job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]


def fit(job, steps=STEPS, **how):
    return job.fit(steps, report=lambda step: None, **how)


def in_torch(case):
    """Torch's losses, norms before clipping, and weights at last."""
    tied, frozen = CASES[case]
    job = trainer(case)
    weights = {name: torch.tensor(w, requires_grad=not re.search(frozen, name)) for name, w in weights_of(job).items()}
    trained = [w for w in weights.values() if w.requires_grad]
    decays = [{"params": [w for w in trained if (w.ndim > 1) == yes], "weight_decay": 0.01 * yes} for yes in (True, False)]
    rule = torch.optim.SGD(decays, lr=0.2, momentum=0.9)
    sampler, position = job.workers[0].sampler, job.workers[0].position
    losses, norms = [], []
    for _ in range(STEPS):
        numbers, position = sampler.take(position, BATCH)
        inputs, targets = (torch.tensor(part.astype(np.int64)) for part in data().batch(numbers))
        x = F.embedding(inputs, weights["layers.0.weight"])
        for layer in (1, 2, 3):
            w = {name.removeprefix(f"layers.{layer}."): w for name, w in weights.items()}
            y = F.linear(F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"]), w["up.weight"], w["up.bias"])
            x = x + F.linear(F.gelu(y, approximate="tanh"), w["down.weight"], w["down.bias"])
        x = F.layer_norm(x, (WIDTH,), weights["layers.4.norm.weight"], weights["layers.4.norm.bias"])
        logits = F.linear(x, weights["layers.0.weight" if tied else "layers.4.out.weight"])
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))
        rule.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.get_total_norm([w.grad for w in trained])))
        for w in trained:
            w.grad *= min(1.0, CLIP / norms[-1])
        rule.step()
        losses.append(loss.item())
    assert max(norms) > CLIP, case
    return losses, norms, {name: w.detach().numpy() for name, w in weights.items()}


@pytest.fixture(scope="module")
def torchs():
    return {case: in_torch(case) for case in CASES}


LAYOUTS = {
    "one": {},
    "recomputed": {"microbatches": 2, "recompute": True},
    "replicas": {"dp": 2, "microbatches": 2, "overlap": False},
    "widths": {"dp": (2, 1), "pp": 2, "microbatches": 2},
    "1f1b": {"dp": 2, "pp": 2, "microbatches": 2},
    "a stage a layer": {"pp": 5, "microbatches": 4, "schedule": "zb_h1"},
    "zb_v": {"dp": 2, "pp": 2, "microbatches": 4, "schedule": "zb_v"},
    "dualpipe_v": {"pp": 2, "microbatches": 4, "schedule": "dualpipe_v"},
    "interleaved": {"pp": 2, "microbatches": 2, "schedule": "interleaved"},
    "looped_bfs": {"pp": 2, "microbatches": 2, "schedule": "looped_bfs"},
    "automatic": {"pp": 2, "microbatches": 4, "schedule": "automatic", "stages": "auto"},
    "zero 1": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 1},
    "zero 2": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 2},
    "zero 3": {"dp": 2, "pp": 2, "microbatches": 2, "zero": 3, "schedule": "zb_h1"},
    "reproducible": {"dp": 2, "pp": 2, "microbatches": 2, "reproducible": True},
    "reproducible, zero 3": {"dp": 2, "pp": 2, "microbatches": 2, "reproducible": True, "zero": 3},
    "cast": {"dp": 2, "pp": 2, "compression": mt.parallel.Cast(dtype="float64")},
}
#: Every case under the layouts that differ most, every layout with some of the cases.
PAIRS = [
    (case, layout)
    for case in CASES
    for layout in LAYOUTS
    if case in ("lower", "tied", "middle") or layout in ("one", "zb_v", "zero 3")
]


@pytest.mark.parametrize(("case", "layout"), PAIRS)
def test_training_is_torchs(torchs, case, layout):
    losses, norms, weights = torchs[case]
    job = trainer(case, **LAYOUTS[layout])
    start, found = weights_of(job), fit(job)
    np.testing.assert_allclose([metrics.loss for metrics in found], losses, rtol=1e-9)
    np.testing.assert_allclose([metrics.grad_norm for metrics in found], norms, rtol=1e-9)
    for name, w in weights_of(job).items():
        np.testing.assert_allclose(w, weights[name], rtol=1e-8, atol=1e-12, err_msg=name)
        if re.search(CASES[case][1], name):
            np.testing.assert_array_equal(w, start[name], err_msg=name)


@pytest.mark.parametrize("layout", ["1f1b", "zb_v", "zero 1", "zero 2", "zero 3", "reproducible"])
def test_what_is_frozen_costs_nothing(layout):
    settings = dict(LAYOUTS[layout])
    job = trainer("lower", **settings)
    fit(job, 1)
    for worker in job.workers.values():
        frozen = {p for found in worker.holding.parameters.values() for p in found if not p.trained}
        frozen |= {p for found in worker.holding.kept.values() for p in found if not p.trained}
        assert all(p.grad is None and p.sink is None for p in frozen)
        names = {p.name for p in frozen}
        slots = [name for state in worker.holding.states.values() for name in state.arrays()]
        assert not any(name.endswith(tuple(names)) for name in slots if names)
        buckets = [bucket for stage in worker.replicas.stages.values() for bucket in stage.buckets]
        assert frozen.isdisjoint(p for bucket in buckets for p in bucket.parameters)
        # Neither a backward pass nor a gradient that crosses, below the lowest stage that has something to train.
        backward = {a.stage for a in worker.training if a.kind in (Kind.B, Kind.I, Kind.W)}
        assert all(stage >= worker.lowest_stage for stage in backward)
        assert not [a for a in worker.training if a.kind is Kind.SEND_B and a.stage <= worker.lowest_stage]
        if layout == "zero 3":
            assert all(p.data is None for found in worker.holding.parameters.values() for p in found)
        if worker.place.pp_rank == 0 and layout in ("1f1b", "zero 3"):
            assert not backward
    assert job.self_check().equal


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_plan_is_what_a_job_holds(zero):
    _, frozen = CASES["lower"]
    layout, settings = mt.Layout(dp=2, pp=2), {"microbatches": 2, "batch": BATCH, "zero": zero}
    chosen, sample = Settings(schedule=schedule_named("1f1b"), **settings), np.zeros((1, TIME), np.int64)
    plans = [mt.plan.plan(model(tied=False), optimizer(match), layout, chosen, sample) for match in (frozen, None)]
    job = trainer("lower", dp=2, pp=2, dtype="float32", **settings)
    fit(job, 1)
    for rank, worker in job.workers.items():
        place, held = plans[0].ranks[layout.coordinates(rank)["pp"]], worker.holding.nbytes()
        found = held["weights"], held["gradients"], held["optimizer"]
        # Rows are dealt whole and arrays are aligned to 64 bytes.
        expected = place.kept.weights, place.kept.gradients, place.kept.optimizer
        assert found == pytest.approx(expected, abs=64 * 2 * len(worker.holding.owned) + 400)
        assert place.layers == (worker.placement.ranges[worker.place.pp_rank],)
    assert plans[0].ranks[0].activations == plans[0].ranks[0].held == 0
    assert plans[1].ranks[0].activations > 0
    assert plans[0].ranks[0].kept.optimizer == 0


def test_stages_weigh_a_layer_by_what_is_left_to_do():
    """A layer that only has a forward pass is a third of one that is trained."""
    layers = mt.nn.Model([mt.nn.Linear(8, 8) for _ in range(6)], mt.nn.CrossEntropy())
    frozen = layers.training(lambda parameter: parameter.name > "layers.4")
    assert place_by_parameters(layers, [1, 1]).ranges == [(0, 3), (3, 6)]
    assert place_by_parameters(frozen, [1, 1]).ranges == [(0, 4), (4, 6)]


def test_a_checkpoint_keeps_frozen_weights_and_training_of_them_can_begin(tmp_path):
    layout = {"dp": 2, "pp": 2, "microbatches": 2, "zero": 1}
    straight, first, second = (trainer("lower", **layout) for _ in range(3))
    fit(straight, 4)
    fit(first, 2, folder=tmp_path)
    stored = Checkpoint.open(tmp_path / "step-00000002").manifest.tensors
    assert "layers.0.weight" in stored
    assert [name for name in stored if "/" in name and re.search(CASES["lower"][1], name.partition("/")[2])] == []
    assert second.resume(tmp_path)
    fit(second, 2)
    for name, w in weights_of(straight).items():
        np.testing.assert_array_equal(weights_of(second)[name], w, err_msg=name)
    # What was frozen begins with the optimizer as a new one; under Adam its first step is as long as the rate.
    mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
    adam = [mt.optim.Adam(lr=1e-3, groups=groups) for groups in (optimizer(CASES["lower"][1]).groups, ())]
    for rule in adam:
        job = mt.Trainer(model(tied=False), rule, data(), mesh=mesh, batch=BATCH, dtype="float64", arrays="numpy")
        if rule.groups:
            fit(job, 5, folder=tmp_path / "adam")
        else:
            assert job.resume(tmp_path / "adam")
            before = weights_of(job)
            fit(job, 1)
            moved = abs(weights_of(job)["layers.2.down.weight"] - before["layers.2.down.weight"])
            np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_a_parameter_can_say_itself_that_it_is_frozen_and_a_group_otherwise():
    def built():
        made = model(tied=False)
        for parameter in made.parameters():
            parameter.trained = not re.search(CASES["lower"][1], parameter.name)
        return made

    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(dp=2))
    settings = {"batch": BATCH, "dtype": "float64", "arrays": "numpy", "clip": CLIP}
    by_itself = mt.Trainer(built(), optimizer(None), data(), mesh=mesh, **settings)
    by_group = trainer("lower", dp=2)
    assert fit(by_itself) == fit(by_group)
    freed = mt.optim.SGD(lr=0.2, groups=(mt.optim.Group(match="", trained=True),))
    job, other = built(), model(tied=False)
    assert fit(mt.Trainer(job, freed, data(), mesh=mesh, **settings)) == fit(
        mt.Trainer(other, mt.optim.SGD(lr=0.2), data(), mesh=mesh, **settings)
    )
    assert not job.layers[0].weight.trained  # the model that was given is as it was


def test_running_averages_of_a_frozen_batch_norm_go_on():
    """As torch's do: `requires_grad` is none of a buffer's."""
    built = mt.nn.models.ResNet(depth=(1,), width=4, channels=1, classes=3)
    random = np.random.default_rng(0)
    images = mt.data.ArrayDataset(random.normal(2.0, 1.0, (16, 1, 8, 8)), random.integers(0, 3, 16))
    rule = mt.optim.SGD(lr=0.1, groups=(mt.optim.Group(match=r"^layers\.[01]\.", trained=False),))
    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(dp=2))
    job = mt.Trainer(built, rule, images, mesh=mesh, batch=8, dtype="float64", arrays="numpy")
    before = weights_of(job)
    fit(job, 2)
    moved = {name for name, w in weights_of(job).items() if not np.array_equal(w, before[name])}
    assert {name for name in moved if re.match(r"layers\.[01]\.", name)} == {
        name for name in before if re.match(r"layers\.[01]\.", name) and "running" in name
    }


def test_a_group_that_matches_nothing_and_a_model_of_which_nothing_is_trained_are_refused():
    def start(match):
        mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
        mt.Trainer(model(tied=False), optimizer(match), data(), mesh=mesh)

    with pytest.raises(ValueError, match=r"match = 'layers.1.nrom' is found in the name of no parameter .*layers.1.norm.bias"):
        start("layers.1.nrom")
    with pytest.raises(ValueError, match=r"none of the model's 22 parameters is trained; expected one at least"):
        start(".")
    with pytest.raises(ValueError, match=r"'\(norm' is not a regular expression \(missing \), .*; expected one that"):
        mt.optim.Group(match="(norm")
