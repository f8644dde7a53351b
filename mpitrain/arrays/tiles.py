"""Rows of an array, a cache-sized tile at a time on the host and all at once on a device.

Invariant: the tiles of an array are disjoint, in order, and cover it.  An element-wise chain that runs tile by tile reads
memory once instead of once an operation; a GPU wants one large launch instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitrain.arrays.backend import Array

#: Bytes of one array in one tile: a chain holds a few such tiles at once, and they should share a core's L2 cache.
TILE_BYTES = 1 << 17


def row_tiles(x: Array, tile_bytes: int = TILE_BYTES) -> Iterator[slice]:
    """Slices of dim 0 of `x`, each about `tile_bytes` of it; a single slice on a device."""
    rows = x.shape[0]
    if not isinstance(x, np.ndarray):
        yield slice(0, rows)
        return
    step = max(1, tile_bytes * rows // max(1, x.nbytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
