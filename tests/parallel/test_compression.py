"""Each compressor against its paper's algorithm, transcribed in float64 with the paper's means over workers.

The transcriptions share nothing with the package: loops over workers, dense arrays, full sorts.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compression_cases import SHAPES, applied, gradients, run

import mpitrain as mt
from mpitrain.parallel.compression import DGC, EF21, Cast, PowerSGD, RandomK, Sign, TopK


def top(x, count):
    """`x` where it is among the `count` largest in magnitude, 0 elsewhere."""
    order = sorted(range(x.size), key=lambda i: -abs(x.reshape(-1)[i]))
    kept = np.zeros(x.size)
    kept[order[:count]] = x.reshape(-1)[order[:count]]
    return kept.reshape(x.shape)


def topk_paper(compressor, history, start):
    """Stich et al., section 2 (Mem-SGD) on each worker, and the mean; e is the memory."""
    memory = [np.zeros_like(g) for g in history[0]]
    for grads in history:
        sent = []
        for worker, g in enumerate(grads):
            p = g + memory[worker]
            sent.append(top(p, round(p.size * compressor.density)))
            memory[worker] = p - sent[-1] if compressor.error_feedback else 0 * p
        yield sum(sent) / len(grads)


def dgc_paper(compressor, history, start):
    """Lin et al., algorithm 4: momentum correction, local clipping, masking; sparsity by the warm-up's table."""
    workers = len(history[0])
    u, v = ([np.zeros_like(g) for g in history[0]] for _ in range(2))
    for step, grads in enumerate(history):
        density = {0: 0.25, 1: 0.015625}.get(step, 0.1)  # four stages in two steps: 75 % sparse, then 98.4 %
        total = 0
        for k, g in enumerate(grads):
            # The threshold is for the paper's G_k, which is 1/N of a worker's mean gradient; here g is that already.
            threshold = compressor.clip * workers**-0.5
            norm = np.linalg.norm(g)
            g = g * threshold / norm if norm > threshold else g
            u[k] = compressor.momentum * u[k] + g
            v[k] = v[k] + u[k]
            mask = top(v[k], max(1, round(max(density, 0.1) * g.size))) != 0
            total = total + v[k] * mask
            v[k], u[k] = v[k] * ~mask, u[k] * ~mask
        yield total / workers


def powersgd_paper(compressor, history, start):
    """Vogels et al., algorithms 1 and 2; before them, the mean."""
    q = start["powersgd_q"]
    workers, shape = len(history[0]), history[0][0].shape
    errors = [np.zeros((shape[0], math.prod(shape[1:]))) for _ in range(workers)]
    for step, grads in enumerate(history):
        if step < compressor.warmup:
            yield sum(grads) / workers
            continue
        deltas = [g.reshape(shape[0], -1) + e for g, e in zip(grads, errors, strict=True)]
        p = sum(d @ q for d in deltas) / workers
        for i in range(p.shape[1]):  # Gram and Schmidt
            for j in range(i):
                p[:, i] -= (p[:, j] @ p[:, i]) * p[:, j]
            p[:, i] /= np.linalg.norm(p[:, i])
        q = sum(d.T @ p for d in deltas) / workers
        errors = [d - p @ (d.T @ p).T for d in deltas]
        yield (p @ q.T).reshape(shape)


def sign_paper(compressor, history, start):
    """Zheng et al., algorithm 1 with C(v) = |v|_1/d sign(v) and no step size; a server for each run of rows."""
    workers, shape = len(history[0]), history[0][0].shape
    e, server = [np.zeros(shape) for _ in range(workers)], np.zeros(shape)
    for grads in history:
        deltas = []
        for k, g in enumerate(grads):
            p = g + e[k]
            deltas.append(np.abs(p).mean() * np.where(p >= 0, 1, -1))
            e[k] = p - deltas[k]
        p = sum(deltas) / workers + server
        result = np.zeros(shape)
        for rows in np.array_split(np.arange(shape[0]), workers):
            if len(rows):
                result[rows] = np.abs(p[rows]).mean() * np.where(p[rows] >= 0, 1, -1)
        server = p - result
        yield result


def ef21_paper(compressor, history, start):
    """Richtárik et al., algorithm 2, with g_i^0 = C(the first gradient)."""
    k = round(history[0][0].size * compressor.density)
    estimates = [top(g, k) for g in history[0]]
    yield sum(estimates) / len(estimates)
    for grads in history[1:]:
        corrections = [top(g - h, k) for g, h in zip(grads, estimates, strict=True)]
        estimates = [h + c for h, c in zip(estimates, corrections, strict=True)]
        yield sum(estimates) / len(estimates)


