"""`Windows`: where a window stands on an image, for convolution and pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """A window of `height` x `width`, moved in steps of `stride` pixels over an image with an edge of `padding` pixels."""

    height: int
    width: int
    stride: int = 1
    padding: int = 0

    def counts(self, h: int, w: int) -> tuple[int, int]:
        """How many fit down and across an image of h x w.  `ValueError` if none does."""
        p, q = ((size + 2 * self.padding - window) // self.stride + 1 for size, window in ((h, self.height), (w, self.width)))
        if min(p, q, h, w) < 1:
            raise ValueError(
                f"a window of {self.height} x {self.width} does not fit an image of {h} x {w} with padding {self.padding}; "
                "expected an image at least as large: use larger images, fewer strides, a smaller window or more padding"
            )
        return p, q

    def places(self, p: int, q: int) -> Iterator[tuple[slice, slice]]:
        """For each place in the window, row by row: which rows and columns of the padded image p x q windows see there."""
        for i in range(self.height):
            for j in range(self.width):
                yield slice(i, i + self.stride * p, self.stride), slice(j, j + self.stride * q, self.stride)
