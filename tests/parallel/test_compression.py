"""Each compressor against its paper's algorithm, transcribed in float64 with the paper's means over workers.

The transcriptions share nothing with the package: loops over workers, dense arrays, full sorts.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.comm import finish
from mpitrain.nn import Parameter, Statistic
from mpitrain.nn.init import Constant
from mpitrain.parallel import sum_over
from mpitrain.parallel.buckets import kept_bucket
from mpitrain.parallel.compression import DGC, EF21, Cast, Compression, PowerSGD, RandomK, Sign, TopK
from mpitrain.parallel.compression.sparse import largest

#: A matrix, a tensor, a vector, and one with fewer rows than there may be ranks.
SHAPES = {"matrix": (7, 9), "kernel": (5, 3, 2, 2), "bias": (11,), "row": (1, 6)}

EVERY = [
    Cast(dtype="float16"),
    Cast(dtype="bfloat16"),
    PowerSGD(rank=2, warmup=1),
    TopK(density=0.2),
    TopK(density=0.2, error_feedback=False),
    DGC(density=0.1, warmup=2, clip=1.0),
    Sign(),
    RandomK(density=0.3),
    RandomK(density=0.3, error_feedback=False),
    EF21(density=0.2),
]


def gradients(ranks, steps, *, dtype=np.float64, shapes=SHAPES, seed=0, whole=False):
    """One dict of gradients for each step and rank."""
    random = np.random.default_rng(seed)

    def draw(shape):
        return random.integers(-50, 50, shape) if whole else random.normal(size=shape)

    return [[{name: draw(shape).astype(dtype) for name, shape in shapes.items()} for _ in range(ranks)] for _ in range(steps)]


def place_of(comm):
    """Where a rank is when all of them are replicas."""
    return mt.Mesh(mt.comm.local(comm.size), mt.Layout(dp=comm.size)).place(comm)


def run(world, compressor, grads, statistics=()):
    """What each rank has after each step, its state at the end, and the bytes that it sent in each step."""

    def rank(comm):
        parameters = []
        for name, grad in grads[0][comm.rank].items():
            kind = {"momentum": 0.9} if name in statistics else {}
            parameter = (Statistic if kind else Parameter)(grad.shape, Constant(0.0), **kind)
            parameter.name, parameter.data = name, np.zeros_like(grad)
            parameters.append(parameter)
        bucket = kept_bucket(3, parameters, Arrays())
        compression = Compression(compressor, place_of(comm), parameters, shared={}, lossless=sum_over(comm))
        start = {p.name: {k: v.copy() for k, v in state.items()} for p, state in compression.state.items()}
        sums, sent = [], []
        for step, given_ in enumerate(grads):
            for p in parameters:
                p.grad[...], p.fresh = given_[comm.rank][p.name], False
            compression.begin(step)
            finish(compression.exchange(bucket))
            sums.append({p.name: p.grad.copy() for p in parameters})
            sent.append(compression.sent_bytes)
        state = {p.name: state for p, state in compression.state.items()}
        return sums, state, sent, start

    return world.run(rank)


def applied(results):
    """What the first rank has after each step, once all ranks are seen to have the same bits."""
    for sums, *_ in results[1:]:
        for mine, first in zip(sums, results[0][0], strict=True):
            for name, x in mine.items():
                np.testing.assert_array_equal(x, first[name])
    return results[0][0]


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


KINDS = ["normal", "equal", "rising", "periodic"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200_000), st.floats(1e-4, 1.0), st.integers(0, 9), st.sampled_from(KINDS))
def test_the_largest_are_found_in_arrays_of_any_size_and_kind(size, density, seed, kind):
    values = {
        "normal": np.random.default_rng(seed).normal(size=size),
        "equal": np.ones(size),
        "rising": np.arange(size) - size / 2,
        "periodic": np.where(np.arange(size) % 97, 0.0, 1.0),  # a sample at regular distances sees one side of it only
    }[kind].astype(np.float32)
    count = max(1, round(size * density))
    found = largest(values, count)
    assert len(set(found.tolist())) == count
    np.testing.assert_array_equal(np.sort(np.abs(values[found])), np.sort(np.abs(values))[size - count :])


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_is_not_a_number_is_sent(size):
    values = np.random.default_rng(0).normal(size=size)
    values[[3, size // 2]] = np.nan
    assert {3, size // 2} <= set(largest(values, 5).tolist())


def test_random_k_draws_every_element_equally_often_and_each_step_anew():
    compressor = RandomK(density=0.25)
    counts = np.bincount(np.concatenate([compressor.chosen("w", 40, step) for step in range(1000)]), minlength=40)
    deviation = math.sqrt(1000 * 0.25 * 0.75)
    assert abs(counts - 250).max() < 5 * deviation  # five standard deviations in forty draws: one test in 40 000 fails
    assert set(compressor.chosen("w", 40, 1)) != set(compressor.chosen("v", 40, 1))
    assert set(compressor.chosen("w", 40, 1)) != set(RandomK(density=0.25, seed=1).chosen("w", 40, 1))


def test_random_k_without_feedback_is_a_linear_map_and_its_own_adjoint():
    """⟨Cx, y⟩ = ⟨x, Cy⟩, since the elements depend on nothing but the step; and its mean over steps is the identity."""
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


def test_bfloat16_has_the_range_that_float16_has_not():
    grads = [[{"w": np.array([1e-20, 1e20], np.float32)}] * 2]
    kept, lost = (applied(run(mt.comm.local(2), Cast(dtype=d), grads))[0]["w"] for d in ("bfloat16", "float32"))
    np.testing.assert_allclose(kept, lost, rtol=2**-8)


def low_rank(ranks, rank):
    """Gradients whose sum, and each of which, has `rank` in one space."""
    random = np.random.default_rng(3)
    left = random.normal(size=(12, rank))
    return [[{"w": left @ random.normal(size=(rank, 10))} for _ in range(ranks)] for _ in range(3)]


LOSSLESS = [
    (Cast(dtype="float64"), gradients(3, 3)),
    (TopK(density=1.0), gradients(3, 3)),
    (TopK(density=1.0, error_feedback=False), gradients(3, 3)),
    (RandomK(density=1.0), gradients(3, 3)),
    (RandomK(density=1.0, error_feedback=False), gradients(3, 3)),
    (DGC(density=1.0, momentum=0.0), gradients(3, 3)),
    (EF21(density=1.0), gradients(3, 3)),
    (PowerSGD(rank=2), low_rank(3, 2)),
    (PowerSGD(rank=3), low_rank(3, 2)),  # a column more than is needed
    (PowerSGD(rank=2), [[{"w": np.zeros((12, 10))}] * 3, *low_rank(3, 2)]),  # nothing to begin with
    (PowerSGD(warmup=9), gradients(3, 3)),
]


@pytest.mark.parametrize(("compressor", "grads"), LOSSLESS, ids=lambda x: repr(x) if not isinstance(x, list) else "")
def test_nothing_is_lost_where_everything_is_sent(compressor, grads):
    found = applied(run(mt.comm.local(3), compressor, grads))
    for step, sums in enumerate(found):
        for name, x in sums.items():
            np.testing.assert_allclose(x, sum(worker[name] for worker in grads[step]), atol=1e-12, rtol=1e-12)


sizes = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([TopK(density=0.3), RandomK(density=0.3), DGC(density=0.3, momentum=0.0), Sign(), PowerSGD(rank=1)]),
    st.integers(1, 5),
    sizes,
    st.integers(0, 99),
)
def test_what_was_applied_and_what_is_kept_is_what_there_was(compressor, ranks, shapes, seed):
    """Σ over steps of the sums + Σ over ranks of the residuals = Σ over steps and ranks of the gradients.

    Gradients are whole numbers, so where elements are sent as they are, float64 sums are exact and so is this.
    """
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    grads = gradients(ranks, 4, shapes=shapes, seed=seed, whole=True)
    results = run(mt.comm.local(ranks), compressor, grads)
    found = applied(results)
    exact = isinstance(compressor, (TopK, RandomK, DGC))
    for name, shape in shapes.items():
        total = sum(worker[name] for step in grads for worker in step)
        received = sum(sums[name] for sums in found)
        kept = [state.get(name, {}) for _, state, *_ in results]
        received = received + sum(state.get("residual", 0) + state.get("dgc_velocity", 0) for state in kept)
        if isinstance(compressor, Sign):
            received = received + np.concatenate([state["vote_residual"] for state in kept])
        assert received.shape == shape
        np.testing.assert_allclose(received, total, rtol=0, atol=0 if exact else 1e-9)


def test_the_majority_decides():
    votes = np.array([[1.0, 1, -1, 1], [1, -1, -1, -1], [-1, 1, -1, -1]])
    grads = [[{"w": vote} for vote in votes]]
    found = applied(run(mt.comm.local(3), Sign(), grads))[0]["w"]
    np.testing.assert_array_equal(np.sign(found), [1, 1, -1, -1])


#: Bytes that a rank sends for one parameter of 24 x 16 float32 on 4 ranks, by the formulas of the docstrings.
N, P, W = 24 * 16, 4, 4
BYTES = [
    (Cast(dtype="float32"), 2 * (P - 1) / P * N * W),
    (Cast(dtype="bfloat16"), 2 * (P - 1) / P * N * 2),
    (PowerSGD(rank=4), 2 * (P - 1) / P * 4 * (24 + 16) * W),
    (TopK(density=0.25), (P - 1) * N / 4 * (W + 4)),
    (DGC(density=0.25), (P - 1) * N / 4 * (W + 4)),
    (EF21(density=0.25), (P - 1) * N / 4 * (W + 4)),
    (RandomK(density=0.25), 2 * (P - 1) / P * N / 4 * W),
    (Sign(), 2 * (P - 1) / P * N / 8 + 2 * (P - 1) * W),
]


@pytest.mark.parametrize(("compressor", "expected"), BYTES, ids=repr)
def test_bytes_are_those_of_the_formula(compressor, expected):
    grads = gradients(P, 1, dtype=np.float32, shapes={"w": (24, 16)})
    for _, _, sent, _ in run(mt.comm.local(P), compressor, grads):
        assert sent == [expected]


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
def test_statistics_are_summed_as_they_are(compressor):
    grads = gradients(2, 2, whole=True)
    found = applied(run(mt.comm.local(2), compressor, grads, statistics=["bias"]))
    for step in (0, 1):
        np.testing.assert_array_equal(found[step]["bias"], sum(worker["bias"] for worker in grads[step]))


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
def test_a_pass_without_a_step_loses_and_remembers_nothing(compressor):
    (grads,) = gradients(2, 1)

    def rank(comm):
        parameter = Parameter((7, 9), Constant(0.0))
        parameter.name, parameter.data = "w", np.zeros((7, 9))
        bucket = kept_bucket(0, [parameter], Arrays())
        parameter.grad[...], parameter.fresh = grads[comm.rank]["matrix"], False
        compression = Compression(compressor, place_of(comm), [parameter], shared={}, lossless=sum_over(comm))
        before = [r.array.copy() for r in compression.remembered()]
        finish(compression.exchange(bucket))
        for old, now in zip(before, compression.remembered(), strict=True):
            np.testing.assert_array_equal(old, now.array)
        return parameter.grad

    for found in mt.comm.local(2).run(rank):
        np.testing.assert_array_equal(found, grads[0]["matrix"] + grads[1]["matrix"])


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_short_gradients_are_remembered_in_float32(compressor, dtype):
    grads = gradients(2, 3, dtype=mt.arrays.float_dtype(dtype))
    results = run(mt.comm.local(2), compressor, grads)
    for sums in applied(results):
        assert all(x.dtype == mt.arrays.float_dtype(dtype) and np.isfinite(x.astype(float)).all() for x in sums.values())
    assert all(slot.dtype == np.float32 for state in results[0][1].values() for slot in state.values())


@pytest.mark.mpi([2, 3], timeout=120)
def test_is_the_same_over_mpi(world):
    for compressor in EVERY:
        grads = gradients(world.size, 3, dtype=np.float32)
        for mine in run(world, compressor, grads):
            expected = run(mt.comm.local(world.size), compressor, grads)[0][0]
            for step, sums in enumerate(mine[0]):
                for name, x in sums.items():
                    np.testing.assert_array_equal(x, expected[step][name], err_msg=f"{compressor} {name}")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TopK(density=0.0), "density is 0.0"),
        (lambda: RandomK(density=1.5), "density is 1.5"),
        (lambda: EF21(density=-1.0), "density is -1.0"),
        (lambda: DGC(density=2.0), "density is 2.0"),
        (lambda: DGC(momentum=1.0), "momentum is 1.0"),
        (lambda: PowerSGD(rank=0), "rank is 0"),
        (lambda: Cast(dtype="int8"), "'int8' is not a floating-point type"),
    ],
)
def test_a_wrong_setting_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
