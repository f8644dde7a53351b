"""Places of a pipeline with different numbers of replicas: the same numbers as one rank, and all that a job does besides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layout_cases import Case, check, gpt, llama, mlp, resnet, tokens, vectors

import mpitrain as mt
from mpitrain.observe import Tracing, read_trace
from mpitrain.parallel import PowerSGD, TopK
from mpitrain.program import gpipe
from mpitrain.settings import Settings

SMALL = gpt()


def deep():
    return mt.nn.models.GPT(width=16, depth=5, heads=2, vocab=61, context=12)


CASES = {
    "mlp-2+1": Case(mlp, vectors, (2, 1), 2, 3, "1f1b", 13, "float64"),
    "mlp-1+3": Case(mlp, vectors, (1, 3), 2, 2, "gpipe", 7, "float64"),
    "mlp-3+2": Case(mlp, vectors, (3, 2), 2, 2, "1f1b", 11, "float64"),
    "mlp-2+3+1": Case(mlp, vectors, (2, 3, 1), 3, 3, "1f1b", 19, "float64"),
    "gpt-tied-2+1-float32": Case(SMALL, tokens, (2, 1), 2, 2, "1f1b", 8, "float32"),
    "gpt-tied-1+2-zb_h1": Case(SMALL, tokens, (1, 2), 2, 3, "zb_h1", 7, "float64"),
    "gpt-tied-3+1-clipped": Case(SMALL, tokens, (3, 1), 2, 2, "1f1b", 9, "float64", clip=0.1),
    "gpt-dropout-2+1": Case(gpt(dropout=0.2), tokens, (2, 1), 2, 2, "1f1b", 8, "float64"),
    "gpt-interleaved-2+1": Case(deep, tokens, (2, 1), 2, 4, "interleaved", 9, "float64"),
    "gpt-dualpipe_v-1+2": Case(deep, tokens, (1, 2), 2, 4, "dualpipe_v", 8, "float64"),
    "gpt-zb_v-2+3": Case(deep, tokens, (2, 3), 2, 2, "zb_v", 8, "float64"),
    "gpt-tied-2+1-automatic": Case(SMALL, tokens, (2, 1), 2, 3, "automatic", 8, "float64"),
    "mlp-2+1-automatic-auto": Case(mlp, vectors, (2, 1), 2, 4, "automatic:zb_v", 9, "float64", settings={"stages": "auto"}),
    "llama-2+1-by-hand": Case(llama, tokens, (2, 1), 2, 2, "1f1b", 8, "float64", settings={"stages": [3, 2]}),
}
CASES |= {
    f"gpt-tied-{'+'.join(map(str, dp))}-zero{zero}": Case(
        SMALL, tokens, dp, 2, 2, "1f1b", 8, "float64", clip=0.1, settings={"zero": zero}
    )
    for dp in ((2, 1), (2, 3))
    for zero in (1, 2, 3)
}


@pytest.mark.parametrize("name", CASES)
def test_equals_one_rank_locally(name):
    check(mt.comm.local(CASES[name].size), CASES[name])


@pytest.mark.mpi([3, 5], timeout=120)
def test_equals_one_rank_over_mpi(world):
    cases = {name: case for name, case in CASES.items() if case.size == world.size}
    assert cases
    for name, case in cases.items():
        print(name, flush=True)
        check(world, case)


def trainer(layout, **settings):
    settings = {"batch": 12, "microbatches": 2, "dtype": "float64", "arrays": "numpy"} | settings
    mesh = mt.Mesh(mt.comm.local(layout.size), layout)
    return mt.Trainer(SMALL(), mt.optim.SGD(lr=0.05, momentum=0.9), tokens(), mesh=mesh, **settings)


def quiet(step):
    """Print nothing."""


def test_evaluation_of_fewer_samples_than_replicas_and_generation():
    one, wide = trainer(mt.Layout()), trainer(mt.Layout(dp=(4, 1, 2), pp=3), batch=8, zero=3)
    few = mt.data.TokenDataset((np.arange(12 * 3 + 1) ** 2 % 61).astype(np.uint8), 12)
    for data in (few, tokens()):  # 3 samples over 4 replicas x 2 microbatches; and 40, 8 at a time
        assert wide.evaluate(data).loss == pytest.approx(one.evaluate(data).loss, rel=1e-10)
        assert wide.evaluate(data).count == one.evaluate(data).count
    assert wide.generate([1, 2, 3], 20) == one.generate([1, 2, 3], 20)
    found = wide.self_check()
    assert found is not None
    assert found.equal


@pytest.mark.parametrize("zero", [0, 3])
def test_a_checkpoint_goes_on_under_other_widths(tmp_path, zero):
    straight = [m.loss for m in trainer(mt.Layout()).fit(6, report=quiet)]
    losses = [m.loss for m in trainer(mt.Layout(dp=(2, 1), pp=2), zero=zero).fit(3, report=quiet, folder=tmp_path)]
    second = trainer(mt.Layout(dp=(1, 2, 2), pp=3), zero=zero)
    assert second.resume(tmp_path)
    losses += [m.loss for m in second.fit(3, report=quiet)]
    np.testing.assert_allclose(losses, straight, rtol=1e-10)


@pytest.mark.parametrize("compression", [PowerSGD(rank=2), TopK(density=0.1)])
def test_what_a_compression_remembers_is_taken_up_again(tmp_path, compression):
    layout = mt.Layout(dp=(2, 3), pp=2)  # the embedding is tied: places of both widths keep something for it
    straight = [m.loss for m in trainer(layout, compression=compression).fit(4, report=quiet)]
    losses = [m.loss for m in trainer(layout, compression=compression).fit(2, report=quiet, folder=tmp_path)]
    second = trainer(layout, compression=compression)
    second.resume(tmp_path)
    assert losses + [m.loss for m in second.fit(2, report=quiet)] == straight


def test_a_trace_has_the_pipelines_that_samples_pass(tmp_path):
    job = trainer(mt.Layout(dp=(1, 3, 2), pp=3))
    job.fit(2, report=quiet, trace=Tracing(folder=tmp_path))
    (step,) = read_trace(tmp_path)
    assert step.pipelines == [(0, 1, 4), (0, 2, 4), (0, 3, 5)]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"layout axis pp is 3 and dp = \(2, 1\) gives the width of 2 places"):
        mt.Layout(dp=(2, 1), pp=3)
    with pytest.raises(ValueError, match=r"dp\.1 is 0; expected an integer of at least 1"):
        mt.Layout(dp=(2, 0), pp=2)
    with pytest.raises(ValueError, match=r"reproducible = true and the layout dp=2\+1 x pp=2 do not go together"):
        trainer(mt.Layout(dp=(2, 1), pp=2), reproducible=True)
    plain, joint = (Settings(schedule=gpipe, microbatches=1, batch=4, sync_batch_norm=joint) for joint in (False, True))
    model, optimizer = resnet(), mt.optim.SGD(lr=0.1)
    with pytest.raises(
        ValueError, match=r"observes layers\.1\.running_mean batch by batch, and places of the layout dp=2\+1 x"
    ):
        plain.check(model, mt.Layout(dp=(2, 1), pp=2), optimizer)
    plain.check(model, mt.Layout(dp=2, pp=2), optimizer)
    joint.check(model, mt.Layout(dp=(2, 1), pp=2), optimizer)
    assert mt.Layout(dp=[2, 2], pp=2) == mt.Layout(dp=2, pp=2)
    assert json.dumps(mt.Layout(dp=(2, 1), pp=2).widths) == "[2, 1]"
