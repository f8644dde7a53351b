"""Host memory that stands in for an array on its way through a library that knows nothing of devices.

Invariant: a contiguous array on the host stands for itself and nothing is copied; from a device it is copied after its stream's
pending work is done.
"""

from __future__ import annotations

import numpy as np

from mpitrain.arrays import Array, namespace, to_host


def staged(x: Array) -> np.ndarray:
    """Return the contents of `x` in contiguous host memory: `x` itself where it is that, else a copy, from a device made once
    the current stream is done.
    """
    return np.asarray(to_host(x), order="C")


def landing(x: Array) -> np.ndarray:
    """Return contiguous host memory of the shape and dtype of `x` to receive into: `x` itself where it is that."""
    return x if isinstance(x, np.ndarray) and x.flags.c_contiguous else np.empty(x.shape, x.dtype)


def fill(x: Array, host: np.ndarray) -> None:
    """Overwrite `x` with `host`, of its shape and dtype; nothing to do where they are the same array."""
    if isinstance(x, np.ndarray):
        if x is not host:
            np.copyto(x, host)
    elif x.flags.c_contiguous:
        x.set(host)
    else:
        x[...] = namespace(x).asarray(host)
