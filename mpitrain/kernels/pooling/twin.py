"""The largest or the mean value that a window sees, of each channel.

Legend: n images, c channels, h x w the image, (p, q) the output's height and width.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.kernels.convolution import Windows


def max_pool(x: Array, windows: Windows) -> tuple[Array, Array]:
    """`y` (n, c, p, q) and, for each, the place in the window, counted row by row, where the value stood first."""
    xp, (n, c, h, w) = namespace(x), x.shape
    y = xp.full((n, c, *windows.counts(h, w)), -xp.inf, x.dtype)
    places = xp.zeros(y.shape, xp.int16)
    for place, view in enumerate(windows.views(windows.pad(x, -xp.inf))):
        places[view > y] = place
        xp.maximum(y, view, out=y)  # which hands a NaN on
    return y, places


def max_pool_grad(dy: Array, places: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: dy where the largest value stood."""
    dx = _zeros_padded(dy, shape, windows)
    for place, view in enumerate(windows.views(dx)):
        view += dy * (places == place)
    return windows.unpad(dx)


def average_pool(x: Array, windows: Windows) -> Array:
    """`y` (n, c, p, q); padding counts as zeros."""
    xp, (n, c, h, w) = namespace(x), x.shape
    y = xp.zeros((n, c, *windows.counts(h, w)), x.dtype)
    for view in windows.views(windows.pad(x)):
        y += view
    y /= windows.height * windows.width
    return y


def average_pool_grad(dy: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: an equal share of dy wherever a window stood."""
    dx, part = _zeros_padded(dy, shape, windows), dy / (windows.height * windows.width)
    for view in windows.views(dx):
        view += part
    return windows.unpad(dx)


def _zeros_padded(dy: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    n, c, h, w = shape
    return namespace(dy).zeros((n, c, h + 2 * windows.padding, w + 2 * windows.padding), dy.dtype)
