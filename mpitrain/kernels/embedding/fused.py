"""The sum of gradients back into a table, in one sweep; what it computes: see the twin."""

from __future__ import annotations

import numpy as np

from mpitrain.arrays import Array
from mpitrain.kernels.compiled import compiled, plain


def embedding_grad(dy: Array, ids: Array, out: Array) -> None:
    """See the twin."""
    _embedding_grad(plain(dy.reshape(-1, dy.shape[-1])), plain(np.asarray(ids, np.int64)).reshape(-1), out)


@compiled("void(float32[:, ::1], int64[::1], float32[:, ::1])")
def _embedding_grad(dy: Array, ids: Array, out: Array) -> None:
    out[:] = 0
    for i in range(ids.size):
        for j in range(out.shape[1]):
            out[ids[i], j] += dy[i, j]
