"""Convolution as one large matrix product over the unfolded input (Chellapilla et al. 2006, section 3.1).

Legend: n images, c input and o output channels, h x w the image, (k, l) the window, (p, q) the output's height and width.
Invariant: the unfolded input (c k l, n p q) lives only inside a call; the gradients unfold again what forward unfolded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mpitrain.arrays import Array, namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Where a window of `height` x `width` stands on an image: every `stride` pixels, over an edge of `padding` pixels."""

    height: int
    width: int
    stride: int = 1
    padding: int = 0

    def counts(self, h: int, w: int) -> tuple[int, int]:
        """How many fit down and across an image of h x w.  `ValueError` if none does."""
        p, q = ((size + 2 * self.padding - window) // self.stride + 1 for size, window in ((h, self.height), (w, self.width)))
        if p < 1 or q < 1:
            raise ValueError(
                f"a window of {self.height} x {self.width} does not fit an image of {h} x {w} with padding {self.padding}; "
                "expected an image at least as large: use larger images, fewer strides, a smaller window or more padding"
            )
        return p, q

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """The image x (n, c, h, w) with the edge around it."""
        edge = (self.padding, self.padding)
        return namespace(x).pad(x, ((0, 0), (0, 0), edge, edge), constant_values=value) if self.padding else x

    def unpad(self, x: Array) -> Array:
        """A padded image without its edge, a view."""
        edge = slice(self.padding, -self.padding or None)
        return x[:, :, edge, edge]

    def views(self, padded: Array) -> Iterator[Array]:
        """For each place in the window, row by row, what all windows see there: views (n, c, p, q) of the padded image."""
        p, q = self.counts(*(size - 2 * self.padding for size in padded.shape[2:]))
        for i in range(self.height):
            for j in range(self.width):
                yield padded[:, :, i : i + self.stride * p : self.stride, j : j + self.stride * q : self.stride]


def convolution(x: Array, weight: Array, bias: Array | None, windows: Windows) -> Array:
    """`y` (n, o, p, q) of x (n, c, h, w) and weight (o, c, k, l): cross-correlation, as the field means it."""
    xp, o = namespace(x), len(weight)
    y = xp.matmul(weight.reshape(o, -1), _unfold(x, windows))
    if bias is not None:
        y += bias[:, None]
    return xp.ascontiguousarray(y.reshape(o, len(x), *windows.counts(*x.shape[2:])).swapaxes(0, 1))


def convolution_input_grad(dy: Array, weight: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """`dx` of `shape`: each window's share is added where it stood."""
    xp, (n, c, h, w), edge = namespace(dy), shape, 2 * windows.padding
    columns = xp.matmul(weight.reshape(len(weight), -1).T, _channels_first(dy))
    places = columns.reshape(c, -1, n, *dy.shape[2:])
    dx = xp.zeros((n, c, h + edge, w + edge), dy.dtype)
    for place, view in enumerate(windows.views(dx)):
        view += places[:, place].swapaxes(0, 1)
    return windows.unpad(dx)


def convolution_weight_grad(dy: Array, x: Array, out: Array, windows: Windows) -> None:
    """Write dW into `out` (o, c, k, l)."""
    namespace(dy).matmul(_channels_first(dy), _unfold(x, windows).T, out=out.reshape(len(out), -1))


def convolution_bias_grad(dy: Array, out: Array) -> None:
    """Write db, the sum of dy over images and pixels, into `out`."""
    namespace(dy).sum(dy, axis=(0, 2, 3), out=out)


def _unfold(x: Array, windows: Windows) -> Array:
    """The matrix (c k l, n p q) whose columns are what each window sees."""
    n, c, h, w = x.shape
    columns = namespace(x).empty((c, windows.height * windows.width, n, *windows.counts(h, w)), x.dtype)
    for place, view in enumerate(windows.views(windows.pad(x))):
        columns[:, place] = view.swapaxes(0, 1)
    return columns.reshape(c * windows.height * windows.width, -1)


def _channels_first(dy: Array) -> Array:
    """`dy` (n, o, p, q) as a matrix (o, n p q)."""
    return namespace(dy).ascontiguousarray(dy.swapaxes(0, 1)).reshape(dy.shape[1], -1)
