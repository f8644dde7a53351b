"""Host memory that is quick to use: arrays that start on a cache line, if they fill one, and freed pages that stay, large ones.

Invariant: all are hints for speed, no result depends on them.  malloc aligns to 16 bytes, and a vector that straddles two
cache lines is loaded twice: the product of two arrays in cache takes twice as long.  A large temporary that the C library maps
afresh costs a page fault every 4 KiB, up to half of an element-wise kernel's time; glibc can be told to keep such pages.  Linux
makes them 2 MiB where it is advised to, so that a core finds more of them without a walk through the page tables.
"""

from __future__ import annotations

import ctypes
import math
import platform

import numpy as np
from numpy.typing import DTypeLike

from mpitrain.arrays.backend import Array, namespace

_LINE = 64  # bytes of a cache line
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def empty_beside(x: Array, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> Array:
    """An array in the memory that `x` is in, of its shape and dtype by default; its contents are undefined."""
    shape = x.shape if shape is None else shape
    dtype = np.dtype(x.dtype if dtype is None else dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not isinstance(x, np.ndarray) or nbytes < _LINE:
        return namespace(x).empty(shape, dtype)
    memory = np.empty(nbytes + _LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.__array_interface__["data"][0] % _LINE)


def keep_freed_pages(limit_bytes: int = 1 << 30) -> bool:
    """Let malloc keep up to `limit_bytes` of freed memory and serve requests up to that size from it; whether it was told.

    The heap grows by half of that at once, in address space alone: memory is taken as it is used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: limit_bytes, _M_TRIM_THRESHOLD: limit_bytes, _M_TOP_PAD: 16 << 20}
    told = all(mallopt(option, value) == 1 for option, value in settings.items())
    np.empty(limit_bytes // 2, np.uint8)  # NumPy advises the pages of a large array to be large, and so they stay
    return told
