"""Batch norm over replicas against torch's over the joined batch, and jobs that use it against one rank."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.autograd import Tensor, backward
from mpitrain.nn import BatchNorm2d, Sequential
from mpitrain.optim import SGD, OptimizerState
from mpitrain.parallel import sync_batch_norm
from mpitrain.selfcheck import gather

CHANNELS = 3
#: Images on each replica.
ROWS = {1: [6], 2: [3, 5], 3: [2, 1, 4], 4: [1, 2, 3, 1]}
#: Sums of at most 160 terms around a mean of 50, in float64.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def drawn(rows, seed=0):
    """Joined inputs and output gradients, and each replica's rows of them."""
    random = np.random.default_rng(seed)
    x, dy = random.normal(size=(2, sum(rows), CHANNELS, 4, 5))
    ends = np.cumsum(rows)
    return 7 * x + 50, dy, [slice(end - count, end) for end, count in zip(ends, rows, strict=True)]


def layer(comm):
    stage = Sequential([BatchNorm2d(CHANNELS)])
    stage.materialize(Arrays(), np.dtype(np.float64))
    norm = stage.layers[0]
    norm.weight.data[...], norm.bias.data[...] = [0.5, -2.0, 1.0], [1.0, 0.0, -1.0]
    sync_batch_norm(stage, comm)
    return stage


