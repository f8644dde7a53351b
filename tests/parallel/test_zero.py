"""ZeRO changes what is held and sent, never the result, and holds what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
from layout_cases import Case, check, gpt, images, llama, mlp, resnet, tokens, vectors

import mpitrain as mt

LAYOUTS = {
    "mlp-dp3-uneven": Case(mlp, vectors, 3, 1, 2, "1f1b", 11, "float64"),
    "gpt-tied-dp2-pp2": Case(gpt(), tokens, 2, 2, 2, "1f1b", 8, "float64"),
    "gpt-dp4-clipped": Case(gpt(), tokens, 4, 1, 2, "gpipe", 9, "float64", clip=0.1),
    "llama-recompute-dp2": Case(lambda: _llama_recompute(), tokens, 2, 1, 2, "1f1b", 8, "float64"),
    "llama-dp2-pp2-float32": Case(llama, tokens, 2, 2, 2, "1f1b", 8, "float32"),
    "resnet-dp2": Case(resnet, images, 2, 1, 2, "1f1b", 12, "float64", alone=4),
    # Forward passes, which observe statistics, come between the backward ones of a stage by none, one or two.
    "resnet-dp2-pp2": Case(resnet, images, 2, 2, 4, "interleaved", 24, "float64", alone=8),
}


def _llama_recompute():
    return mt.nn.models.Llama(width=32, depth=3, heads=4, kv_heads=2, vocab=61, context=12, mlp=48, recompute=True)


def _case(name, level):
    case = LAYOUTS[name]
    return Case(**{f: getattr(case, f) for f in case.__dataclass_fields__} | {"settings": {"zero": level}})


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_equals_one_rank(name, level):
    case = _case(name, level)
    check(mt.comm.local(case.size), case)


@pytest.mark.mpi([2, 4], timeout=120)
def test_equals_one_rank_over_mpi(world):
    cases = [_case(name, level) for name in LAYOUTS for level in (1, 2, 3) if LAYOUTS[name].size == world.size]
    assert cases
    for case in cases:
        check(world, case)


@pytest.mark.parametrize("level", [2, 3])
def test_stages_of_a_rank_that_share_a_weight_need_not_take_turns(level, tmp_path):
    order = tmp_path / "order.csv"
    order.write_text("0F0,1F0,0F1,1F1,0F2,1F2,0F3,1F3,1B0,1B1,0B0,0B1,1B2,1B3,0B2,0B3")
    check(mt.comm.local(2), Case(gpt(), tokens, 2, 1, 4, str(order), 8, "float64", settings={"zero": level}))


def _trainer(level, dp, pp=1, **settings):
    model = mt.nn.models.GPT(width=96, depth=3, heads=3, vocab=128, context=16)
    data = mt.data.TokenDataset((np.arange(16 * 60 + 1) ** 2 % 128).astype(np.uint8), 16)
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    settings = {"microbatches": 2, "batch": 4 * dp, "arrays": "numpy"} | settings
    return mt.Trainer(model, mt.optim.AdamW(lr=1e-3), data, mesh=mesh, zero=level, **settings)


@pytest.mark.parametrize("dp", [2, 4])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_memory_is_the_formula(level, dp):
    job = _trainer(level, dp)
    job.fit(2, report=lambda step: None)
    n, width, slots = job.model.size, 4, 2
    formula = width * n * {0: 2 + slots, 1: 2 + slots / dp, 2: 1 + (1 + slots) / dp, 3: (2 + slots) / dp}[level]
    for worker in job.workers.values():
        assert sum(worker.holding.nbytes().values()) == pytest.approx(formula, rel=0.05)


@pytest.mark.parametrize(("before", "after"), [((3, 2, 1), (0, 1, 1)), ((2, 2, 2), (3, 3, 1)), ((0, 2, 1), (3, 2, 2))])
def test_a_checkpoint_goes_on_under_another_level_and_layout(tmp_path, before, after):
    straight = [m.loss for m in _trainer(0, 1, dtype="float64", batch=12, microbatches=2).fit(6, report=lambda step: None)]
    level, dp, pp = before
    first = _trainer(level, dp, pp, dtype="float64", batch=12)
    losses = [m.loss for m in first.fit(3, report=lambda step: None, folder=tmp_path)]
    level, dp, pp = after
    second = _trainer(level, dp, pp, dtype="float64", batch=12)
    assert second.resume(tmp_path)
    losses += [m.loss for m in second.fit(3, report=lambda step: None)]
    np.testing.assert_allclose(losses, straight, rtol=1e-8)  # AdamW magnifies the rounding of small gradients


@pytest.mark.parametrize("level", [1, 2, 3])
def test_validation_generation_and_self_check(level):
    plain, shared = _trainer(0, 2), _trainer(level, 2)
    data = mt.data.TokenDataset((np.arange(16 * 5 + 1) ** 2 % 128).astype(np.uint8), 16)
    for job in (plain, shared):
        job.fit(2, report=lambda step: None)
    np.testing.assert_allclose(shared.evaluate(data).loss, plain.evaluate(data).loss, rtol=1e-6)
    assert shared.generate([1, 2], 5, temperature=0.0) == plain.generate([1, 2], 5, temperature=0.0)
    assert shared.self_check().equal


@pytest.mark.parametrize("optimizer", [mt.optim.LAMB(lr=1e-3), mt.optim.LARS(lr=1e-3)])
def test_an_optimizer_that_needs_whole_weights_is_refused(optimizer):
    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(dp=2))
    with pytest.raises(ValueError, match="needs whole weights and zero = 1 shares them out by rows"):
        mt.Trainer(gpt()(), optimizer, tokens(), mesh=mesh, zero=1)


def test_levels_are_named():
    with pytest.raises(ValueError, match="zero is 4; expected an integer of at least 0 and of at most 3"):
        _trainer(4, 2)
