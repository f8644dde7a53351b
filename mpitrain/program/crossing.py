"""`Crossing`: what crosses from one stage to the next, part by part, and the header that tells it.

Invariant: a header is a few numbers of a fixed size, so it can be received by a rank that knows nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import FLOATS, Array

#: The most arrays that cross at once: a layer may hand on a tuple of tensors.
MAX_PARTS = 8
_MAX_DIMS = 8
_DTYPES = [*FLOATS.values(), *map(np.dtype, ("int64", "int32", "int16", "int8", "uint8", "uint16", "bool"))]
#: Of each part its number of dims, its dtype and its dims; -1 where there is none.
_HEADER = (MAX_PARTS, 2 + _MAX_DIMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """A part of what crosses from one stage to the next, for one sample: `shape` without the sample dim."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def has_grad(self) -> bool:
        """Whether a gradient comes back for it."""
        return self.dtype.kind not in "iub"


#: All parts of a crossing.
Crossing = tuple[Boundary, ...]


def crossing_of(parts: Sequence[Array], rows: int, stage: int) -> Crossing:
    """What `parts`, of a microbatch of `rows` samples, are; they enter `stage`.

    `ValueError` if there are too many, or if dim 0 of one does not count the samples.
    """
    if len(parts) > MAX_PARTS:
        raise ValueError(
            f"{len(parts)} tensors cross into stage {stage}; expected at most {MAX_PARTS}: join some, or cut elsewhere"
        )
    for part in parts:
        if not 1 <= part.ndim <= _MAX_DIMS or part.shape[0] != rows or part.dtype not in _DTYPES:
            raise ValueError(
                f"a tensor of shape {part.shape} and dtype {part.dtype} crosses into stage {stage}; expected up to {_MAX_DIMS} "
                f"dims of which the first counts the microbatch's {rows} samples, and one of {', '.join(map(str, _DTYPES))}"
            )
    return tuple(Boundary(shape=part.shape[1:], dtype=part.dtype) for part in parts)


def header() -> np.ndarray:
    """An empty header, to receive one into."""
    return np.full(_HEADER, -1, np.int64)


def told(crossing: Crossing) -> np.ndarray:
    """The header of `crossing`."""
    found = header()
    for row, part in zip(found, crossing, strict=False):
        row[:2] = len(part.shape), _DTYPES.index(part.dtype)
        row[2 : 2 + len(part.shape)] = part.shape
    return found


def learnt(header: np.ndarray) -> Crossing:
    """The crossing that a header tells."""
    rows = [row for row in header.tolist() if row[0] >= 0]
    return tuple(Boundary(shape=tuple(shape[:dims]), dtype=_DTYPES[dtype]) for dims, dtype, *shape in rows)
