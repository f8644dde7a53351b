"""The compiled kernels against their twins in float64; what torch says of both is in `test_ops` and `test_optimizer`."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from mpitrain.arrays import Arrays
from mpitrain.kernels.fused import FUSED
from mpitrain.kernels.table import TWINS, kernels_for

RANDOM = np.random.default_rng(0)


def drawn(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def in_float64(*arrays):
    return [a.astype(np.float64) if a.dtype == np.float32 else a.copy() for a in arrays]


def close(found, expected, tolerance):
    """Within `tolerance` of the largest element, in float32."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_there_is_a_compiled_one_of_each():
    for field in dataclasses.fields(TWINS):
        assert getattr(FUSED, field.name) is not getattr(TWINS, field.name)


def test_compiled_ones_are_for_float32_on_the_host():
    assert kernels_for(Arrays(), np.dtype(np.float32)) is FUSED
    assert kernels_for(Arrays(), np.dtype(np.float64)) is TWINS
    assert kernels_for(Arrays(), np.dtype(np.float16)) is TWINS
    assert kernels_for(Arrays(device=0), np.dtype(np.float32)) is TWINS


def test_without_numba_there_are_the_twins(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernels_for(Arrays(), np.dtype(np.float32)) is TWINS


def test_layer_norm():
    x, weight, bias, dy = drawn(3, 50, 77) + 5.0, drawn(77), drawn(77), drawn(3, 50, 77)
    found = FUSED.layer_norm(x, weight, bias, 1e-5)
    expected = TWINS.layer_norm(*in_float64(x, weight, bias), 1e-5)
    close(found, expected, 2e-6)  # a mean of 5 costs the centred values its rounding, 3e-7
    found = FUSED.layer_norm_grad(dy, found[1], found[2], weight)
    close([found], [TWINS.layer_norm_grad(*in_float64(dy), *expected[1:], *in_float64(weight))], 2e-6)


def test_layer_norms_weights():
    dy, x_hat, found = drawn(1000, 33), drawn(1000, 33), [drawn(33), drawn(33)]
    expected = in_float64(*found)
    FUSED.scale_shift_grad(dy, x_hat, *found)
    TWINS.scale_shift_grad(*in_float64(dy, x_hat), *expected)
    close(found, expected, 4e-6)  # a thousand roundings, of which most cancel


def test_gelu():
    x = np.concatenate([np.linspace(-12, 12, 10_001), [-1e18, -1e4, -50, 0, 50, 1e4, 1e18]]).astype(np.float32)
    for a, b in zip(FUSED.gelu_tanh(x, slope=True), TWINS.gelu_tanh(*in_float64(x), slope=True), strict=True):
        # Near -1 and 1 the tanh has the spacing of 1, 6e-8, of which there are up to three, and x multiplies it.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)
    ends = FUSED.gelu_tanh(x[-7:], slope=True)
    np.testing.assert_array_equal(ends, [[0, 0, 0, 0, 50, 1e4, np.float32(1e18)], [0, 0, 0, 0.5, 1, 1, 1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gelu_far_out(dtype):
    """Its value is 0 or x, its slope 0 or 1, as far as the type reaches."""
    top = np.finfo(dtype).max
    x = np.array([-top, -300, 300, top], dtype)
    for kernels in (TWINS, FUSED) if dtype == np.float32 else (TWINS,):
        np.testing.assert_array_equal(kernels.gelu_tanh(x, slope=True), [[0, 0, 300, top], [0, 0, 1, 1]])


def test_an_elements_bits_do_not_depend_on_its_place():
    x, rows = drawn(1003), drawn(37, 65)
    weight, bias = drawn(65), drawn(65)
    whole, normed = FUSED.gelu_tanh(x, slope=True), FUSED.layer_norm(rows, weight, bias, 1e-5)
    for start in (1, 2, 7, 33, 1000):
        for a, b in zip(FUSED.gelu_tanh(x[start:].copy(), slope=True), whole, strict=True):
            np.testing.assert_array_equal(a, b[start:])
        for a, b in zip(FUSED.layer_norm(rows[start:], weight, bias, 1e-5), normed, strict=True):
            np.testing.assert_array_equal(a, b[start:])


def test_what_is_not_finite_stays_so():
    x = drawn(40)
    x[[3, 39]] = np.nan
    for a in FUSED.gelu_tanh(x, slope=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(x))
    p = drawn(1, 1, 1, 40, 40)
    p[..., 7, 5], p[..., 30, 2] = np.nan, np.inf
    FUSED.attention.softmax(p, 0, 0, 40, 40)
    np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(p).all(-1)), [7, 30])


def test_strided_and_read_only_arrays():
    x, weight = drawn(20, 33), drawn(33)
    weight.flags.writeable = False
    expected = FUSED.layer_norm(x, weight, weight, 1e-5)
    for a, b in zip(FUSED.layer_norm(np.asfortranarray(x), weight, weight, 1e-5), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    spread = np.broadcast_to(x[0], (5, 33))
    np.testing.assert_array_equal(FUSED.gelu_tanh(spread)[0][4], FUSED.gelu_tanh(x[0])[0])


@pytest.mark.parametrize(("first", "window"), [(0, 45), (0, 40), (0, 7), (5, 16), (20, 1)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_attention(scale, first, window):
    x, p, dp = drawn(2, 3, 1, 45, 8), drawn(2, 3, 2, 45, 45) * np.float32(scale), drawn(2, 3, 2, 20, 40 - first)
    np.testing.assert_array_equal(FUSED.attention.turned(x, 0.5), TWINS.attention.turned(x, 0.5))
    q = p.astype(np.float64)
    FUSED.attention.softmax(p, first, 20, 40, window)
    TWINS.attention.softmax(q, first, 20, 40, window)
    close([p], [q], 1e-6 * scale)  # a score's rounding, 1e-7 of the largest, is its probability's relative error
    FUSED.attention.softmax_grad(p, dp, first, 20, 40)
    TWINS.attention.softmax_grad(q, *in_float64(dp), first, 20, 40)
    close([p], [q], 1e-6 * scale)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(scale, smoothing):
    logits, targets = drawn(30, 77) * np.float32(scale), RANDOM.integers(0, 77, 30).astype(np.uint8)
    targets[[0, 11]] = 200
    settings = {"ignore_index": 200, "label_smoothing": smoothing}
    expected = TWINS.cross_entropy(*in_float64(logits), targets, grad=True, **settings)
    found = FUSED.cross_entropy(logits, targets, grad=True, **settings)
    close(found, expected, 1e-6)
    assert not found[1][[0, 11]].any()
    loss, nothing = FUSED.cross_entropy(logits, targets, grad=False, **settings)
    assert nothing is None
    assert loss == found[0]


def test_cross_entropy_of_a_class_that_cannot_be():
    logits, settings = np.array([[0.0, -np.inf, 0.0]], np.float32), {"ignore_index": -100, "label_smoothing": 0.0, "grad": True}
    loss, d_logits = FUSED.cross_entropy(logits, np.array([0]), **settings)
    assert loss == pytest.approx(np.log(2.0), rel=1e-6)
    np.testing.assert_array_equal(d_logits, [[-0.5, 0.0, 0.5]])


@pytest.mark.parametrize("ids", [np.array([[5, 0], [5, 3]]), np.array([], np.uint8), np.array([1, 1, 1, 1], np.uint16)])
def test_embedding(ids):
    dy, found = drawn(*ids.shape, 9), drawn(6, 9)
    expected = found.copy()
    FUSED.embedding_grad(dy, ids, found)
    TWINS.embedding_grad(dy, ids, expected)
    close([found], [expected], 1e-6)


@pytest.mark.parametrize("rule", [{}, {"l2": 0.1}, {"decay": 0.1}], ids=["plain", "l2", "decay"])
def test_adam(rule):
    found = [drawn(5, 61), drawn(5, 61), drawn(5, 61), drawn(5, 61) ** 2]
    expected = in_float64(*found)
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "step": 3, "grad_scale": 0.5} | rule
    FUSED.adam(*found, **settings)
    TWINS.adam(*expected, **settings)
    close(found, expected, 1e-6)


@pytest.mark.parametrize("rule", [{}, {"l2": 0.1}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_sgd(rule):
    found = [drawn(5, 61), drawn(5, 61), drawn(5, 61)]
    expected = in_float64(*found)
    for arrays, sgd in ((found, FUSED.sgd), (expected, TWINS.sgd)):
        sgd(*arrays[:2], arrays[2] if "momentum" in rule else None, lr=0.01, grad_scale=0.5, **rule)
    close(found, expected, 1e-6)
