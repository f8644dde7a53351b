"""Reproducible mode: losses, norms and weights are the same bits under every layout, and everything that is not says so."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from layout_cases import gpt, images, llama, mlp, resnet, tokens, vectors
from threadpoolctl import threadpool_limits

import mpitrain as mt
from mpitrain.arrays import Arrays, arithmetic
from mpitrain.autograd import Op
from mpitrain.nn import NotFiniteError
from mpitrain.nn.init import ONES
from mpitrain.parallel import reproducible
from mpitrain.selfcheck import gather


@dataclass(frozen=True)
class Case:
    model: Callable[[], mt.nn.Model]
    data: Callable[[], mt.data.Dataset]
    optimizer: mt.optim.Optimizer
    #: Over all replicas.
    microbatches: int = 4
    #: Not a multiple of the microbatches: two of them are larger than the others.
    batch: int = 10
    dtype: str = "float32"
    clip: float | None = None


ADAM = mt.optim.AdamW(lr=1e-2)
CASES = {
    "gpt-dropout": Case(gpt(dropout=0.2), tokens, ADAM, clip=0.5),
    "gpt-recompute": Case(gpt(recompute=True), tokens, mt.optim.SGD(lr=0.1, momentum=0.9)),
    "gpt-six-microbatches": Case(gpt(), tokens, ADAM, microbatches=6, batch=13),
    "llama-lamb": Case(llama, tokens, mt.optim.LAMB(lr=1e-2)),
    "mlp-float64": Case(mlp, vectors, ADAM, dtype="float64", clip=0.5),
    "resnet": Case(resnet, images, mt.optim.SGD(lr=0.05, momentum=0.9)),
}
STEPS = 6


def trainer(world, case, dp, pp, schedule="1f1b", **settings):
    return mt.Trainer(
        case.model(),
        case.optimizer,
        case.data(),
        mesh=mt.Mesh(world, mt.Layout(dp=dp, pp=pp)),
        validation=case.data(),
        schedule=schedule,
        microbatches=case.microbatches // dp,
        batch=case.batch,
        dtype=case.dtype,
        clip=case.clip,
        arrays="numpy",
        **{"reproducible": True} | settings,
    )


def trained(job, steps=STEPS):
    """Every number that comes out of some steps, in hexadecimal, and the weights' bytes, as far as this rank knows them."""
    history = job.fit(steps, report=lambda step: None)
    history.append(job.evaluate(batches=2))
    weights = job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]
    return [(m.loss.hex(), m.grad_norm.hex()) for m in history], {name: w.tobytes() for name, w in weights.items()}


@functools.cache
def one_rank(name):
    return trained(trainer(mt.comm.local(1), CASES[name], 1, 1))


def check(world, name, dp, pp, schedule="1f1b", **settings):
    numbers, weights = trained(trainer(world, CASES[name], dp, pp, schedule, **settings))
    expected_numbers, expected_weights = one_rank(name)
    assert numbers == expected_numbers
    if weights:  # elsewhere another rank compares
        assert weights.keys() == expected_weights.keys()
        assert [n for n, w in weights.items() if w != expected_weights[n]] == []


@pytest.mark.parametrize(("dp", "pp"), [(2, 1), (4, 1), (1, 2), (2, 2), (1, 3), (4, 2)])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.microbatches == 4])
def test_layouts_give_the_same_bits(name, dp, pp):
    check(mt.comm.local(dp * pp), name, dp, pp)


#: Cases whose optimizer works on elements, which ZeRO asks for.
SHARDED = ["gpt-dropout", "gpt-recompute", "gpt-six-microbatches", "mlp-float64", "resnet"]


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("name", SHARDED)
def test_so_does_every_level_of_zero(name, zero):
    six = CASES[name].microbatches == 6
    for dp, pp in [(3, 1), (6, 1), (3, 2)] if six else [(2, 1), (4, 1), (2, 2)]:
        check(mt.comm.local(dp * pp), name, dp, pp, zero=zero)


