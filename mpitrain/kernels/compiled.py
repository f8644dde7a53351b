"""`compiled`: a function of numbers and arrays as machine code, by Numba (the extra `mpitrain[fast]`).

Invariant: a function is compiled for the one signature that it states, when its file is imported, and kept in Numba's cache on
disk, which ranks that start together may fill together.  Sums may be taken in any order and products fused with sums;
infinities and NaN stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from mpitrain.arrays import Array

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}


def compiled(signature: str) -> Callable[[F], F]:
    """A decorator; `signature` is Numba's, for example `"void(float32[::1], float32)"`."""
    decorator: Any = numba.njit(signature, cache=True, **_OPTIONS)
    return decorator


def inlined(function: F) -> F:
    """A function that compiled ones call."""
    made: Any = numba.njit(inline="always", **_OPTIONS)(function)
    return made


def plain(x: Array) -> Array:
    """`x` as compiled functions take it: contiguous, aligned and writable; a copy where it is not."""
    return x if x.flags.carray else np.require(x, requirements=("C", "A", "W"))
