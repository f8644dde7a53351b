"""Arithmetic of boxes: what two have in common, and where one lies in another.

Invariant: boxes are in global coordinates; only the slices that come out are an array's own.
"""

from __future__ import annotations

import math

from mpitrain.nn import Box


def volume(box: Box) -> int:
    """How many elements are in `box`."""
    return math.prod(stop - start for start, stop in box)


def overlap(a: Box, b: Box) -> Box | None:
    """What two boxes have in common; `None` if that is nothing."""
    common = tuple((max(start, first), min(stop, last)) for (start, stop), (first, last) in zip(a, b, strict=True))
    return common if all(start < stop for start, stop in common) else None


def slices(box: Box, whole: Box) -> tuple[slice, ...]:
    """Where `box` lies in an array that holds `whole`."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(box, whole, strict=True))