def test_zero_keeps_shards_and_passes_its_gradients_on():
    """What holds beside the exact totals is what ZeRO's formula says, of gradients at all levels."""
    for zero, weights in ((1, 1), (2, 1), (3, 1 / 2)):
        job = trainer(mt.comm.local(2), CASES["gpt-dropout"], 2, 1, zero=zero)
        job.fit(2, report=lambda step: None)
        for worker in job.workers.values():
            held = worker.holding.nbytes()
            wanted = {"weights": weights, "gradients": 1 / 2, "optimizer": 2 / 2}
            assert held == {kind: pytest.approx(4 * job.model.size * part, rel=0.05) for kind, part in wanted.items()}


@pytest.mark.parametrize(("dp", "pp"), [(2, 2), (3, 1), (6, 1), (3, 2)])
def test_so_do_layouts_that_are_no_power_of_two(dp, pp):
    check(mt.comm.local(dp * pp), "gpt-six-microbatches", dp, pp)


@pytest.mark.parametrize("schedule", mt.program.SCHEDULES)
def test_so_do_all_schedules(schedule):
    """Several stages a rank, and weight gradients that are put off, too."""
    check(mt.comm.local(4), "gpt-dropout", 2, 2, schedule)


def test_so_do_steps_without_overlap_and_with_a_bucket_a_parameter(monkeypatch):
    monkeypatch.setattr("mpitrain.gradients.BUCKET_BYTES", 1)
    check(mt.comm.local(4), "gpt-dropout", 2, 2, overlap=False)
    check(mt.comm.local(2), "gpt-dropout", 2, 1)


@pytest.mark.mpi(4, timeout=120)
def test_so_does_mpi(world):
    """All in one job: starting MPI costs more than a case."""
    runs = [("gpt-dropout", 4, 1, 0), ("gpt-dropout", 1, 4, 0), ("llama-lamb", 2, 2, 0), ("resnet", 2, 2, 0)]
    for name, dp, pp, zero in [*runs, ("resnet", 4, 1, 1), ("gpt-dropout", 4, 1, 2), ("gpt-dropout", 2, 2, 3)]:
        print(name, dp, pp, zero, flush=True)
        check(world, name, dp, pp, zero=zero)


@pytest.mark.parametrize("name", ["gpt-dropout", "resnet"])
def test_so_does_going_on_under_another_layout(name, tmp_path):
    """Two steps on 2 x 2, two on 4 x 1 with ZeRO 2, two on 1 x 3."""
    job = trainer(mt.comm.local(4), CASES[name], 2, 2)
    job.fit(2, report=lambda step: None, folder=tmp_path)
    job = trainer(mt.comm.local(4), CASES[name], 4, 1, zero=2)
    job.resume(tmp_path)
    job.fit(2, report=lambda step: None, folder=tmp_path)
    job = trainer(mt.comm.local(3), CASES[name], 1, 3)
    job.resume(tmp_path)
    numbers, weights = trained(job, STEPS - 4)
    assert (numbers, weights) == (one_rank(name)[0][4:], one_rank(name)[1])


@pytest.mark.parametrize("name", ["gpt-dropout", "llama-lamb", "resnet"])
def test_without_the_mode_layouts_differ_in_some_bits(name):
    """Otherwise the tests above would show nothing."""
    runs = [trained(trainer(mt.comm.local(n), CASES[name], dp, pp, reproducible=False)) for n, dp, pp in [(1, 1, 1), (4, 4, 1)]]
    assert runs[0][0] != runs[1][0]
    assert runs[0][1] != runs[1][1]


@pytest.mark.parametrize("name", CASES)
def test_the_mode_trains_like_the_plain_one(name):
    """The losses of two steps and the validation after them differ by the rounding of sums, a few hundred units of float32."""
    world = mt.comm.local(1)
    plain, exact = (trained(trainer(world, CASES[name], 1, 1, reproducible=mode), steps=2)[0] for mode in (False, True))
    for a, b in zip(plain, exact, strict=True):
        np.testing.assert_allclose(*([float.fromhex(x) for x in pair] for pair in (a, b)), rtol=2e-5)


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_self_check_finds_no_difference_at_all(zero):
    found = trainer(mt.comm.local(4), CASES["gpt-dropout"], 2, 2, zero=zero).self_check()
    assert found.tolerance == 0.0
    assert found.loss == found.gradient == 0.0
    assert found.equal


