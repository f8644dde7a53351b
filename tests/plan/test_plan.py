"""A plan is what a job then holds: checked against a job that runs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.plan.activations import saved_bytes
from mpitrain.program import schedule_named
from mpitrain.settings import Settings

SAMPLE = np.zeros((1, 16), np.int64)


def gpt():
    return mt.nn.models.GPT(width=32, depth=4, heads=2, vocab=64, context=16)


def plan(optimizer, layout, schedule="1f1b", **settings):
    return mt.plan.plan(gpt(), optimizer, layout, Settings(schedule=schedule_named(schedule), **settings), SAMPLE)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (2, 1), (2, 2), (1, 3)])
def test_memory_is_what_a_job_holds(dp, pp, zero):
    layout = mt.Layout(dp=dp, pp=pp)
    optimizer = mt.optim.AdamW(lr=1e-3)
    expected = plan(optimizer, layout, microbatches=4, batch=8 * dp, zero=zero)
    data = mt.data.TokenDataset(np.arange(16 * 50 + 1) % 64, 16)
    mesh = mt.Mesh(mt.comm.local(layout.size), layout)
    job = mt.Trainer(gpt(), optimizer, data, mesh=mesh, microbatches=4, batch=8 * dp, arrays="numpy", zero=zero)
    job.fit(1, report=lambda step: None)
    for rank, worker in job.workers.items():
        place = expected.ranks[layout.coordinates(rank)["pp"]]
        assert rank in place.ranks
        held = worker.holding.nbytes()
        found = (held["weights"], held["gradients"], held["optimizer"])
        # Rows are dealt whole and arrays are aligned to 64 bytes.
        assert found == pytest.approx((place.kept.weights, place.kept.gradients, place.kept.optimizer), rel=0.05)


COMPRESSORS = [
    mt.parallel.PowerSGD(rank=2), mt.parallel.TopK(), mt.parallel.DGC(), mt.parallel.Sign(), mt.parallel.RandomK(),
    mt.parallel.EF21(), mt.parallel.Cast(),
]  # fmt: skip


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_what_a_compressor_remembers_is_counted(compressor):
    layout, optimizer = mt.Layout(dp=2, pp=2), mt.optim.SGD(lr=0.1)
    expected = plan(optimizer, layout, microbatches=2, batch=8, compression=compressor)
    data, mesh = mt.data.TokenDataset(np.arange(16 * 50 + 1) % 64, 16), mt.Mesh(mt.comm.local(4), layout)
    job = mt.Trainer(gpt(), optimizer, data, mesh=mesh, microbatches=2, batch=8, arrays="numpy", compression=compressor)
    for rank, worker in job.workers.items():
        held = sum(remembered.array.nbytes for remembered in worker.compression.remembered())
        assert held == pytest.approx(expected.ranks[layout.coordinates(rank)["pp"]].kept.exchange, rel=0.05)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_what_exact_sums_take_is_counted(zero):
    layout, optimizer = mt.Layout(dp=2), mt.optim.AdamW(lr=0.1)
    settings = {"microbatches": 2, "batch": 8, "zero": zero, "reproducible": True}
    (expected,) = plan(optimizer, layout, **settings).ranks
    data, mesh = mt.data.TokenDataset(np.arange(16 * 50 + 1) % 64, 16), mt.Mesh(mt.comm.local(2), layout)
    job = mt.Trainer(gpt(), optimizer, data, mesh=mesh, arrays="numpy", **settings)
    job.fit(1, report=lambda step: None)
    for worker in job.workers.values():
        held = worker.holding.nbytes()
        assert held["gradients"] == pytest.approx(expected.kept.gradients, rel=0.05)
        totals = [p.sink.__self__.totals[p].sum.nbytes for found in worker.holding.parameters.values() for p in found]
        assert sum(totals) == expected.kept.exchange


def test_activations_of_a_linear_layer_are_its_input():
    model = mt.nn.Model([mt.nn.Linear(6, 5), mt.nn.Linear(5, 3)], mt.nn.CrossEntropy())
    assert saved_bytes(model, np.zeros((1, 6), np.float32)) == [6 * 4, 5 * 4]


def test_a_table_to_read():
    head, columns, *rows = plan(mt.optim.SGD(lr=1), mt.Layout(dp=2, pp=2), "gpipe", microbatches=3, batch=12).lines()
    assert head.startswith("dp=2 x pp=2, 4 ranks; 53,")
    assert "3 microbatches of 2 samples a pipeline; bubble 25% of a step" in head
    assert columns.split() == [
        "pp",
        "ranks",
        "layers",
        "parameters",
        "weights",
        "gradients",
        "optimizer",
        "exchange",
        "activations",
        "total",
    ]
    assert [row.split()[:3] for row in rows] == [["0", "0-1", "0-2"], ["1", "2-3", "3-5"]]


@pytest.mark.parametrize(("stages", "schedule"), [("parameters", "automatic"), ("auto", "1f1b"), ("auto", "automatic")])
def test_what_a_run_finds_at_its_start_is_said(stages, schedule):
    lines = plan(mt.optim.SGD(lr=1), mt.Layout(pp=2), schedule, microbatches=6, batch=12, stages=stages).lines()
    said = [line.partition(":")[0] for line in lines if "a run" in line]
    assert said == ["stages"] * (stages == "auto") + ["order"] * (schedule == "automatic")
    assert "bubble" in lines[0]


REFUSED = {
    "fewer samples than microbatches": ({"batch": 5}, "the batch has 5 samples for dp=2 x microbatches=3"),
    "other widths": ({"layout": mt.Layout(dp=(2, 1), pp=2), "reproducible": True}, "reproducible = true and the layout dp=2"),
    "rows": ({"optimizer": mt.optim.LAMB(lr=1), "zero": 1}, "LAMB needs whole weights and zero = 1"),
    "a limit of nothing": ({"memory_gib": 1}, "memory_gib = 1 limits stages = auto and schedule = automatic"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_job_refuses_is_not_planned(options, says):
    options = {"optimizer": mt.optim.SGD(lr=1), "layout": mt.Layout(dp=2), "microbatches": 3, "batch": 6} | options
    with pytest.raises(ValueError, match=says):
        plan(**options)
    layout = options.pop("layout")
    data, mesh = mt.data.TokenDataset(np.arange(16 * 50 + 1) % 64, 16), mt.Mesh(mt.comm.local(layout.size), layout)
    with pytest.raises(ValueError, match=says):
        mt.Trainer(gpt(), options.pop("optimizer"), data, mesh=mesh, arrays="numpy", **options)


def test_activations_of_layers_that_hand_on_tuples():
    class Split(mt.nn.Module):
        def forward(self, x):
            return x * x, x

    class Join(mt.nn.Module):
        def forward(self, parts):
            return parts[0] * parts[1]

    model = mt.nn.Model([mt.nn.Linear(6, 6), Split(), Join(), mt.nn.Linear(6, 3)], mt.nn.CrossEntropy())
    # a layer keeps its input, each product its two factors: the same array twice, then two arrays
    assert saved_bytes(model, np.zeros((1, 6), np.float32)) == [6 * 4, 6 * 4, 2 * 6 * 4, 6 * 4]


def test_activations_are_what_a_forward_pass_leaves_behind():
    model = mt.nn.models.GPT(width=64, depth=3, heads=4, vocab=64, context=64)
    expected = 8 * sum(saved_bytes(model, np.zeros((1, 64), np.int64)))
    model.materialize(mt.arrays.Arrays(), np.dtype(np.float32))
    tracemalloc.start()
    try:
        y = mt.nn.Sequential(model.layers)(mt.autograd.Tensor(np.zeros((8, 64), np.int64)))
        assert tracemalloc.get_traced_memory()[0] == pytest.approx(expected + y.data.nbytes, rel=0.05)
    finally:
        tracemalloc.stop()
