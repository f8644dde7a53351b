"""What holds for every compressor, whatever its algorithm: what is sent, what is kept, what it costs, and in which type."""

from __future__ import annotations

import numpy as np
import pytest
from compression_cases import EVERY, applied, gradients, place_of, run
from hypothesis import given, settings
from hypothesis import strategies as st

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.comm import finish
from mpitrain.nn import Parameter
from mpitrain.nn.init import Constant
from mpitrain.parallel import sum_over
from mpitrain.parallel.buckets import kept_bucket
from mpitrain.parallel.compression import DGC, EF21, Cast, Compression, PowerSGD, RandomK, Sign, TopK


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