class Spoilt(Op):
    """x w, whose gradient of w is not finite where the microbatch holds a sample above a limit."""

    def forward(self, x, w):
        self.spoils = x.max() > 5
        return x * w

    def input_grad(self, dy):
        return (dy,)

    def weight_grad(self, dy, *out):
        out[0][...] = math.nan if self.spoils else dy.sum(axis=0)


class Spoiler(mt.nn.Module):
    def __init__(self):
        self.gain = mt.nn.Parameter((12,), ONES)

    def forward(self, x):
        return Spoilt()(x, weights=(self.gain,))


@pytest.mark.parametrize("culprit", [0, 7])
def test_a_gradient_that_is_not_finite_is_named_whoever_made_it(culprit):
    data = vectors()
    data.inputs[:] = data.inputs.clip(-2, 2)
    data.inputs[np.random.default_rng(culprit).integers(0, 50, 10)] = 6
    model = mt.nn.Model([Spoiler(), mt.nn.Linear(12, 7)], mt.nn.CrossEntropy())
    mesh = mt.Mesh(mt.comm.local(4), mt.Layout(dp=4))
    job = mt.Trainer(model, ADAM, data, mesh=mesh, batch=12, arrays="numpy", reproducible=True)
    with pytest.raises(NotFiniteError, match=r"gradient of layers\.0\.gain is not"):
        job.fit(4, report=lambda step: None)


@pytest.mark.parametrize("culprit", [7, 41])
def test_a_gradient_that_is_too_large_is_refused(culprit):
    data = vectors()
    data.inputs[culprit] *= 1e12
    job = trainer(mt.comm.local(2), Case(mlp, lambda: data, ADAM), 2, 1)
    with pytest.raises(ValueError, match=r"parameter layers\.\d+.* has a gradient of .*; scale the loss"):
        job.fit(5, report=lambda step: None)


def test_more_contributions_than_can_be_summed_are_refused(monkeypatch):
    monkeypatch.setattr(reproducible, "MAX_ADDENDS", 3)
    with pytest.raises(ValueError, match="has 4 contributions to its gradient in a step"):
        trainer(mt.comm.local(2), CASES["mlp-float64"], 2, 1).fit(1, report=lambda step: None)


def test_carrying_changes_nothing(monkeypatch):
    monkeypatch.setattr(reproducible, "CARRY_EVERY", 2)
    check(mt.comm.local(2), "gpt-dropout", 2, 1)


@pytest.mark.parametrize("settings", [{"sync_batch_norm": True}, {"compression": mt.parallel.PowerSGD()}])
def test_what_depends_on_the_number_of_replicas_is_refused(settings):
    with pytest.raises(ValueError, match=f"reproducible = true and {next(iter(settings))} do not go together"):
        trainer(mt.comm.local(2), CASES["resnet"], 2, 1, **settings)


def test_the_number_of_blas_threads_changes_no_bit():
    """A product of this size is rounded otherwise by two threads of OpenBLAS, which a rank with two cores has."""
    images = np.random.default_rng(0).normal(size=(1024, 256)).astype(np.float32)
    data = mt.data.ArrayDataset(images, np.arange(1024) % 7)

    def weights(threads):
        mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
        model, sgd = mt.nn.models.MLP(sizes=(256, 768, 7)), mt.optim.SGD(lr=0.1)
        with threadpool_limits(threads):
            job = mt.Trainer(model, sgd, data, mesh=mesh, batch=1024, arrays="numpy", reproducible=True)
            blas = arithmetic(Arrays())["BLAS"]
            job.fit(1, report=lambda step: None)
        return blas, [p.data.tobytes() for p in job.workers[0].holding.owned]

    blas, found = weights(2)
    assert blas.endswith(" with 1 thread")
    assert found == weights(1)[1]
