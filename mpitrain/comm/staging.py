"""Host memory that stands in for an array on its way through a library that knows nothing of devices.

Invariant: on the host the array stands for itself and nothing is copied; from a device it is copied after its stream's pending
work is done.
"""

from __future__ import annotations

import numpy as np

from mpitrain.arrays import Array, to_host


def staged(x: Array) -> np.ndarray:
    """Return the contents of `x` in host memory: `x` itself on the host, else a copy made once the current stream is done."""
    assert x.flags.c_contiguous, f"an array of shape {x.shape} that travels must be contiguous"
    return to_host(x)


def landing(x: Array) -> np.ndarray:
    """Return host memory of the shape and dtype of `x` to receive into: `x` itself on the host."""
    assert x.flags.c_contiguous, f"an array of shape {x.shape} that travels must be contiguous"
    return x if isinstance(x, np.ndarray) else np.empty(x.shape, x.dtype)


def fill(x: Array, host: np.ndarray) -> None:
    """Overwrite `x` with `host`, of its shape and dtype; nothing to do where they are the same array."""
    if isinstance(x, np.ndarray):
        if x is not host:
            np.copyto(x, host)
    else:
        x.set(host)
