"""The largest or the mean value that a window sees, of each channel.

Legend: n images, c channels, h x w the image, p x q the output.
"""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.kernels.convolution import Windows


def max_pool(x: Array, windows: Windows) -> tuple[Array, Array]:
    """`y` (n, c, p, q) and, for each, the place in the window, counted row by row, where the value stood first."""
    xp, (n, c, h, w) = namespace(x), x.shape
    p, q = windows.counts(h, w)
    padded, y = _padded(x, windows, -xp.inf), xp.full((n, c, p, q), -xp.inf, x.dtype)
    where = xp.zeros(y.shape, xp.int16 if windows.height * windows.width < 1 << 15 else xp.int32)
    for place, (down, across) in enumerate(windows.places(p, q)):
        seen = padded[:, :, down, across]
        where[seen > y] = place
        xp.maximum(y, seen, out=y)  # which hands a NaN on
    return y, where


def max_pool_grad(dy: Array, where: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: dy where the largest value stood."""
    dx = _padded(namespace(dy).zeros(shape, dy.dtype), windows)
    for place, (down, across) in enumerate(windows.places(*dy.shape[2:])):
        dx[:, :, down, across] += dy * (where == place)
    return _inside(dx, windows)


def average_pool(x: Array, windows: Windows) -> Array:
    """`y` (n, c, p, q); padding counts as zeros."""
    n, c, h, w = x.shape
    p, q = windows.counts(h, w)
    padded, y = _padded(x, windows), namespace(x).zeros((n, c, p, q), x.dtype)
    for down, across in windows.places(p, q):
        y += padded[:, :, down, across]
    y /= windows.height * windows.width
    return y


def average_pool_grad(dy: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: an equal share of dy wherever a window stood."""
    dx, part = _padded(namespace(dy).zeros(shape, dy.dtype), windows), dy / (windows.height * windows.width)
    for down, across in windows.places(*dy.shape[2:]):
        dx[:, :, down, across] += part
    return _inside(dx, windows)


def _padded(x: Array, windows: Windows, value: float = 0.0) -> Array:
    """The image with its edge; the image itself if it has none."""
    edge = (windows.padding, windows.padding)
    return namespace(x).pad(x, ((0, 0), (0, 0), edge, edge), constant_values=value) if windows.padding else x


def _inside(padded: Array, windows: Windows) -> Array:
    """The image without its edge."""
    edge = slice(windows.padding, -windows.padding or None)
    return padded[:, :, edge, edge]
