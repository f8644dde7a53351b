"""`kept_bytes`: what a rank keeps of some parameters for good, beside activations and arrays that come and go.

Invariant: plans and the placement under a memory limit count by it, and a test holds it to what a job holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from mpitrain.nn import Parameter
from mpitrain.parallel.compression import Compressor, remembered_bytes
from mpitrain.parallel.reproducible import EXACT_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Bytes, by what they are."""

    weights: int
    gradients: int
    optimizer: int
    #: What a compressor remembers, or the exact totals of a reproducible run.
    exchange: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(astuple(self))


def kept_bytes(
    parameters: Sequence[Parameter],
    dtype: np.dtype,
    *,
    slots: int,
    replicas: int,
    zero: int,
    compression: Compressor | None,
    reproducible: bool,
) -> Kept:
    """Of `parameters` in `dtype` with `slots` numbers of the optimizer a weight, what each of `replicas` keeps."""
    moving = [p for p in parameters if p.moves]
    count = sum(p.size for p in moving)
    nbytes = count * dtype.itemsize
    frozen = sum(p.size for p in parameters) * dtype.itemsize - nbytes

    def shared(nbytes: int, level: int) -> int:
        """A replica's part of what ZeRO shares out from `level` on."""
        return nbytes // replicas if zero >= level else nbytes

    remembered = remembered_bytes(compression, moving, replicas, dtype) if compression else 0
    return Kept(
        weights=shared(nbytes + frozen, 3),
        gradients=shared(nbytes, 1 if reproducible else 2),
        optimizer=shared(nbytes * slots, 1),
        exchange=remembered + (EXACT_BYTES * count if reproducible else 0),
    )
