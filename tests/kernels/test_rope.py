"""Rotary positions: complex multiplication, and the inverse."""

import numpy as np

from mpitrain.kernels.rope import rope_tables, rotate


def test_a_rotation_is_a_complex_product():
    x = np.random.default_rng(0).standard_normal((2, 9, 3, 10))
    cos, sin = rope_tables(9, 50.0 ** (-np.arange(5) / 5), 1.0, np, np.float64)
    y = np.empty_like(x)
    rotate(x, cos, sin, out=y)
    angle = np.arange(9)[:, None, None] * 50.0 ** (-np.arange(5) / 5)
    turned = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * angle)
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], axis=-1), rtol=1e-12, atol=1e-13)
    back = np.empty_like(x)
    rotate(y, cos, sin, out=back, inverse=True)
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-13)