def torch_layer():
    norm = torch.nn.BatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = torch.tensor([0.5, -2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
    return norm


def check_against_torch(comm):
    x, dy, parts = drawn(ROWS[comm.size])
    part = parts[comm.rank]
    stage, theirs = layer(comm), torch_layer()
    joined = torch.tensor(x, requires_grad=True)
    expected = theirs(joined)
    expected.backward(torch.tensor(dy))

    leaf = Tensor(x[part], needs_grad=True)
    y = stage(leaf)
    (dx,) = backward([y], [dy[part]], leaves=[leaf])
    np.testing.assert_allclose(y.data, expected.detach().numpy()[part], **CLOSE)
    np.testing.assert_allclose(dx, joined.grad.numpy()[part], **CLOSE)
    for ours, whole in zip(stage.parameters(), (theirs.weight, theirs.bias), strict=False):
        total = ours.settled_grad().copy()
        comm.allreduce(total)  # as any weight's gradient
        np.testing.assert_allclose(total, whole.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("replicas", ROWS)
def test_values_and_gradients_are_torchs_over_the_joined_batch(replicas):
    mt.comm.local(replicas).run(check_against_torch)


def check_adjoint(comm):
    x, dy, parts = drawn(ROWS[comm.size], seed=1)
    v = np.random.default_rng(2).normal(size=x.shape)
    norm = torch_layer()
    joined, u = torch.tensor(x, requires_grad=True), torch.zeros(x.shape, dtype=torch.float64, requires_grad=True)
    y = functional.batch_norm(joined, None, None, norm.weight, norm.bias, training=True)
    # J* u is linear in u, so its gradient along v is J v.
    (adjoint,) = torch.autograd.grad(y, joined, u, create_graph=True)
    (jv,) = torch.autograd.grad(adjoint, u, torch.tensor(v))
    leaf = Tensor(x[parts[comm.rank]], needs_grad=True)
    (dx,) = backward([layer(comm)(leaf)], [dy[parts[comm.rank]]], leaves=[leaf])
    products = np.array([(v[parts[comm.rank]] * dx).sum()])
    comm.allreduce(products)
    assert products[0] == pytest.approx(float((jv.numpy() * dy).sum()), rel=1e-11)


@pytest.mark.parametrize("replicas", ROWS)
def test_the_backward_pass_is_the_adjoint_of_the_forward_pass(replicas):
    """<J v, dy> = <v, J* dy>, summed over the replicas, with the derivative J of torch's batch norm of the joined batch."""
    mt.comm.local(replicas).run(check_adjoint)


def check_running_moments(comm):
    stage, theirs = layer(comm), torch_layer()
    norm = stage.layers[0]
    state = OptimizerState(SGD(lr=0.0), stage.parameters())
    for seed in range(3):
        x, _, parts = drawn(ROWS[comm.size], seed)
        stage(Tensor(x[parts[comm.rank]]))
        theirs(torch.tensor(x))
        for statistic in (norm.running_mean, norm.running_variance):
            comm.allreduce(statistic.settled_grad())
            statistic.rows = len(x)  # of all replicas
        state.step()
    np.testing.assert_allclose(norm.running_mean.data, theirs.running_mean.numpy(), **CLOSE)
    np.testing.assert_allclose(norm.running_variance.data, theirs.running_var.numpy(), **CLOSE)
    evaluated = stage(Tensor(x, context=mt.autograd.Context(train=False))).data
    np.testing.assert_allclose(evaluated, theirs.eval()(torch.tensor(x)).detach().numpy(), **CLOSE)


def test_running_moments_are_torchs():
    mt.comm.local(3).run(check_running_moments)


class Doubled(BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2.0


def test_a_subclass_keeps_its_forward_wherever_it_stands():
    def run(comm):
        stage = Sequential([Doubled(CHANNELS)])
        stage.spare = {"deep": [Doubled(CHANNELS)]}
        stage.materialize(Arrays(), np.dtype(np.float64))
        sync_batch_norm(stage, comm)
        x, _, parts = drawn(ROWS[comm.size])
        expected = 2.0 * torch.nn.BatchNorm2d(CHANNELS).double()(torch.tensor(x)).detach().numpy()[parts[comm.rank]]
        for norm in (stage.layers[0], stage.spare["deep"][0]):
            np.testing.assert_allclose(norm(Tensor(x[parts[comm.rank]])).data, expected, **CLOSE)

    mt.comm.local(2).run(run)


def test_replicas_with_one_value_together_are_refused():
    with pytest.raises(
        ValueError, match=r"batch norm .* sees one value of each channel \(shape \(1, 3, 1, 1\)\), over all replicas"
    ):
        mt.comm.local(1).run(lambda comm: layer(comm)(Tensor(np.ones((1, CHANNELS, 1, 1)))))


def images():
    random = np.random.default_rng(5)
    return mt.data.ArrayDataset(random.normal(size=(50, 2, 8, 8)), random.integers(0, 7, 50))


def train(world, layout, *, batch, microbatches, sync):
    """First gradients, losses of five steps, and the weights and statistics after them, on rank 0."""
    job = mt.Trainer(
        mt.nn.models.ResNet(depth=(1, 1), width=4, channels=2, classes=7),
        SGD(lr=0.05, momentum=0.9),
        images(),
        mesh=mt.Mesh(world, layout),
        microbatches=microbatches,
        batch=batch,
        dtype="float64",
        arrays="numpy",
        sync_batch_norm=sync,
        timeout_s=30,
    )

    def first_gradients(comm):
        worker = job.workers[comm.rank]
        worker.gradients_only()
        found = gather(worker, lambda p: p.settled_grad())
        worker.holding.clear_gradients()
        return found

    gradients = world.run(first_gradients)[0]
    losses = [metrics.loss for metrics in job.fit(5, report=lambda step: None)]
    return gradients, losses, world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]


def check(world, layout, batch, microbatches):
    gradients, losses, weights = train(world, layout, batch=batch, microbatches=microbatches, sync=True)
    if not gradients:
        return  # another rank compares
    one = train(mt.comm.local(1), mt.Layout(), batch=batch, microbatches=microbatches, sync=False)
    np.testing.assert_allclose(losses, one[1], rtol=1e-10)
    assert losses[-1] < losses[0]
    for ours, theirs in ((gradients, one[0]), (weights, one[2])):
        assert ours.keys() == theirs.keys()
        worst = {name: np.linalg.norm(ours[name] - x) / np.linalg.norm(x) for name, x in theirs.items() if x.any()}
        assert max(worst.values()) <= 1e-10, max(worst.items(), key=lambda item: item[1])


LAYOUTS = {
    "dp2": (mt.Layout(dp=2), 12, 1),
    "dp2-microbatches": (mt.Layout(dp=2), 12, 3),
    "dp3-uneven": (mt.Layout(dp=3), 10, 2),
    "dp2-pp2-uneven": (mt.Layout(dp=2, pp=2), 11, 2),
    "dp2+1": (mt.Layout(dp=(2, 1), pp=2), 11, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_replicas_are_one_rank_with_as_many_microbatches(name):
    layout, batch, microbatches = LAYOUTS[name]
    check(mt.comm.local(layout.size), layout, batch, microbatches)


@pytest.mark.mpi([2, 4], timeout=90)
def test_buckets_and_moments_do_not_meet_over_mpi(world, monkeypatch):
    """A bucket for every parameter, so that sums are under way in every layer's backward pass."""
    monkeypatch.setattr("mpitrain.gradients.BUCKET_BYTES", 1)
    world.run(check_against_torch)
    for layout, batch, microbatches in LAYOUTS.values():
        if layout.size == world.size:
            check(world, layout, batch, microbatches)


def test_the_self_check_compares_with_joined_microbatches():
    layout, batch, microbatches = LAYOUTS["dp2-pp2-uneven"]
    job = mt.Trainer(
        mt.nn.models.ResNet(depth=(1,), width=2, channels=2, classes=7),
        SGD(lr=0.05),
        images(),
        mesh=mt.Mesh(mt.comm.local(layout.size), layout),
        microbatches=microbatches,
        batch=batch,
        dtype="float64",
        arrays="numpy",
        sync_batch_norm=True,
    )
    assert job.self_check().equal
