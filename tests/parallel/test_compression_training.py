"""Compression in training: pipelines, overlap and buckets change nothing, a checkpoint goes on as if nothing had happened."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from layout_cases import Case, check, gpt, llama, mlp, resnet, tokens, vectors
from layout_cases import images as pictures

import mpitrain as mt
from mpitrain.parallel import DGC, EF21, Cast, PowerSGD, RandomK, Sign, TopK
from mpitrain.selfcheck import gather

COMPRESSORS = [
    Cast(dtype="float16"),
    Cast(dtype="bfloat16"),
    PowerSGD(rank=2, warmup=1),
    TopK(density=0.1),
    TopK(density=0.1, error_feedback=False),
    DGC(density=0.05, warmup=3, clip=1.0),
    Sign(),
    RandomK(density=0.2),
    EF21(density=0.1),
]
by_name = pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)


def trainer(world, compressor, *, dp, pp, model=mlp, data=vectors, **settings):
    settings = {"microbatches": 2, "batch": 12, "dtype": "float64", "arrays": "numpy"} | settings
    mesh = mt.Mesh(world, mt.Layout(dp=dp, pp=pp))
    return mt.Trainer(model(), mt.optim.SGD(lr=0.05), data(), mesh=mesh, compression=compressor, **settings)


def losses(job, steps, **settings):
    return [metrics.loss for metrics in job.fit(steps, report=lambda step: None, **settings)]


def weights(job):
    """All weights on rank 0, and those of every rank by name."""
    whole = job.mesh.world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]
    held = {rank: [p for found in w.holding.kept.values() for p in found] for rank, w in job.workers.items()}
    return whole, held


def replicas_agree(job):
    """Every replica of a parameter has the same bits."""
    found = {}
    for parameters in weights(job)[1].values():
        for p in parameters:
            np.testing.assert_array_equal(p.data, found.setdefault(p.name, p.data), err_msg=p.name)


@by_name
def test_pipelines_overlap_and_buckets_change_nothing(compressor, monkeypatch):
    """Two replicas, one rank each or two: the same sums, up to the rounding of a stage's matrix products."""
    one = trainer(mt.comm.local(2), compressor, dp=2, pp=1, overlap=False)
    expected = losses(one, 8)
    monkeypatch.setattr("mpitrain.gradients.BUCKET_BYTES", 600)
    two = trainer(mt.comm.local(4, latency=1e-4), compressor, dp=2, pp=2, schedule="1f1b")
    assert max(len(stage.buckets) for w in two.workers.values() for stage in w.replicas.stages.values()) > 2
    np.testing.assert_allclose(losses(two, 8), expected, rtol=1e-10)
    found = weights(two)[0]
    for name, w in weights(one)[0].items():
        np.testing.assert_allclose(found[name], w, rtol=1e-9, atol=1e-12)
    replicas_agree(two)
    assert expected[-1] < expected[0]


LOSSLESS = {
    "cast": Cast(dtype="float64"),
    "topk": TopK(density=1.0),
    "randomk": RandomK(density=1.0),
    "ef21": EF21(density=1.0),
    "dgc": DGC(density=1.0, momentum=0.0),
    "powersgd": PowerSGD(warmup=99),
}
CASES = {
    "mlp-dp3-uneven": Case(mlp, vectors, 3, 1, 2, "1f1b", 11, "float64"),
    "gpt-tied-dp2-pp2": Case(gpt(), tokens, 2, 2, 2, "1f1b", 8, "float64", clip=0.5),
    "llama-dp2-pp2": Case(llama, tokens, 2, 2, 2, "gpipe", 8, "float64"),
    "resnet-dp2-pp2": Case(resnet, pictures, 2, 2, 2, "1f1b", 12, "float64", alone=4),
}


@pytest.mark.parametrize("compressor", LOSSLESS)
@pytest.mark.parametrize("name", CASES)
def test_equals_one_rank_where_nothing_is_lost(name, compressor):
    case = replace(CASES[name], settings={"compression": LOSSLESS[compressor]})
    check(mt.comm.local(case.size), case)


@pytest.mark.mpi([4], timeout=120)
def test_pipelines_change_nothing_over_mpi(world):
    for compressor in COMPRESSORS:
        job = trainer(world, compressor, dp=2, pp=2)
        expected = losses(trainer(mt.comm.local(2), compressor, dp=2, pp=1), 5)
        np.testing.assert_allclose(losses(job, 5), expected, rtol=1e-10, err_msg=repr(compressor))


