"""The error function against the C library's, and the tiles of the activations."""

import math

import numpy as np

from mpitrain.kernels.activation import erf, gelu_tanh, swiglu

X = np.concatenate([np.linspace(-7.0, 7.0, 100_001), np.logspace(-300, 0, 301), [0.46875, -0.46875, 1e300, -np.inf, np.inf]])


def test_erf_is_the_c_librarys():
    expected = np.array([math.erf(x) for x in X])
    found = erf(X)
    # Relative to erf itself, so that small arguments count too; 4e-16 is two units in the last place.
    np.testing.assert_allclose(found, expected, rtol=5e-16, atol=0)
    np.testing.assert_array_equal(erf(-X), -found)


def test_erf_in_float32_stays_float32():
    x = X[np.abs(X) < 10].astype(np.float32)
    found = erf(x)
    assert found.dtype == np.float32
    expected = np.array([math.erf(v) for v in x.tolist()])
    np.testing.assert_allclose(found, expected, rtol=4e-7, atol=2e-45)  # the smallest number above zero is 1.4e-45


def test_tiles_and_strides_change_nothing():
    x = np.random.default_rng(0).standard_normal((700, 130)).astype(np.float32)
    strided = np.asfortranarray(x)
    for kernel in (gelu_tanh, swiglu):
        for whole, other in zip(kernel(x, slope=True), kernel(strided, slope=True), strict=True):
            np.testing.assert_array_equal(whole, other)
        row = kernel(x[3:4], slope=True)
        for whole, other in zip(kernel(x, slope=True), row, strict=True):
            np.testing.assert_array_equal(whole[3:4], other)
