"""Convolution as products of matrices over the unfolded input (Chellapilla et al. 2006, section 3.1).

Legend: n images, c input and o output channels, h x w the image, a x b the window, p x q the output.
Invariant: images come and go as (n, c, h, w) and are turned channels last inside, so that what a window sees is copied in runs
of b c numbers; the unfolded input (n p q, a b c) lives only inside a call.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.kernels.convolution.windows import Windows


def convolution(x: Array, weight: Array, bias: Array | None, windows: Windows) -> Array:
    """`y` (n, o, p, q) of x (n, c, h, w) and weight (o, c, a, b): cross-correlation, as the field means it."""
    xp, o = namespace(x), len(weight)
    y = xp.matmul(_unfold(x, windows), weight.transpose(0, 2, 3, 1).reshape(o, -1).T)
    if bias is not None:
        y += bias
    return _channels_first(y.reshape(len(x), *windows.counts(*x.shape[2:]), o))


def convolution_input_grad(dy: Array, weight: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: for each place in the window, its share is added where that place stood."""
    xp, (n, c, h, w), (o, _, a, b) = namespace(dy), shape, weight.shape
    (_, _, p, q), edge, rows_o = dy.shape, windows.padding, _rows(dy)
    dx = xp.zeros((n, h + 2 * edge, w + 2 * edge, c), dy.dtype)
    for (down, across), weight_oc in zip(windows.places(p, q), weight.transpose(2, 3, 0, 1).reshape(a * b, o, c), strict=True):
        dx[:, down, across] += xp.matmul(rows_o, weight_oc).reshape(n, p, q, c)
    return _channels_first(dx[:, edge : edge + h, edge : edge + w])


def convolution_weight_grad(dy: Array, x: Array, out: Array, windows: Windows) -> None:
    """Write dW into `out` (o, c, a, b)."""
    o, c, a, b = out.shape
    out[...] = namespace(dy).matmul(_rows(dy).T, _unfold(x, windows)).reshape(o, a, b, c).transpose(0, 3, 1, 2)


def convolution_bias_grad(dy: Array, out: Array) -> None:
    """Write db, the sum of dy over images and pixels, into `out`."""
    namespace(dy).sum(dy, axis=(0, 2, 3), out=out)


def _unfold(x: Array, windows: Windows) -> Array:
    """The matrix (n p q, a b c) whose rows are what each window sees."""
    xp, (n, c, h, w), edge, step = namespace(x), x.shape, windows.padding, windows.stride
    image = xp.zeros((n, h + 2 * edge, w + 2 * edge, c), x.dtype)
    image[:, edge : edge + h, edge : edge + w] = x.transpose(0, 2, 3, 1)
    per_image, per_row, per_column, per_channel = image.strides
    # A row of a window, b pixels of c channels, is one run of numbers.
    seen = xp.lib.stride_tricks.as_strided(
        image,
        (n, *windows.counts(h, w), windows.height, windows.width * c),
        (per_image, step * per_row, step * per_column, per_row, per_channel),
    )
    return seen.reshape(-1, windows.height * windows.width * c)


def _rows(dy: Array) -> Array:
    """`dy` (n, o, p, q) as a matrix (n p q, o)."""
    return dy.transpose(0, 2, 3, 1).reshape(-1, dy.shape[1])


def _channels_first(x: Array) -> Array:
    """An image (n, h, w, c) as (n, c, h, w), contiguous."""
    return namespace(x).ascontiguousarray(x.transpose(0, 3, 1, 2))