@by_name
def test_going_on_from_a_checkpoint_is_going_on(compressor, tmp_path):
    """Bit for bit, with a weight that two stages share and each compresses for itself."""
    settings = {"dp": 2, "pp": 2, "model": gpt(), "data": tokens, "dtype": "float32"}
    straight = losses(trainer(mt.comm.local(4), compressor, **settings), 7)
    first = trainer(mt.comm.local(4), compressor, **settings)
    found = losses(first, 4, folder=tmp_path)
    second = trainer(mt.comm.local(4), compressor, **settings)
    assert second.resume(tmp_path)
    assert found + losses(second, 3) == straight
    replicas_agree(second)


def total(job, slot):
    """The sum over all ranks of a slot, by parameter, counters' rows in their places."""
    sums = {}
    for worker in job.workers.values():
        for r in worker.compression.remembered():
            if r.name.startswith(slot):
                whole = sums.setdefault(r.name, np.zeros(r.shape[1:]))
                whole[tuple(slice(start, stop) for start, stop in r.box[1:])] += r.array
    return sums


@pytest.mark.parametrize(
    ("compressor", "slots"),
    [
        (TopK(density=0.1), ["residual"]),
        (PowerSGD(rank=2), ["residual"]),
        (DGC(density=0.1), ["dgc_momentum", "dgc_velocity"]),
        (EF21(density=0.1), ["ef21_estimate"]),
        (Sign(), ["residual", "vote_residual"]),
    ],
    ids=repr,
)
def test_another_number_of_replicas_loses_nothing(compressor, slots, tmp_path):
    """What the residuals add up to is what will still be applied, whoever holds it."""
    first = trainer(mt.comm.local(2), compressor, dp=2, pp=1)
    losses(first, 3, folder=tmp_path)
    second = trainer(mt.comm.local(6), compressor, dp=3, pp=2)
    assert second.resume(tmp_path)
    for slot in slots:
        before, after = total(first, slot), total(second, slot)
        assert before.keys() == after.keys()
        assert any(x.any() for x in before.values())
        for name, x in before.items():
            np.testing.assert_allclose(after[name], x, rtol=1e-12, atol=1e-15, err_msg=name)
    assert all(np.isfinite(losses(second, 2)))


def test_compression_may_begin_and_change_at_a_checkpoint(tmp_path):
    """The weights are those that were left: the next loss is the one that the job before would have had."""
    jobs = [trainer(mt.comm.local(2), compressor, dp=2, pp=1) for compressor in (None, TopK(density=0.3), PowerSGD(rank=1))]
    losses(jobs[0], 3, folder=tmp_path)
    for before, after in itertools.pairwise(jobs):
        assert after.resume(tmp_path)
        (expected,), found = losses(before, 1), losses(after, 3, folder=tmp_path)
        assert found[0] == expected
        assert np.isfinite(found).all()


@by_name
def test_the_self_check_sees_the_layout_and_not_the_compression(compressor):
    job = trainer(mt.comm.local(4), compressor, dp=2, pp=2)
    losses(job, 2)
    before = [r.array.copy() for w in job.workers.values() for r in w.compression.remembered()]
    assert job.self_check().equal
    after = [r.array for w in job.workers.values() for r in w.compression.remembered()]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_bytes_are_in_the_report():
    reports = []
    size = sum(p.size for p in mlp().parameters())
    for compressor in (None, Cast(dtype="float64"), Cast(dtype="float16")):
        job = trainer(mt.comm.local(2), compressor, dp=2, pp=1)
        job.fit(2, report=reports.append)
    # a share goes out to be summed and the other one comes back: half the gradient, twice
    assert [report.sent_bytes for report in reports] == pytest.approx(
        [None, None, 8 * size, 8 * size, 2 * size, 2 * size], abs=16
    )


@pytest.mark.parametrize("other", [{"zero": 1}, {"reproducible": True}])
def test_two_ways_to_sum_are_one_too_many(other):
    with pytest.raises(ValueError, match="compression"):
        trainer(mt.comm.local(2), TopK(), dp=2, pp=1, **other)
