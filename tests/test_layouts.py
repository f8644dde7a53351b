"""Layouts change the speed, never the result: a grid of layouts, schedules and models, each against one rank."""

from __future__ import annotations

import pytest
from layout_cases import Case, check, frozen_gpt, gpt, images, llama, llama_with_all, mlp, resnet, tokens, vectors

import mpitrain as mt

CASES = {
    "mlp-dp2": Case(mlp, vectors, 2, 1, 1, "gpipe", 8, "float64"),
    "mlp-dp3-uneven": Case(mlp, vectors, 3, 1, 2, "1f1b", 11, "float64"),
    "mlp-pp4": Case(mlp, vectors, 1, 4, 3, "gpipe", 7, "float64"),
    "mlp-dp2-pp2-float32": Case(mlp, vectors, 2, 2, 4, "1f1b", 16, "float32"),
    "gpt-pp2": Case(gpt(), tokens, 1, 2, 4, "1f1b", 8, "float64"),
    "gpt-pp4-gpipe": Case(gpt(), tokens, 1, 4, 3, "gpipe", 6, "float64"),
    "gpt-dp2-pp2": Case(gpt(), tokens, 2, 2, 2, "1f1b", 8, "float64"),
    "gpt-dp2-pp2-float32": Case(gpt(), tokens, 2, 2, 2, "1f1b", 8, "float32"),
    "gpt-dp4-clipped": Case(gpt(), tokens, 4, 1, 1, "gpipe", 9, "float64", clip=0.1),
    "gpt-untied-pp3-uneven": Case(gpt(tied=False), tokens, 1, 3, 4, "1f1b", 7, "float64"),
    "gpt-dropout-dp2-pp2": Case(gpt(dropout=0.2), tokens, 2, 2, 2, "1f1b", 8, "float64"),
    "gpt-recompute-pp2": Case(gpt(recompute=True), tokens, 1, 2, 2, "1f1b", 4, "float64"),
    "gpt-frozen-dp2-pp2": Case(frozen_gpt, tokens, 2, 2, 2, "1f1b", 8, "float64"),
    "llama-dp2-pp2": Case(llama, tokens, 2, 2, 2, "1f1b", 8, "float64"),
    "llama-all-dp2-pp2-float32": Case(llama_with_all, tokens, 2, 2, 2, "1f1b", 8, "float32"),
    "llama-pp3-float32": Case(llama, tokens, 1, 3, 5, "1f1b", 10, "float32"),
    "resnet-dp2": Case(resnet, images, 2, 1, 2, "1f1b", 12, "float64", alone=4),
    "resnet-dp2-pp2": Case(resnet, images, 2, 2, 2, "gpipe", 12, "float64", alone=4),
}


@pytest.mark.parametrize("name", CASES)
def test_layout_equals_one_rank_locally(name):
    check(mt.comm.local(CASES[name].size), CASES[name])


@pytest.mark.mpi([2, 3, 4], timeout=120)
def test_layouts_equal_one_rank_over_mpi(world):
    """Every case of as many ranks as there are, in one job: starting MPI costs more than a case."""
    cases = {name: case for name, case in CASES.items() if case.size == world.size}
    assert cases
    for name, case in cases.items():
        print(name, flush=True)
        check(world, case)
