"""Initializers: a parameter's values as a function of its random stream, its global shape and the box that is wanted.

Invariant: the values in a box are those of the whole array cut to that box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpitrain.arrays import Stream

#: The part of a global array that a rank holds: (start, stop) for each dim.
Box = tuple[tuple[int, int], ...]


class Initializer(Protocol):
    """Anything that can produce the values of a box of a parameter."""

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`, float64 or the stored type."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every element is `value`."""

    value: float

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`."""
        return np.full([stop - start for start, stop in box], self.value)


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal with standard deviation `std`."""

    std: float

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`."""
        return self.std * _drawn(stream.normal, shape, box)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform in [-bound, bound)."""

    bound: float

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`."""
        return self.bound * (2.0 * _drawn(stream.uniform, shape, box) - 1.0)


ZEROS, ONES = Constant(0.0), Constant(1.0)


def he_normal(fan_in: int) -> Normal:
    """Normal with variance 2 / fan_in, for layers before a ReLU (He et al. 2015, section 2.2)."""
    return Normal(math.sqrt(2.0 / fan_in))


def lecun_uniform(fan_in: int) -> Uniform:
    """Uniform in ±1/sqrt(fan_in), the usual start of a linear layer or its bias."""
    return Uniform(1.0 / math.sqrt(fan_in))


def _drawn(draw: Callable[[int, int], np.ndarray], shape: tuple[int, ...], box: Box) -> np.ndarray:
    """One number an element, numbered by its row-major index in the whole array: rows of the box, cut in the other dims."""
    if not shape:
        return draw(0, 1).reshape(())
    row = math.prod(shape[1:])
    start, stop = box[0]
    rows = draw(start * row, (stop - start) * row).reshape(stop - start, *shape[1:])
    return rows[(slice(None), *(slice(a, b) for a, b in box[1:]))]
