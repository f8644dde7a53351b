"""Schedules against torch's, and against their closed forms."""

import pytest
import torch
from torch.optim import lr_scheduler

from mpitrain import optim

STEPS, WARMUP = 50, 7


def torchs(make, steps):
    """The factors that a scheduler of torch gives for `steps` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return factors


CASES = {
    "constant": (optim.Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    "warmup": (
        optim.Constant(warmup=WARMUP),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / (WARMUP + 1), total_iters=WARMUP),
    ),
    "linear": (
        optim.Linear(steps=STEPS, final=0.1),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=STEPS),
    ),
    "cosine": (optim.Cosine(steps=STEPS, final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_factors_are_torchs(case):
    schedule, peer = CASES[case]
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(torchs(peer, STEPS), rel=1e-12)


@pytest.mark.parametrize("kind", [optim.Linear, optim.Cosine])
def test_a_warm_up_comes_before_the_same_curve(kind):
    schedule, tail = kind(steps=STEPS, warmup=WARMUP, final=0.2), kind(steps=STEPS - WARMUP, final=0.2)
    rise = [(step + 1) / (WARMUP + 1) for step in range(WARMUP)]
    fall = [tail(step) for step in range(STEPS - WARMUP + 5)]
    assert [schedule(step) for step in range(STEPS + 5)] == pytest.approx(rise + fall, rel=1e-12)
    assert schedule(WARMUP) == 1.0
    assert schedule(STEPS + 1000) == pytest.approx(0.2)


def test_wsd_rises_stays_and_falls():
    schedule = optim.WSD(steps=10, decay=4, warmup=2, final=0.2)
    expected = [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert [schedule(step) for step in range(12)] == pytest.approx(expected)
