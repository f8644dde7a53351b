"""Many ranks: pipelines of up to 64 over links that take their time, and 8 processes; each against one rank."""

from __future__ import annotations

import pytest
from layout_cases import Case, check, gpt, tokens, vectors

import mpitrain as mt


def chain(layers):
    """Linear layers in a row, residual so that what a layer does reaches the end."""

    class Residual(mt.nn.Module):
        def __init__(self):
            self.linear = mt.nn.Linear(12, 12)

        def forward(self, x):
            return x + self.linear(x) * 0.1

    return lambda: mt.nn.Model([*(Residual() for _ in range(layers - 1)), mt.nn.Linear(12, 7)], mt.nn.CrossEntropy())


LOCAL = {
    "1f1b-pp64": Case(chain(64), vectors, 1, 64, 6, "1f1b", 6, "float64", steps=4),
    "interleaved-pp24": Case(chain(48), vectors, 1, 24, 25, "interleaved", 25, "float64", steps=4),
    "zb_v-dp2-pp32": Case(chain(64), vectors, 2, 32, 3, "zb_v", 6, "float64", steps=4),
    "zb_h1-dp8-pp4-zero3": Case(chain(9), vectors, 8, 4, 2, "zb_h1", 16, "float64", settings={"zero": 3}),
    "1f1b-1+31+32": Case(chain(9), vectors, (1, 31, 32), 3, 2, "1f1b", 64, "float64", steps=4),
}
MPI = {
    "1f1b-pp8": Case(chain(8), vectors, 1, 8, 16, "1f1b", 16, "float64"),
    "interleaved-pp8": Case(chain(16), vectors, 1, 8, 8, "interleaved", 9, "float64"),
    "zb_v-dp2-pp4": Case(chain(8), vectors, 2, 4, 4, "zb_v", 9, "float64"),
    "zb_h1-gpt-dp4-pp2-zero2": Case(gpt(), tokens, 4, 2, 2, "zb_h1", 9, "float64", settings={"zero": 2}),
    "dualpipe_v-pp8": Case(chain(16), vectors, 1, 8, 16, "dualpipe_v", 16, "float64"),
    "1f1b-gpt-3+4+1": Case(gpt(), tokens, (3, 4, 1), 3, 2, "1f1b", 9, "float64"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_up_to_64_ranks_over_slow_links(name):
    check(mt.comm.local(LOCAL[name].size, latency=2e-4), LOCAL[name])


@pytest.mark.mpi(8, timeout=240)
def test_8_processes(world):
    for name, case in MPI.items():
        print(name, flush=True)
        check(world, case)