PAPERS = [
    (TopK(density=0.2), topk_paper, SHAPES),
    (TopK(density=0.2, error_feedback=False), topk_paper, SHAPES),
    (DGC(density=0.1, warmup=2, clip=1.0), dgc_paper, SHAPES),
    (PowerSGD(rank=2, warmup=1), powersgd_paper, ["matrix", "kernel"]),
    (Sign(), sign_paper, SHAPES),
    (EF21(density=0.2), ef21_paper, SHAPES),
]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(("compressor", "paper", "names"), PAPERS, ids=lambda x: getattr(x, "__name__", None))
def test_is_the_papers_algorithm(compressor, paper, names, ranks):
    grads = gradients(ranks, 6)
    results = run(mt.comm.local(ranks), compressor, grads)
    found, start = applied(results), results[0][3]
    for name in names:
        history = [[worker[name] for worker in step] for step in grads]
        for step, expected in enumerate(paper(compressor, history, start[name])):
            # a hundred or so float64 operations on numbers of size 1
            np.testing.assert_allclose(found[step][name], ranks * expected, atol=1e-12, rtol=1e-11, err_msg=f"{name} {step}")


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("feedback", [True, False])
def test_random_k_sends_what_was_drawn(ranks, feedback):
    compressor = RandomK(density=0.3, error_feedback=feedback)
    grads = gradients(ranks, 5)
    found = applied(run(mt.comm.local(ranks), compressor, grads))
    for name, shape in SHAPES.items():
        size, memory = math.prod(shape), 0
        for step in range(5):
            drawn = compressor.chosen(name, size, step)
            kept = np.zeros(size)
            kept[drawn] = 1
            assert kept.sum() == len(drawn) == round(0.3 * size)
            total = sum(worker[name] for worker in grads[step]) + memory
            expected = kept.reshape(shape) * total
            memory = total - expected if feedback else 0
            expected = expected if feedback else expected * size / len(drawn)
            np.testing.assert_allclose(found[step][name], expected, atol=1e-13, rtol=1e-13)


def test_random_k_draws_every_element_equally_often_and_each_step_anew():
    compressor = RandomK(density=0.25)
    counts = np.bincount(np.concatenate([compressor.chosen("w", 40, step) for step in range(1000)]), minlength=40)
    deviation = math.sqrt(1000 * 0.25 * 0.75)
    assert abs(counts - 250).max() < 5 * deviation  # five standard deviations in forty draws: one test in 40 000 fails
    assert set(compressor.chosen("w", 40, 1)) != set(compressor.chosen("v", 40, 1))
    assert set(compressor.chosen("w", 40, 1)) != set(RandomK(density=0.25, seed=1).chosen("w", 40, 1))


def test_random_k_without_feedback_is_a_linear_map_and_its_own_adjoint():
    """⟨Cx, y⟩ = ⟨x, Cy⟩, since the elements depend on nothing but the step."""
    compressor = RandomK(density=0.5, error_feedback=False)
    x, y = (gradients(1, 1, seed=seed) for seed in (1, 2))
    cx, cy = (applied(run(mt.comm.local(1), compressor, g))[0] for g in (x, y))
    left = sum(np.vdot(cx[name], y[0][0][name]) for name in SHAPES)
    right = sum(np.vdot(x[0][0][name], cy[name]) for name in SHAPES)
    assert left == pytest.approx(right, rel=1e-13)


@pytest.mark.parametrize(("name", "kind"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_cast_rounds_before_and_after_a_float32_sum(name, kind, ranks):
    grads = gradients(ranks, 1, dtype=np.float32)
    found = applied(run(mt.comm.local(ranks), Cast(dtype=name), grads))[0]
    for key in SHAPES:
        total = sum(torch.from_numpy(worker[key]).to(kind).float() for worker in grads[0])
        np.testing.assert_array_equal(found[key], total.to(kind).float().numpy())


def test_bfloat16_has_the_range_of_float32():
    grads = [[{"w": np.array([1e-20, 1e20], np.float32)}] * 2]
    found = applied(run(mt.comm.local(2), Cast(dtype="bfloat16"), grads))[0]["w"]
    np.testing.assert_allclose(found, [2e-20, 2e20], rtol=2**-8)  # float16 has 0 and infinity for these


def test_the_majority_decides():
    votes = np.array([[1.0, 1, -1, 1], [1, -1, -1, -1], [-1, 1, -1, -1]])
    grads = [[{"w": vote} for vote in votes]]
    found = applied(run(mt.comm.local(3), Sign(), grads))[0]["w"]
    np.testing.assert_array_equal(np.sign(found), [1, 1, -1, -1])
